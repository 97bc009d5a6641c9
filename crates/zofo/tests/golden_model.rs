//! Models against transformers: tokens, logits, losses, slopes and greedy generation.

mod golden_cases;

use burn::tensor::Device;
use golden_cases::{
    Case, LOGITS, LOSS, Report, Row, Tolerance, along, cases_with, check_tokenizer, encode, entries, ids, labelled,
    list, number, numbers, read_json, text, values,
};
use std::fs;
use tempfile::TempDir;
use zofo::eval::{Generation, Sampling, generate};
use zofo::hf::{ModelFiles, WeightDtype};
use zofo::model::{Backbone, Part};
use zofo::train::loss::{losses, mean_backbone_gradients};
use zofo::zo::Perturbation;
use zofo::zo::estimator::Spsa;

/// How far weights move for a slope: below it rounding grows, above it curvature.
const SLOPE_EPS: f32 = 3e-3;
const SLOPE: Tolerance = Tolerance { absolute: 1e-3, relative: 1e-2 };
/// Exact gradients of weights.
const GRADIENT: Tolerance = Tolerance { absolute: 2e-6, relative: 1e-4 };

/// What a case of a model has.
const FILES: &[&str] = &["model", "expected.json", "expected.safetensors"];

#[test]
fn golden_model_logits_and_losses() {
    let mut report = Report::default();
    for case in cases_with(FILES) {
        let Some(files) = case.model("model", &mut report) else { continue };
        let backbone = load(&files, WeightDtype::F32);
        let expected = case.expected();
        report.equal(case.name(), &(backbone.len() as u64), &expected["num_parameters"].as_u64().unwrap());
        let is_tied = expected["tied_output_embedding"].as_bool().unwrap();
        report.equal(case.name(), &files.config().is_tied(), &is_tied);
        let eos = u32::try_from(expected["eos_token_id"].as_u64().unwrap()).unwrap();
        report.equal(format!("{}: EOS", case.name()), files.eos_token_ids(), [eos].as_slice());

        check_logits(&mut report, &case, "model", &backbone);
        check_hidden_states(&mut report, &case, &backbone);
        check_losses(&mut report, &case, &backbone);
        if let Some(legacy) = with_legacy_config(&case) {
            let legacy = load(&ModelFiles::open(legacy.path()).unwrap(), WeightDtype::F32);
            check_logits(&mut report, &case, "config_legacy.json", &legacy);
        }
        let variants = case.inner("model-");
        let listed = expected["variants"].as_object();
        let mut listed: Vec<String> = listed.into_iter().flat_map(|variants| variants.keys().cloned()).collect();
        listed.sort_unstable();
        report.equal(format!("{}: variants", case.name()), &variants.iter().map(Case::name).collect(), &listed);
        for variant in variants {
            let files = ModelFiles::open(&variant.path("")).unwrap();
            let backbone = load(&files, WeightDtype::F32);
            check_logits(&mut report, &case, &variant.name(), &backbone);
            if let Some(loss) = expected["variants"][variant.name()]["mean_loss_f32_arithmetic"].as_f64() {
                let rows = case.tensors("expected.safetensors").rows("");
                let place = format!("{}/{}", case.name(), variant.name());
                report.number("loss", place, mean_loss(&backbone, &rows), loss, LOSS);
            }
        }
        report.ran();
    }
    report.finish();
}

/// Weights that stay in bfloat16 in memory give the bits that the widened ones give.
#[test]
fn golden_model_bf16_storage() {
    let mut report = Report::default();
    for case in cases_with(&["model-bf16"]) {
        let Some(files) = case.model("model-bf16", &mut report) else { continue };
        let [wide, narrow] = [WeightDtype::F32, WeightDtype::Bf16].map(|dtype| load(&files, dtype));
        let rows = case.tensors("expected.safetensors").rows("");
        let batch = labelled(&rows);
        let [wide, narrow] = [wide, narrow].map(|backbone| {
            let part = [Part { batch: &batch, adapter: None }];
            let nll = backbone.token_nll(&part, &Perturbation::None);
            [values(backbone.logits(&batch, None)), values(nll)]
        });
        for (what, narrow, wide) in [("logits", &narrow[0], &wide[0]), ("nll", &narrow[1], &wide[1])] {
            report.same_bits(format!("{}: bfloat16 {what}", case.name()), narrow, wide);
        }
        report.ran();
    }
    report.finish();
}

/// The slope of the loss while one weight alone moves by ones is the sum of its exact gradient: the perturbation of every
/// weight reaches the loss, through all places where the weight is used. The exact gradients are the stored ones.
#[test]
fn golden_model_slopes_of_the_loss() {
    let mut report = Report::default();
    for case in cases_with(FILES) {
        let Some(files) = case.model("model", &mut report) else { continue };
        let backbone = load(&files, WeightDtype::F32);
        let batch = labelled(&case.tensors("expected.safetensors").rows(""));
        let part = [Part { batch: &batch, adapter: None }];
        let json = case.expected();
        let gradients = json["gradient_summary"]["parameters"].as_object().unwrap();
        report.equal(format!("{}: weights", case.name()), &backbone.parameters().len(), &gradients.len());
        for weight in backbone.parameters() {
            let len = weight.shape().iter().product::<usize>();
            // Of length 1, so that ε is the distance.
            let unit = 1.0 / (len as f32).sqrt();
            let direction = along(&backbone, weight.name(), vec![unit; len].into());
            let estimate = Spsa::two_sided(SLOPE_EPS).slope(direction, |view| {
                let both = losses(&backbone, &part, view);
                [both[0][0], both[1][0]]
            });
            let expected = number(&gradients[weight.name()], "sum") * f64::from(unit);
            let place = format!("{}: {}", case.name(), weight.name());
            report.number("slope of the loss along a weight", place, estimate.slope, expected, SLOPE);
        }
        let (_, exact) = mean_backbone_gradients(&backbone, std::slice::from_ref(&batch));
        for (weight, gradient) in backbone.parameters().iter().zip(exact) {
            let place = format!("{}: {}", case.name(), weight.name());
            let (gradient, expected) = (values(gradient), &gradients[weight.name()]);
            let length = gradient.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            report.number("length of a gradient", &place, length, number(expected, "l2"), GRADIENT);
            for (index, value) in list(expected, "flat_index").iter().zip(numbers(expected, "value")) {
                let index = index.as_u64().unwrap() as usize;
                report.number("gradient of a weight", &place, f64::from(gradient[index]), value, GRADIENT);
            }
        }
        report.ran();
    }
    report.finish();
}

#[test]
fn golden_model_greedy_generation() {
    let mut report = Report::default();
    for case in cases_with(FILES) {
        let Some(files) = case.model("model", &mut report) else { continue };
        let backbone = load(&files, WeightDtype::F32);
        let greedy = &case.expected()["greedy"];
        let request = Generation {
            prompt: &ids(greedy, "prompt_ids"),
            max_new_tokens: ids(greedy, "new_ids").len(),
            stop: &[],
            sampling: Sampling::Greedy,
        };
        report.greedy(case.name(), &generate(&backbone, None, &request, |_| true).unwrap(), greedy);
        report.ran();
    }
    report.finish();
}

#[test]
fn golden_model_tokenizers() {
    let mut report = Report::default();
    for case in cases_with(&["model/tokenizer.json", "tokenizer_expected.json"]) {
        let Some(files) = case.model("model", &mut report) else { continue };
        let tokenizer = files.tokenizer().unwrap();
        let expected = read_json(&case.path("tokenizer_expected.json"));
        let size = expected["tokenizer_vocab_size"].as_u64().unwrap();
        report.equal(case.name(), &(tokenizer.get_vocab_size(true) as u64), &size);
        check_tokenizer(&mut report, &case.name(), &tokenizer, &expected);
        if case.has(FILES) {
            // The sequence is the beginning of the text.
            let row = &case.tensors("expected.safetensors").rows("")[0].ids;
            let json = case.expected();
            let text = text(&json, "text_of_sequence_0");
            report.equal(format!("{}: sequence 0", case.name()), &encode(&tokenizer, text, true)[..row.len()], row);
        }
        report.ran();
    }
    report.finish();
}

/// Every sequence alone, and all in one ragged batch.
fn check_logits(report: &mut Report, case: &Case, variant: &str, backbone: &Backbone) {
    let (kind, prefix) = match variant {
        "model-bf16" => ("logits of bfloat16 weights", "bf16."),
        "model-bin-f16" => ("logits of float16 weights", "f16."),
        _ => ("logits", ""),
    };
    let expected = case.tensors("expected.safetensors");
    let rows = expected.rows("");
    let mut all = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        let expected = expected.real(&format!("{prefix}logits.{i}"));
        let place = format!("{}/{variant}: sequence {i}", case.name());
        report.close(kind, place, &values(backbone.logits(&row.every_token(), None)), expected, LOGITS);
        all.extend_from_slice(expected);
    }
    let place = format!("{}/{variant}: all sequences", case.name());
    report.close(kind, place, &values(backbone.logits(&labelled(&rows), None)), &all, LOGITS);
}

/// What goes into the first block, what leaves every block, and what goes into the head: sequence 0.
fn check_hidden_states(report: &mut Report, case: &Case, backbone: &Backbone) {
    let expected = case.tensors("expected.safetensors");
    let row = &expected.rows("")[0];
    for (k, state) in backbone.hidden_states(&row.every_token(), None).into_iter().enumerate() {
        let name = format!("hidden.0.{k}");
        report.close("hidden states", format!("{}: {name}", case.name()), &values(state), expected.real(&name), LOGITS);
    }
}

fn check_losses(report: &mut Report, case: &Case, backbone: &Backbone) {
    let expected = case.tensors("expected.safetensors");
    let rows = expected.rows("");
    let json = case.expected();
    let sums = numbers(&json, "sequence_nll_sum");
    let mut all = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        let batch = row.every_token();
        let nll = values(backbone.token_nll(&[Part { batch: &batch, adapter: None }], &Perturbation::None));
        let place = format!("{}: sequence {i}", case.name());
        let expected = expected.real(&format!("nll.{i}"));
        report.close("nll", &place, &nll, expected, LOGITS);
        let mean = nll.iter().map(|&x| f64::from(x)).sum::<f64>() / nll.len() as f64;
        report.number("loss", &place, mean, sums[i] / nll.len() as f64, LOSS);
        all.extend_from_slice(expected);
    }
    let batches: Vec<_> = rows.iter().map(Row::every_token).collect();
    let parts: Vec<_> = batches.iter().map(|batch| Part { batch, adapter: None }).collect();
    let together = values(backbone.token_nll(&parts, &Perturbation::None));
    report.close("nll", format!("{}: all sequences", case.name()), &together, &all, LOGITS);

    let loss = &json["loss"];
    report.number("loss", case.name(), mean_loss(backbone, &rows), number(loss, "mean"), LOSS);
    let counts = numbers(loss, "per_sequence_count");
    for (i, row) in rows.iter().enumerate() {
        let mean = numbers(loss, "per_sequence_sum")[i] / counts[i];
        let place = format!("{}: sequence {i}", case.name());
        report.number("loss", place, mean_loss(backbone, std::slice::from_ref(row)), mean, LOSS);
    }
}

fn mean_loss(backbone: &Backbone, rows: &[Row]) -> f64 {
    let batch = labelled(rows);
    losses(backbone, &[Part { batch: &batch, adapter: None }], &Perturbation::None)[0][0]
}

fn load(files: &ModelFiles, dtype: WeightDtype) -> Backbone {
    Backbone::load(files, dtype, &Device::flex()).unwrap()
}

/// A copy of the model with its configuration in the old spelling.
fn with_legacy_config(case: &Case) -> Option<TempDir> {
    let legacy = case.path("config_legacy.json");
    if !legacy.is_file() {
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    for path in entries(&case.path("model")) {
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    fs::copy(legacy, folder.path().join("config.json")).unwrap();
    Some(folder)
}
