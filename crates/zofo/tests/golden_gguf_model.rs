//! Models in GGUF files: logits, losses, candidates and greedy generation.
//!
//! `ZOFO_SMOLLM2_GGUF` names the file `SmolLM2-135M-Instruct.Q4_1.gguf`, which is too large to be part of a case.

mod golden_cases;

use burn::tensor::Device;
use golden_cases::{
    Case, LOGITS, LOSS, Report, Tolerance, cases_with, gguf_cases_with, ids, labelled, list, number, numbers, values,
};
use serde_json::Value;
use std::env;
use std::path::Path;
use zofo::eval::{Evaluation, Generation, Sampling, evaluate, generate};
use zofo::hf::{ModelFiles, WeightDtype};
use zofo::model::{Backbone, Batch, Part};
use zofo::task::{EncodedCandidate, EncodedExample};
use zofo::zo::Perturbation;

/// Log-probabilities of SmolLM2's tokens.
const LOGPROB: Tolerance = Tolerance { absolute: 1e-3, relative: 0.0 };

#[test]
fn golden_gguf_model_logits_losses_and_greedy_generation() {
    let mut report = Report::default();
    for (case, gguf) in gguf_cases_with("expected.safetensors") {
        let Some(files) = case.model(&gguf, &mut report) else { continue };
        let backbone = load(&files);
        let json = case.expected();
        let expected = case.tensors("expected.safetensors");
        let rows = expected.rows("");
        let sums = numbers(&json, "sequence_nll_sum");
        let mut all = Vec::new();
        for (i, row) in rows.iter().enumerate() {
            let place = format!("{}: sequence {i}", case.name());
            let batch = row.every_token();
            let logits = expected.real(&format!("logits.{i}"));
            all.extend_from_slice(logits);
            report.close("logits", &place, &values(backbone.logits(&batch, None)), logits, LOGITS);
            let nll = token_nll(&backbone, &batch);
            report.close("nll", &place, &nll, expected.real(&format!("nll.{i}")), LOGITS);
            let count = nll.len() as f64;
            let mean = nll.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
            report.number("loss", &place, mean, sums[i] / count, LOSS);
        }
        let together = values(backbone.logits(&labelled(&rows), None));
        report.close("logits", format!("{}: all sequences", case.name()), &together, &all, LOGITS);

        let greedy = &json["greedy"];
        let new = continuation(&backbone, &ids(greedy, "prompt_ids"), ids(greedy, "new_ids").len());
        report.greedy(case.name(), &new, greedy);
        report.ran();
    }
    report.finish();
}

#[test]
fn golden_gguf_model_smollm2() {
    let mut report = Report::default();
    // Only cases of files that are not part of them have prompts.
    let cases = cases_with(&["expected.json"]).into_iter().map(|case| (case.expected(), case));
    let cases: Vec<_> = cases.filter(|(expected, _)| !expected["prompts"].is_null()).collect();
    if cases.is_empty() {
        report.skip("no reference values", "SmolLM2".to_owned());
    }
    for (expected, case) in cases {
        match env::var_os("ZOFO_SMOLLM2_GGUF") {
            Some(gguf) => {
                check_prompts(&mut report, &case, Path::new(&gguf), &expected);
                report.ran();
            }
            None => report.skip("ZOFO_SMOLLM2_GGUF is not set", case.name()),
        }
    }
    report.finish_optional();
}

fn check_prompts(report: &mut Report, case: &Case, gguf: &Path, expected: &Value) {
    let backbone = load(&ModelFiles::open(gguf).unwrap());
    for (index, prompt) in list(expected, "prompts").iter().enumerate() {
        let place = format!("{}: prompt {index}", case.name());
        let tokens = ids(prompt, "ids");
        let labels: Vec<Option<u32>> = tokens.iter().copied().map(Some).collect();
        let batch = Batch::labelled([(tokens.as_slice(), labels.as_slice())]);
        let nll = token_nll(&backbone, &batch);
        let count = nll.len() as f64;
        let sum: f64 = nll.iter().map(|&x| f64::from(x)).sum();
        let wanted = number(prompt, "prompt_nll_sum") / count;
        report.number("log-probabilities of prompts (mean)", &place, sum / count, wanted, LOGPROB);

        let logits = values(backbone.logits(&batch, None));
        let last = &logits[logits.len() - backbone.config().vocabulary..];
        check_top_tokens(report, &place, last, prompt);
        check_candidates(report, &place, &backbone, &tokens, prompt);

        let clear = usize::try_from(prompt["greedy_clear_len"].as_u64().unwrap()).unwrap();
        let new = continuation(&backbone, &tokens, clear);
        report.equal(format!("{place}: greedy tokens"), new.as_slice(), &ids(prompt, "greedy_ids")[..clear]);
    }
}

/// The log-probabilities of the likeliest next tokens, and that no other token is likelier.
fn check_top_tokens(report: &mut Report, place: &str, logits: &[f32], prompt: &Value) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from(x - max).exp()).sum();
    let logprob = |token: usize| f64::from(logits[token] - max) - sum.ln();
    let top = ids(prompt, "top10_ids");
    let expected = numbers(prompt, "top10_logprobs");
    for (&token, &expected) in top.iter().zip(&expected) {
        let place = format!("{place}: token {token}");
        report.number("log-probabilities of top tokens", place, logprob(token as usize), expected, LOGPROB);
    }
    let least = expected[expected.len() - 1];
    let likelier = (0..logits.len()).filter(|&token| logprob(token) > least + LOGPROB.absolute);
    let others: Vec<usize> = likelier.filter(|token| !top.contains(&(*token as u32))).collect();
    report.equal(format!("{place}: likelier tokens"), others.as_slice(), &[]);
}

fn check_candidates(report: &mut Report, place: &str, backbone: &Backbone, prompt_ids: &[u32], prompt: &Value) {
    let candidates = list(prompt, "candidates");
    let encoded = candidates.iter().map(|candidate| {
        let answer = ids(candidate, "ids");
        EncodedCandidate::new([prompt_ids, &answer].concat(), answer.len())
    });
    let example = EncodedExample { candidates: encoded.collect(), golds: vec![0], line: 1 };
    let Evaluation { examples, .. } = evaluate(backbone, None, &[example], |_| ());
    let logprobs = &examples[0].token_logprobs;
    for (i, (candidate, logprobs)) in candidates.iter().zip(logprobs).enumerate() {
        let expected: Vec<f32> = numbers(candidate, "token_logprobs").iter().map(|&x| x as f32).collect();
        let place = format!("{place}: candidate {i}");
        report.close("log-probabilities of candidates", place, logprobs, &expected, LOGPROB);
    }
    let sums: Vec<f32> = logprobs.iter().map(|logprobs| logprobs.iter().sum()).collect();
    let best = (0..sums.len()).max_by(|&a, &b| sums[a].total_cmp(&sums[b]));
    let expected = prompt["best_candidate"].as_u64().map(|index| index as usize);
    report.equal(format!("{place}: best candidate"), &best, &expected);
}

fn load(files: &ModelFiles) -> Backbone {
    Backbone::load(files, WeightDtype::F32, &Device::flex()).unwrap()
}

fn token_nll(backbone: &Backbone, batch: &Batch) -> Vec<f32> {
    values(backbone.token_nll(&[Part { batch, adapter: None }], &Perturbation::None))
}

fn continuation(backbone: &Backbone, prompt: &[u32], max_new_tokens: usize) -> Vec<u32> {
    let request = Generation { prompt, max_new_tokens, stop: &[], sampling: Sampling::Greedy };
    generate(backbone, None, &request, |_| true).unwrap()
}
