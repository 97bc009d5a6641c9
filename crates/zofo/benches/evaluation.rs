//! Evaluation against the loop of MeZO's code: `cargo bench --workspace --bench evaluation`.
//!
//! Needs `ZOFO_SMOLLM2_GGUF` (a model) and `ZOFO_DATA_DIR` (folders `sst2` and `multirc` with a `validation.jsonl`). The loop
//! is run by this engine too: every candidate by itself, prompt and all, a batch of one row, and logits at every position
//! of which those of the answer are used. Both ways see the same rows and must give the same scores.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use burn::tensor::{Device, activation::log_softmax};
use std::path::{Path, PathBuf};
use std::time::Instant;
use zofo::eval::evaluate;
use zofo::hf::{ModelFiles, WeightDtype};
use zofo::model::{Backbone, Batch};
use zofo::task::{DataSplit, Dataset, EncodedCandidate, EncodedExample, Encoder, Task, TemplateName};

/// A task and how many of its validation rows: the loop takes its time.
const TASKS: [(&str, usize); 2] = [("sst2", 400), ("multirc", 40)];

/// Log-probabilities that differ by more are not rounding.
const TOLERANCE: f64 = 1e-4;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (Some(model), Some(data)) = (std::env::var_os("ZOFO_SMOLLM2_GGUF"), std::env::var_os("ZOFO_DATA_DIR")) else {
        println!("skipped: set ZOFO_SMOLLM2_GGUF and ZOFO_DATA_DIR");
        return Ok(());
    };
    let files = ModelFiles::open(&PathBuf::from(model))?;
    let backbone = Backbone::load(&files, WeightDtype::F32, &Device::flex())?;
    println!("{} threads", rayon::current_num_threads());
    for (name, rows) in TASKS {
        let examples = read(name, rows, Path::new(&data), &files)?;
        let tokens: usize = examples.iter().map(|example| example.candidates[0].ids.len()).sum();
        // Warms up: the first pass over the weights reads them from the disk.
        evaluate(&backbone, None, &examples[..8], |_| ());

        let start = Instant::now();
        let batched = evaluate(&backbone, None, &examples, |_| ());
        let fast = examples.len() as f64 / start.elapsed().as_secs_f64();
        let start = Instant::now();
        let looped: Vec<Vec<f64>> = examples
            .iter()
            .map(|example| example.candidates.iter().map(|candidate| score(&backbone, candidate)).collect())
            .collect();
        let slow = examples.len() as f64 / start.elapsed().as_secs_f64();

        let pairs = batched.examples.iter().flat_map(|example| &example.scores).zip(looped.iter().flatten());
        let difference = pairs.map(|(left, right)| (left - right).abs()).fold(0.0, f64::max);
        assert!(difference < TOLERANCE, "{name}: scores differ by {difference}");
        println!(
            "{name:<8} {rows} rows of {} tokens: {fast:.1} examples/s, candidate by candidate {slow:.1}: {:.1} times as fast \
             (scores differ by {difference:.1e})",
            tokens / rows,
            fast / slow,
        );
    }
    Ok(())
}

fn read(
    name: &str,
    rows: usize,
    data: &Path,
    files: &ModelFiles,
) -> Result<Vec<EncodedExample>, Box<dyn std::error::Error>> {
    let (task, tokenizer) = (Task::load(name)?, files.tokenizer()?);
    let encoder = Encoder::new(&task, &TemplateName::PROMPT, &tokenizer, files.config().limits())?;
    let dataset = Dataset::open(&data.join(name), &task, DataSplit::Validation)?;
    Ok(encoder.encode(&dataset.examples[..rows])?.examples)
}

/// The mean log-probability of a candidate's tokens, as the loop computes it.
fn score(backbone: &Backbone, candidate: &EncodedCandidate) -> f64 {
    let ids = &candidate.ids;
    let logits = backbone.logits(&Batch::answers([candidate]), None);
    // Its last token predicts nothing, and is not fed.
    let logprobs: Vec<f32> = log_softmax(logits, 1).into_data().iter().collect();
    let vocabulary = logprobs.len() / (ids.len() - 1);
    let answer = ids.len() - candidate.answer_len..ids.len();
    let sum: f64 = answer.map(|place| f64::from(logprobs[(place - 1) * vocabulary + ids[place] as usize])).sum();
    sum / candidate.answer_len as f64
}
