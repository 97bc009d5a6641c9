//! Moving θ: one interface over the scalar rules and Adam.

use super::BackboneDirection;
use super::adam::{self, BackboneAdam};
use super::journal::{OptimizerRecord, Record};
use super::optimizer::{BackboneOptimizer, Diverged, ScalarOptimizer, SlopeGuard, Step};
use crate::model::Backbone;
use serde::{Deserialize, Serialize};
use std::io;

/// An optimizer of θ with its state.
#[derive(Clone)]
pub enum BackboneUpdater {
    /// One number of state; θ is streamed in place.
    Scalar(ScalarOptimizer),
    /// Two states of θ's size.
    Adam(BackboneAdam),
}

/// What a checkpoint keeps of a [`BackboneUpdater`]. The moments of Adam are rebuilt by replay.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum UpdaterState {
    /// All of it.
    Scalar(ScalarOptimizer),
    /// The guard.
    Adam(SlopeGuard),
}

/// A state was given to an optimizer of another kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the state of the optimizer of θ belongs to another kind of optimizer")]
pub struct OtherOptimizer;

impl BackboneUpdater {
    /// A fresh optimizer.
    pub fn new(kind: BackboneOptimizer) -> Self {
        match kind.scalar_rule() {
            Some(rule) => Self::Scalar(ScalarOptimizer::new(rule)),
            None => Self::Adam(BackboneAdam::default()),
        }
    }

    /// θ ← Opt(θ, g·z) with z = `direction`; returns what was done.
    ///
    /// For Adam, slope and rate are rounded to f32 first: those are the numbers that a journal keeps, and replay must do
    /// the same.
    ///
    /// # Errors
    ///
    /// [`Diverged`] at the twentieth skipped step in a row; θ is as it was.
    pub fn step(
        &mut self,
        backbone: &mut Backbone,
        direction: &BackboneDirection,
        slope: f64,
        learning_rate: f64,
    ) -> Result<Step, Diverged> {
        match self {
            Self::Scalar(optimizer) => {
                let step = optimizer.step(slope, learning_rate)?;
                if let Step::Apply { coefficient } = step {
                    backbone.descend(direction, coefficient);
                }
                Ok(step)
            }
            Self::Adam(adam) => adam.step(backbone, direction, slope as f32, learning_rate as f32),
        }
    }

    /// Repeats a recorded update, with the same bits.
    pub fn replay(&mut self, backbone: &mut Backbone, record: &Record) {
        match self {
            Self::Scalar(_) => {
                backbone.descend(&BackboneDirection::Seeded(record.seed), record.coefficient);
            }
            Self::Adam(adam) => {
                adam.apply(backbone, &BackboneDirection::Seeded(record.seed), record.slope, record.learning_rate);
            }
        }
    }

    /// The guard with its counts.
    pub fn guard(&self) -> &SlopeGuard {
        match self {
            Self::Scalar(optimizer) => optimizer.guard(),
            Self::Adam(adam) => adam.guard(),
        }
    }

    /// What a checkpoint keeps.
    pub fn state(&self) -> UpdaterState {
        match self {
            Self::Scalar(optimizer) => UpdaterState::Scalar(*optimizer),
            Self::Adam(adam) => UpdaterState::Adam(*adam.guard()),
        }
    }

    /// Goes on from a checkpoint whose updates have been replayed.
    ///
    /// # Errors
    ///
    /// [`OtherOptimizer`] if the state belongs to an optimizer of another kind; nothing is changed.
    pub fn restore(&mut self, state: UpdaterState) -> Result<(), OtherOptimizer> {
        match (self, state) {
            (Self::Scalar(optimizer), UpdaterState::Scalar(saved)) => *optimizer = saved,
            (Self::Adam(adam), UpdaterState::Adam(guard)) => adam.restore_guard(guard),
            _ => return Err(OtherOptimizer),
        }
        Ok(())
    }

    /// Hands what Adam keeps per weight to `put`, in the order of the backbone's parameters. The scalar rules keep nothing.
    pub(crate) fn write_moments(
        &self,
        backbone: &Backbone,
        put: &mut impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        match self {
            Self::Scalar(_) => Ok(()),
            Self::Adam(adam) => adam.write_moments(backbone, put),
        }
    }

    /// The reverse of [`write_moments`](Self::write_moments).
    pub(crate) fn read_moments(&mut self, backbone: &Backbone, reader: &mut impl io::Read) -> io::Result<()> {
        match self {
            Self::Scalar(_) => Ok(()),
            Self::Adam(adam) => adam.read_moments(backbone, reader),
        }
    }

    /// Whether replay alone is too slow to rebuild the state from the start of every run.
    pub(crate) fn has_moments(&self) -> bool {
        matches!(self, Self::Adam(_))
    }

    /// Name and constants for a journal.
    pub fn record(kind: BackboneOptimizer) -> OptimizerRecord {
        let constants = kind.scalar_rule().map_or(adam::CONSTANTS, |rule| rule.constants());
        OptimizerRecord::new(kind.name(), constants)
    }
}
