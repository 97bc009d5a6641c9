//! How much of a slope survives bf16: the slope of b − c per unit of λ, at several ε, with products in f32 and in bf16.
//!
//!     cargo run --release -p zofo --example slope_precision -- MODEL DATA [SEEDS]
//!
//! b − c is what λ multiplies, so its error is what counts. p is an untrained LoRA block and s the same block after 20
//! inner steps, so that the two differ. DATA is a folder with sst2/train.jsonl and sst2/validation.jsonl. Each row of
//! the table compares, over the directions, slopes with those in f32 at ε = 1e-3, from weights of the same storage.

#![allow(clippy::print_stdout, reason = "an example prints its result")]

use burn::tensor::Device;
use std::error::Error;
use std::path::Path;
use zofo::bench::{FixedBatches, RATES, bilevel};
use zofo::hf::{ModelFiles, WeightDtype};
use zofo::model::{Backbone, Batch, Part};
use zofo::task::{DataSplit, Dataset, EncodedExample, Encoder, Task, TemplateName};
use zofo::train::bilevel::Bilevel;
use zofo::train::loss::losses;
use zofo::zo::BackboneDirection;
use zofo::zo::estimator::Spsa;
use zofo_kernels::Compute;

/// Rows of a batch.
const BATCH: usize = 8;
/// Steps of s.
const INNER_STEPS: usize = 20;
/// Perturbations that are compared.
const EPS: [f32; 5] = [3e-4, 1e-3, 3e-3, 1e-2, 3e-2];
/// That of the slopes that the others are compared with.
const REFERENCE_EPS: f32 = 1e-3;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (model, data, seeds) = match &arguments[..] {
        [model, data] => (model, data, 20),
        [model, data, seeds] => (model, data, seeds.parse()?),
        _ => return Err("usage: slope_precision MODEL DATA [SEEDS]".into()),
    };
    let files = ModelFiles::open(Path::new(model))?;
    let task = Task::load("sst2")?;
    let tokenizer = files.tokenizer()?;
    let encoder = Encoder::new(&task, &TemplateName::PROMPT, &tokenizer, files.config().limits())?;
    let train = Dataset::open(Path::new(data), &task, DataSplit::Train)?;
    let rows = encoder.encode(train.examples.iter().take(BATCH * (INNER_STEPS + 1)))?.examples;
    let batch = |rows: &[EncodedExample]| Batch::answers(rows.iter().map(EncodedExample::gold_row));
    let batches: Vec<Batch> = rows.chunks(BATCH).map(batch).collect();
    let Some((penalty, inner)) = batches.split_last() else { return Err("there are no training rows".into()) };

    println!(
        "{:>8} {:>8} {:>8} {:>12} {:>12} {:>12}",
        "stored", "computed", "ε", "correlation", "error, rms", "slope, rms"
    );
    for dtype in [WeightDtype::F32, WeightDtype::Bf16] {
        let mut method = bilevel(Backbone::load(&files, dtype, &Device::flex())?)?;
        for batch in inner {
            let mut fixed = FixedBatches { inner: batch, outer: batch, penalty: batch };
            method.inner_step(&mut fixed, RATES.shadow, 0)?;
        }
        let reference = slopes(&method, penalty, REFERENCE_EPS, seeds);
        for compute in [Compute::F32, Compute::Bf16] {
            method.backbone = method.backbone.computing_in(compute);
            for eps in EPS {
                let slopes = slopes(&method, penalty, eps, seeds);
                let error = rms(slopes.iter().zip(&reference).map(|(a, b)| a - b));
                let (correlation, size) = (correlation(&slopes, &reference), rms(reference.iter().copied()));
                let (stored, computed) = (dtype.to_string(), format!("{compute:?}").to_lowercase());
                println!("{stored:>8} {computed:>8} {eps:>8} {correlation:>12.4} {error:>12.4} {size:>12.4}");
            }
        }
    }
    Ok(())
}

/// The slope of F(θ,p;B) − F(θ,s;B) along directions of different seeds.
fn slopes(method: &Bilevel, batch: &Batch, eps: f32, seeds: u64) -> Vec<f64> {
    let part = |adapter| Part { batch, adapter: Some(adapter) };
    let parts = [part(&method.adapter.values), part(&method.shadow.values)];
    let slope = |seed| {
        let estimate = Spsa::two_sided(eps).slope(BackboneDirection::Seeded(seed), |view| {
            let both = losses(&method.backbone, &parts, view);
            [0, 1].map(|sign| both[sign][0] - both[sign][1])
        });
        estimate.slope
    };
    (1..=seeds).map(slope).collect()
}

fn rms(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let count = values.clone().count() as f64;
    (values.map(|x| x * x).sum::<f64>() / count).sqrt()
}

/// Pearson's.
fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let centred = || a.iter().map(|x| x - mean_a).zip(b.iter().map(|x| x - mean_b));
    let product: f64 = centred().map(|(a, b)| a * b).sum();
    product / (centred().map(|(a, _)| a * a).sum::<f64>() * centred().map(|(_, b)| b * b).sum::<f64>()).sqrt()
}
