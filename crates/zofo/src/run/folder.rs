//! The folder of a run.

use super::config::Config;
use super::error::RunError;
use crate::hf::atomic;
use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

const CONFIG: &str = "config.toml";

/// A run's folder, held by one process at a time.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
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

    /// Opens the folder of an earlier run and reads its configuration.
    ///
    /// # Errors
    ///
    /// [`RunError::NotARun`], [`RunError::Busy`], or a configuration that cannot be read.
    pub fn open(path: &Path) -> Result<(Self, Config), RunError> {
        let file = path.join(CONFIG);
        if !file.is_file() {
            return Err(RunError::NotARun { path: path.to_owned(), missing: CONFIG });
        }
        let folder = Self::lock(path)?;
        let mut config = Config::load(&file, &[])?;
        // The folder may have been moved since.
        config.run.output = path.to_owned();
        Ok((folder, config))
    }

    fn lock(path: &Path) -> Result<Self, RunError> {
        let file = path.join(CONFIG);
        let lock = File::open(&file).map_err(RunError::io(&file))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
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
        self.path.join("metrics.jsonl")
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

    /// The final figures.
    pub fn summary(&self) -> PathBuf {
        self.path.join("summary.json")
    }
}
