//! What runs have measured, on one page.
//!
//! [`Run::read`] takes what a run's folder tells, damaged or half-written as it may be; [`Report::new`] puts runs that
//! differ only by their seeds together, compares the groups, and says what they show to have gone wrong; [`Report::html`] is a page that needs no network,
//! [`Report::charts`] its charts alone, and [`Report::csv`] the numbers behind them.

mod ablation;
mod chart;
mod charts;
mod diagnosis;
mod error;
mod find;
mod format;
mod group;
mod metrics;
mod numbers;
mod page;
mod panel;
mod png;
mod run;
mod series;
mod statistics;

#[cfg(test)]
mod tests;

pub use chart::Chart;
pub use diagnosis::{Diagnosis, Sign};
pub use error::ReportError;
pub use find::{find, runs_in};
pub(crate) use format::toml_text;
pub use group::Group;
pub use metrics::{Evaluation, Step};
pub use page::Report;
pub use panel::{Comparison, Panel};
pub use png::Fonts;
pub use run::{Run, RunState, TestScore};
pub use series::Band;
pub use statistics::{Paired, Sample};
