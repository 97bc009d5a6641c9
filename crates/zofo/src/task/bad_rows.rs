//! Rows that are left out because they are bad, up to a number that the user sets.

use std::fmt;

use super::error::TaskError;

/// How many of them are told of.
const TOLD: usize = 5;

/// Rows that were left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SkippedRows {
    /// How many.
    pub count: usize,
    /// What is wrong with the first of them.
    pub first: Vec<String>,
}

impl fmt::Display for SkippedRows {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let more = if self.count > self.first.len() { "; …" } else { "" };
        write!(formatter, "{} bad rows were left out: {}{more}", self.count, self.first.join("; "))
    }
}

/// Counts bad rows.
pub(super) struct BadRows {
    tolerated: usize,
    skipped: SkippedRows,
}

impl BadRows {
    pub(super) fn new(tolerated: usize) -> Self {
        Self { tolerated, skipped: SkippedRows::default() }
    }

    /// Leaves out a row.
    ///
    /// # Errors
    /// One too many. Where none is tolerated, its own error.
    pub(super) fn skip(&mut self, error: TaskError) -> Result<(), TaskError> {
        if self.tolerated == 0 {
            return Err(error);
        }
        self.skipped.count += 1;
        if self.skipped.first.len() < TOLD {
            self.skipped.first.push(error.to_string());
        }
        if self.skipped.count > self.tolerated {
            let first = std::mem::take(&mut self.skipped.first);
            return Err(TaskError::TooManyBadRows { tolerated: self.tolerated, first });
        }
        Ok(())
    }

    pub(super) fn skipped(self) -> SkippedRows {
        self.skipped
    }
}
