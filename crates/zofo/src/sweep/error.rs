//! Why a sweep cannot be run.

use crate::hf::FileError;
use crate::run::config::ConfigError;
use std::path::{Path, PathBuf};

/// Why a sweep cannot start or go on. A run that fails is none of these.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SweepError {
    /// The sweep's file, or one in its folder, cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no sweep.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Where, what was expected, and what was found.
        problem: String,
    },
    /// A run's configuration.
    #[error("{}: the run `{run}`, which is {} with {settings}: {source}", path.display(), base.display())]
    Config {
        /// The sweep's file.
        path: PathBuf,
        /// The configuration that it starts from.
        base: PathBuf,
        /// The run.
        run: String,
        /// What the sweep sets for it.
        settings: String,
        /// What is wrong.
        source: Box<ConfigError>,
    },
    /// Runs that were started with other settings.
    #[error(
        "{}: the sweep has changed since these runs were started in `{}`: {}; choose another output folder, or remove \
         theirs to run them anew",
        path.display(), output.display(), runs.join("; ")
    )]
    Changed {
        /// The sweep's file.
        path: PathBuf,
        /// The sweep's folder.
        output: PathBuf,
        /// Each run with the keys that differ.
        runs: Vec<String>,
    },
    /// Another process runs the sweep.
    #[error("another process runs a sweep in `{}` now: wait for it, or end it", path.display())]
    Busy {
        /// The sweep's folder.
        path: PathBuf,
    },
    /// A run's folder that no sweep made.
    #[error("`{}` holds something that this sweep did not start: move it away, or choose another output folder", path.display())]
    Foreign {
        /// The run's folder.
        path: PathBuf,
    },
    /// A process that cannot be started.
    #[error("cannot start `{}`", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Something in the sweep's folder cannot be written.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// As the one before.
    #[error(transparent)]
    Write(#[from] FileError),
    /// The table of the runs cannot be written.
    #[error("`{}`: {source}", path.display())]
    Csv {
        /// The file.
        path: PathBuf,
        /// Why.
        source: csv::Error,
    },
    /// The runs cannot be found again.
    #[error(transparent)]
    Report(#[from] crate::report::ReportError),
}

impl SweepError {
    pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}
