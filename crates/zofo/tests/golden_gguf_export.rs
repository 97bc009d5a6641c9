//! Models written as GGUF files and read again: the decoder, every weight, the tokens of every text, and the logits.

mod golden_cases;

use burn::tensor::Device;
use golden_cases::{Case, LOGITS, Report, Row, Tolerance, cases_with, check_tokenizer, read_json, values};
use half::{bf16, f16};
use std::path::Path;
use zofo::hf::gguf::WrittenType;
use zofo::hf::{ExportedGguf, GgufOptions, HfError, ModelFiles, WeightDtype, export_gguf};
use zofo::model::config::{DecoderConfig, NormKind};
use zofo::model::{Backbone, Batch, RopeScaling};
use zofo::peft::{Adapter, Lora};

const TYPES: [WrittenType; 4] = [WrittenType::F32, WrittenType::F16, WrittenType::BF16, WrittenType::Q8_0];
const FILES: &[&str] = &["model/config.json", "expected.safetensors"];
/// Norms that are stored as 1 + w.
const OFFSET: Tolerance = Tolerance { absolute: 1.2e-7, relative: 1.2e-7 };

#[test]
fn golden_gguf_export_of_every_family() {
    let mut report = Report::default();
    for (case, source) in models(&mut report) {
        for kind in TYPES {
            let place = format!("{} in {}", case.name(), kind.as_str());
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("model.gguf");
            let exported = export(&source, None, kind, &path).unwrap_or_else(|error| panic!("{place}: {error}"));
            let file = ModelFiles::open(&path).unwrap();
            report.equal(&place, file.config(), &described(source.config(), &exported));
            check_weights(&mut report, &place, &source, &file, kind);
            if case.has(&["tokenizer_expected.json"]) {
                let expected = read_json(&case.path("tokenizer_expected.json"));
                check_tokenizer(&mut report, &place, &file.tokenizer().unwrap(), &expected);
            }
            if kind == WrittenType::F32 {
                check_logits(&mut report, &place, &source, &file, &case);
            }
        }
        report.ran();
    }
    report.finish();
}

#[test]
fn golden_gguf_export_of_merged_adapters() {
    let mut report = Report::default();
    for (base, source) in models(&mut report) {
        for case in base.inner("peft-lora") {
            let place = format!("{}/{}", base.name(), case.name());
            let adapter = Adapter::read(&case.path("adapter"), source.config(), &Device::flex());
            let Ok(Adapter::Lora(lora)) = adapter else {
                report.skip("adapter not supported", place);
                continue;
            };
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("model.gguf");
            export(&source, Some(&lora), WrittenType::F32, &path).unwrap_or_else(|error| panic!("{place}: {error}"));
            check_logits(&mut report, &place, &source, &ModelFiles::open(&path).unwrap(), &case);
            report.ran();
        }
    }
    report.finish();
}

/// The models that have an architecture in GGUF; for the others, that they are refused.
fn models(report: &mut Report) -> Vec<(Case, ModelFiles)> {
    let mut models = Vec::new();
    for case in cases_with(FILES) {
        let Some(source) = case.model("model", report) else { continue };
        if source.config().ropes.is_empty() && source.config().embedding.tokens.contains("decoder.embed_tokens") {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("model.gguf");
            let error = export(&source, None, WrittenType::F16, &path).unwrap_err();
            assert!(matches!(error, HfError::Unsupported { .. }), "{}: {error}", case.name());
            let text = error.to_string();
            assert!(text.contains("OPTForCausalLM") && text.contains("zofo merge"), "{text}");
            assert!(!path.exists());
        } else {
            models.push((case, source));
        }
    }
    models
}

fn export(source: &ModelFiles, lora: Option<&Lora>, kind: WrittenType, path: &Path) -> Result<ExportedGguf, HfError> {
    let options = GgufOptions { matrices: Some(kind), name: "golden" };
    let mut told = Vec::new();
    let exported = export_gguf(source, lora, path, &options, |done, of| told.push((done, of)))?;
    assert_eq!(told, (0..exported.tensors).map(|done| (done, exported.tensors)).collect::<Vec<_>>());
    assert_eq!(exported.bytes, path.metadata().unwrap().len());
    Ok(exported)
}

/// What the file has for this decoder: all of it, or, with a shorter context, no windows and no dynamic scaling.
fn described(source: &DecoderConfig, exported: &ExportedGguf) -> DecoderConfig {
    let mut described = source.clone();
    if exported.losses.iter().any(|loss| loss.contains("context length")) {
        let windows = source.layers.iter().filter_map(|layer| layer.attention.sliding_window);
        let lengths = source.ropes.iter().filter_map(|rope| match rope.scaling {
            RopeScaling::Dynamic { original_context, .. } => Some(original_context as usize),
            _ => None,
        });
        described.max_positions = windows.chain(lengths).min().unwrap();
        described.layers.iter_mut().for_each(|layer| layer.attention.sliding_window = None);
        for rope in &mut described.ropes {
            if matches!(rope.scaling, RopeScaling::Dynamic { .. }) {
                rope.scaling = RopeScaling::Default;
            }
        }
    }
    described
}

fn check_weights(report: &mut Report, place: &str, source: &ModelFiles, file: &ModelFiles, kind: WrittenType) {
    let offset: Vec<&str> = source
        .config()
        .norms()
        .filter(|norm| norm.kind == NormKind::RmsUnitOffset)
        .map(|norm| norm.weight.as_str())
        .collect();
    for (name, shape) in source.parameters() {
        let place = format!("{place}: {name}");
        let [expected, found] = [source, file].map(|model| model.load(name, WeightDtype::F32).unwrap());
        let [expected, found]: [&[f32]; 2] = [bytemuck::cast_slice(&expected), bytemuck::cast_slice(&found)];
        let rounded = |round: &dyn Fn(f32) -> f32| expected.iter().map(|&x| round(x)).collect::<Vec<_>>();
        // Positions are kept as they are, and rows that are no whole blocks become F16.
        let stored = if name.contains("wpe") { WrittenType::F32 } else { kind };
        if offset.contains(&name) {
            report.close("norms stored as 1 + w", place, found, expected, OFFSET);
        } else if shape.len() == 1 || stored == WrittenType::F32 {
            report.same_bits(place, found, expected);
        } else if stored == WrittenType::F16 {
            report.same_bits(place, found, &rounded(&|x| f16::from_f32(x).to_f32()));
        } else if stored == WrittenType::BF16 {
            report.same_bits(place, found, &rounded(&|x| bf16::from_f32(x).to_f32()));
        } else {
            let largest = expected.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
            // Half a step, and the rounding of the scale to half precision.
            let absolute = f64::from(largest) * (0.5 / 127.0 + 1.0 / 2048.0);
            report.close("weights in q8_0", place, found, expected, Tolerance { absolute, relative: 0.0 });
        }
    }
}

fn check_logits(report: &mut Report, place: &str, source: &ModelFiles, file: &ModelFiles, case: &Case) {
    let backbone = Backbone::load(file, WeightDtype::F32, &Device::flex()).unwrap();
    let expected = case.tensors("expected.safetensors");
    let rows: Vec<Row> = if case.has(&["adapter"]) {
        let base = case.path("../expected.safetensors");
        golden_cases::Tensors::read(&base).rows("")
    } else {
        expected.rows("")
    };
    let is_dynamic = |scaling: &RopeScaling| matches!(scaling, RopeScaling::Dynamic { .. });
    let by_length = source.config().ropes.iter().any(|rope| is_dynamic(&rope.scaling));
    for (index, row) in rows.iter().enumerate() {
        // What comes later changes nothing before, unless the length decides how all are rotated.
        if by_length && row.ids.len() > file.config().max_positions {
            continue;
        }
        let length = row.ids.len().min(file.config().max_positions);
        let batch = Batch::labelled([(&row.ids[..length], &[][..])]);
        let logits = values(backbone.logits(&batch, None));
        let expected = &expected.real(&format!("logits.{index}"))[..logits.len()];
        report.close("logits", format!("{place}: sequence {index}"), &logits, expected, LOGITS);
    }
}
