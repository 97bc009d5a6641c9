//! Evaluation: scoring candidate answers, generating text, and judging both.

mod answers;
mod beams;
mod decoding;
mod generate;
mod measure;
mod normalization;
mod packing;
mod predictions;
mod scoring;

pub use answers::{Answer, AnswerEnd, generate_answers};
pub use beams::{Hypothesis, beam_search};
pub use decoding::Author;
pub use generate::{Generation, GenerationError, Sampling, generate};
pub use measure::{
    CALIBRATION_ERROR, Measure, Measures, count_classes, measure_choices, measure_conversations, measure_texts,
};
pub use normalization::{Normalization, Scoring};
pub use predictions::{Prediction, write_predictions};
pub use scoring::{Evaluation, Scored, evaluate, evaluate_by, evaluate_under, try_evaluate};
