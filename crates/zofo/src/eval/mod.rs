//! Evaluation: scoring candidate answers, and generating text.

mod generate;
mod scoring;

pub use generate::{Generation, Sampling, generate};
pub use scoring::{Evaluation, Scored, evaluate};
