//! Model folders and adapters that transformers and peft wrote: read, written, and read again.

mod golden_cases;

use burn::tensor::Device;
use golden_cases::{Case, Report, cases_with, entries, gguf_cases_with, read_json};
use std::fs;
use std::path::{Path, PathBuf};
use zofo::hf::{HfError, ModelFiles, PeftAdapter, StoredDtype, WeightDtype, read_decoder_config};
use zofo::peft::Adapter;

const DTYPES: [WeightDtype; 2] = [WeightDtype::F32, WeightDtype::Bf16];

#[test]
fn golden_model_files_both_spellings_of_the_configuration() {
    let mut report = Report::default();
    for (case, model) in models(&mut report) {
        if case.has(&["config_legacy.json"]) {
            let legacy = read_decoder_config(&case.path("config_legacy.json")).unwrap();
            report.equal(case.name(), &legacy, model.config());
            report.ran();
        }
    }
    report.finish();
}

#[test]
fn golden_model_files_are_read_and_written() {
    let mut report = Report::default();
    for (case, model) in models(&mut report) {
        assert!(model.tokenizer().is_ok(), "{}", case.name());
        round_trip(&model);
        for variant in ["model-sharded", "model-bf16", "model-hub-layout"] {
            if !case.has(&[variant]) {
                continue;
            }
            let folder = case.path(variant);
            let variant = ModelFiles::open(&folder).unwrap();
            assert_eq!(variant.config(), model.config(), "{}", folder.display());
            for (name, _) in model.parameters() {
                // The narrow files were rounded from the wide ones.
                let narrow = variant.load(name, WeightDtype::Bf16).unwrap();
                assert_eq!(narrow[..], model.load(name, WeightDtype::Bf16).unwrap()[..], "{name}");
                if variant.stored_dtype(name).unwrap() == StoredDtype::F32 {
                    let wide = variant.load(name, WeightDtype::F32).unwrap();
                    assert_eq!(wide[..], model.load(name, WeightDtype::F32).unwrap()[..], "{name}");
                }
            }
            round_trip(&variant);
        }
        report.ran();
    }
    report.finish();
}

#[test]
fn golden_model_files_of_gguf_are_written_as_folders() {
    let mut report = Report::default();
    // Other GGUF files of the cases are tensors or tokenizers without a model.
    for (case, gguf) in gguf_cases_with("expected.safetensors") {
        let Some(model) = case.model(&gguf, &mut report) else { continue };
        let tokenizer = model.tokenizer().unwrap();
        let folder = round_trip(&model);
        let written = ModelFiles::open(folder.path()).unwrap();
        assert_eq!(written.eos_token_ids(), model.eos_token_ids());
        let text = "The film, 3 hours long, isn't bad.";
        assert_eq!(
            written.tokenizer().unwrap().encode(text, true).unwrap().get_ids(),
            tokenizer.encode(text, true).unwrap().get_ids()
        );
        report.ran();
    }
    report.finish();
}

#[test]
fn golden_model_files_adapters_are_read_and_written() {
    let mut report = Report::default();
    for (case, model) in models(&mut report) {
        for folder in adapters(&case) {
            let stored = PeftAdapter::read(&folder).unwrap();
            let device = Device::flex();
            let adapter = Adapter::read(&folder, model.config(), &device).unwrap();
            for write in [&|dir: &Path| stored.write(dir), &|dir: &Path| adapter.write(&case.path("model"), dir)]
                as [&dyn Fn(&Path) -> Result<(), HfError>; 2]
            {
                let out = tempfile::tempdir().unwrap();
                write(out.path()).unwrap();
                // Byte for byte what peft wrote.
                let [written, expected] =
                    [out.path(), &folder].map(|dir| fs::read(dir.join("adapter_model.safetensors")).unwrap());
                assert!(written == expected, "{}", folder.display());
                check_config(&mut report, &folder, out.path());
            }
            let out = tempfile::tempdir().unwrap();
            stored.write(out.path()).unwrap();
            assert_eq!(PeftAdapter::read(out.path()).unwrap(), stored, "{}", folder.display());
            report.ran();
        }
    }
    report.finish();
}

/// Keys that are resolved when an adapter is read, into the modules that have tensors and into keys and values: what is
/// written may say the same otherwise. And the base model's place, which is another.
const RESOLVED: [&str; 6] = [
    "base_model_name_or_path",
    "encoder_hidden_size",
    "layers_pattern",
    "layers_to_transform",
    "prefix_projection",
    "target_modules",
];

/// Checks that a written configuration says what peft's says, of all that both say.
fn check_config(report: &mut Report, expected: &Path, written: &Path) {
    let [stored, written] = [expected, written].map(|dir| read_json(&dir.join("adapter_config.json")));
    for (key, value) in written.as_object().unwrap() {
        if !RESOLVED.contains(&key.as_str()) {
            report.equal(format!("{}: {key}", expected.display()), value, &stored[key]);
        }
    }
}

/// Writes the model in both types and compares what is read back, bit by bit; the folder is that of F32.
fn round_trip(model: &ModelFiles) -> tempfile::TempDir {
    let [wide, _narrow] = DTYPES.map(|dtype| {
        let out = tempfile::tempdir().unwrap();
        let content = |name: &str| model.load(name, dtype);
        model.write_backbone::<_, HfError>(out.path(), dtype, content).unwrap();
        let written = ModelFiles::open(out.path()).unwrap();
        assert_eq!(written.config(), model.config());
        assert!(written.parameters().eq(model.parameters()));
        for (name, shape) in model.parameters() {
            let bytes = model.load(name, dtype).unwrap();
            assert_eq!(bytes.len(), shape.iter().product::<usize>() * dtype.size());
            assert_eq!(written.load(name, dtype).unwrap()[..], bytes[..], "{name}");
        }
        out
    });
    wide
}

/// The cases with a model of a supported family, and the model; the others are added to the report.
fn models(report: &mut Report) -> Vec<(Case, ModelFiles)> {
    let open = |case: Case| case.model("model", report).map(|model| (case, model));
    cases_with(&["model/config.json"]).into_iter().filter_map(open).collect()
}

/// The adapter folders of a case: `adapter*`, and `adapter` in `peft-*`.
fn adapters(case: &Case) -> Vec<PathBuf> {
    let nested = entries(&case.path("")).into_iter().map(|path| path.join("adapter"));
    let all = entries(&case.path("")).into_iter().chain(nested);
    all.filter(|path| path.join("adapter_config.json").is_file()).collect()
}
