//! One run in a process of its own, so that its memory is given back and a crash takes nothing else with it.

use super::error::SweepError;
use super::log::RunStatus;
use super::plan::PlannedRun;
use crate::run::folder::{CONFIG, LOCK};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The exit code of `zofo train` that was interrupted and has saved.
const INTERRUPTED: i32 = 130;

/// The argument that makes `zofo train` end as by Ctrl-C when its standard input ends. That also happens when the sweep is
/// killed: no run outlives it for longer than a step.
pub(super) const END_WITH_STDIN: &str = "--end-with-stdin";

/// A run that is computed.
pub(super) struct Process {
    child: Child,
    /// Closed to stop it.
    stdin: Option<ChildStdin>,
    begin: Instant,
    log: PathBuf,
    /// Where its part of the log begins.
    log_begin: u64,
}

impl Process {
    /// Starts a run, or goes on with it if its folder has one. What it says is appended to `log`.
    pub(super) fn start(
        program: &Path,
        base: &Path,
        run: &PlannedRun,
        threads: Option<usize>,
        log: &Path,
    ) -> Result<Self, SweepError> {
        let mut command = Command::new(program);
        command.arg("train");
        if is_begun(&run.folder) {
            command.arg("--resume").arg(&run.folder);
        } else {
            command.arg(base);
            for overlay in &run.overlays {
                command.args(["--set", overlay]);
            }
            // As text in TOML, so that no folder's name is read as a number.
            let output = toml::Value::from(run.folder.to_string_lossy().as_ref());
            command.arg("--set").arg(format!("run.output={output}"));
        }
        if let Some(threads) = threads {
            command.args(["--threads", &threads.to_string()]);
        }
        let mut file = OpenOptions::new().create(true).append(true).open(log).map_err(SweepError::io(log))?;
        let log_begin = file.seek(SeekFrom::End(0)).map_err(SweepError::io(log))?;
        let errors = file.try_clone().map_err(SweepError::io(log))?;
        command.arg(END_WITH_STDIN).stdin(Stdio::piped()).stdout(file).stderr(errors);
        // Ctrl-C in a terminal is for the sweep, which passes it on once.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let failed = |source| SweepError::Start { program: program.to_owned(), source };
        let mut child = command.spawn().map_err(failed)?;
        let stdin = child.stdin.take();
        Ok(Self { child, stdin, begin: Instant::now(), log: log.to_owned(), log_begin })
    }

    /// Asks it to finish its step, to save, and to end.
    pub(super) fn stop(&mut self) {
        self.stdin = None;
    }

    /// How it ended, and after what time; nothing while it goes on.
    pub(super) fn poll(&mut self) -> Result<Option<(RunStatus, Duration)>, SweepError> {
        let Some(status) = self.child.try_wait().map_err(SweepError::io(&self.log))? else { return Ok(None) };
        let ended = match status.code() {
            Some(0) => RunStatus::Finished,
            Some(INTERRUPTED) => RunStatus::Interrupted,
            _ => RunStatus::Failed(self.reason(status)),
        };
        Ok(Some((ended, self.begin.elapsed())))
    }

    /// The error that it reported, or how it was ended.
    fn reason(&self, status: ExitStatus) -> String {
        let said = || {
            let mut file = File::open(&self.log).ok()?;
            file.seek(SeekFrom::Start(self.log_begin)).ok()?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).ok()?;
            let text = String::from_utf8_lossy(&bytes);
            let error = text.lines().rfind(|line| line.starts_with("error: "))?;
            Some(error["error: ".len()..].to_owned())
        };
        said().unwrap_or_else(|| format!("the process ended with {status}: see {}", self.log.display()))
    }
}

/// Whether a folder holds a run to go on with.
pub(super) fn is_begun(folder: &Path) -> bool {
    folder.join(CONFIG).is_file()
}

/// Whether a process works on the run in a folder: one of a sweep that was killed may still be saving.
pub(super) fn is_busy(folder: &Path) -> bool {
    File::open(folder.join(LOCK)).is_ok_and(|lock| matches!(lock.try_lock(), Err(TryLockError::WouldBlock)))
}

/// Whether there is anything in a folder.
pub(super) fn has_entries(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some())
}
