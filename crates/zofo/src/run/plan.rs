//! What a run is going to do and to need, said before it starts.

use super::config::{Compute, Config};
use super::inputs::Inputs;
use super::memory;
use crate::hf::{HfError, WeightDtype};
use crate::model::{Backbone, Batch};
use crate::peft::Adapter;
use crate::train::loss::{loss, loss_gradients};
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
    /// Values in p, and as many in s.
    pub adapter_parameters: usize,
    /// The task and its template.
    pub task: String,
    /// Examples: inner (D_p), outer (D_f), validation, evaluation.
    pub examples: [usize; 4],
    /// What was cut to fit the context.
    pub truncation: String,
    /// T.
    pub inner_steps: usize,
    /// λ.
    pub penalty: f64,
    /// Inner steps before the first outer step.
    pub warm_start: usize,
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
    pub(super) forward: f64,
    /// Forward and backward to an adapter.
    pub(super) gradient: f64,
}

impl Speed {
    /// Times a pass with gradients, which also warms up, and a pass without.
    pub(super) fn measure(backbone: &Backbone, adapter: &Adapter, batch: &Batch) -> Self {
        let tokens = batch.tokens() as f64;
        let start = Instant::now();
        loss_gradients(backbone, adapter, &[(1.0, batch)]);
        let gradient = start.elapsed().as_secs_f64() / tokens;
        let start = Instant::now();
        loss(backbone, adapter, batch);
        Self { gradient, forward: start.elapsed().as_secs_f64() / tokens }
    }
}

impl Plan {
    /// # Errors
    ///
    /// Those of [`memory::peak`].
    pub(super) fn new(
        config: &Config,
        inputs: &Inputs,
        backbone_parameters: usize,
        adapter: &Adapter,
        speed: Speed,
    ) -> Result<Self, HfError> {
        let method = &config.method;
        let mean = |examples: &[crate::task::EncodedExample]| {
            let tokens = Batch::answers(examples.iter().map(|e| e.gold_row())).tokens();
            tokens as f64 / examples.len() as f64
        };
        let (inner, outer) = (mean(&inputs.inner), mean(&inputs.outer));
        let inner_batch = inner * config.inner.batch_size as f64;
        let (f, p) = (outer * config.outer.batch_size as f64, inner * config.outer.batch_size as f64);
        let steps = method.inner_steps;
        // The outer level: a and b with their gradient in one pass, then a, b and c at both signs.
        let gradient_tokens = inner_batch * steps as f64 + f + p;
        let forward_tokens = 2.0 * (f + 2.0 * p);
        let seconds_per_step = gradient_tokens * speed.gradient + forward_tokens * speed.forward;
        let mut warnings = inputs.notes.clone();
        if config.outer.optimizer == BackboneOptimizer::Adam {
            let bytes = 8 * backbone_parameters as u64;
            warnings.push(format!(
                "outer.optimizer = \"adam\" keeps two numbers per weight: {} more memory. `rms` needs none",
                Bytes(bytes)
            ));
        }
        Ok(Self {
            model: config.model.path.display().to_string(),
            dtype: config.model.dtype,
            compute: config.model.compute,
            backbone_parameters,
            adapter_parameters: adapter.len(),
            task: format!("{} (template {})", config.data.task, config.data.template),
            examples: [inputs.inner.len(), inputs.outer.len(), inputs.validation.len(), inputs.evaluation.len()],
            truncation: inputs.truncation.to_string(),
            inner_steps: steps,
            penalty: method.penalty,
            warm_start: method.warm_start,
            tokens_per_batch: [inner_batch, f],
            forward_passes: steps + 2 + 6,
            backward_passes: steps + 2,
            peak_memory: memory::peak(config, inputs, adapter)?,
            seconds_per_step,
            max_steps: config.run.max_steps,
            max_minutes: config.run.max_minutes,
            threads: rayon::current_num_threads(),
            output: config.run.output.display().to_string(),
            unused_keys: config.unused_keys().to_vec(),
            warnings,
        })
    }
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
        writeln!(f, "adapters    p and s, {} values each", Count(self.adapter_parameters as f64))?;
        writeln!(
            f,
            "task        {}: {inner} inner, {outer} outer, {validation} validation, {evaluation} held out",
            self.task
        )?;
        writeln!(f, "data        {}", self.truncation)?;
        writeln!(
            f,
            "method      bilevel: T = {}, λ = {}, warm start {} inner steps",
            self.inner_steps, self.penalty, self.warm_start
        )?;
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
        writeln!(f, "memory      about {} at peak", Bytes(self.peak_memory))?;
        let steps = self.max_steps.map(|steps| format!("{steps} steps"));
        let minutes = self.max_minutes.map(|minutes| format!("{minutes} minutes of training"));
        let bounds: Vec<String> = steps.into_iter().chain(minutes).collect();
        writeln!(f, "until       {}", bounds.join(" or "))?;
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
