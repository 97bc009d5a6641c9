//! The sections of a configuration that say how it trains, `[method]`, `[inner]` and `[outer]`: every key, its meaning,
//! its default, its limits.

use serde::Serialize;

use super::error::ConfigError;
use super::reader::{Range, Reader};
use super::sections::ModelConfig;
use super::words::{
    Compute, ElementChoice, ElementDistribution, KeepAdapter, Loss, MethodName, MezoTarget, ObjectiveKind, Optimizer,
};
use crate::zo::optimizer::BackboneOptimizer;

/// `[method]`: the algorithm.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MethodConfig {
    /// Which one. Default: bilevel.
    pub name: MethodName,
    /// What `mezo` trains. Default: backbone.
    pub on: MezoTarget,
    /// λ, the weight of F(θ,p) − F(θ,s) on D_p. At least 0. Default: 10 000.
    pub penalty: f64,
    /// Whether the objective is divided by 1 + λ. Default: false, as in the paper.
    pub penalty_normalized: bool,
    /// Outer steps over which λ rises from 0, evenly. Default: 0.
    pub penalty_warmup: usize,
    /// T, the steps of s per outer step. At least 1. Default: 10.
    pub inner_steps: usize,
    /// Inner steps before the first outer step, after which s is copied to p. Default: 0.
    pub warm_start: usize,
    /// Which block is saved and selected by. Default: p.
    pub keep: KeepAdapter,
    /// Steps of the first of two stages. At least 1. This or `first_stage_minutes` must be set for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_stage_steps: Option<usize>,
    /// Its minutes of training. Above 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_stage_minutes: Option<f64>,
    /// What F is. Default: answer.
    pub loss: Loss,
}

impl MethodConfig {
    pub(super) fn read(reader: &Reader<'_>) -> Result<Self, ConfigError> {
        let method = Self {
            name: reader.choice("method.name")?.unwrap_or(MethodName::Bilevel),
            on: reader.choice("method.on")?.unwrap_or(MezoTarget::Backbone),
            penalty: reader.number("method.penalty", Range::NotNegative)?.unwrap_or(1e4),
            penalty_normalized: reader.flag("method.penalty_normalized")?.unwrap_or(false),
            penalty_warmup: reader.count("method.penalty_warmup", 0)?.unwrap_or(0),
            inner_steps: reader.count("method.inner_steps", 1)?.unwrap_or(10),
            warm_start: reader.count("method.warm_start", 0)?.unwrap_or(0),
            keep: reader.choice("method.keep")?.unwrap_or(KeepAdapter::P),
            first_stage_steps: reader.count("method.first_stage_steps", 1)?,
            first_stage_minutes: reader.number("method.first_stage_minutes", Range::Positive)?,
            loss: reader.choice("method.loss")?.unwrap_or(Loss::Answer),
        };
        if method.name == MethodName::TwoStage {
            match (method.first_stage_steps, method.first_stage_minutes) {
                (None, None) => {
                    let advice = "method.name = \"two-stage\" needs the end of its first stage: set \
                                  method.first_stage_steps or method.first_stage_minutes";
                    return Err(reader.missing("method.first_stage_steps", advice));
                }
                (Some(steps), Some(_)) => {
                    let advice = "together with method.first_stage_minutes: leave one of the two out".to_owned();
                    return Err(reader.not_supported("method.first_stage_steps", &steps.to_string(), advice));
                }
                _ => {}
            }
        }
        Ok(method)
    }

    /// Whether the method trains anything.
    pub fn trains(&self) -> bool {
        self.name.trains()
    }

    /// Whether a PEFT block is trained.
    pub fn has_block(&self) -> bool {
        match self.name {
            MethodName::Bilevel | MethodName::FirstOrder | MethodName::TwoStage => true,
            MethodName::Mezo => self.on == MezoTarget::Peft,
            MethodName::Full | MethodName::ZeroShot | MethodName::Icl => false,
        }
    }

    /// Whether something is trained by exact gradients.
    pub fn has_gradients(&self) -> bool {
        self.has_block() && self.name != MethodName::Mezo || self.name == MethodName::Full
    }

    /// Whether something is trained by zeroth-order estimates.
    pub fn has_estimates(&self) -> bool {
        matches!(self.name, MethodName::Bilevel | MethodName::Mezo | MethodName::TwoStage)
    }

    /// Whether zeroth-order estimates move θ.
    pub fn estimates_backbone(&self) -> bool {
        self.has_estimates() && !(self.name == MethodName::Mezo && self.on == MezoTarget::Peft)
    }

    /// Whether θ is moved at all.
    pub fn moves_backbone(&self) -> bool {
        self.estimates_backbone() || self.name == MethodName::Full
    }

    /// Inner steps before the first outer one.
    pub fn warm_start_steps(&self) -> usize {
        if self.name == MethodName::Bilevel { self.warm_start } else { 0 }
    }
}

/// `[inner]`: what drives s, or whatever else is trained by exact gradients.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InnerConfig {
    /// Default: adamw.
    pub optimizer: Optimizer,
    /// Learning rate. Above 0. Default: 1e-3, usual for LoRA with AdamW; of `full` 1e-5.
    pub lr: f64,
    /// Examples of D_p per inner step. At least 1. Default: 8.
    pub batch_size: usize,
    /// Batches of an inner step, whose gradients are averaged. At least 1. Default: 1.
    pub accumulate: usize,
    /// Whether a pass with gradients, of p in an outer step too, computes what is inside a block again during
    /// back-propagation instead of keeping it. Default: false.
    pub gradient_checkpointing: bool,
}

impl InnerConfig {
    pub(super) fn read(reader: &Reader<'_>, method: &MethodConfig) -> Result<Self, ConfigError> {
        let default_lr = if method.name == MethodName::Full { 1e-5 } else { 1e-3 };
        Ok(Self {
            optimizer: reader.choice("inner.optimizer")?.unwrap_or(Optimizer::AdamW),
            lr: reader.number("inner.lr", Range::Positive)?.unwrap_or(default_lr),
            batch_size: reader.count("inner.batch_size", 1)?.unwrap_or(8),
            accumulate: reader.count("inner.accumulate", 1)?.unwrap_or(1),
            gradient_checkpointing: reader.flag("inner.gradient_checkpointing")?.unwrap_or(false),
        })
    }
}

/// `[outer]`: what drives p (the `adapter_` keys) and θ, or whatever is trained by zeroth-order estimates.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OuterConfig {
    /// p's optimizer. Default: that of s.
    pub adapter_optimizer: Optimizer,
    /// p's learning rate. Above 0. Default: that of s; with `sgd`, that of s divided by 1 + λ,
    /// because p's gradient is about 1 + λ times that of s.
    pub adapter_lr: f64,
    /// θ's optimizer. Default: rms.
    pub optimizer: BackboneOptimizer,
    /// θ's learning rate. Above 0. Default: 1e-6, which suits `rms`, `sign` and `adam`: there every
    /// weight moves by about this much per step. `sgd` multiplies it by the slope, which grows with
    /// λ, and needs a value smaller by about that factor. On a block, 1e-4.
    pub lr: f64,
    /// β of `sgd` with momentum: each step moves θ along Σ βʲ·g·z, the estimates of j steps ago. At least 0, below 1.
    /// Default: 0.
    pub momentum: f64,
    /// W, the steps in that sum, the present one included. At least 1. Default: 10.
    pub momentum_window: usize,
    /// μ: each step first takes lr·μ·θ from θ. At least 0. Default: 0.
    pub weight_decay: f64,
    /// Whether a step is only made if it lowers the objective on its own batch, which takes three more evaluations.
    /// Default: false.
    pub conservative: bool,
    /// What the estimates descend; of `bilevel`, what stands for F(θ,p;B_f). Default: loss.
    pub objective: ObjectiveKind,
    /// ε, the distance from θ at which losses are taken, in units of the direction. Above
    /// 0. Default: 1e-3; with products in bf16, whose rounding weighs less in a larger difference, 3e-3; on a block, 1e-2,
    /// as MeZO has it.
    pub eps: f64,
    /// ε at `run.max_steps`; it gets there by one factor per step. Above 0. Default: ε stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eps_final: Option<f64>,
    /// 2: slopes are (F(θ + εz) − F(θ − εz)) / 2ε. 1: they are (F(θ + εz) − F(θ)) / ε. Default: 2.
    pub sides: usize,
    /// q, the directions per step, over which estimates are averaged. At least 1. Default: 1.
    pub directions: usize,
    /// Of how many directions losses are taken in one pass over the weights; with `sides` = 1, θ itself counts as one. Numbers
    /// stay the same: it is speed for memory. At least 1. Default: 1.
    pub directions_at_once: usize,
    /// How the elements of directions are distributed. Default: gaussian.
    pub distribution: ElementDistribution,
    /// r: directions over matrices are products of two thin ones, U·Vᵀ/√r, and no perturbed matrix is formed. At least 1.
    /// Default: they are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank: Option<usize>,
    /// Only weights whose whole names this regular expression matches are trained. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask_names: Option<String>,
    /// Only weights in these blocks of the model, from 0, are trained. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask_layers: Option<Vec<usize>>,
    /// Which elements of every weight are trained. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask_elements: Option<ElementChoice>,
    /// The share of the elements that `mask_elements` leaves to be trained. Above 0, below 1. Default: 0.25.
    pub mask_share: f64,
    /// Examples of D_f, and as many of D_p, per outer step. At least 1. Default: 8.
    pub batch_size: usize,
    /// Batches (pairs of them) of an outer step, over which losses are averaged. At least 1. Default: 1.
    pub accumulate: usize,
}

impl OuterConfig {
    /// How many different weights the losses of a step see, and how many of them at the same time.
    pub(in crate::run) fn sides_of_step(&self) -> (usize, usize) {
        match self.sides {
            1 => (self.directions + 1, self.directions_at_once.min(self.directions + 1)),
            _ => (2 * self.directions, 2 * self.directions_at_once.min(self.directions)),
        }
    }

    pub(super) fn read(
        reader: &Reader<'_>,
        model: &ModelConfig,
        method: &MethodConfig,
        inner: &InnerConfig,
    ) -> Result<Self, ConfigError> {
        let adapter_optimizer = reader.choice("outer.adapter_optimizer")?.unwrap_or(inner.optimizer);
        let default_adapter_lr = match adapter_optimizer {
            Optimizer::Sgd => inner.lr / (1.0 + method.penalty),
            Optimizer::AdamW | Optimizer::Adam => inner.lr,
        };
        let on_block = method.has_estimates() && !method.estimates_backbone();
        let (default_lr, default_eps) = match (on_block, model.compute) {
            (true, _) => (1e-4, 1e-2),
            (false, Compute::F32) => (1e-6, 1e-3),
            // By examples/slope_precision.rs: docs/performance.md has its table.
            (false, Compute::Bf16) => (1e-6, 3e-3),
        };
        let outer = Self {
            adapter_optimizer,
            adapter_lr: reader.number("outer.adapter_lr", Range::Positive)?.unwrap_or(default_adapter_lr),
            optimizer: reader.choice("outer.optimizer")?.unwrap_or(BackboneOptimizer::Rms),
            lr: reader.number("outer.lr", Range::Positive)?.unwrap_or(default_lr),
            momentum: reader.number("outer.momentum", Range::Share)?.unwrap_or(0.0),
            momentum_window: reader.count("outer.momentum_window", 1)?.unwrap_or(10),
            weight_decay: reader.number("outer.weight_decay", Range::NotNegative)?.unwrap_or(0.0),
            conservative: reader.flag("outer.conservative")?.unwrap_or(false),
            objective: reader.choice("outer.objective")?.unwrap_or(ObjectiveKind::Loss),
            eps: reader.number("outer.eps", Range::Positive)?.unwrap_or(default_eps),
            eps_final: reader.number("outer.eps_final", Range::Positive)?,
            sides: reader.count_up_to("outer.sides", 2)?.unwrap_or(2),
            directions: reader.count("outer.directions", 1)?.unwrap_or(1),
            directions_at_once: reader.count("outer.directions_at_once", 1)?.unwrap_or(1),
            distribution: reader.choice("outer.distribution")?.unwrap_or(ElementDistribution::Gaussian),
            rank: reader.count("outer.rank", 1)?,
            mask_names: reader.text("outer.mask_names")?,
            mask_layers: reader.indices("outer.mask_layers")?,
            mask_elements: reader.choice("outer.mask_elements")?,
            mask_share: reader.number("outer.mask_share", Range::Fraction)?.unwrap_or(0.25),
            batch_size: reader.count("outer.batch_size", 1)?.unwrap_or(8),
            accumulate: reader.count("outer.accumulate", 1)?.unwrap_or(1),
        };
        if outer.conservative && method.estimates_backbone() {
            let other = match (outer.optimizer, outer.directions) {
                (BackboneOptimizer::Adam, _) => {
                    Some("outer.optimizer = \"adam\", whose steps are along many directions")
                }
                (_, 1) => None,
                _ => Some("outer.directions above 1: a step is compared along one direction"),
            };
            if let Some(other) = other {
                return Err(reader.not_supported("outer.conservative", "true", format!("with {other}")));
            }
        }
        if outer.momentum > 0.0 && method.has_estimates() {
            let advice = match outer.optimizer {
                _ if on_block => Some(
                    "with method.on = \"peft\", whose steps no journal records: use outer.optimizer = \"adam\"".into(),
                ),
                BackboneOptimizer::Sgd if outer.conservative => {
                    Some("with outer.conservative: a step is compared along one direction".into())
                }
                BackboneOptimizer::Sgd => None,
                other => Some(format!("with outer.optimizer = \"{}\": use \"sgd\"", other.name())),
            };
            if let Some(advice) = advice {
                return Err(reader.not_supported("outer.momentum", &outer.momentum.to_string(), advice));
            }
        }
        if on_block && outer.distribution == ElementDistribution::Sphere {
            let advice = "with method.on = \"peft\": use \"gaussian\" or \"rademacher\"".to_owned();
            return Err(reader.not_supported("outer.distribution", "sphere", advice));
        }
        if let Some(rank) = outer.rank.filter(|_| method.estimates_backbone()) {
            let other = match (outer.distribution, outer.mask_elements) {
                (ElementDistribution::Gaussian, None) => None,
                (ElementDistribution::Gaussian, Some(_)) => Some("outer.mask_elements".to_owned()),
                (distribution, _) => Some(format!("outer.distribution = \"{distribution}\"")),
            };
            if let Some(other) = other {
                let advice = format!("with {other}: leave one of the two out");
                return Err(reader.not_supported("outer.rank", &rank.to_string(), advice));
            }
        }
        match outer.mask_elements {
            Some(choice) if method.estimates_backbone() && outer.optimizer == BackboneOptimizer::Adam => {
                let advice = "with outer.optimizer = \"adam\", whose moments move what is masked: use \"rms\", or \
                              mask whole weights by outer.mask_names or outer.mask_layers"
                    .to_owned();
                Err(reader.not_supported("outer.mask_elements", &choice.to_string(), advice))
            }
            _ => Ok(outer),
        }
    }
}
