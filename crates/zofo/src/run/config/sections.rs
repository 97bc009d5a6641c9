//! The sections of a configuration: every key, its meaning, its default, its limits.

use std::path::PathBuf;

use serde::Serialize;

use super::choice::{Choice, choices};
use super::error::ConfigError;
use super::reader::{Range, Reader};
use crate::hf::{ModuleNames, Patterns, WeightDtype};
pub use crate::peft::OptimizerKind as Optimizer;
use crate::task::{SplitRows, TemplateName};
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
    fn suits(self, kind: PeftKind) -> bool {
        match self {
            Self::Random => true,
            Self::Tokens => kind != PeftKind::Prefix,
            Self::Activations | Self::Projection => kind != PeftKind::Prompt,
        }
    }

    /// Whether it takes tokens to begin so.
    fn takes_tokens(self) -> bool {
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

/// `[model]`: the backbone θ.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelConfig {
    /// A Hugging Face model folder or a `.gguf` file, or, if there is no such path, a model of the hub: a
    /// [`HubId`](crate::hf::hub::HubId). Required. `~` expands.
    pub path: PathBuf,
    /// Storage of the weights. Default: f32.
    pub dtype: WeightDtype,
    /// Precision of matrix products with the weights; all else is f32. Default: f32.
    pub compute: Compute,
}

impl ModelConfig {
    pub(super) fn read(reader: &Reader<'_>) -> Result<Self, ConfigError> {
        Ok(Self {
            path: reader.require(
                "model.path",
                reader.path("model.path")?,
                "give a Hugging Face model folder, a .gguf file, or a model of the hub as org/name",
            )?,
            dtype: reader.choice("model.dtype")?.unwrap_or(WeightDtype::F32),
            compute: reader.choice("model.compute")?.unwrap_or(Compute::F32),
        })
    }
}

/// What `data.hub_train` and `data.hub_validation` take.
const SPLIT_ROWS: &str = "rows of splits, as \"train\", \"train[:5000]\" or \"train+extra\"";

/// `[data]`: the task and how its rows are divided.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DataConfig {
    /// A built-in task, or the path of a task file. Required. `~` expands.
    pub task: String,
    /// A folder with `train.*` and `validation.*`, in any format of [`data`](crate::data), or with a folder of the
    /// task's name that has them; or a data set of the hub, `hf://datasets/ORG/NAME[@REVISION][/CONFIGURATION]`. `~`
    /// expands. Default: the data set of the hub that the task names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<PathBuf>,
    /// A file of training rows, in place of those of `dir`. `~` expands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train: Option<PathBuf>,
    /// A file of rows to evaluate, in place of those of `dir`. `~` expands. Default, if neither it nor `dir` is set: rows
    /// of `train` that nothing else uses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<PathBuf>,
    /// Which rows of a data set of the hub train, as `train[:5000]` or `train+extra`. Default: what the task says, or
    /// `train`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hub_train: Option<SplitRows>,
    /// Which of its rows are evaluated. Default: what the task says, or `validation`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hub_validation: Option<SplitRows>,
    /// Bad rows, of each split, that are left out instead of being an error. Default: 0.
    pub skip_bad_rows: usize,
    /// Which of the task's templates, by its name in the task file. Default: prompt.
    pub template: TemplateName,
    /// Training rows that train. At least 2. Default: 1000.
    pub train_examples: usize,
    /// So many of every class train, in place of `train_examples`. At least 1. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub few_shot: Option<usize>,
    /// Further training rows, which select the best step. At least 1. Default: 200.
    pub validation_examples: usize,
    /// Rows that are evaluated, from the first, and never select. At least 1. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_examples: Option<usize>,
    /// Share of the training rows that the inner level gets (D_p); the rest is the outer level's
    /// (D_f). Above 0, below 1. Default: 0.3333.
    pub inner_fraction: f64,
    /// Whether all parts have the class shares of the training rows, within one example. Default: false, as in Hugging
    /// Face's and scikit-learn's `train_test_split`: shares are left to chance.
    pub stratify: bool,
    /// What becomes of training rows that say what an evaluated row says. Default: drop.
    pub overlap: Overlap,
    /// Which rows train and which validate, and which are demonstrations. Default: 0.
    pub seed: u64,
    /// Of `icl`: solved training rows before every prompt. At least 1. Default: 8.
    pub shots: usize,
}

impl DataConfig {
    pub(super) fn read(reader: &Reader<'_>) -> Result<Self, ConfigError> {
        Ok(Self {
            task: reader.require(
                "data.task",
                reader.expanded("data.task")?,
                "name a built-in task, or give the path of a task file",
            )?,
            dir: reader.path("data.dir")?,
            train: reader.path("data.train")?,
            validation: reader.path("data.validation")?,
            hub_train: reader.parsed("data.hub_train", SPLIT_ROWS)?,
            hub_validation: reader.parsed("data.hub_validation", SPLIT_ROWS)?,
            skip_bad_rows: reader.count("data.skip_bad_rows", 0)?.unwrap_or(0),
            template: reader
                .parsed("data.template", "a template's name (letters, digits, - and _)")?
                .unwrap_or_default(),
            train_examples: reader.count("data.train_examples", 2)?.unwrap_or(1000),
            few_shot: reader.count("data.few_shot", 1)?,
            validation_examples: reader.count("data.validation_examples", 1)?.unwrap_or(200),
            eval_examples: reader.count("data.eval_examples", 1)?,
            inner_fraction: reader.number("data.inner_fraction", Range::Fraction)?.unwrap_or(0.3333),
            stratify: reader.flag("data.stratify")?.unwrap_or(false),
            overlap: reader.choice("data.overlap")?.unwrap_or(Overlap::Drop),
            seed: reader.seed("data.seed")?.unwrap_or(0),
            shots: reader.count("data.shots", 1)?.unwrap_or(8),
        })
    }
}

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

/// `[peft]`: the blocks p and s.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PeftConfig {
    /// Their kind. Default: lora.
    pub kind: PeftKind,
    /// LoRA's rank. At least 1. Default: 8.
    pub rank: usize,
    /// LoRA's α: the addition is scaled by α / rank. Above 0. Default: 16.
    pub alpha: f64,
    /// Scale LoRA's addition by α / √rank instead. Default: false.
    pub rank_stabilized: bool,
    /// Share of the inputs' elements that LoRA drops while it is trained. At least 0, below 1. Default: 0.
    pub dropout: f64,
    /// The linear layers that LoRA adds to: a list of names or of the last parts of names, `"all-linear"`, or a regular
    /// expression that matches whole names. Default: those that compute queries and values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub targets: Option<ModuleNames>,
    /// Targets that LoRA leaves out: a list, or a regular expression. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude: Option<ModuleNames>,
    /// The blocks of the model, from 0, in which LoRA has targets. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Vec<usize>>,
    /// Virtual tokens. At least 1. Default: 5 for a prefix, 10 for a prompt.
    pub virtual_tokens: usize,
    /// How virtual tokens begin. A prefix: activations (its default), random or projection. A prompt: tokens (its
    /// default) or random.
    pub init: BlockInit,
    /// The text whose tokens, repeated or cut, `activations` and `tokens` begin with; p and s then begin alike. Default:
    /// random tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_text: Option<String>,
    /// Width of the network of `init = "projection"`. At least 1. Default: 512.
    pub projection_hidden: usize,
    /// How s begins. Default: copy.
    pub shadow_init: ShadowInit,
    /// LoRA's rank where a regular expression matches the end of a layer's name. Default: none.
    #[serde(skip_serializing_if = "Patterns::is_empty")]
    pub rank_pattern: Patterns<usize>,
    /// LoRA's α, likewise. Default: none.
    #[serde(skip_serializing_if = "Patterns::is_empty")]
    pub alpha_pattern: Patterns<f64>,
}

impl PeftConfig {
    pub(super) fn read(reader: &Reader<'_>) -> Result<Self, ConfigError> {
        let kind = reader.choice("peft.kind")?.unwrap_or(PeftKind::Lora);
        let (virtual_tokens, init) = match kind {
            PeftKind::Lora | PeftKind::Prefix => (5, BlockInit::Activations),
            PeftKind::Prompt => (10, BlockInit::Tokens),
        };
        let init = reader.choice_among("peft.init", |init: BlockInit| init.suits(kind))?.unwrap_or(init);
        let init_text = reader.text("peft.init_text")?;
        if let Some(text) = &init_text
            && kind != PeftKind::Lora
            && !init.takes_tokens()
        {
            let advice = format!("with peft.init = \"{init}\", which begins with no tokens: leave one of the two out");
            return Err(reader.not_supported("peft.init_text", text, advice));
        }
        Ok(Self {
            kind,
            rank: reader.count("peft.rank", 1)?.unwrap_or(8),
            alpha: reader.number("peft.alpha", Range::Positive)?.unwrap_or(16.0),
            rank_stabilized: reader.flag("peft.rank_stabilized")?.unwrap_or(false),
            dropout: reader.number("peft.dropout", Range::Share)?.unwrap_or(0.0),
            targets: reader.names("peft.targets")?,
            exclude: reader.names("peft.exclude")?,
            layers: reader.indices("peft.layers")?,
            virtual_tokens: reader.count("peft.virtual_tokens", 1)?.unwrap_or(virtual_tokens),
            init,
            init_text,
            projection_hidden: reader.count("peft.projection_hidden", 1)?.unwrap_or(512),
            shadow_init: reader.choice("peft.shadow_init")?.unwrap_or(ShadowInit::Copy),
            rank_pattern: reader.rank_patterns("peft.rank_pattern")?,
            alpha_pattern: reader.alpha_patterns("peft.alpha_pattern")?,
        })
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
}

impl InnerConfig {
    pub(super) fn read(reader: &Reader<'_>, method: &MethodConfig) -> Result<Self, ConfigError> {
        let default_lr = if method.name == MethodName::Full { 1e-5 } else { 1e-3 };
        Ok(Self {
            optimizer: reader.choice("inner.optimizer")?.unwrap_or(Optimizer::AdamW),
            lr: reader.number("inner.lr", Range::Positive)?.unwrap_or(default_lr),
            batch_size: reader.count("inner.batch_size", 1)?.unwrap_or(8),
            accumulate: reader.count("inner.accumulate", 1)?.unwrap_or(1),
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
    /// μ: each step first takes lr·μ·θ from θ. At least 0. Default: 0.
    pub weight_decay: f64,
    /// ε, the distance from θ at which losses are taken, in units of the direction. Above
    /// 0. Default: 1e-3; on a block, 1e-2, as MeZO has it.
    pub eps: f64,
    /// 2: slopes are (F(θ + εz) − F(θ − εz)) / 2ε. 1: they are (F(θ + εz) − F(θ)) / ε. Default: 2.
    pub sides: usize,
    /// q, the directions per step, over which estimates are averaged. At least 1. Default: 1.
    pub directions: usize,
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
    pub(super) fn read(reader: &Reader<'_>, method: &MethodConfig, inner: &InnerConfig) -> Result<Self, ConfigError> {
        let adapter_optimizer = reader.choice("outer.adapter_optimizer")?.unwrap_or(inner.optimizer);
        let default_adapter_lr = match adapter_optimizer {
            Optimizer::Sgd => inner.lr / (1.0 + method.penalty),
            Optimizer::AdamW | Optimizer::Adam => inner.lr,
        };
        let on_block = method.has_estimates() && !method.estimates_backbone();
        let (default_lr, default_eps) = if on_block { (1e-4, 1e-2) } else { (1e-6, 1e-3) };
        let outer = Self {
            adapter_optimizer,
            adapter_lr: reader.number("outer.adapter_lr", Range::Positive)?.unwrap_or(default_adapter_lr),
            optimizer: reader.choice("outer.optimizer")?.unwrap_or(BackboneOptimizer::Rms),
            lr: reader.number("outer.lr", Range::Positive)?.unwrap_or(default_lr),
            weight_decay: reader.number("outer.weight_decay", Range::NotNegative)?.unwrap_or(0.0),
            eps: reader.number("outer.eps", Range::Positive)?.unwrap_or(default_eps),
            sides: reader.count_up_to("outer.sides", 2)?.unwrap_or(2),
            directions: reader.count("outer.directions", 1)?.unwrap_or(1),
            distribution: reader.choice("outer.distribution")?.unwrap_or(ElementDistribution::Gaussian),
            rank: reader.count("outer.rank", 1)?,
            mask_names: reader.text("outer.mask_names")?,
            mask_layers: reader.indices("outer.mask_layers")?,
            mask_elements: reader.choice("outer.mask_elements")?,
            mask_share: reader.number("outer.mask_share", Range::Fraction)?.unwrap_or(0.25),
            batch_size: reader.count("outer.batch_size", 1)?.unwrap_or(8),
            accumulate: reader.count("outer.accumulate", 1)?.unwrap_or(1),
        };
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

/// `[run]`: limits, output, machine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunConfig {
    /// The folder that everything is written to. Required. `~` expands.
    pub output: PathBuf,
    /// Outer steps, at most. At least 1. This or `max_minutes` must be set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<usize>,
    /// Minutes of training, at most: without evaluation, summed over resumes. Above 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_minutes: Option<f64>,
    /// Outer steps between evaluations. At least 1. Default: 50.
    pub eval_every: usize,
    /// Which step is saved. Default: best.
    pub keep: Keep,
    /// How the learning rates change. All but `constant` need `max_steps`. Default: constant.
    pub lr_schedule: LrSchedule,
    /// Steps over which the learning rates rise from 0, evenly, besides. Default: 0.
    pub lr_warmup: usize,
    /// Evaluations in a row without a better one after which the run ends. At least 1. Default: it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience: Option<usize>,
    /// Initial blocks, order of batches, directions. Default: 0.
    pub seed: u64,
    /// Default: cpu.
    pub device: Device,
    /// Threads. At least 1. Default: as many as there are cores. Results do not depend on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
}

impl RunConfig {
    pub(super) fn read(reader: &Reader<'_>, method: &MethodConfig) -> Result<Self, ConfigError> {
        let run = Self {
            output: reader.require(
                "run.output",
                reader.path("run.output")?,
                "give the folder for adapter, backbone, journal and metrics",
            )?,
            max_steps: reader.count("run.max_steps", 1)?,
            max_minutes: reader.number("run.max_minutes", Range::Positive)?,
            eval_every: reader.count("run.eval_every", 1)?.unwrap_or(50),
            keep: reader.choice("run.keep")?.unwrap_or(Keep::Best),
            lr_schedule: reader.choice("run.lr_schedule")?.unwrap_or(LrSchedule::Constant),
            lr_warmup: reader.count("run.lr_warmup", 0)?.unwrap_or(0),
            patience: reader.count("run.patience", 1)?,
            seed: reader.seed("run.seed")?.unwrap_or(0),
            device: reader.choice_or("run.device", device_of_another_build)?.unwrap_or(Device::Cpu),
            threads: reader.count("run.threads", 1)?,
        };
        if method.trains() && run.max_steps.is_none() && run.max_minutes.is_none() {
            return Err(
                reader.missing("run.max_steps", "a run needs an end: set run.max_steps or run.max_minutes, or both")
            );
        }
        if method.trains() && run.lr_schedule != LrSchedule::Constant && run.max_steps.is_none() {
            let advice = format!(
                "run.lr_schedule = \"{}\" needs the step at which the learning rates reach 0; minutes would make them \
                 differ from run to run",
                run.lr_schedule
            );
            return Err(reader.missing("run.max_steps", &advice));
        }
        Ok(run)
    }
}

/// What to say of a device that exists, but not in this build.
fn device_of_another_build(word: &str) -> Option<String> {
    let kind = word.split(':').next().unwrap_or(word);
    ["cuda", "vulkan", "metal", "rocm"].contains(&kind).then(|| {
        let supported: Vec<&str> = Device::ALL.iter().map(|(name, _)| *name).collect();
        format!("by this build, which supports: {}", supported.join(", "))
    })
}
