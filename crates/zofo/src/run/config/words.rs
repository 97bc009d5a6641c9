//! The words that keys take.

use super::choice::{Choice, choices};
use crate::hf::WeightDtype;
pub use crate::peft::OptimizerKind as Optimizer;
use crate::zo::optimizer::BackboneOptimizer;
pub use crate::zo::space::{ElementChoice, ElementDistribution};

choices! {
    /// In what precision matrix products are computed.
    pub enum Compute {
        /// 32-bit floats.
        F32 = "f32",
        /// bfloat16 factors, added up in 32-bit floats.
        Bf16 = "bf16",
    }
}

impl From<Compute> for zofo_kernels::Compute {
    fn from(compute: Compute) -> Self {
        match compute {
            Compute::F32 => Self::F32,
            Compute::Bf16 => Self::Bf16,
        }
    }
}

choices! {
    /// Where the weights of a run are.
    pub enum Storage {
        /// In memory: what is never updated is the model file's own pages.
        Memory = "memory",
        /// In files of the run's folder that have no name, mapped.
        Disk = "disk",
    }
}

choices! {
    /// The algorithm.
    pub enum MethodName {
        /// Bilevel-ZOFO: a PEFT block by exact gradients inside, the backbone by zeroth-order
        /// estimates outside.
        Bilevel = "bilevel",
        /// MeZO: zeroth-order estimates alone, of the backbone or of a PEFT block.
        Mezo = "mezo",
        /// A PEFT block by exact gradients.
        FirstOrder = "first-order",
        /// A PEFT block by exact gradients, then the backbone by zeroth-order estimates.
        TwoStage = "two-stage",
        /// AdamW on every weight, by exact gradients.
        Full = "full",
        /// No training.
        ZeroShot = "zero-shot",
        /// No training: solved examples stand before every prompt.
        Icl = "icl",
    }
}

impl MethodName {
    /// Whether the method trains anything.
    pub fn trains(self) -> bool {
        !matches!(self, Self::ZeroShot | Self::Icl)
    }
}

choices! {
    /// What MeZO trains.
    pub enum MezoTarget {
        /// Every weight of the model.
        Backbone = "backbone",
        /// A PEFT block.
        Peft = "peft",
    }
}

choices! {
    /// Which of the two PEFT blocks is saved.
    pub enum KeepAdapter {
        /// p, which the outer level trains.
        P = "p",
        /// s, the inner level's minimiser.
        S = "s",
    }
}

choices! {
    /// What F is, of a batch of examples.
    pub enum Loss {
        /// The mean negative log-likelihood over the tokens of the right answers.
        Answer = "answer",
        /// The same over all tokens, those of the prompts too.
        All = "all",
        /// The mean negative logarithm of the right candidate's probability: a softmax over the candidates' scores, which
        /// are the mean log-probabilities of their tokens.
        Candidates = "candidates",
    }
}

choices! {
    /// What zeroth-order estimates descend.
    pub enum ObjectiveKind {
        /// F: `method.loss`.
        Loss = "loss",
        /// 1 − the task's metric over the batch, with answers as an evaluation has them.
        Metric = "metric",
    }
}

choices! {
    /// The kind of PEFT block.
    pub enum PeftKind {
        /// Low-rank additions to linear layers.
        Lora = "lora",
        /// Keys and values of virtual tokens in every layer.
        Prefix = "prefix",
        /// Embeddings of virtual tokens.
        Prompt = "prompt",
    }
}

choices! {
    /// How the virtual tokens of a prefix or a prompt begin.
    pub enum BlockInit {
        /// With standard normal numbers.
        Random = "random",
        /// A prompt: with the embeddings of tokens.
        Tokens = "tokens",
        /// A prefix: with the keys and values of tokens.
        Activations = "activations",
        /// A prefix: as the output of a small network that is trained in its place.
        Projection = "projection",
    }
}

impl BlockInit {
    /// Whether a block of this kind can begin so. LoRA has no use for any, and a value is then not looked at.
    pub(super) fn suits(self, kind: PeftKind) -> bool {
        match self {
            Self::Random => true,
            Self::Tokens => kind != PeftKind::Prefix,
            Self::Activations | Self::Projection => kind != PeftKind::Prompt,
        }
    }

    /// Whether it takes tokens to begin so.
    pub(super) fn takes_tokens(self) -> bool {
        matches!(self, Self::Tokens | Self::Activations)
    }
}

choices! {
    /// How s begins.
    pub enum ShadowInit {
        /// As a copy of p.
        Copy = "copy",
        /// With random numbers of its own.
        Independent = "independent",
    }
}

choices! {
    /// Which step's weights are saved.
    pub enum Keep {
        /// The step that the task's measure finds the best on the validation part; of equal ones that with the lowest loss.
        Best = "best",
        /// The last step.
        Last = "last",
    }
}

choices! {
    /// How learning rates change over a run.
    pub enum LrSchedule {
        /// Not at all.
        Constant = "constant",
        /// They fall in a straight line, to 0 after `run.max_steps`.
        Linear = "linear",
        /// They fall to 0 after `run.max_steps` as (1 + cos(π·share))/2 does.
        Cosine = "cosine",
    }
}

choices! {
    /// What becomes of training rows that say what an evaluated row says.
    pub enum Overlap {
        /// They are left out, and counted.
        Drop = "drop",
        /// They train.
        Keep = "keep",
    }
}

choices! {
    /// Where the computation runs.
    pub enum Device {
        /// The processor.
        Cpu = "cpu",
    }
}

impl Choice for WeightDtype {
    const ALL: &'static [(&'static str, Self)] = &[(Self::F32.as_str(), Self::F32), (Self::Bf16.as_str(), Self::Bf16)];
}

impl Choice for Optimizer {
    const ALL: &'static [(&'static str, Self)] =
        &[(Self::AdamW.as_str(), Self::AdamW), (Self::Adam.as_str(), Self::Adam), (Self::Sgd.as_str(), Self::Sgd)];
}

impl Choice for BackboneOptimizer {
    const ALL: &'static [(&'static str, Self)] = &[
        (Self::Rms.name(), Self::Rms),
        (Self::Sgd.name(), Self::Sgd),
        (Self::Sign.name(), Self::Sign),
        (Self::Adam.name(), Self::Adam),
    ];
}

impl Choice for ElementDistribution {
    const ALL: &'static [(&'static str, Self)] = Self::ALL;
}

impl Choice for ElementChoice {
    const ALL: &'static [(&'static str, Self)] = Self::ALL;
}
