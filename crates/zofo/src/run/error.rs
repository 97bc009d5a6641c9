//! What can go wrong in a run.

use super::config::ConfigError;
use crate::eval::GenerationError;
use crate::hf::{FileError, HfError};
use crate::peft::AdapterError;
use crate::task::TaskError;
use crate::train::StepError;
use crate::zo::journal::JournalError;
use std::fmt;
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
    /// A block of `[peft]` that does not fit the model.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
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
    #[error("{place}: {source}; what was trained before is saved in `{}`{}", output.display(), results_in(*results))]
    Diverged {
        /// What failed.
        place: Place,
        /// The run's folder.
        output: PathBuf,
        /// Why.
        source: StepError,
        /// The step whose results were written in spite of it.
        results: Option<u64>,
    },
    /// A model cannot write the answers that it is judged by.
    #[error("{place}: {source}")]
    Answers {
        /// Which evaluation.
        place: Place,
        /// Why.
        source: GenerationError,
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

/// A part of a run in which numbers can stop being finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// This inner step of the warm start.
    WarmStart(usize),
    /// This outer step.
    Step(u64),
    /// The evaluation on the validation part after this outer step.
    Validation(u64),
    /// The final evaluation of what was kept, which is from this outer step.
    Results(u64),
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WarmStart(step) => write!(formatter, "inner step {step} of the warm start"),
            Self::Step(step) => write!(formatter, "step {step}"),
            Self::Validation(step) => write!(formatter, "validation after step {step}"),
            Self::Results(step) => write!(formatter, "final evaluation of step {step}"),
        }
    }
}

/// The end of the message of a diverged run.
fn results_in(step: Option<u64>) -> String {
    step.map_or_else(String::new, |step| {
        format!(", and the results of step {step}, the best on the validation part, are in its adapter/, backbone/ and summary.json")
    })
}

impl RunError {
    pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}
