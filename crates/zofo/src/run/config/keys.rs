//! Every key: to which method or block it belongs, and whether it changes what a run computes.

use super::training::MethodConfig;
use super::words::{MethodName, PeftKind};

/// Which choice a key belongs to. One of another choice is accepted and reported as unused.
#[derive(Clone, Copy, Debug)]
pub(super) enum Belongs {
    /// Used by every run.
    Always,
    /// Used by these methods.
    Methods(&'static [MethodName]),
    /// Used by these PEFT blocks, where the method trains one.
    Blocks(&'static [PeftKind]),
    /// Used by methods that train anything.
    Training,
    /// Used by methods that train by exact gradients.
    Gradients,
    /// Used by methods that train by zeroth-order estimates.
    Estimates,
    /// Used by methods that move θ by zeroth-order estimates.
    BackboneEstimates,
}

/// The choices that decide which keys are used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choices<'a> {
    /// The method.
    pub(super) method: &'a MethodConfig,
    /// The kind of block, if it trains one.
    pub(super) block: PeftKind,
}

/// Whether a key changes the numbers that a run computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// It does: a run cannot be resumed with another value.
    Trajectory,
    /// It does if `run.lr_schedule` is not constant, or ε changes on the way to the end.
    TrajectoryIfScheduled,
    /// It does, by rounding, if θ itself has exact gradients.
    TrajectoryOfFull,
    /// It does not.
    None,
}

/// What is known of a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    /// Section and name, joined by a full stop.
    pub(super) name: &'static str,
    /// To which choice it belongs.
    pub(super) belongs: Belongs,
    /// Whether it changes what is computed.
    pub(super) effect: Effect,
}

impl Key {
    const fn new(name: &'static str, belongs: Belongs, effect: Effect) -> Self {
        Self { name, belongs, effect }
    }

    /// Section and name.
    pub(super) fn parts(&self) -> (&'static str, &'static str) {
        self.name.split_once('.').unwrap_or(("", self.name))
    }

    /// Whether a run of these choices uses the key.
    pub(super) fn applies(&self, choices: Choices<'_>) -> bool {
        let Choices { method, block } = choices;
        match self.belongs {
            Belongs::Always => true,
            Belongs::Methods(methods) => methods.contains(&method.name),
            Belongs::Blocks(blocks) => method.has_block() && blocks.contains(&block),
            Belongs::Training => method.trains(),
            Belongs::Gradients => method.has_gradients(),
            Belongs::Estimates => method.has_estimates(),
            Belongs::BackboneEstimates => method.estimates_backbone(),
        }
    }
}

const ALWAYS: Belongs = Belongs::Always;
const TRAINING: Belongs = Belongs::Training;
const GRADIENTS: Belongs = Belongs::Gradients;
const ESTIMATES: Belongs = Belongs::Estimates;
const BACKBONE_ESTIMATES: Belongs = Belongs::BackboneEstimates;
const BILEVEL: Belongs = Belongs::Methods(&[MethodName::Bilevel]);
const MEZO: Belongs = Belongs::Methods(&[MethodName::Mezo]);
const TWO_STAGE: Belongs = Belongs::Methods(&[MethodName::TwoStage]);
const ICL: Belongs = Belongs::Methods(&[MethodName::Icl]);
const GRADIENTS_OF_BLOCK: Belongs =
    Belongs::Methods(&[MethodName::Bilevel, MethodName::FirstOrder, MethodName::TwoStage]);
const BLOCK: Belongs = Belongs::Blocks(&[PeftKind::Lora, PeftKind::Prefix, PeftKind::Prompt]);
const LORA: Belongs = Belongs::Blocks(&[PeftKind::Lora]);
const PREFIX: Belongs = Belongs::Blocks(&[PeftKind::Prefix]);
const VIRTUAL: Belongs = Belongs::Blocks(&[PeftKind::Prefix, PeftKind::Prompt]);

/// All keys, by section.
pub(super) const KEYS: &[Key] = &[
    Key::new("model.path", ALWAYS, Effect::None),
    Key::new("model.dtype", ALWAYS, Effect::Trajectory),
    Key::new("model.compute", ALWAYS, Effect::Trajectory),
    Key::new("model.storage", ALWAYS, Effect::None),
    Key::new("data.task", ALWAYS, Effect::Trajectory),
    Key::new("data.dir", ALWAYS, Effect::Trajectory),
    Key::new("data.train", ALWAYS, Effect::Trajectory),
    Key::new("data.validation", ALWAYS, Effect::Trajectory),
    Key::new("data.hub_train", ALWAYS, Effect::Trajectory),
    Key::new("data.hub_validation", ALWAYS, Effect::Trajectory),
    // With a smaller number a run does not start; with a larger one it has the same rows.
    Key::new("data.skip_bad_rows", ALWAYS, Effect::None),
    Key::new("data.template", ALWAYS, Effect::Trajectory),
    Key::new("data.train_examples", ALWAYS, Effect::Trajectory),
    Key::new("data.few_shot", ALWAYS, Effect::Trajectory),
    // It selects: a resumed run must compare its checkpoints by the same examples.
    Key::new("data.validation_examples", ALWAYS, Effect::Trajectory),
    Key::new("data.eval_examples", ALWAYS, Effect::None),
    Key::new("data.max_length", ALWAYS, Effect::Trajectory),
    Key::new("data.inner_fraction", BILEVEL, Effect::Trajectory),
    Key::new("data.stratify", ALWAYS, Effect::Trajectory),
    Key::new("data.overlap", ALWAYS, Effect::Trajectory),
    Key::new("data.seed", ALWAYS, Effect::Trajectory),
    Key::new("data.shots", ICL, Effect::Trajectory),
    Key::new("method.name", ALWAYS, Effect::Trajectory),
    Key::new("method.on", MEZO, Effect::Trajectory),
    Key::new("method.penalty", BILEVEL, Effect::Trajectory),
    Key::new("method.penalty_normalized", BILEVEL, Effect::Trajectory),
    Key::new("method.penalty_warmup", BILEVEL, Effect::Trajectory),
    Key::new("method.inner_steps", BILEVEL, Effect::Trajectory),
    Key::new("method.warm_start", BILEVEL, Effect::Trajectory),
    // It selects too: the best step by p need not be the best by s.
    Key::new("method.keep", BILEVEL, Effect::Trajectory),
    Key::new("method.first_stage_steps", TWO_STAGE, Effect::Trajectory),
    Key::new("method.first_stage_minutes", TWO_STAGE, Effect::Trajectory),
    Key::new("method.loss", TRAINING, Effect::Trajectory),
    Key::new("peft.kind", BLOCK, Effect::Trajectory),
    Key::new("peft.rank", LORA, Effect::Trajectory),
    Key::new("peft.alpha", LORA, Effect::Trajectory),
    Key::new("peft.rank_stabilized", LORA, Effect::Trajectory),
    Key::new("peft.dropout", LORA, Effect::Trajectory),
    Key::new("peft.targets", LORA, Effect::Trajectory),
    Key::new("peft.exclude", LORA, Effect::Trajectory),
    Key::new("peft.layers", LORA, Effect::Trajectory),
    Key::new("peft.virtual_tokens", VIRTUAL, Effect::Trajectory),
    Key::new("peft.init", VIRTUAL, Effect::Trajectory),
    Key::new("peft.init_text", VIRTUAL, Effect::Trajectory),
    Key::new("peft.projection_hidden", PREFIX, Effect::Trajectory),
    Key::new("peft.shadow_init", BILEVEL, Effect::Trajectory),
    Key::new("peft.rank_pattern", LORA, Effect::Trajectory),
    Key::new("peft.alpha_pattern", LORA, Effect::Trajectory),
    Key::new("inner.optimizer", GRADIENTS_OF_BLOCK, Effect::Trajectory),
    Key::new("inner.lr", GRADIENTS, Effect::Trajectory),
    Key::new("inner.batch_size", GRADIENTS, Effect::Trajectory),
    Key::new("inner.accumulate", GRADIENTS, Effect::Trajectory),
    Key::new("inner.gradient_checkpointing", GRADIENTS, Effect::TrajectoryOfFull),
    Key::new("outer.adapter_optimizer", BILEVEL, Effect::Trajectory),
    Key::new("outer.adapter_lr", BILEVEL, Effect::Trajectory),
    Key::new("outer.optimizer", ESTIMATES, Effect::Trajectory),
    Key::new("outer.lr", ESTIMATES, Effect::Trajectory),
    Key::new("outer.momentum", BACKBONE_ESTIMATES, Effect::Trajectory),
    Key::new("outer.momentum_window", BACKBONE_ESTIMATES, Effect::Trajectory),
    Key::new("outer.weight_decay", BACKBONE_ESTIMATES, Effect::Trajectory),
    Key::new("outer.conservative", BACKBONE_ESTIMATES, Effect::Trajectory),
    Key::new("outer.objective", ESTIMATES, Effect::Trajectory),
    Key::new("outer.eps", ESTIMATES, Effect::Trajectory),
    Key::new("outer.eps_final", ESTIMATES, Effect::Trajectory),
    Key::new("outer.sides", ESTIMATES, Effect::Trajectory),
    Key::new("outer.directions", ESTIMATES, Effect::Trajectory),
    Key::new("outer.directions_at_once", ESTIMATES, Effect::None),
    Key::new("outer.distribution", ESTIMATES, Effect::Trajectory),
    Key::new("outer.rank", BACKBONE_ESTIMATES, Effect::Trajectory),
    Key::new("outer.mask_names", BACKBONE_ESTIMATES, Effect::Trajectory),
    Key::new("outer.mask_layers", BACKBONE_ESTIMATES, Effect::Trajectory),
    Key::new("outer.mask_elements", BACKBONE_ESTIMATES, Effect::Trajectory),
    Key::new("outer.mask_share", BACKBONE_ESTIMATES, Effect::Trajectory),
    Key::new("outer.batch_size", ESTIMATES, Effect::Trajectory),
    Key::new("outer.accumulate", ESTIMATES, Effect::Trajectory),
    Key::new("run.output", ALWAYS, Effect::None),
    Key::new("run.max_steps", TRAINING, Effect::TrajectoryIfScheduled),
    Key::new("run.max_minutes", TRAINING, Effect::None),
    Key::new("run.eval_every", TRAINING, Effect::None),
    Key::new("run.keep", TRAINING, Effect::None),
    Key::new("run.lr_schedule", TRAINING, Effect::Trajectory),
    Key::new("run.lr_warmup", TRAINING, Effect::Trajectory),
    Key::new("run.patience", TRAINING, Effect::None),
    Key::new("run.seed", ALWAYS, Effect::Trajectory),
    Key::new("run.device", ALWAYS, Effect::Trajectory),
    Key::new("run.threads", ALWAYS, Effect::None),
    Key::new("run.tensorboard", TRAINING, Effect::None),
];

/// The sections, in order.
pub(super) fn sections() -> Vec<&'static str> {
    let mut sections: Vec<_> = KEYS.iter().map(|key| key.parts().0).collect();
    sections.dedup();
    sections
}

/// Whether there is such a key.
pub(super) fn is_known(name: &str) -> bool {
    KEYS.iter().any(|key| key.name == name)
}

/// The known key most like an unknown one. The name without its section counts as much as the
/// whole, so that a right name in the wrong section finds its place.
pub(super) fn nearest_key(unknown: &str) -> &'static str {
    let own = unknown.rsplit('.').next().unwrap_or(unknown);
    let likeness = |key: &Key| similarity(key.name, unknown) + similarity(key.parts().1, own);
    // The first of equals, hence the reversal: `max_by` returns the last.
    KEYS.iter().rev().max_by(|left, right| likeness(left).total_cmp(&likeness(right))).map_or("", |key| key.name)
}

/// The word most like an unknown one.
pub(super) fn nearest_word(words: &[&'static str], unknown: &str) -> &'static str {
    words
        .iter()
        .rev()
        .max_by(|left, right| similarity(left, unknown).total_cmp(&similarity(right, unknown)))
        .copied()
        .unwrap_or_default()
}

/// From 0 (nothing in common) to 1 (equal).
fn similarity(left: &str, right: &str) -> f64 {
    strsim::normalized_damerau_levenshtein(left, &right.to_lowercase())
}
