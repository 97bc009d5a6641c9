//! One MeZO step and one Bilevel-ZOFO step (T = 1, batch 1) of a model of any size on random tokens: what they need in
//! time and memory. With a folder DISK the weights lie in files there, for a model that does not fit into memory; with
//! bf16, products are those of bf16, too.
//!
//!     cargo run --release -p zofo --example one_step -- MODEL [f32|bf16] [TOKENS] [DISK]

#![allow(clippy::print_stdout, reason = "an example prints its result")]

use burn::tensor::Device;
use std::error::Error;
use std::path::Path;
use std::time::Instant;
use zofo::bench::{FixedBatches, RATES, bilevel, mezo_step, peak_rss_mib};
use zofo::hf::{ModelFiles, WeightDtype};
use zofo::model::{Backbone, Batch};
use zofo::train::StepInput;
use zofo::zo::BackboneDirection;
use zofo_kernels::Compute;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().ok_or("usage: one_step MODEL [f32|bf16] [TOKENS] [DISK]")?;
    let (dtype, compute) = match arguments.next().as_deref() {
        None | Some("f32") => (WeightDtype::F32, Compute::F32),
        Some("bf16") => (WeightDtype::Bf16, Compute::Bf16),
        Some(other) => return Err(format!("the type of the weights is f32 or bf16, not {other}").into()),
    };
    let tokens: usize = arguments.next().map_or(Ok(64), |text| text.parse())?;

    let start = Instant::now();
    let files = ModelFiles::open(Path::new(&model))?;
    let device = Device::flex();
    let backbone = match arguments.next() {
        Some(disk) => Backbone::load_onto_disk(&files, dtype, &device, Path::new(&disk))?,
        None => Backbone::load(&files, dtype, &device)?,
    };
    let backbone = backbone.computing_in(compute);
    report(&format!("{} weights opened", backbone.len()), start);

    let vocabulary = files.config().vocabulary;
    // Far apart and never the same order twice; what the tokens are does not matter.
    let ids: Vec<u32> = (0..=tokens).map(|i| (i * 7919 % vocabulary) as u32).collect();
    let labels: Vec<Option<u32>> = ids.iter().copied().map(Some).collect();
    let batch = Batch::labelled([(&ids[..tokens], &labels[..tokens])]);
    let mut method = bilevel(backbone)?;
    method.inner_steps = 1;

    let start = Instant::now();
    let estimate = mezo_step(&mut method.backbone, &batch, &[1])[0];
    report(&format!("MeZO step, slope {:.4}", estimate.slope), start);

    let start = Instant::now();
    let mut batches = FixedBatches { inner: &batch, outer: &batch, penalty: &batch };
    let step = method.step(&StepInput::new(vec![BackboneDirection::Seeded(2)], RATES), &mut batches)?;
    report(&format!("bilevel step, a = {:.4}", step.loss), start);
    Ok(())
}

/// Prints what was done, how long it took, and the most memory that the process has had.
fn report(what: &str, start: Instant) {
    let peak = peak_rss_mib().map_or("unknown".to_owned(), |peak| format!("{peak:.0} MiB"));
    println!("{what}: {:.1} s, peak RSS {peak}", start.elapsed().as_secs_f64());
}
