//! What can go wrong in a run.

use super::config::ConfigError;
use crate::hf::{FileError, HfError};
use crate::peft::UnknownTarget;
use crate::task::TaskError;
use crate::train::bilevel::StepError;
use crate::zo::journal::JournalError;
use std::path::{Path, PathBuf};

/// Why a run could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The task or its data.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// A model or adapter file.
    #[error(transparent)]
    Hf(#[from] HfError),
    /// A file of the run's folder.
    #[error(transparent)]
    File(#[from] FileError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A target of `[peft]`.
    #[error(transparent)]
    Target(#[from] UnknownTarget),
    /// Settings that exclude each other.
    #[error("{0}")]
    Conflict(String),
    /// A journal of another base model, or of another version of this program.
    #[error("{0}")]
    ForeignJournal(String),
    /// The output folder has something in it.
    #[error(
        "`{}` is not empty{}: choose another `run.output`{}",
        path.display(),
        if *is_run { " and holds another run" } else { "" },
        if *is_run { ", or go on with it: `--resume` and this folder" } else { "" }
    )]
    OutputExists {
        /// The folder.
        path: PathBuf,
        /// Whether it looks like a run's.
        is_run: bool,
    },
    /// A folder to resume that no run made.
    #[error("`{}` holds no run to resume: `{}` is missing", path.display(), missing)]
    NotARun {
        /// The folder.
        path: PathBuf,
        /// The file that every run has.
        missing: &'static str,
    },
    /// Another process works in the folder.
    #[error("another process is training in `{}` now: wait for it, or end it", path.display())]
    Busy {
        /// The folder.
        path: PathBuf,
    },
    /// A checkpoint that cannot be read, or belongs to other settings or weights.
    #[error("`{}`: {problem}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// Training cannot go on; everything up to then is saved.
    #[error("step {step}: {source}; all up to step {} is saved in `{}`", step - 1, output.display())]
    Diverged {
        /// The step that failed.
        step: u64,
        /// The run's folder.
        output: PathBuf,
        /// Why.
        source: StepError,
    },
    /// The operating system refused something.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Its answer.
        source: std::io::Error,
    },
}

impl RunError {
    pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}
