//! `zofo journal`.

use crate::arguments::{JsonArgument, path};
use crate::errors::Error;
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;
use zofo::hf::WeightDtype;
use zofo::zo::journal::{Journal, OptimizerRecord, RECORD_BYTES, Record, UpdateScheme};

/// Arguments of `zofo journal`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  zofo journal runs/demo/journal.zofo")]
pub struct Arguments {
    /// A journal.zofo.
    #[arg(value_parser = path())]
    file: PathBuf,
    #[command(flatten)]
    report: JsonArgument,
}

/// What is printed.
#[derive(Serialize)]
struct Report<'a> {
    format_version: u32,
    direction_scheme: u32,
    storage: WeightDtype,
    optimizer: &'a OptimizerRecord,
    /// What directions are, how many a step has, weight decay and momentum.
    scheme: &'a UpdateScheme,
    /// Tensors of the base model.
    tensors: usize,
    /// Weights in them.
    weights: u64,
    records: usize,
    /// Bytes of an unfinished record at the end.
    ignored_bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    updates: Option<Updates>,
}

/// The updates of a journal that has some.
#[derive(Serialize)]
struct Updates {
    first_step: u64,
    last_step: u64,
    /// Steps between these two without an update.
    skipped_steps: u64,
    /// √ of the mean of squared slopes.
    slope_rms: f64,
    last_slope: f32,
    last_learning_rate: f32,
    last_coefficient: f32,
}

/// Prints what is in a journal.
pub fn run(arguments: &Arguments) -> Result<(), Error> {
    let journal = Journal::read_tolerant(&arguments.file)?;
    let header = &journal.header;
    let report = Report {
        format_version: header.format_version(),
        direction_scheme: header.direction_scheme,
        storage: header.storage,
        optimizer: &header.optimizer,
        scheme: &header.updates,
        tensors: header.tensors.len(),
        // Saturating: the shapes are what a file says.
        weights: header.tensors.iter().fold(0, |sum, tensor| {
            tensor.shape.iter().fold(1u64, |product, &size| product.saturating_mul(size)).saturating_add(sum)
        }),
        records: journal.records.len(),
        ignored_bytes: journal.ignored_bytes,
        updates: Updates::of(&journal.records),
    };
    arguments.report.print(&report, || report.describe())
}

impl Updates {
    fn of(records: &[Record]) -> Option<Self> {
        let (first, last) = (records.first()?, records.last()?);
        let steps = records.chunk_by(|left, right| left.step == right.step).count() as u64;
        let squares: f64 = records.iter().map(|record| f64::from(record.slope).powi(2)).sum();
        Some(Self {
            first_step: first.step,
            last_step: last.step,
            // Steps increase, so there are at least as many places as steps with records.
            skipped_steps: last.step - first.step - (steps - 1),
            slope_rms: (squares / records.len() as f64).sqrt(),
            last_slope: last.slope,
            last_learning_rate: last.learning_rate,
            last_coefficient: last.coefficient,
        })
    }
}

impl Report<'_> {
    fn describe_directions(&self) -> String {
        let UpdateScheme { directions, per_step, weight_decay, momentum } = self.scheme;
        let mut text = format!("directions  {per_step} a step, {}", directions.distribution);
        if let Some(rank) = directions.rank {
            text += &format!(" of rank {rank}");
        }
        if let Some(names) = &directions.names {
            text += &format!(", over weights named {names}");
        }
        if let Some(layers) = &directions.layers {
            text += &format!(", in the layers {layers:?}");
        }
        if let Some(mask) = &directions.elements {
            text += &format!(", over {} of the elements ({})", mask.share, mask.by);
        }
        text += &format!("; weight decay {weight_decay}");
        if let Some(momentum) = momentum {
            text += &format!(", momentum {} over {} steps", momentum.decay, momentum.window);
        }
        text
    }

    fn describe(&self) -> String {
        let storage = self.storage;
        let constants =
            self.optimizer.constants.iter().map(|constant| format!(", {} {}", constant.name, constant.value));
        let mut lines = vec![
            format!("format      version {}, direction scheme {}", self.format_version, self.direction_scheme),
            format!("base model  {} weights in {} tensors, stored as {storage}", self.weights, self.tensors),
            format!("optimizer   {}{}", self.optimizer.name, constants.collect::<String>()),
            self.describe_directions(),
            format!("updates     {}, {} bytes", self.records, self.records * RECORD_BYTES),
        ];
        if let Some(updates) = &self.updates {
            let Updates { first_step, last_step, skipped_steps, slope_rms, .. } = updates;
            lines.push(format!(
                "steps       {first_step} to {last_step}, {skipped_steps} between them without an update"
            ));
            lines.push(format!("slopes      root mean square {slope_rms:.3e}"));
            lines.push(format!(
                "last        slope {:.3e}, learning rate {:.3e}, coefficient {:.3e}",
                updates.last_slope, updates.last_learning_rate, updates.last_coefficient
            ));
        }
        if self.ignored_bytes > 0 {
            lines.push(format!("unfinished  {} bytes of a record at the end", self.ignored_bytes));
        }
        lines.join("\n") + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_steps_are_those_between_records() {
        let record = |step, slope| Record { step, seed: 0, slope, learning_rate: 1e-6, coefficient: 1e-6 };
        assert!(Updates::of(&[]).is_none());
        let updates = Updates::of(&[record(3, 3.0), record(4, -4.0), record(9, 5.0)]).unwrap();
        assert_eq!((updates.first_step, updates.last_step, updates.skipped_steps), (3, 9, 4));
        assert!((updates.slope_rms - (50.0f64 / 3.0).sqrt()).abs() < 1e-12);
        assert_eq!(Updates::of(&[record(3, 1.0)]).unwrap().skipped_steps, 0);
        // Two directions a step.
        let of_two = [3, 3, 4, 4, 6, 6].map(|step| record(step, 1.0));
        assert_eq!(Updates::of(&of_two).unwrap().skipped_steps, 1);
    }
}
