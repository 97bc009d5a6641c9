//! One MeZO step and one Bilevel-ZOFO step (T = 1, batch 1) of a model of any size on random tokens: what they need in
//! time and memory.
//!
//!     cargo run --release -p zofo --example one_step -- MODEL [f32|bf16] [TOKENS]

#![allow(clippy::print_stdout, reason = "an example prints its result")]

use burn::tensor::Device;
use std::error::Error;
use std::path::Path;
use std::time::Instant;
use zofo::hf::{ModelFiles, WeightDtype};
use zofo::model::{Backbone, Batch, Part};
use zofo::peft::{Adapter, AdapterConfig, LoraConfig};
use zofo::run::config::Optimizer;
use zofo::train::bilevel::Bilevel;
use zofo::train::loss::losses;
use zofo::train::{Batches, Block, LearningRates, StepInput};
use zofo::zo::BackboneDirection;
use zofo::zo::estimator::Spsa;
use zofo::zo::optimizer::BackboneOptimizer;
use zofo::zo::update::BackboneUpdater;

/// The same batch, whatever it is for.
struct Same(Batch);

impl Batches for Same {
    fn inner(&mut self) -> Batch {
        self.0.clone()
    }

    fn outer(&mut self) -> Batch {
        self.0.clone()
    }

    fn penalty(&mut self) -> Batch {
        self.0.clone()
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().ok_or("usage: one_step MODEL [f32|bf16] [TOKENS]")?;
    let dtype = match arguments.next().as_deref() {
        None | Some("f32") => WeightDtype::F32,
        Some("bf16") => WeightDtype::Bf16,
        Some(other) => return Err(format!("the type of the weights is f32 or bf16, not {other}").into()),
    };
    let tokens: usize = arguments.next().map_or(Ok(64), |text| text.parse())?;

    let start = Instant::now();
    let files = ModelFiles::open(Path::new(&model))?;
    let backbone = Backbone::load(&files, dtype, &Device::flex())?;
    report(&format!("{} weights opened", backbone.len()), start);

    let vocabulary = files.config().vocabulary;
    // Far apart and never the same order twice; what the tokens are does not matter.
    let ids: Vec<u32> = (0..=tokens).map(|i| (i * 7919 % vocabulary) as u32).collect();
    let labels: Vec<Option<u32>> = ids.iter().copied().map(Some).collect();
    let batch = Batch::labelled([(&ids[..tokens], &labels[..tokens])]);
    let adapter = Adapter::new(&AdapterConfig::Lora(LoraConfig::default()), &backbone, 0)?;
    let mut method = Bilevel {
        backbone,
        adapter: Block::new(adapter.clone(), Optimizer::AdamW),
        shadow: Block::new(adapter, Optimizer::AdamW),
        backbone_optimizer: BackboneUpdater::new(BackboneOptimizer::Rms),
        spsa: Spsa::two_sided(1e-3),
        penalty: 1e4,
        penalty_normalized: false,
        inner_steps: 1,
        inner_accumulate: 1,
        outer_accumulate: 1,
    };

    let start = Instant::now();
    let direction = BackboneDirection::Seeded(1);
    let estimate = Spsa::two_sided(1e-3).slope(direction.clone(), |view| {
        let both = losses(&method.backbone, &[Part { batch: &batch, adapter: None }], view);
        [both[0][0], both[1][0]]
    });
    method.backbone.descend(&direction, 1e-7 * estimate.slope as f32);
    report(&format!("MeZO step, slope {:.4}", estimate.slope), start);

    let start = Instant::now();
    let rates = LearningRates { shadow: 1e-3, adapter: 1e-4, backbone: 1e-7 };
    let step = method.step(&StepInput::new(vec![BackboneDirection::Seeded(2)], rates), &mut Same(batch))?;
    report(&format!("bilevel step, a = {:.4}", step.loss), start);
    Ok(())
}

/// Prints what was done, how long it took, and the most memory that the process has had.
fn report(what: &str, start: Instant) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or(" unknown").trim();
    println!("{what}: {:.1} s, peak RSS {peak}", start.elapsed().as_secs_f64());
}
