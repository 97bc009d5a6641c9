//! A run: what surrounds training.
//!
//! [`train`] starts or resumes one. Its folder holds, besides the results, all that is needed to go on after a crash:
//! `config.toml`, `journal.zofo` (the updates of θ), `checkpoint.safetensors` (everything else) and `metrics.jsonl`;
//! `environment.json` says what computed it. `tensorboard/`, if asked for, has the numbers of `metrics.jsonl` for
//! TensorBoard.

mod blocks;
mod checkpoint;
pub mod config;
mod cost;
mod data;
mod environment;
mod error;
mod finish;
pub(crate) mod folder;
mod inputs;
mod judge;
mod memory;
mod method;
mod metrics;
mod plan;
mod probe;
mod progress;
mod replay;
mod session;
mod snapshot;
mod tensorboard;

pub use environment::Environment;
pub use error::{Place, RunError};
pub use finish::{FinalScore, Summary};
pub use folder::RunFolder;
pub use inputs::Inputs;
pub use judge::EvaluationSet;
pub use plan::Plan;
pub use probe::Probe;
pub use progress::{BilevelRecord, EstimateRecord, EvaluationRecord, Observer, Score, StepRecord};
pub use replay::{Replayed, replay};
pub use session::{Outcome, Start, plan, probe, train};
