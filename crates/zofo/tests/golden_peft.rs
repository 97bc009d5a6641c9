//! PEFT blocks of every kind against peft: logits, losses, gradients, optimizer trajectories, greedy generation and merged
//! weights.

mod golden_cases;

use burn::tensor::Device;
use golden_cases::{
    Case, GRADIENT, LOGITS, LOSS, Report, Tensors, Tolerance, cases_with, ids, labelled, number, numbers, open_model,
    values,
};
use zofo::eval::{Generation, Sampling, generate};
use zofo::hf::{HfError, WeightDtype};
use zofo::model::{Backbone, Part};
use zofo::peft::{Adapter, AdapterOptimizer};
use zofo::run::config::Optimizer;
use zofo::train::loss::{loss, loss_gradients};
use zofo::zo::Perturbation;

/// Weights with a block merged in: sums of a few products.
const MERGED: Tolerance = Tolerance { absolute: 1e-6, relative: 1e-6 };
/// Adapters after steps of SGD.
const AFTER_SGD: Tolerance = Tolerance { absolute: 1e-5, relative: 0.0 };
/// Adapters after steps of AdamW.
const AFTER_ADAMW: Tolerance = Tolerance { absolute: 1e-4, relative: 0.0 };

/// A block on its backbone, with the reference values of both.
struct Block {
    /// The model and its batch.
    base: Case,
    /// The block.
    case: Case,
    backbone: Backbone,
    adapter: Adapter,
}

#[test]
fn golden_peft_logits_and_losses() {
    let mut report = Report::default();
    for Block { base, case, backbone, adapter } in blocks(&mut report) {
        let place = place(&base, &case);
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
        let mean = number(&case.expected()["loss"], "mean");
        report.number("loss", &place, loss(&backbone, &adapter, &batch), mean, LOSS);

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
    for Block { base, case, backbone, adapter } in blocks(&mut report) {
        let place = place(&base, &case);
        let batch = labelled(&base.tensors("expected.safetensors").rows(""));
        let (losses, gradients) = loss_gradients(&backbone, &adapter, &[(1.0, &batch)]);
        report.number("loss", &place, losses[0], number(&case.expected()["loss"], "mean"), LOSS);
        let expected = case.tensors("grads.safetensors");
        check_names(&mut report, &place, &adapter, &expected);
        for ((name, _), gradient) in adapter.tensors().into_iter().zip(gradients) {
            let at = format!("{place}: {name}");
            report.close("gradients", at, &values(gradient), expected.real(&name), GRADIENT);
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
    for Block { base, case, backbone, adapter } in blocks(&mut report) {
        let greedy = &case.expected()["greedy"];
        let request = Generation {
            prompt: &ids(greedy, "prompt_ids"),
            max_new_tokens: ids(greedy, "new_ids").len(),
            stop: &[],
            sampling: Sampling::Greedy,
        };
        let new = generate(&backbone, Some(&adapter), &request, |_| true);
        report.greedy(place(&base, &case), &new, greedy);
        report.ran();
    }
    report.finish();
}

#[test]
fn golden_peft_merged_weights() {
    let mut report = Report::default();
    for Block { base, case, backbone, adapter } in blocks(&mut report) {
        let (Adapter::Lora(lora), true) = (&adapter, case.has(&["merged_weights.safetensors"])) else { continue };
        let expected = case.tensors("merged_weights.safetensors");
        let names: Vec<&str> = backbone.parameters().iter().map(|weight| weight.name()).collect();
        for name in expected.names() {
            assert!(names.contains(&name), "{}: no weight {name}", place(&base, &case));
        }
        for weight in backbone.parameters() {
            let merged = lora.merged(weight.name(), weight.value());
            let at = format!("{}: {}", place(&base, &case), weight.name());
            if expected.names().contains(&weight.name()) {
                report.close("merged weights", at, &values(merged), expected.real(weight.name()), MERGED);
            } else {
                report.same_bits(at, &values(merged), &values(weight.value()));
            }
        }
        report.ran();
    }
    report.finish();
}

fn check_steps(report: &mut Report, block: &Block, optimizer: Optimizer, name: &str) {
    let Block { base, case, backbone, .. } = block;
    let place = format!("{}: {name}", place(base, case));
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

/// The blocks of all cases whose family and kind are supported; the others are noted as skipped.
fn blocks(report: &mut Report) -> Vec<Block> {
    let mut blocks = Vec::new();
    for base in cases_with(&["model", "expected.safetensors"]) {
        for case in base.inner("peft-") {
            let place = place(&base, &case);
            let Some(files) = open_model(&base.path("model"), &place, report) else { continue };
            let backbone = Backbone::load(&files, WeightDtype::F32, &Device::flex()).unwrap();
            match Adapter::read(&case.path("adapter"), backbone.config(), backbone.device()) {
                Ok(adapter) => blocks.push(Block { base: base.clone(), case, backbone, adapter }),
                Err(HfError::Unsupported { what, found, .. }) if what.contains("peft_type") => {
                    report.skip("block not supported", format!("{place} is {found}"));
                }
                Err(error) => panic!("{place}: {error}"),
            }
        }
    }
    blocks
}

fn place(base: &Case, case: &Case) -> String {
    format!("{}/{}", base.name(), case.name())
}
