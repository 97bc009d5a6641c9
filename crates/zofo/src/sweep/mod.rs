//! Many runs from one file: every combination of some settings, one folder each, and none of them twice.
//!
//! [`SweepFile`] is what was written, [`SweepPlan`] the runs that it means, and [`run`] does those that are not done, each
//! in a process of its own. `sweep.jsonl` ([`SweepLog`]) keeps what was started with which settings and how it ended, so
//! that a sweep can be stopped, killed, and gone on with.

mod axes;
mod error;
mod file;
mod log;
mod plan;
mod process;
mod schedule;
mod table;

#[cfg(test)]
mod tests;

pub use error::SweepError;
pub use file::SweepFile;
pub use log::{LogEntry, RunStatus, SweepLog};
pub use plan::{PlannedRun, SweepPlan};
pub(crate) use schedule::log_file;
pub use schedule::{Options, Outcome, SweepObserver, run};
pub use table::{RunRow, rows, write_csv};
