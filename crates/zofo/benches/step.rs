//! What the parts of a step cost on this machine: `cargo bench --workspace --bench step`.
//!
//! Needs `ZOFO_SMOLLM2_GGUF` (a model) and `ZOFO_DATA_DIR` (a folder with `sst2/train.jsonl`). The batches are rows 1–8, 9–16, …
//! of the training file with their right answers; the first warms up, the mean of the next seven is printed.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use burn::tensor::Device;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Instant;
use zofo::eval::evaluate;
use zofo::hf::{ModelFiles, WeightDtype};
use zofo::model::{Backbone, Batch, Part};
use zofo::peft::{Adapter, Lora, LoraConfig};
use zofo::run::config::Optimizer;
use zofo::task::{DataSplit, Dataset, EncodedExample, Encoder, Task, TemplateName};
use zofo::train::bilevel::Bilevel;
use zofo::train::loss::losses;
use zofo::train::{Batches, Block, LearningRates, StepInput};
use zofo::zo::estimator::Spsa;
use zofo::zo::optimizer::BackboneOptimizer;
use zofo::zo::update::BackboneUpdater;
use zofo::zo::{BackboneDirection, Perturbation};

const BATCH: usize = 8;
const BATCHES: usize = 8;

/// Batches in the order in which they are asked for.
struct Queue(VecDeque<Batch>);

impl Queue {
    fn next(&mut self) -> Batch {
        let batch = self.0.pop_front().unwrap_or_default();
        self.0.push_back(batch.clone());
        batch
    }
}

impl Batches for Queue {
    fn inner(&mut self) -> Batch {
        self.next()
    }

    fn outer(&mut self) -> Batch {
        self.next()
    }

    fn penalty(&mut self) -> Batch {
        self.0.front().cloned().unwrap_or_default()
    }
}

fn report(name: &str, mut f: impl FnMut(usize)) {
    f(0);
    let start = Instant::now();
    (1..BATCHES).for_each(&mut f);
    let mean = start.elapsed().as_secs_f64() * 1e3 / (BATCHES - 1) as f64;
    println!("{name:<24} {mean:8.0} ms   peak {} MiB", peak_rss_mib().unwrap_or_default());
}

/// Peak resident memory of this process, where the system tells.
fn peak_rss_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? / 1024)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (Some(model), Some(data)) = (std::env::var_os("ZOFO_SMOLLM2_GGUF"), std::env::var_os("ZOFO_DATA_DIR")) else {
        println!("skipped: set ZOFO_SMOLLM2_GGUF and ZOFO_DATA_DIR");
        return Ok(());
    };
    let (model, data) = (PathBuf::from(model), PathBuf::from(data));
    let device = Device::flex();
    let files = ModelFiles::open(&model)?;
    let tokenizer = files.tokenizer()?;
    let task = Task::load("sst2")?;
    let encoder = Encoder::new(&task, &TemplateName::PROMPT, &tokenizer, files.config().limits())?;
    let train = Dataset::open(&data, &task, DataSplit::Train)?;
    let held_out = Dataset::open(&data, &task, DataSplit::Validation)?;
    let train = encoder.encode(&train.examples[..BATCH * (BATCHES + 1)])?.examples;
    let held_out = encoder.encode(&held_out.examples[..200])?.examples;
    let batch = |rows: &[EncodedExample]| Batch::answers(rows.iter().map(EncodedExample::gold_row));
    let batches: Vec<Batch> = train.chunks(BATCH).map(batch).collect();
    let tokens: Vec<usize> = batches.iter().map(Batch::tokens).collect();
    println!("{} threads, tokens per batch {tokens:?}", rayon::current_num_threads());

    let backbone = Backbone::load(&files, WeightDtype::F32, &device)?;
    let adapter = Adapter::Lora(Lora::new(LoraConfig::default(), files.config(), 0, &device)?);
    let mut method = Bilevel {
        backbone,
        adapter: Block::new(adapter.clone(), Optimizer::AdamW),
        shadow: Block::new(adapter, Optimizer::AdamW),
        backbone_optimizer: BackboneUpdater::new(BackboneOptimizer::Rms),
        spsa: Spsa::two_sided(1e-3),
        penalty: 1e4,
        penalty_normalized: false,
        inner_steps: 0,
        inner_accumulate: 1,
        outer_accumulate: 1,
    };
    let rates = LearningRates { shadow: 1e-3, adapter: 1e-4, backbone: 1e-7 };

    report("forward", |i| {
        let part = [Part { batch: &batches[i], adapter: None }];
        losses(&method.backbone, &part, &Perturbation::None);
    });
    report("forward, both signs", |i| {
        let part = [Part { batch: &batches[i], adapter: None }];
        Spsa::two_sided(1e-3).slope(BackboneDirection::Seeded(1), |view| {
            let both = losses(&method.backbone, &part, view);
            [both[0][0], both[1][0]]
        });
    });
    report("update of θ", |i| method.backbone.descend(&BackboneDirection::Seeded(i as u64), 1e-9));
    report("inner step", |i| {
        // A loss that is not finite would show in the next line; here only time counts.
        let _ = method.inner_step(&mut Queue(vec![batches[i].clone()].into()), 1e-3, 0);
    });
    let mut queue = Queue(batches.into());
    report("outer step", |i| {
        let _ = method.step(&StepInput::new(vec![BackboneDirection::Seeded(i as u64)], rates), &mut queue);
    });
    let start = Instant::now();
    let evaluation = evaluate(&method.backbone, None, &held_out, |_| {});
    let seconds = start.elapsed().as_secs_f64();
    println!("evaluation {:.1} examples/s (accuracy {:.3})", held_out.len() as f64 / seconds, evaluation.accuracy());
    Ok(())
}
