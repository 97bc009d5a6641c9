//! What runs have measured, on one page.
//!
//! [`Run::read`] takes what a run's folder tells, damaged or half-written as it may be; [`Report::new`] puts runs that
//! differ only by their seeds together and compares the groups; [`Report::html`] is a page that needs no network,
//! [`Report::charts`] its charts alone, and [`Report::csv`] the numbers behind them.

mod chart;
mod charts;
mod error;
mod find;
mod format;
mod group;
mod metrics;
mod numbers;
mod page;
mod panel;
mod run;
mod series;
mod statistics;

#[cfg(test)]
mod tests;

pub use chart::Chart;
pub use error::ReportError;
pub use find::{find, runs_in};
pub(crate) use format::toml_text;
pub use group::Group;
pub use metrics::{Evaluation, Step};
pub use page::Report;
pub use panel::{Comparison, Panel};
pub use run::{Run, RunState, TestScore};
pub use series::Band;
pub use statistics::{Paired, Sample};
