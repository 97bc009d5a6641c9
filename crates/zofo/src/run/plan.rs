//! What a run is going to do and to need, said before it starts.

use super::config::{Compute, Config, MethodName};
use super::inputs::Inputs;
use crate::hf::WeightDtype;
use crate::model::config::Layer;
use crate::model::{Batch, DecoderConfig, Part};
use crate::train::loss::{loss_gradients, losses, mean_backbone_gradients};
use crate::train::{Batches, Method};
use crate::zo::Perturbation;
use crate::zo::optimizer::BackboneOptimizer;
use serde::Serialize;
use std::fmt;
use std::time::Instant;

/// The resolved plan of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// Where the model comes from.
    pub model: String,
    /// Storage of θ.
    pub dtype: WeightDtype,
    /// Precision of matrix products.
    pub compute: Compute,
    /// Weights in θ.
    pub backbone_parameters: usize,
    /// Values in p, and as many in s, as far as the method has them.
    pub adapter_parameters: usize,
    /// The task and its template.
    pub task: String,
    /// Examples: inner (D_p), outer (D_f), validation, evaluation.
    pub examples: [usize; 4],
    /// What was cut to fit the context.
    pub truncation: String,
    /// The method.
    pub method: MethodName,
    /// The method with the settings that make it what it is, for people.
    pub description: String,
    /// Mean tokens of a batch of the inner and of the outer level.
    pub tokens_per_batch: [f64; 2],
    /// Forward passes over a batch per step.
    pub forward_passes: usize,
    /// Backward passes over a batch per step.
    pub backward_passes: usize,
    /// Estimated peak memory in bytes.
    pub peak_memory: u64,
    /// Estimated seconds per step, from the measured speed of one pass of each kind.
    pub seconds_per_step: f64,
    /// The bounds of the run.
    pub max_steps: Option<usize>,
    /// In minutes of training.
    pub max_minutes: Option<f64>,
    /// Threads.
    pub threads: usize,
    /// Where everything is written.
    pub output: String,
    /// Keys that the configuration sets and this run does not use.
    pub unused_keys: Vec<String>,
    /// Consequences of the settings that should not surprise anyone.
    pub warnings: Vec<String>,
}

/// What passes cost on this machine, in seconds per token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Speed {
    /// Forward.
    forward: f64,
    /// Forward and backward to what the method trains by exact gradients, if anything.
    gradient: f64,
}

impl Speed {
    /// Times a pass with gradients, which also warms up, and a pass without.
    pub(super) fn measure(config: &Config, method: &Method, batches: &mut impl Batches) -> Self {
        let batch = if config.method.has_gradients() { batches.inner() } else { batches.outer() };
        let (backbone, blocks) = (method.backbone(), method.blocks());
        let adapter = blocks.first().map(|block| &block.values);
        let seconds_per_token = |pass: &dyn Fn()| {
            let start = Instant::now();
            pass();
            start.elapsed().as_secs_f64() / batch.tokens() as f64
        };
        let forward = || drop(losses(backbone, &[Part { batch: &batch, adapter }], &Perturbation::None));
        let gradient = match (config.method.has_gradients(), adapter) {
            (true, Some(adapter)) => seconds_per_token(&|| drop(loss_gradients(backbone, adapter, &[(1.0, &batch)]))),
            (true, None) => {
                seconds_per_token(&|| drop(mean_backbone_gradients(backbone, std::slice::from_ref(&batch))))
            }
            (false, _) => {
                forward();
                0.0
            }
        };
        Self { gradient, forward: seconds_per_token(&forward) }
    }
}

/// What a step feeds.
struct StepCost {
    /// Passes over a batch: forward, and backward.
    passes: [usize; 2],
    /// Tokens in all passes with gradients.
    gradient_tokens: f64,
    /// Tokens in all passes without.
    forward_tokens: f64,
    /// Tokens of the largest pass of each kind.
    largest: PassTokens,
}

impl StepCost {
    /// With batches of so many tokens: of the inner level, B_f and B_p.
    fn new(config: &Config, [inner, f, p]: [f64; 3]) -> Self {
        let (method, outer) = (&config.method, &config.outer);
        let (of_inner, of_outer) = (config.inner.accumulate, outer.accumulate);
        // Evaluations of the objective, and how many of them ride on one pass.
        let (evaluations, at_once) = match outer.sides {
            1 => (outer.directions + 1, 1),
            _ => (2 * outer.directions, 2),
        };
        let exact = Self {
            passes: [of_inner; 2],
            gradient_tokens: inner * of_inner as f64,
            forward_tokens: 0.0,
            largest: PassTokens { gradient: inner, forward: 0.0 },
        };
        let estimated = |losses: usize, tokens: f64| Self {
            passes: [evaluations * losses * of_outer, 0],
            gradient_tokens: 0.0,
            forward_tokens: (evaluations * of_outer) as f64 * tokens,
            largest: PassTokens { gradient: 0.0, forward: at_once as f64 * tokens },
        };
        match method.name {
            MethodName::ZeroShot | MethodName::Icl => {
                Self { passes: [0; 2], gradient_tokens: 0.0, ..estimated(0, 0.0) }
            }
            MethodName::FirstOrder | MethodName::Full => exact,
            MethodName::Mezo => estimated(1, f),
            MethodName::TwoStage => {
                // Of the stage that takes longest to come: the second.
                let largest = PassTokens { gradient: inner, ..estimated(1, f).largest };
                Self { largest, ..estimated(1, f) }
            }
            MethodName::Bilevel => {
                // a and b with their gradient in one pass, then a, b and c on every side.
                let slopes = estimated(3, f + 2.0 * p);
                let (t, both) = (method.inner_steps * of_inner, 2 * of_outer);
                Self {
                    passes: [t + both + slopes.passes[0], t + both],
                    gradient_tokens: inner * t as f64 + (f + p) * of_outer as f64,
                    largest: PassTokens { gradient: inner.max(f + p), ..slopes.largest },
                    ..slopes
                }
            }
        }
    }
}

impl Plan {
    pub(super) fn new(config: &Config, inputs: &Inputs, method: &Method, speed: Speed) -> Self {
        let backbone_parameters = method.backbone().len();
        let adapter_parameters = method.blocks().first().map_or(0, |block| block.values.len());
        let mean = |examples: &[crate::task::EncodedExample]| {
            let tokens = Batch::answers(examples.iter().map(|e| e.gold_row())).tokens();
            tokens as f64 / examples.len() as f64
        };
        let (inner, outer) = (mean(&inputs.inner), mean(&inputs.outer));
        let inner_batch = inner * config.inner.batch_size as f64;
        let (f, p) = (outer * config.outer.batch_size as f64, inner * config.outer.batch_size as f64);
        let cost = StepCost::new(config, [inner_batch, f, p]);
        let mut warnings = inputs.notes.clone();
        if config.method.estimates_backbone() && config.outer.optimizer == BackboneOptimizer::Adam {
            let bytes = 8 * backbone_parameters as u64;
            warnings.push(format!(
                "outer.optimizer = \"adam\" keeps two numbers per weight: {} more memory. `rms` needs none",
                Bytes(bytes)
            ));
        }
        if config.method.name == MethodName::Full {
            let bytes = BYTES_OF_FULL * backbone_parameters as u64;
            warnings.push(format!(
                "method.name = \"full\" keeps gradients, two moments and the next value of every weight: {} more memory. \
                 The other methods need none of that",
                Bytes(bytes)
            ));
        }
        Self {
            model: config.model.path.display().to_string(),
            dtype: config.model.dtype,
            compute: config.model.compute,
            backbone_parameters,
            adapter_parameters,
            task: format!("{} (template {})", config.data.task, config.data.template),
            examples: [inputs.inner.len(), inputs.outer.len(), inputs.validation.len(), inputs.evaluation.len()],
            truncation: inputs.truncation.to_string(),
            method: config.method.name,
            description: describe(config),
            tokens_per_batch: [inner_batch, f],
            forward_passes: cost.passes[0],
            backward_passes: cost.passes[1],
            peak_memory: peak_memory(config, inputs, backbone_parameters, adapter_parameters, &cost.largest),
            seconds_per_step: cost.gradient_tokens * speed.gradient + cost.forward_tokens * speed.forward,
            max_steps: config.run.max_steps,
            max_minutes: config.run.max_minutes,
            threads: rayon::current_num_threads(),
            output: config.run.output.display().to_string(),
            unused_keys: config.unused_keys().to_vec(),
            warnings,
        }
    }
}

/// A method in a few words.
fn describe(config: &Config) -> String {
    let (method, outer) = (&config.method, &config.outer);
    let estimates = || {
        let (sides, directions) = (outer.sides, outer.directions);
        format!("{} over {directions} direction(s), {sides}-sided", outer.optimizer.name())
    };
    match method.name {
        MethodName::Bilevel => format!(
            "bilevel: T = {}, λ = {}, warm start {} inner steps",
            method.inner_steps, method.penalty, method.warm_start
        ),
        MethodName::Mezo => format!("mezo on {}: {}", method.on, estimates()),
        MethodName::FirstOrder => format!("first-order: {} on a {} block", config.inner.optimizer, config.peft.kind),
        MethodName::TwoStage => {
            let first = match (method.first_stage_steps, method.first_stage_minutes) {
                (None, Some(minutes)) => format!("{minutes} minutes"),
                (steps, _) => format!("{} steps", steps.unwrap_or(0)),
            };
            format!("two-stage: first-order for {first}, then mezo: {}", estimates())
        }
        MethodName::Full => "full: adamw on every weight".to_owned(),
        MethodName::ZeroShot => "zero-shot: nothing is trained".to_owned(),
        MethodName::Icl => format!("icl: nothing is trained, {} demonstrations", config.data.shots),
    }
}

/// What `full` needs per weight besides the weight: its gradient, two moments, and the value that replaces it.
const BYTES_OF_FULL: u64 = 16;

/// Tokens that an evaluation feeds at once.
const EVALUATION_TOKENS: f64 = 2048.0;

/// Tokens of the largest pass of each kind.
struct PassTokens {
    /// With gradients.
    gradient: f64,
    /// Without.
    forward: f64,
}

/// Weights, the activations that the larger of both kinds of passes keeps, the blocks with their optimizers, and the
/// program itself.
fn peak_memory(
    config: &Config,
    inputs: &Inputs,
    backbone_parameters: usize,
    adapter_parameters: usize,
    tokens: &PassTokens,
) -> u64 {
    /// The program, the tokenizer and the encoded data.
    const BASE: f64 = 60e6;
    let model = inputs.files.config();
    let bytes_per_weight = config.model.dtype.size();
    let adam = config.method.estimates_backbone() && config.outer.optimizer == BackboneOptimizer::Adam;
    let full = config.method.name == MethodName::Full;
    let states = if adam { 8 } else { 0 } + if full { BYTES_OF_FULL as usize } else { 0 };
    let weights = backbone_parameters * (bytes_per_weight + states);
    // Of the bilevel method p, s, their gradient, two moments each, and the best pair; else p, its gradient (or both sides
    // of it), two moments, and the best one.
    let blocks = adapter_parameters * 4 * if config.method.name == MethodName::Bilevel { 9 } else { 5 };
    let forward = tokens.forward.max(EVALUATION_TOKENS);
    let activations = (tokens.gradient * saved_per_token(model)).max(forward * transient_per_token(model));
    (weights as f64 + blocks as f64 + activations + BASE) as u64
}

/// Bytes that back-propagation keeps per token: in every block both norms' inputs and the first one's output, q, k and v
/// before and after rotation, the attention's output, and what goes into the activation.
fn saved_per_token(model: &DecoderConfig) -> f64 {
    let (q, kv) = (model.heads * model.head_dim, model.kv_width());
    let of_block = |layer: &Layer| 3 * model.hidden + 3 * q + 3 * kv + layer.mlp.up.width();
    4.0 * model.layers.iter().map(of_block).sum::<usize>() as f64 + transient_per_token(model)
}

/// Bytes that one block needs per token while it runs.
fn transient_per_token(model: &DecoderConfig) -> f64 {
    let of_block = |layer: &Layer| 4 * model.hidden + 2 * layer.mlp.up.width();
    4.0 * model.layers.iter().map(of_block).max().unwrap_or_default() as f64
}

/// A number of bytes for people.
pub(super) struct Bytes(pub(super) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mebibytes = self.0 as f64 / (1u64 << 20) as f64;
        if mebibytes < 1024.0 {
            write!(formatter, "{mebibytes:.0} MiB")
        } else {
            write!(formatter, "{:.2} GiB", mebibytes / 1024.0)
        }
    }
}

/// A number with a unit prefix: 134.5 M.
struct Count(f64);

impl fmt::Display for Count {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n >= 1e9 => write!(formatter, "{:.2} B", n / 1e9),
            n if n >= 1e6 => write!(formatter, "{:.1} M", n / 1e6),
            n if n >= 1e4 => write!(formatter, "{:.0} k", n / 1e3),
            n => write!(formatter, "{n}"),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [inner, outer, validation, evaluation] = self.examples;
        writeln!(
            f,
            "model       {} ({} weights, stored as {}, computed in {})",
            self.model,
            Count(self.backbone_parameters as f64),
            self.dtype,
            self.compute
        )?;
        let values = Count(self.adapter_parameters as f64);
        match (self.method, self.adapter_parameters) {
            (MethodName::Bilevel, _) => writeln!(f, "adapters    p and s, {values} values each")?,
            (_, 0) => {}
            _ => writeln!(f, "adapter     p, {values} values")?,
        }
        writeln!(
            f,
            "task        {}: {}, {validation} validation, {evaluation} held out",
            self.task,
            match self.method {
                MethodName::Bilevel => format!("{inner} inner, {outer} outer"),
                _ => format!("{inner} training"),
            }
        )?;
        writeln!(f, "data        {}", self.truncation)?;
        writeln!(f, "method      {}", self.description)?;
        if self.forward_passes > 0 {
            writeln!(
                f,
                "batches     {:.0} tokens (inner), {:.0} tokens (outer)",
                self.tokens_per_batch[0], self.tokens_per_batch[1]
            )?;
            writeln!(
                f,
                "per step    {} forward and {} backward passes, about {:.1} s",
                self.forward_passes, self.backward_passes, self.seconds_per_step
            )?;
        }
        writeln!(f, "memory      about {} at peak", Bytes(self.peak_memory))?;
        let steps = self.max_steps.map(|steps| format!("{steps} steps"));
        let minutes = self.max_minutes.map(|minutes| format!("{minutes} minutes of training"));
        let bounds: Vec<String> = steps.into_iter().chain(minutes).collect();
        if self.forward_passes > 0 {
            writeln!(f, "until       {}", bounds.join(" or "))?;
        }
        write!(f, "output      {} ({} threads)", self.output, self.threads)?;
        for key in &self.unused_keys {
            write!(f, "\nunused      {key} has no effect with this method and adapter")?;
        }
        for warning in &self.warnings {
            write!(f, "\nwarning     {warning}")?;
        }
        Ok(())
    }
}
