//! Why there is no report.

use std::path::PathBuf;

/// Why a report cannot be made. A damaged run is none of these: the report says what is wrong with it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// Neither the folder of a run nor one of a sweep.
    #[error("`{}` holds no runs: give the folder of a run, with config.toml and metrics.jsonl in it, or that of a sweep", path.display())]
    NoRuns {
        /// The folder.
        path: PathBuf,
    },
    /// A folder that cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A chart that cannot be drawn.
    #[error("cannot draw the chart \"{title}\": {reason}")]
    Draw {
        /// Its title.
        title: String,
        /// What the drawing library says.
        reason: String,
    },
    /// No font for the text of a chart.
    #[error(
        "no font is installed that a chart as PNG could write its text with: install one, such as DejaVu Sans, or take SVG"
    )]
    NoFont,
    /// The page's template does not fit what is put into it.
    #[error("cannot write the page")]
    Page(#[from] minijinja::Error),
    /// The numbers cannot be written.
    #[error("cannot write the numbers as CSV")]
    Csv(#[from] csv::Error),
}
