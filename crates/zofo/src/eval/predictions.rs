//! A file of predictions: one JSON object a line.

use crate::hf::FileError;
use crate::hf::atomic::write_file_atomically;
use serde::Serialize;
use std::path::Path;

/// What was predicted for one row.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Prediction<'a> {
    /// One of several candidates.
    Choice {
        /// Name of the task.
        task: &'a str,
        /// Line of the row in its file, from 1.
        line: usize,
        /// Positions of the right candidates.
        gold: &'a [usize],
        /// Position of the one with the highest score.
        prediction: usize,
        /// Score of each candidate.
        scores: &'a [f64],
        /// Text of each candidate.
        texts: &'a [String],
    },
    /// A text.
    Text {
        /// Name of the task.
        task: &'a str,
        /// Line of the row in its file, from 1.
        line: usize,
        /// The right answers.
        gold: &'a [String],
        /// What was generated.
        prediction: &'a str,
        /// 1 if it is one of them, else 0: see [`exact_match`](crate::task::metric::exact_match).
        em: f64,
        /// See [`token_f1`](crate::task::metric::token_f1).
        f1: f64,
    },
    /// How likely what an assistant said is.
    Conversation {
        /// Name of the task.
        task: &'a str,
        /// Line of the row in its file, from 1.
        line: usize,
        /// Tokens that the assistant said.
        tokens: usize,
        /// Their mean negative log-likelihood, nats.
        loss: f64,
    },
}

/// Writes predictions, one JSON object a line; after an error the file is as it was before.
///
/// # Errors
/// What the system says.
pub fn write_predictions<'a>(
    path: &Path,
    predictions: impl IntoIterator<Item = Prediction<'a>>,
) -> Result<(), FileError> {
    write_file_atomically(path, |writer| {
        for prediction in predictions {
            serde_json::to_writer(&mut *writer, &prediction)?;
            writer.write_all(b"\n")?;
        }
        Ok(())
    })
}
