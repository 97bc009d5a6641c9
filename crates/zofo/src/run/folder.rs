//! The folder of a run.

use super::config::Config;
use super::error::RunError;
use crate::hf::atomic;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

pub(crate) const CONFIG: &str = "config.toml";
pub(crate) const METRICS: &str = "metrics.jsonl";
pub(crate) const SUMMARY: &str = "summary.json";
pub(crate) const ENVIRONMENT: &str = "environment.json";
/// Not the configuration, because that can be replaced.
pub(crate) const LOCK: &str = ".lock";

/// A run's folder, held by one process at a time.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// The configuration to store once it is accepted, if it is another than the stored one.
    changed: Option<Config>,
    /// Locked as long as this exists.
    _lock: File,
}

impl RunFolder {
    /// Makes the folder of a new run, with its configuration in it from the first moment.
    ///
    /// # Errors
    ///
    /// [`RunError::OutputExists`] if there is something already; what the operating system refuses.
    pub fn create(config: &Config) -> Result<Self, RunError> {
        let path = &config.run.output;
        let entries = match path.read_dir() {
            Ok(mut entries) => entries.next().is_some(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
            Err(error) => return Err(RunError::io(path)(error)),
        };
        if entries {
            let is_run = path.join(CONFIG).exists();
            return Err(RunError::OutputExists { path: path.clone(), is_run });
        }
        let text = config.to_toml()?;
        let only_if_empty = |_: &OsStr| false;
        atomic::replace_dir_atomically(path, only_if_empty, |folder| {
            atomic::write_file(&folder.join(CONFIG), text.as_bytes()).map_err(RunError::from)
        })?;
        Self::lock(path)
    }

    /// Opens the folder of an earlier run and reads its configuration, with `key=value` overlays on top. What they
    /// change is not stored before [`accept_changes`](Self::accept_changes).
    ///
    /// # Errors
    ///
    /// [`RunError::NotARun`], [`RunError::Busy`], a configuration or an overlay that cannot be read, or one that names
    /// another folder.
    pub fn open(path: &Path, overlays: &[String]) -> Result<(Self, Config), RunError> {
        let file = path.join(CONFIG);
        if !file.is_file() {
            return Err(RunError::NotARun { path: path.to_owned(), missing: CONFIG });
        }
        let mut folder = Self::lock(path)?;
        let mut config = Config::load(&file, overlays)?;
        if !overlays.is_empty() {
            if Config::load(&file, &[])?.run.output != config.run.output {
                return Err(RunError::Conflict(
                    "`run.output` cannot be set for a run that is resumed: move its folder, and resume it there"
                        .to_owned(),
                ));
            }
            config = config.with_absolute_paths();
            folder.changed = Some(config.clone());
        }
        // The folder may have been moved since.
        config.run.output = path.to_owned();
        Ok((folder, config))
    }

    /// Where overlays named another model or other data: how those are named at their commits.
    pub fn set_inputs(&mut self, located: &Config) {
        if let Some(config) = &mut self.changed {
            config.model.path.clone_from(&located.model.path);
            config.data.clone_from(&located.data);
        }
    }

    /// Stores what the overlays changed.
    ///
    /// # Errors
    ///
    /// What the operating system refuses; the stored configuration is then as it was.
    pub fn accept_changes(&self) -> Result<(), RunError> {
        let Some(config) = &self.changed else { return Ok(()) };
        let text = config.to_toml()?;
        Ok(atomic::write_file_atomically(&self.path.join(CONFIG), |writer| writer.write_all(text.as_bytes()))?)
    }

    fn lock(path: &Path) -> Result<Self, RunError> {
        let file = path.join(LOCK);
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&file);
        let lock = lock.map_err(RunError::io(&file))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), changed: None, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(RunError::Busy { path: path.to_owned() }),
            Err(TryLockError::Error(error)) => Err(RunError::io(&file)(error)),
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The updates of θ.
    pub fn journal(&self) -> PathBuf {
        self.path.join("journal.zofo")
    }

    /// One object per step and evaluation.
    pub fn metrics(&self) -> PathBuf {
        self.path.join(METRICS)
    }

    /// Event files for TensorBoard.
    pub fn tensorboard(&self) -> PathBuf {
        self.path.join("tensorboard")
    }

    /// All else that is needed to go on.
    pub fn checkpoint(&self) -> PathBuf {
        self.path.join("checkpoint.safetensors")
    }

    /// The adapter that was kept, in PEFT's format.
    pub fn adapter(&self) -> PathBuf {
        self.path.join("adapter")
    }

    /// The backbone that was kept, a Hugging Face model folder.
    pub fn backbone(&self) -> PathBuf {
        self.path.join("backbone")
    }

    /// What it was computed with.
    pub fn environment(&self) -> PathBuf {
        self.path.join(ENVIRONMENT)
    }

    /// The final figures.
    pub fn summary(&self) -> PathBuf {
        self.path.join(SUMMARY)
    }
}
