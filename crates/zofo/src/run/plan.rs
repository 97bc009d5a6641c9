//! What a run is going to do and to need, said before it starts.

use super::config::{Compute, Config, MethodName};
use super::cost::{Speed, StepCost};
use super::inputs::Inputs;
use super::memory;
use crate::hf::{HfError, WeightDtype};
use crate::model::Batch;
use crate::train::Method;
use crate::zo::optimizer::BackboneOptimizer;
use serde::Serialize;
use std::fmt;

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
    /// Directions along which zeroth-order estimates move θ per step.
    pub update_directions: usize,
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

impl Plan {
    /// # Errors
    ///
    /// Those of [`memory::peak`].
    pub(super) fn new(config: &Config, inputs: &Inputs, method: &Method, speed: Speed) -> Result<Self, HfError> {
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
        if config.method.estimates_backbone() && config.outer.momentum > 0.0 {
            warnings.push(format!(
                "outer.momentum: θ is updated along {} directions per step, each made again from its seed. That takes no \
                 memory, and {} times as long as an update without momentum, which the time per step leaves out",
                cost.update_directions, config.outer.momentum_window
            ));
        }
        if config.method.name == MethodName::Full {
            warnings.push(format!(
                "method.name = \"full\" keeps gradients and two moments of every weight: {} more memory. \
                 The other methods need none of that",
                Bytes(memory::STATES_OF_FULL as u64 * backbone_parameters as u64)
            ));
        }
        Ok(Self {
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
            forward_passes: cost.forward_passes,
            backward_passes: cost.backward_passes,
            update_directions: cost.update_directions,
            peak_memory: memory::peak(config, inputs, method)?,
            seconds_per_step: cost.seconds(speed),
            max_steps: config.run.max_steps,
            max_minutes: config.run.max_minutes,
            threads: rayon::current_num_threads(),
            output: config.run.output.display().to_string(),
            unused_keys: config.unused_keys().to_vec(),
            warnings,
        })
    }
}

/// A method in a few words.
fn describe(config: &Config) -> String {
    let (method, outer) = (&config.method, &config.outer);
    let estimates = || {
        let (sides, directions) = (outer.sides, outer.directions);
        let momentum = match outer.momentum {
            0.0 => String::new(),
            momentum => format!(" with momentum {momentum} of {} steps", outer.momentum_window),
        };
        format!("{}{momentum} over {directions} direction(s), {sides}-sided", outer.optimizer.name())
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
