//! The sections of a configuration that say what a run works on, `[model]`, `[data]`, `[peft]` and `[run]`: every key, its
//! meaning, its default, its limits.

use std::path::PathBuf;

use serde::Serialize;

use super::choice::Choice;
use super::error::ConfigError;
use super::reader::{Range, Reader};
use super::training::MethodConfig;
use super::words::{BlockInit, Compute, Device, Keep, LrSchedule, Overlap, PeftKind, ShadowInit, Storage};
use crate::hf::{ModuleNames, Patterns, WeightDtype};
use crate::task::{SplitRows, TemplateName};

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
    /// Where the weights are. On the `disk` they take their size in `run.output`'s file system while the run goes on, and need
    /// not fit into memory. Default: memory.
    pub storage: Storage,
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
            storage: reader.choice("model.storage")?.unwrap_or(Storage::Memory),
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
    /// Tokens of the longest sequence, where that is less than the model's context: what does not fit is cut as it is
    /// there. At least 2. Default: the context.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_length: Option<usize>,
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
            max_length: reader.count("data.max_length", 2)?,
            inner_fraction: reader.number("data.inner_fraction", Range::Fraction)?.unwrap_or(0.3333),
            stratify: reader.flag("data.stratify")?.unwrap_or(false),
            overlap: reader.choice("data.overlap")?.unwrap_or(Overlap::Drop),
            seed: reader.seed("data.seed")?.unwrap_or(0),
            shots: reader.count("data.shots", 1)?.unwrap_or(8),
        })
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
    /// Whether the numbers of `metrics.jsonl` are written as TensorBoard's event files too. Default: false.
    pub tensorboard: bool,
}

impl RunConfig {
    /// `eps_changes` says whether ε has another value at the end than at the start.
    pub(super) fn read(reader: &Reader<'_>, method: &MethodConfig, eps_changes: bool) -> Result<Self, ConfigError> {
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
            tensorboard: reader.flag("run.tensorboard")?.unwrap_or(false),
        };
        if method.trains() && run.max_steps.is_none() && run.max_minutes.is_none() {
            return Err(
                reader.missing("run.max_steps", "a run needs an end: set run.max_steps or run.max_minutes, or both")
            );
        }
        if method.has_estimates() && eps_changes && run.max_steps.is_none() {
            let advice =
                "outer.eps_final needs the step at which it is reached; minutes would make ε differ from run to run";
            return Err(reader.missing("run.max_steps", advice));
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
