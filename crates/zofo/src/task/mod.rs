//! Tasks: how a row of data becomes a prompt, its candidate answers, and token sequences.
//!
//! A task is data, not code: one TOML file (its format: [`definition`]). From a file of rows to batches there are
//! four stages, each a type of this module:
//!
//! 1. [`Dataset`] reads the files of a split ([`SplitFiles`]) and checks every row against the task;
//! 2. [`Splits`] divides the training rows into the inner, the outer and the validation part;
//! 3. [`Encoder`] renders the template, tokenises whole texts, and cuts what the model's context
//!    cannot hold;
//! 4. [`BatchSampler`] draws batches from a part, epoch after epoch, and can be put back to where
//!    it was.

mod bad_rows;
mod builtin;
mod cells;
pub mod chat;
mod dataset;
pub mod definition;
mod demonstrations;
mod encode;
mod engine;
mod error;
mod files;
mod filters;
mod label;
mod location;
pub mod metric;
mod overlap;
mod row;
mod sampler;
mod shuffle;
mod source;
mod split;
mod stratify;
mod template;

pub use bad_rows::SkippedRows;
pub use dataset::{DataSplit, Dataset, Example};
pub use definition::{Field, FieldType, Generation, Kind, Task};
pub use demonstrations::draw_demonstrations;
pub use encode::{
    Cut, Encoded, EncodedCandidate, EncodedExample, EncodedPrompts, Encoder, ForeignToken, ModelLimits,
    TruncationReport, check_vocabulary,
};
pub use error::{TaskError, TemplatePart};
pub use files::{FileGroup, SplitFiles};
pub use location::{HubData, Location};
pub use metric::Metric;
pub use overlap::{overlapping, repeated};
pub use row::{Fields, Gold};
pub use sampler::{BatchSampler, Cursor};
pub use shuffle::{SplitMix64, permutation};
pub use source::{Source, SourceSplits, SplitPart, SplitRows};
pub use split::{Classes, SplitRequest, Splits, TrainingSize, evaluation_count};
pub use template::{Rendered, Template, TemplateName};
