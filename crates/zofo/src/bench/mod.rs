//! What a model costs on this machine: the parts of a training step, evaluation, generation, and the machine's own limits.
//!
//! All parts run on the same [`Workload`]: batches of the training rows in the order of their file, each with its right
//! answer, so that another implementation can be timed on the same tokens. The first batch warms up and is not counted.

mod machine;
mod workload;

pub use machine::{Machine, direction_ns_per_weight, gemm_gflops, peak_rss_mib};
pub use workload::{EPS, FixedBatches, RATES, Workload, bilevel, mezo_step};

use crate::eval::{Generation, GenerationError, Sampling, evaluate, generate};
use crate::model::{Backbone, Part};
use crate::task::TaskError;
use crate::train::bilevel::Bilevel;
use crate::train::loss::losses;
use crate::train::{StepError, StepInput};
use crate::zo::{BackboneDirection, Perturbation};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::time::Instant;

/// Tokens that are generated to time generation.
const NEW_TOKENS: usize = 64;

/// Why nothing could be measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// There are not enough training rows for the batches.
    #[error(
        "task \"{task}\" has {found} training rows; {batches} batches of {batch_size}, one to warm up and one for the last \
         penalty take {needed}: lower the batch size or the number of batches"
    )]
    TooFewRows {
        /// The task.
        task: String,
        /// Rows that there are.
        found: usize,
        /// Rows that are needed.
        needed: usize,
        /// Batches that are counted.
        batches: usize,
        /// Rows of a batch.
        batch_size: usize,
    },
    /// Random rows would not fit the model.
    #[error("rows of {row_tokens} tokens do not fit the model's context of {context}: take fewer")]
    RowTooLong {
        /// Tokens of a row.
        row_tokens: usize,
        /// Positions that the model has.
        context: usize,
    },
    /// Random rows would take memory that is to be measured.
    #[error("all batches together would have {tokens} random tokens, of which {most} are the most: take fewer")]
    TooManyTokens {
        /// Tokens of all batches.
        tokens: usize,
        /// The most that are made.
        most: usize,
    },
    /// The rows cannot be encoded.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// A step failed.
    #[error("a step that was to be timed failed: {0}")]
    Step(#[from] StepError),
    /// Generation failed.
    #[error(transparent)]
    Generation(#[from] GenerationError),
}

/// MeZO (Malladi et al., 2023) alone in a process: both signs of a perturbation and the update of θ.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MezoReport {
    /// Milliseconds of a step.
    pub mezo_ms: f64,
    /// The most memory that the process has had, MiB; nothing where the system does not tell.
    pub peak_rss_mib: Option<f64>,
}

/// What was measured on one model. Times are means over the batches.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Milliseconds of an inner step: a forward and a backward pass with LoRA, and the step of s.
    pub inner_ms: f64,
    /// Milliseconds of an outer step without its inner steps.
    pub outer_ms: f64,
    /// Milliseconds of a forward pass with the losses of a batch.
    pub forward_ms: f64,
    /// Milliseconds of a forward pass at both signs of a perturbation.
    pub forward_pair_ms: f64,
    /// Milliseconds of an update of θ.
    pub update_ms: f64,
    /// Validation examples evaluated per second, all candidates of each.
    pub eval_examples_per_s: f64,
    /// Tokens generated per second, one sequence, the prompt included in the time.
    pub generate_tokens_per_s: f64,
    /// GFLOP/s of the forward pass: 2 operations per weight of a block and token, and per weight of the head and label.
    pub forward_gflops: f64,
}

/// Times MeZO on a fresh backbone, with so many directions per step in one pass.
pub fn measure_mezo(mut backbone: Backbone, workload: &Workload, directions: usize) -> MezoReport {
    let Ok(mezo_ms) = mean_ms(workload, |i| {
        let seeds: Vec<u64> = (0..directions).map(|place| (i * directions + place) as u64).collect();
        mezo_step(&mut backbone, &workload.batches[i], &seeds);
        Ok::<(), Infallible>(())
    });
    MezoReport { mezo_ms, peak_rss_mib: peak_rss_mib() }
}

/// Times all other parts; `progress` is told what comes next.
///
/// # Errors
///
/// [`BenchError::Step`] if a loss is not finite, and [`BenchError::Generation`] if a logit is not.
pub fn measure(
    method: &mut Bilevel,
    workload: &Workload,
    mut progress: impl FnMut(&'static str),
) -> Result<Report, BenchError> {
    let batches = &workload.batches;
    progress("inner step");
    let fixed = |i: usize| FixedBatches { inner: &batches[i], outer: &batches[i], penalty: &batches[i + 1] };
    let inner_ms = mean_ms(workload, |i| method.inner_step(&mut fixed(i), RATES.shadow, 0).map(drop))?;
    progress("outer step");
    let outer_ms = mean_ms(workload, |i| {
        let input = StepInput::new(vec![BackboneDirection::Seeded(i as u64)], RATES);
        method.step(&input, &mut fixed(i)).map(drop)
    })?;
    progress("forward pass");
    let forward = |method: &Bilevel, i: usize, perturbation: &Perturbation| {
        losses(&method.backbone, &[Part { batch: &batches[i], adapter: None }], perturbation);
        Ok::<(), Infallible>(())
    };
    let Ok(forward_ms) = mean_ms(workload, |i| forward(method, i, &Perturbation::None));
    progress("forward pass at both signs");
    let pair = |i| Perturbation::Pair { direction: BackboneDirection::Seeded(i as u64), eps: EPS };
    let Ok(forward_pair_ms) = mean_ms(workload, |i| forward(method, i, &pair(i)));
    progress("update");
    let Ok(update_ms) = mean_ms(workload, |i| {
        method.backbone.descend(&BackboneDirection::Seeded(i as u64), 1e-9);
        Ok::<(), Infallible>(())
    });
    progress("evaluation");
    let start = Instant::now();
    evaluate(&method.backbone, None, &workload.held_out, |_| {});
    let eval_examples_per_s = workload.held_out.len() as f64 / start.elapsed().as_secs_f64();
    progress("generation");
    let generate_tokens_per_s = generation(&method.backbone, workload)?;
    let flops = workload.measured().iter().map(|batch| workload::forward_flops(&method.backbone, batch)).sum::<f64>();
    let forward_gflops = flops / (forward_ms * workload.measured().len() as f64) / 1e6;
    Ok(Report {
        inner_ms,
        outer_ms,
        forward_ms,
        forward_pair_ms,
        update_ms,
        eval_examples_per_s,
        generate_tokens_per_s,
        forward_gflops,
    })
}

/// Mean milliseconds of `f` over the batches, after one to warm up.
fn mean_ms<E>(workload: &Workload, mut f: impl FnMut(usize) -> Result<(), E>) -> Result<f64, E> {
    f(0)?;
    let count = workload.measured().len();
    let start = Instant::now();
    (1..=count).try_for_each(f)?;
    Ok(start.elapsed().as_secs_f64() * 1e3 / count as f64)
}

fn generation(backbone: &Backbone, workload: &Workload) -> Result<f64, GenerationError> {
    let context = backbone.config().max_positions;
    let prompt = &workload.prompt[..workload.prompt.len().min(context / 2)];
    let max_new_tokens = NEW_TOKENS.min(context - prompt.len());
    let request = Generation { prompt, max_new_tokens, stop: &[], sampling: Sampling::Greedy };
    let start = Instant::now();
    let new = generate(backbone, None, &request, |_| true)?;
    Ok(new.len() as f64 / start.elapsed().as_secs_f64())
}
