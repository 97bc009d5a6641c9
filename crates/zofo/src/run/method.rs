//! The method of a run, as its configuration has it.

use super::blocks;
use super::config::{Config, MethodName, MezoTarget, OuterConfig};
use super::error::RunError;
use super::inputs::Inputs;
use crate::model::Backbone;
use crate::peft::{AdapterOptimizer, OptimizerKind};
use crate::task::SplitMix64;
use crate::train::bilevel::Bilevel;
use crate::train::first_order::FirstOrder;
use crate::train::full::Full;
use crate::train::mezo::Mezo;
use crate::train::mezo_peft::MezoPeft;
use crate::train::objective::Objective;
use crate::train::two_stage::{FirstStage, TwoStage};
use crate::train::{Block, Method};
use crate::zo::estimator::{Sides, Spsa};
use crate::zo::journal::UpdateScheme;
use crate::zo::momentum::Momentum;
use crate::zo::optimizer::BackboneOptimizer;
use crate::zo::space::{DirectionKind, DirectionSpace, ElementMask};
use crate::zo::update::{BackboneUpdater, UpdaterState};
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

/// The method before its first step.
pub(super) fn new(config: &Config, inputs: &Inputs, backbone: Backbone) -> Result<Method, RunError> {
    let outer = &config.outer;
    let (inner_accumulate, outer_accumulate) = (config.inner.accumulate, outer.accumulate);
    let block = |backbone: &Backbone, optimizer| -> Result<Block, RunError> {
        Ok(Block::new(blocks::adapter(config, inputs, backbone)?, optimizer))
    };
    let mezo = |backbone, adapter| Mezo {
        backbone,
        adapter,
        backbone_optimizer: updater(outer),
        objective: objective(inputs),
        spsa: spsa(outer),
        conservative: outer.conservative,
        accumulate: outer_accumulate,
    };
    Ok(match config.method.name {
        MethodName::Bilevel => {
            let adapter = block(&backbone, outer.adapter_optimizer)?;
            let shadow = blocks::shadow(config, inputs, &backbone, &adapter.values)?;
            Method::Bilevel(Box::new(Bilevel {
                backbone,
                adapter,
                shadow: Block::new(shadow, config.inner.optimizer),
                backbone_optimizer: updater(outer),
                objective: objective(inputs),
                spsa: spsa(outer),
                conservative: outer.conservative,
                penalty: config.method.penalty,
                penalty_normalized: config.method.penalty_normalized,
                inner_steps: config.method.inner_steps,
                inner_accumulate,
                outer_accumulate,
            }))
        }
        MethodName::Mezo if config.method.on == MezoTarget::Peft => {
            let adapter = block(&backbone, OptimizerKind::Adam)?;
            let rule = UpdaterState::new(outer.optimizer);
            let (objective, spsa) = (objective(inputs), spsa(outer));
            Method::MezoPeft(MezoPeft { backbone, adapter, rule, objective, spsa, accumulate: outer_accumulate })
        }
        MethodName::Mezo => Method::Mezo(mezo(backbone, None)),
        MethodName::FirstOrder => {
            let adapter = block(&backbone, config.inner.optimizer)?;
            Method::FirstOrder(FirstOrder { backbone, adapter, accumulate: inner_accumulate })
        }
        MethodName::TwoStage => {
            let adapter = block(&backbone, config.inner.optimizer)?;
            let first = match (config.method.first_stage_steps, config.method.first_stage_minutes) {
                (None, Some(minutes)) => FirstStage::Time(Duration::from_secs_f64(minutes * 60.0)),
                (steps, _) => FirstStage::Steps(steps.unwrap_or(0) as u64),
            };
            Method::TwoStage(TwoStage { mezo: mezo(backbone, Some(adapter)), first, accumulate: inner_accumulate })
        }
        MethodName::Full => {
            let optimizer = AdapterOptimizer::new(OptimizerKind::AdamW);
            Method::Full(Full { backbone, optimizer, accumulate: inner_accumulate })
        }
        MethodName::ZeroShot | MethodName::Icl => Method::Untrained(backbone),
    })
}

fn objective(inputs: &Inputs) -> Objective {
    inputs.measure.clone().map_or(Objective::Loss, Objective::Measure)
}

/// Opt_θ before its first step.
pub(super) fn updater(outer: &OuterConfig) -> BackboneUpdater {
    updater_of(outer.optimizer, momentum(outer), outer.weight_decay)
}

/// Opt_θ before its first step; only `sgd` has momentum.
pub(super) fn updater_of(
    optimizer: BackboneOptimizer,
    momentum: Option<Momentum>,
    weight_decay: f64,
) -> BackboneUpdater {
    let updater = momentum.map_or_else(|| BackboneUpdater::new(optimizer), BackboneUpdater::with_momentum);
    updater.with_weight_decay(weight_decay)
}

fn momentum(outer: &OuterConfig) -> Option<Momentum> {
    let window = u32::try_from(outer.momentum_window).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MAX);
    Some(Momentum { decay: outer.momentum, window }).filter(|momentum| momentum.decay > 0.0)
}

fn spsa(outer: &OuterConfig) -> Spsa {
    let sides = if outer.sides == 1 { Sides::One } else { Sides::Two };
    Spsa { eps: outer.eps as f32, sides, at_once: outer.directions_at_once }
}

/// What a journal of the run has to say of its updates.
pub(super) fn update_scheme(config: &Config) -> UpdateScheme {
    if !config.method.estimates_backbone() {
        return UpdateScheme::default();
    }
    let outer = &config.outer;
    let seed = SplitMix64::keyed(config.run.seed, "mask", 0).next_u64();
    let elements = outer.mask_elements.map(|by| ElementMask { by, share: outer.mask_share, seed });
    UpdateScheme {
        directions: DirectionKind {
            distribution: outer.distribution,
            rank: outer.rank.and_then(NonZeroUsize::new),
            names: outer.mask_names.clone(),
            layers: outer.mask_layers.clone(),
            elements,
        },
        per_step: u32::try_from(outer.directions).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MAX),
        weight_decay: outer.weight_decay,
        momentum: momentum(outer),
    }
}

/// What the directions of the run are, given its untouched base model.
pub(super) fn space(config: &Config, base: &Backbone) -> Result<Arc<DirectionSpace>, RunError> {
    if config.method.estimates_backbone() {
        space_of(&update_scheme(config), base)
    } else {
        let distribution = config.outer.distribution;
        Ok(Arc::new(DirectionSpace::of_block(DirectionKind { distribution, ..DirectionKind::default() })))
    }
}

/// The directions of the updates of a journal, given its base model.
pub(super) fn space_of(updates: &UpdateScheme, base: &Backbone) -> Result<Arc<DirectionSpace>, RunError> {
    let space = DirectionSpace::new(updates.directions.clone(), base);
    Ok(Arc::new(space.map_err(|error| RunError::Conflict(error.to_string()))?))
}
