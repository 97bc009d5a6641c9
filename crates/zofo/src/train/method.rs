//! One interface over the methods, for what surrounds training.

use super::bilevel::Bilevel;
use super::first_order::FirstOrder;
use super::full::Full;
use super::mezo::Mezo;
use super::mezo_peft::MezoPeft;
use super::two_stage::TwoStage;
use super::{Batches, Block, StepError, StepInput, StepReport};
use crate::model::Backbone;
use crate::zo::optimizer::SlopeGuard;
use crate::zo::update::{BackboneUpdater, OtherOptimizer, UpdaterState};
use std::io;

/// A method with all of its state.
pub enum Method {
    /// p and s by exact gradients, θ by zeroth-order estimates, coupled by a penalty.
    Bilevel(Box<Bilevel>),
    /// θ by zeroth-order estimates.
    Mezo(Mezo),
    /// p by zeroth-order estimates.
    MezoPeft(MezoPeft),
    /// p by exact gradients.
    FirstOrder(FirstOrder),
    /// p by exact gradients, then θ by zeroth-order estimates.
    TwoStage(TwoStage),
    /// θ by exact gradients.
    Full(Full),
    /// Nothing is trained: θ is evaluated as it is.
    Untrained(Backbone),
}

/// State of an optimizer that is of θ's size: snapshots of θ hold it, checkpoints do not.
pub trait Moments {
    /// Hands all of it to `put`.
    ///
    /// # Errors
    ///
    /// Those of `put`.
    fn write_moments(&self, put: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()>;

    /// The reverse of [`write_moments`](Self::write_moments).
    ///
    /// # Errors
    ///
    /// Those of `reader`, which may be too short.
    fn read_moments(&mut self, reader: &mut dyn io::Read) -> io::Result<()>;
}

impl Method {
    /// One step. A method that trains nothing does nothing.
    ///
    /// # Errors
    ///
    /// Numbers that are not finite, or too many slopes in a row that are refused.
    pub fn step(&mut self, input: &StepInput, batches: &mut impl Batches) -> Result<StepReport, StepError> {
        match self {
            Self::Bilevel(method) => method.step(input, batches),
            Self::Mezo(method) => method.step(input, batches),
            Self::MezoPeft(method) => method.step(input, batches),
            Self::FirstOrder(method) => method.step(input, batches),
            Self::TwoStage(method) => method.step(input, batches),
            Self::Full(method) => method.step(input, batches),
            Self::Untrained(_) => Ok(StepReport::default()),
        }
    }

    /// θ.
    pub fn backbone(&self) -> &Backbone {
        match self {
            Self::Bilevel(method) => &method.backbone,
            Self::Mezo(method) => &method.backbone,
            Self::MezoPeft(method) => &method.backbone,
            Self::FirstOrder(method) => &method.backbone,
            Self::TwoStage(method) => &method.mezo.backbone,
            Self::Full(method) => &method.backbone,
            Self::Untrained(backbone) => backbone,
        }
    }

    /// θ, to be written by who restores it.
    pub fn backbone_mut(&mut self) -> &mut Backbone {
        match self {
            Self::Bilevel(method) => &mut method.backbone,
            Self::Mezo(method) => &mut method.backbone,
            Self::MezoPeft(method) => &mut method.backbone,
            Self::FirstOrder(method) => &mut method.backbone,
            Self::TwoStage(method) => &mut method.mezo.backbone,
            Self::Full(method) => &mut method.backbone,
            Self::Untrained(backbone) => backbone,
        }
    }

    /// The blocks: p, if the method has one, then s, if it has one.
    pub fn blocks(&self) -> Vec<&Block> {
        match self {
            Self::Bilevel(method) => vec![&method.adapter, &method.shadow],
            Self::MezoPeft(method) => vec![&method.adapter],
            Self::FirstOrder(method) => vec![&method.adapter],
            Self::TwoStage(TwoStage { mezo, .. }) | Self::Mezo(mezo) => mezo.adapter.iter().collect(),
            Self::Full(_) | Self::Untrained(_) => Vec::new(),
        }
    }

    /// The same, to be restored.
    pub fn blocks_mut(&mut self) -> Vec<&mut Block> {
        match self {
            Self::Bilevel(method) => vec![&mut method.adapter, &mut method.shadow],
            Self::MezoPeft(method) => vec![&mut method.adapter],
            Self::FirstOrder(method) => vec![&mut method.adapter],
            Self::TwoStage(TwoStage { mezo, .. }) | Self::Mezo(mezo) => mezo.adapter.iter_mut().collect(),
            Self::Full(_) | Self::Untrained(_) => Vec::new(),
        }
    }

    /// What moves θ by zeroth-order estimates, with θ, if the method does that.
    pub fn updater(&self) -> Option<&BackboneUpdater> {
        match self {
            Self::Bilevel(method) => Some(&method.backbone_optimizer),
            Self::TwoStage(TwoStage { mezo, .. }) | Self::Mezo(mezo) => Some(&mezo.backbone_optimizer),
            Self::MezoPeft(_) | Self::FirstOrder(_) | Self::Full(_) | Self::Untrained(_) => None,
        }
    }

    /// θ and what moves it by zeroth-order estimates.
    pub fn updater_mut(&mut self) -> Option<(&mut Backbone, &mut BackboneUpdater)> {
        match self {
            Self::Bilevel(method) => Some((&mut method.backbone, &mut method.backbone_optimizer)),
            Self::TwoStage(TwoStage { mezo, .. }) | Self::Mezo(mezo) => {
                Some((&mut mezo.backbone, &mut mezo.backbone_optimizer))
            }
            Self::MezoPeft(_) | Self::FirstOrder(_) | Self::Full(_) | Self::Untrained(_) => None,
        }
    }

    /// Whether θ is changed by anything but what a journal records.
    pub fn moves_backbone_by_gradients(&self) -> bool {
        matches!(self, Self::Full(_))
    }

    /// Whether an optimizer keeps state of θ's size.
    pub fn has_moments(&self) -> bool {
        self.moves_backbone_by_gradients() || self.updater().is_some_and(BackboneUpdater::has_moments)
    }

    /// What has come of the slopes so far.
    pub fn guard(&self) -> Option<&SlopeGuard> {
        match self {
            Self::MezoPeft(method) => Some(method.rule.guard()),
            _ => self.updater().map(BackboneUpdater::guard),
        }
    }

    /// What a checkpoint keeps of the rule that turns slopes into steps.
    pub fn rule(&self) -> Option<UpdaterState> {
        match self {
            Self::MezoPeft(method) => Some(method.rule),
            _ => self.updater().map(BackboneUpdater::state),
        }
    }

    /// Goes on with a rule of a checkpoint.
    ///
    /// # Errors
    ///
    /// [`OtherOptimizer`] if it is of another kind; nothing is changed.
    pub fn restore_rule(&mut self, state: Option<UpdaterState>) -> Result<(), OtherOptimizer> {
        match (self, state) {
            (Self::MezoPeft(method), Some(state)) if method.rule.is_kind_of(&state) => {
                method.rule = state;
                Ok(())
            }
            (method, state) => match (method.updater_mut(), state) {
                (Some((_, updater)), Some(state)) => updater.restore(state),
                (None, None) => Ok(()),
                _ => Err(OtherOptimizer),
            },
        }
    }
}

impl Moments for Method {
    fn write_moments(&self, put: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        match self {
            Self::Full(method) => method.write_moments(put),
            _ => self.updater().map_or(Ok(()), |updater| updater.write_moments(self.backbone(), put)),
        }
    }

    fn read_moments(&mut self, reader: &mut dyn io::Read) -> io::Result<()> {
        match self {
            Self::Full(method) => method.read_moments(reader),
            _ => self.updater_mut().map_or(Ok(()), |(backbone, updater)| updater.read_moments(backbone, reader)),
        }
    }
}
