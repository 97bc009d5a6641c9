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

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measurement {
    /// A step of MeZO, alone in a process ([`measure_mezo`]).
    Mezo,
    /// An inner step.
    InnerStep,
    /// An outer step without its inner steps.
    OuterStep,
    /// A forward pass.
    Forward,
    /// A forward pass at both signs of a perturbation.
    ForwardPair,
    /// An update of θ.
    Update,
    /// Evaluation of validation examples.
    Evaluation,
    /// Generation of text.
    Generation,
    /// What the machine can do without a model ([`gemm_gflops`], [`direction_ns_per_weight`]).
    Machine,
}

impl Measurement {
    /// All of them, in the order in which they are made.
    pub const ALL: [Self; 9] = [
        Self::Mezo,
        Self::InnerStep,
        Self::OuterStep,
        Self::Forward,
        Self::ForwardPair,
        Self::Update,
        Self::Evaluation,
        Self::Generation,
        Self::Machine,
    ];

    /// What users call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mezo => "mezo",
            Self::InnerStep => "inner",
            Self::OuterStep => "outer",
            Self::Forward => "forward",
            Self::ForwardPair => "forward-pair",
            Self::Update => "update",
            Self::Evaluation => "evaluation",
            Self::Generation => "generation",
            Self::Machine => "machine",
        }
    }

    /// The one of that name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|measurement| measurement.name() == name)
    }
}

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

/// What was measured on one model, as far as it was asked for. Times are means over the batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// Milliseconds of an inner step: a forward and a backward pass with LoRA, and the step of s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inner_ms: Option<f64>,
    /// Milliseconds of an outer step without its inner steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outer_ms: Option<f64>,
    /// Milliseconds of a forward pass with the losses of a batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forward_ms: Option<f64>,
    /// Milliseconds of a forward pass at both signs of a perturbation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forward_pair_ms: Option<f64>,
    /// Milliseconds of an update of θ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_ms: Option<f64>,
    /// Validation examples evaluated per second, all candidates of each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_examples_per_s: Option<f64>,
    /// Tokens generated per second, one sequence, the prompt included in the time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generate_tokens_per_s: Option<f64>,
    /// GFLOP/s of the fastest forward pass of every batch, as [`gemm_gflops`] is that of the fastest product: 2 operations per
    /// weight of a block and token, and per weight of the head and label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forward_gflops: Option<f64>,
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

/// Forward passes of every batch.
const FORWARD_ROUNDS: usize = 5;

/// Makes the measurements of a loaded model that are asked for, and leaves [`Measurement::Mezo`] and
/// [`Measurement::Machine`] out; `progress` is told what comes next.
///
/// # Errors
///
/// [`BenchError::Step`] if a loss is not finite, and [`BenchError::Generation`] if a logit is not.
pub fn measure(
    method: &mut Bilevel,
    workload: &Workload,
    asked: &[Measurement],
    mut progress: impl FnMut(Measurement),
) -> Result<Report, BenchError> {
    let batches = &workload.batches;
    let fixed = |i: usize| FixedBatches { inner: &batches[i], outer: &batches[i], penalty: &batches[i + 1] };
    let forward = |method: &Bilevel, i: usize, perturbation: &Perturbation| {
        losses(&method.backbone, &[Part { batch: &batches[i], adapter: None }], perturbation);
        Ok::<(), Infallible>(())
    };
    let mut report = Report::default();
    for &measurement in asked {
        progress(measurement);
        match measurement {
            Measurement::InnerStep => {
                let step = |i| method.inner_step(&mut fixed(i), RATES.shadow, 0).map(drop);
                report.inner_ms = Some(mean_ms(workload, step)?);
            }
            Measurement::OuterStep => {
                let input = |i| StepInput::new(vec![BackboneDirection::Seeded(i as u64)], RATES);
                report.outer_ms = Some(mean_ms(workload, |i| method.step(&input(i), &mut fixed(i)).map(drop))?);
            }
            Measurement::Forward => {
                let counted = workload.measured();
                let Ok(()) = forward(method, 0, &Perturbation::None);
                let mut seconds = 0.0;
                let mut fastest = vec![f64::INFINITY; counted.len()];
                for _ in 0..FORWARD_ROUNDS {
                    for (i, fastest) in (1..).zip(&mut fastest) {
                        let start = Instant::now();
                        let Ok(()) = forward(method, i, &Perturbation::None);
                        let elapsed = start.elapsed().as_secs_f64();
                        seconds += elapsed;
                        *fastest = fastest.min(elapsed);
                    }
                }
                let flops = counted.iter().map(|batch| workload::forward_flops(&method.backbone, batch)).sum::<f64>();
                report.forward_ms = Some(seconds * 1e3 / (FORWARD_ROUNDS * counted.len()) as f64);
                report.forward_gflops = Some(flops / fastest.iter().sum::<f64>() / 1e9);
            }
            Measurement::ForwardPair => {
                let pair = |i| Perturbation::Pair { direction: BackboneDirection::Seeded(i as u64), eps: EPS };
                let Ok(ms) = mean_ms(workload, |i| forward(method, i, &pair(i)));
                report.forward_pair_ms = Some(ms);
            }
            Measurement::Update => {
                let Ok(ms) = mean_ms(workload, |i| {
                    method.backbone.descend(&BackboneDirection::Seeded(i as u64), 1e-9);
                    Ok::<(), Infallible>(())
                });
                report.update_ms = Some(ms);
            }
            Measurement::Evaluation => {
                let start = Instant::now();
                evaluate(&method.backbone, None, &workload.held_out, |_| {});
                report.eval_examples_per_s = Some(workload.held_out.len() as f64 / start.elapsed().as_secs_f64());
            }
            Measurement::Generation => report.generate_tokens_per_s = Some(generation(&method.backbone, workload)?),
            Measurement::Mezo | Measurement::Machine => {}
        }
    }
    Ok(report)
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
