//! PEFT blocks of every kind against peft: logits, losses, gradients, optimizer trajectories, greedy generation, and merged
//! into weights.

mod golden_cases;

use golden_cases::{
    Block, GRADIENT, LOGITS, LOSS, Report, Tensors, Tolerance, blocks, ids, labelled, list, number, numbers, values,
};
use serde_json::Value;
use zofo::eval::{Generation, Sampling, generate};
use zofo::hf::{ModelFiles, WeightDtype};
use zofo::model::{Backbone, Part};
use zofo::peft::{Adapter, AdapterOptimizer, merge};
use zofo::run::config::Optimizer;
use zofo::train::loss::{loss, loss_gradients};
use zofo::zo::Perturbation;

/// Weights with a block merged in: sums of a few products.
const MERGED: Tolerance = Tolerance { absolute: 1e-6, relative: 1e-6 };
/// Adapters after steps of SGD.
const AFTER_SGD: Tolerance = Tolerance { absolute: 1e-5, relative: 0.0 };
/// Adapters after steps of AdamW.
const AFTER_ADAMW: Tolerance = Tolerance { absolute: 1e-4, relative: 0.0 };

#[test]
fn golden_peft_logits_and_losses() {
    let mut report = Report::default();
    for block in blocks(&mut report) {
        let place = block.place();
        let Block { base, case, backbone, adapter, .. } = block;
        let rows = base.tensors("expected.safetensors").rows("");
        let expected = case.tensors("expected.safetensors");
        let mut all = Vec::new();
        for (i, row) in rows.iter().enumerate() {
            let batch = row.every_token();
            let logits = expected.real(&format!("logits.{i}"));
            all.extend_from_slice(logits);
            let at = format!("{place}: sequence {i}");
            report.close("logits", &at, &values(backbone.logits(&batch, Some(&adapter))), logits, LOGITS);
            let part = Part { batch: &batch, adapter: Some(&adapter) };
            let nll = values(backbone.token_nll(&[part], &Perturbation::None));
            report.close("nll", &at, &nll, expected.real(&format!("nll.{i}")), LOGITS);
        }
        let batch = labelled(&rows);
        let together = values(backbone.logits(&batch, Some(&adapter)));
        report.close("logits", format!("{place}: all sequences"), &together, &all, LOGITS);

        let json = case.expected();
        report.equal(format!("{place}: values"), &Some(adapter.len() as u64), &json["num_trainable"].as_u64());
        let virtual_tokens = json["num_virtual_tokens"].as_u64().unwrap_or_default();
        report.equal(format!("{place}: virtual tokens"), &(adapter.virtual_tokens() as u64), &virtual_tokens);
        report.number("loss", &place, loss(&backbone, &adapter, &batch), number(&json["loss"], "mean"), LOSS);
        let counts = numbers(&json["loss"], "per_sequence_count");
        for (i, sum) in numbers(&json["loss"], "per_sequence_sum").into_iter().enumerate() {
            let alone = loss(&backbone, &adapter, &labelled(&rows[i..=i]));
            report.number("loss", format!("{place}: sequence {i}"), alone, sum / counts[i], LOSS);
        }
        if let Adapter::Prompt(_) = adapter {
            let logits = values(backbone.prompt_logits(&adapter));
            let at = format!("{place}: virtual tokens");
            report.close("logits", &at, &logits, expected.real("virtual_logits"), LOGITS);
            // The last of them predicts a sequence's first token, which peft counts where it has a label.
            let last = &logits[logits.len() - backbone.config().vocabulary..];
            let sum: f64 = rows.iter().map(|row| nll_of(row.ids[0], last)).sum();
            let sum = sum + numbers(&json["loss"], "per_sequence_sum").iter().sum::<f64>();
            let mean = sum / (counts.iter().sum::<f64>() + rows.len() as f64);
            report.number("loss", at, mean, number(&json, "loss_when_first_label_counts"), LOSS);
        }

        // What is written and read again computes the same bits.
        let written = tempfile::tempdir().unwrap();
        adapter.write(&base.path("model"), written.path()).unwrap();
        let again = Adapter::read(written.path(), backbone.config(), backbone.device()).unwrap();
        report.same_bits(format!("{place}: written"), &values(backbone.logits(&batch, Some(&again))), &together);
        report.ran();
    }
    report.finish();
}

#[test]
fn golden_peft_gradients() {
    let mut report = Report::default();
    for block in blocks(&mut report) {
        let place = block.place();
        let Block { base, case, mut backbone, adapter, .. } = block;
        let batch = labelled(&base.tensors("expected.safetensors").rows(""));
        let expected = case.tensors("grads.safetensors");
        check_names(&mut report, &place, &adapter, &expected);
        for checkpointing in [false, true] {
            backbone = backbone.with_gradient_checkpointing(checkpointing);
            let (losses, gradients) = loss_gradients(&backbone, &adapter, &[(1.0, &batch)]);
            report.number("loss", &place, losses[0], number(&case.expected()["loss"], "mean"), LOSS);
            for ((name, _), gradient) in adapter.tensors().into_iter().zip(gradients) {
                let at = format!("{place}: {name}, checkpointing {checkpointing}");
                report.close("gradients", at, &values(gradient), expected.real(&name), GRADIENT);
            }
        }
        report.ran();
    }
    report.finish();
}

#[test]
fn golden_peft_steps_of_sgd_and_adamw() {
    let mut report = Report::default();
    for block in blocks(&mut report) {
        let expected = block.case.expected();
        let adamw = &expected["adamw"];
        let constants = [numbers(adamw, "betas"), vec![number(adamw, "eps"), number(adamw, "weight_decay")]].concat();
        report.equal("constants of AdamW", constants.as_slice(), &[0.9, 0.999, 1e-8, 0.0]);
        check_steps(&mut report, &block, Optimizer::Sgd, "sgd");
        check_steps(&mut report, &block, Optimizer::AdamW, "adamw");
        report.ran();
    }
    report.finish();
}

#[test]
fn golden_peft_greedy_generation() {
    let mut report = Report::default();
    for block in blocks(&mut report) {
        let Block { case, backbone, adapter, .. } = &block;
        let greedy = &case.expected()["greedy"];
        let request = Generation {
            prompt: &ids(greedy, "prompt_ids"),
            max_new_tokens: ids(greedy, "new_ids").len(),
            stop: &[],
            sampling: Sampling::Greedy,
        };
        let new = generate(backbone, Some(adapter), &request, |_| true).unwrap();
        report.greedy(block.place(), &new, greedy);
        report.ran();
    }
    report.finish();
}

/// The merged weights, and the logits of the folder that they are written to.
#[test]
fn golden_peft_merged() {
    let mut report = Report::default();
    for block in blocks(&mut report) {
        let Adapter::Lora(lora) = &block.adapter else { continue };
        let Block { base, case, backbone, files, .. } = &block;
        let place = block.place();
        let mut merged: Vec<&str> = backbone.parameters().iter().map(|weight| weight.name()).collect();
        merged.retain(|name| block.adapter.adapts(name));
        merged.sort_unstable();
        let json = case.expected();
        let names: Vec<&str> = list(&json, "merged_tensor_names").iter().filter_map(Value::as_str).collect();
        report.equal(format!("{place}: merged weights"), &merged, &names);
        if case.has(&["merged_weights.safetensors"]) {
            let expected = case.tensors("merged_weights.safetensors");
            report.equal(format!("{place}: merged weights"), &merged, &expected.names());
            for weight in backbone.parameters() {
                let merged = values(lora.merged(weight.name(), weight.value()));
                let at = format!("{place}: {}", weight.name());
                if expected.names().contains(&weight.name()) {
                    report.close("merged weights", at, &merged, expected.real(weight.name()), MERGED);
                } else {
                    report.same_bits(at, &merged, &values(weight.value()));
                }
            }
        }

        let folder = tempfile::tempdir().unwrap();
        merge(files, &block.adapter, WeightDtype::F32, folder.path(), |_, _| ()).unwrap();
        let files = ModelFiles::open(folder.path()).unwrap();
        let merged = Backbone::load(&files, WeightDtype::F32, backbone.device()).unwrap();
        let expected = case.tensors("expected.safetensors");
        for (i, row) in base.tensors("expected.safetensors").rows("").iter().enumerate() {
            let logits = values(merged.logits(&row.every_token(), None));
            let expected = expected.real(&format!("merged_logits.{i}"));
            report.close("merged logits", format!("{place}: sequence {i}"), &logits, expected, LOGITS);
        }
        report.ran();
    }
    report.finish();
}

fn check_steps(report: &mut Report, block: &Block, optimizer: Optimizer, name: &str) {
    let Block { base, case, backbone, .. } = block;
    let place = format!("{}: {name}", block.place());
    let settings = &case.expected()[name];
    let learning_rate = number(settings, "lr");
    let losses = numbers(settings, "losses_before_each_step_and_after");
    let steps = losses.len() - 1;
    assert_eq!(settings["steps"].as_u64(), Some(steps as u64), "{place}");

    let batch = labelled(&base.tensors("expected.safetensors").rows(""));
    let mut adapter = block.adapter.clone();
    let mut optimizer = AdapterOptimizer::new(optimizer);
    for (step, expected) in losses[..steps].iter().enumerate() {
        let (before, gradients) = loss_gradients(backbone, &adapter, &[(1.0, &batch)]);
        report.number("loss of a step", format!("{place}: step {step}"), before[0], *expected, LOSS);
        adapter = optimizer.step(&adapter, gradients, learning_rate);
    }
    let after = loss(backbone, &adapter, &batch);
    report.number("loss of a step", format!("{place}: the end"), after, losses[steps], LOSS);

    let expected = case.tensors(&format!("after_{name}.safetensors"));
    check_names(report, &place, &adapter, &expected);
    let wanted: Vec<f32> = adapter.tensors().iter().flat_map(|(name, _)| expected.real(name).to_vec()).collect();
    let actual: Vec<f32> = adapter.tensors().into_iter().flat_map(|(_, tensor)| values(tensor)).collect();
    if name == "sgd" {
        report.close("adapter after SGD", place, &actual, &wanted, AFTER_SGD);
    } else {
        // A gradient that is all rounding still moves its element by the whole rate.
        let outlier = learning_rate * steps as f64;
        report.mostly_close("adapter after AdamW", place, &actual, &wanted, AFTER_ADAMW, outlier);
    }
}

fn check_names(report: &mut Report, place: &str, adapter: &Adapter, expected: &Tensors) {
    let mut names: Vec<String> = adapter.tensors().into_iter().map(|(name, _)| name).collect();
    names.sort();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    report.equal(format!("{place}: names"), names.as_slice(), expected.names().as_slice());
}

/// −log p(token) by these logits.
fn nll_of(token: u32, logits: &[f32]) -> f64 {
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
    sum.ln() - f64::from(logits[token as usize])
}
