//! What zeroth-order estimates descend: the loss, or something else that can be evaluated.

use super::loss::mean_losses;
use crate::model::{Backbone, Batch, Part};
use crate::peft::Adapter;
use crate::zo::Perturbation;
use std::fmt;
use std::sync::Arc;

/// What zeroth-order estimates descend.
#[derive(Clone, Debug, Default)]
pub enum Objective {
    /// F.
    #[default]
    Loss,
    /// Something that needs no gradient, as 1 − accuracy (Malladi et al., arXiv 2305.17333, section 3.3).
    Measure(Arc<dyn Measure>),
}

/// Something about a model's answers that can be evaluated.
pub trait Measure: fmt::Debug + Send + Sync {
    /// Its values over the examples at these positions of their level ([`Batch::drawn`]), one per sign of `view`: the
    /// smaller the better, and not a number where it cannot be computed.
    fn of(&self, view: &Perturbation, backbone: &Backbone, adapter: Option<&Adapter>, drawn: &[usize]) -> Evaluated;
}

/// What was evaluated.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluated {
    /// One per sign.
    pub values: Vec<f64>,
    /// Tokens that were fed for them.
    pub tokens: usize,
}

impl Objective {
    /// Its mean over some batches, which take a pass each: one value per sign of `view`.
    pub fn of<'a>(
        &self,
        view: &Perturbation,
        backbone: &Backbone,
        adapter: Option<&Adapter>,
        batches: impl Iterator<Item = &'a Batch>,
    ) -> Evaluated {
        match self {
            Self::Loss => {
                let mut tokens = 0;
                let parts = batches.map(|batch| {
                    tokens += view.signs() * batch.tokens();
                    [Part { batch, adapter }]
                });
                let values = mean_losses(backbone, parts, view).concat();
                Evaluated { values, tokens }
            }
            Self::Measure(measure) => mean(batches.map(|batch| measure.of(view, backbone, adapter, &batch.drawn))),
        }
    }

    /// The same of θ with each of some blocks.
    pub fn of_blocks(&self, backbone: &Backbone, blocks: &[Adapter], batches: &[Batch]) -> Evaluated {
        match self {
            // They ride on one pass.
            Self::Loss => {
                let parts = |batch| blocks.iter().map(|p| Part { batch, adapter: Some(p) }).collect::<Vec<_>>();
                let values = mean_losses(backbone, batches.iter().map(parts), &Perturbation::None).concat();
                Evaluated { values, tokens: blocks.len() * batches.iter().map(Batch::tokens).sum::<usize>() }
            }
            Self::Measure(_) => {
                let of_block = |p| self.of(&Perturbation::None, backbone, Some(p), batches.iter());
                blocks.iter().map(of_block).fold(Evaluated::default(), |mut all, own| {
                    all.values.extend(own.values);
                    Evaluated { tokens: all.tokens + own.tokens, ..all }
                })
            }
        }
    }
}

/// The mean of values, and the sum of tokens.
fn mean(evaluated: impl Iterator<Item = Evaluated>) -> Evaluated {
    let (mut sum, mut count) = (Evaluated::default(), 0.0);
    for own in evaluated {
        sum.values.resize(own.values.len(), 0.0);
        sum.values.iter_mut().zip(own.values).for_each(|(sum, value)| *sum += value);
        sum.tokens += own.tokens;
        count += 1.0;
    }
    sum.values.iter_mut().for_each(|value| *value /= count);
    sum
}
