//! `environment.json`: what a run was computed with, and the memory that it took.

use super::error::RunError;
use super::folder::RunFolder;
use crate::bench::{Machine, peak_rss_mib};
use crate::hf::atomic::write_file_atomically;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What is in the file. It is written when a process begins to work on a run and when it ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// Of this program.
    pub version: String,
    /// Operating system and architecture.
    pub system: String,
    /// The processor's name, where the system tells.
    pub cpu: Option<String>,
    /// The instruction set that the kernels chose.
    pub kernels: String,
    /// Threads.
    pub threads: usize,
    /// When the latest process began, in UTC.
    pub started: String,
    /// The most memory that a process of this run has had resident, MiB. A process that was killed does not count.
    #[serde(default)]
    pub peak_rss_mib: Option<f64>,
}

impl Environment {
    fn current(peak_rss_mib: Option<f64>) -> Self {
        let Machine { cpu, kernels, threads } = Machine::current();
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            cpu,
            kernels: kernels.to_owned(),
            threads,
            started: jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%S").to_string(),
            peak_rss_mib,
        }
    }

    /// What a file says; nothing if there is none, or if it cannot be read.
    pub fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }

    fn write(&self, path: &Path) -> Result<(), RunError> {
        let json = serde_json::to_vec_pretty(self).map_err(|error| RunError::io(path)(error.into()))?;
        Ok(write_file_atomically(path, |writer| writer.write_all(&json))?)
    }
}

/// Keeps the file up to date as long as this process works on the run.
pub(super) struct EnvironmentFile {
    path: PathBuf,
    environment: Environment,
}

impl EnvironmentFile {
    /// Writes it, with the peak of earlier processes.
    pub(super) fn begin(folder: &RunFolder) -> Result<Self, RunError> {
        let path = folder.environment();
        let environment = Environment::current(Environment::read(&path).and_then(|earlier| earlier.peak_rss_mib));
        environment.write(&path)?;
        Ok(Self { path, environment })
    }
}

impl Drop for EnvironmentFile {
    fn drop(&mut self) {
        self.environment.peak_rss_mib =
            peak_rss_mib().into_iter().chain(self.environment.peak_rss_mib).reduce(f64::max);
        // A figure that cannot be written must not make a finished run a failed one.
        let _ = self.environment.write(&self.path);
    }
}
