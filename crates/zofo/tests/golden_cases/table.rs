//! How exact every family is with every kind of block.

use super::say;
use std::collections::BTreeMap;

/// The largest relative error that logits and gradients may have.
const ALLOWED: f64 = 1e-3;

/// What is beside the backbone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Column {
    /// Nothing.
    Model,
    Lora,
    Prefix,
    Prompt,
}

impl Column {
    const ALL: [Self; 4] = [Self::Model, Self::Lora, Self::Prefix, Self::Prompt];
}

/// What the cases of one family with one kind of block gave.
#[derive(Clone, Copy, Default)]
struct Cell {
    cases: usize,
    logits: Option<f64>,
    gradients: Option<f64>,
}

/// The largest relative errors, over all cases: a row per family, a column per kind of block. The error of a tensor is
/// max |a − b| / max |b| over its values, b being the reference.
#[derive(Default)]
pub struct ErrorTable {
    families: BTreeMap<String, BTreeMap<Column, Cell>>,
}

impl ErrorTable {
    /// Notes that a case was run.
    pub fn ran(&mut self, family: &str, column: Column) {
        self.cell(family, column).cases += 1;
    }

    /// Compares logits.
    pub fn logits(&mut self, family: &str, column: Column, actual: &[f32], expected: &[f32]) {
        let error = relative_error(actual, expected);
        let largest = &mut self.cell(family, column).logits;
        *largest = Some(largest.unwrap_or_default().max(error));
    }

    /// Compares the gradient of one tensor.
    pub fn gradient(&mut self, family: &str, column: Column, actual: &[f32], expected: &[f32]) {
        let error = relative_error(actual, expected);
        let largest = &mut self.cell(family, column).gradients;
        *largest = Some(largest.unwrap_or_default().max(error));
    }

    fn cell(&mut self, family: &str, column: Column) -> &mut Cell {
        self.families.entry(family.to_owned()).or_default().entry(column).or_default()
    }

    /// Prints the table.
    ///
    /// # Panics
    ///
    /// If an error is too large.
    pub fn finish(self) {
        let mut text = "golden: largest relative error of logits / of gradients (cases)\n".to_owned();
        let mut line = |name: &str, cells: [String; 4]| {
            let cells: Vec<String> = cells.iter().map(|cell| format!("{cell:<24}")).collect();
            text += format!("golden  {name:<14}{}", cells.concat()).trim_end();
            text.push('\n');
        };
        line("", ["model", "LoRA", "prefix", "prompt"].map(str::to_owned));
        let mut too_large = Vec::new();
        for (family, cells) in &self.families {
            line(family, Column::ALL.map(|column| cells.get(&column).map_or("–".to_owned(), Cell::text)));
            for (column, cell) in cells {
                let errors = [("logits", cell.logits), ("gradients", cell.gradients)];
                let large = errors.iter().filter(|(_, error)| error.is_some_and(|error| error > ALLOWED));
                too_large.extend(large.map(|(what, _)| format!("{what} of {family}, {column:?}")));
            }
        }
        say(&text);
        assert!(too_large.is_empty(), "relative errors above {ALLOWED:e}: {}", too_large.join("; "));
    }
}

impl Cell {
    fn text(&self) -> String {
        let number = |error: Option<f64>| error.map_or("–".to_owned(), |error| format!("{error:.1e}"));
        format!("{} / {} ({})", number(self.logits), number(self.gradients), self.cases)
    }
}

/// max |a − b| / max |b|; infinite where values are missing or not numbers.
fn relative_error(actual: &[f32], expected: &[f32]) -> f64 {
    if actual.len() != expected.len() {
        return f64::INFINITY;
    }
    let largest = expected.iter().fold(0.0, |largest: f64, &b| largest.max(f64::from(b).abs()));
    let differences = actual.iter().zip(expected).map(|(&a, &b)| (f64::from(a) - f64::from(b)).abs());
    // `max` alone would pass over NaN.
    let difference = differences.fold(0.0, |most: f64, x| if x.is_nan() { f64::INFINITY } else { most.max(x) });
    if difference == 0.0 { 0.0 } else { difference / largest }
}
