//! Model folders and adapters that transformers and peft wrote: read, written, and read again.
//!
//! `ZOFO_GOLDEN_DIR` names the folder of cases.

#![allow(clippy::print_stdout, reason = "a test says how many cases it ran on")]

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use zofo::hf::{HfError, ModelFiles, PeftLora, StoredDtype, WeightDtype, read_decoder_config};

const DTYPES: [WeightDtype; 2] = [WeightDtype::F32, WeightDtype::Bf16];

#[test]
fn golden_model_files_both_spellings_of_the_configuration() {
    let mut report = Report::default();
    for case in cases(&mut report) {
        let legacy = case.join("config_legacy.json");
        if legacy.is_file() {
            let new = read_decoder_config(&case.join("model/config.json")).unwrap();
            assert_eq!(new, read_decoder_config(&legacy).unwrap(), "{}", case.display());
            report.cases += 1;
        }
    }
    report.print();
}

#[test]
fn golden_model_files_are_read_and_written() {
    let mut report = Report::default();
    for case in cases(&mut report) {
        let model = ModelFiles::open(&case.join("model")).unwrap();
        assert!(model.tokenizer().is_ok(), "{}", case.display());
        round_trip(&model);
        for variant in ["model-sharded", "model-bf16"] {
            let folder = case.join(variant);
            if !folder.is_dir() {
                continue;
            }
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
        report.cases += 1;
    }
    report.print();
}

#[test]
fn golden_model_files_of_gguf_are_written_as_folders() {
    let mut report = Report::default();
    for case in case_folders() {
        for path in entries(&case) {
            let is_gguf = path.extension().is_some_and(|extension| extension == "gguf");
            // Other GGUF files of the cases are collections of tensors without a model.
            if !is_gguf || !case.join("tokenizer_expected.json").is_file() {
                continue;
            }
            let model = ModelFiles::open(&path).unwrap();
            let tokenizer = model.tokenizer().unwrap();
            let folder = round_trip(&model);
            let written = ModelFiles::open(folder.path()).unwrap();
            assert_eq!(written.eos_token_ids(), model.eos_token_ids());
            let text = "The film, 3 hours long, isn't bad.";
            assert_eq!(
                written.tokenizer().unwrap().encode(text, true).unwrap().get_ids(),
                tokenizer.encode(text, true).unwrap().get_ids()
            );
            report.cases += 1;
        }
    }
    report.print();
}

#[test]
fn golden_model_files_adapters_are_read_and_written() {
    let mut report = Report::default();
    for case in cases(&mut report) {
        let model = ModelFiles::open(&case.join("model")).unwrap();
        for folder in adapters(&case) {
            let is_lora = fs::read_to_string(folder.join("adapter_config.json")).unwrap().contains("\"LORA\"");
            if !is_lora {
                let error = PeftLora::read(&folder).unwrap_err().to_string();
                assert!(error.contains("\"peft_type\""), "{error}");
                continue;
            }
            let adapter = PeftLora::read(&folder).unwrap();
            adapter.check_against(model.config(), &folder).unwrap();
            let out = tempfile::tempdir().unwrap();
            adapter.write(out.path()).unwrap();
            assert_eq!(PeftLora::read(out.path()).unwrap(), adapter, "{}", folder.display());
            // Byte for byte what peft wrote.
            let weights = "adapter_model.safetensors";
            assert_eq!(
                fs::read(out.path().join(weights)).unwrap(),
                fs::read(folder.join(weights)).unwrap(),
                "{}",
                folder.display()
            );
            report.cases += 1;
        }
    }
    report.print();
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

#[derive(Default)]
struct Report {
    cases: usize,
    skipped: Vec<String>,
}

impl Report {
    fn print(&self) {
        let skipped = self.skipped.len();
        let mut line = format!("golden: {} cases, {skipped} skipped", self.cases);
        if skipped > 0 {
            line += &format!(" (family not supported: {})", self.skipped.join(", "));
        }
        println!("{line}");
    }
}

/// The cases with a model of a supported family; the others are added to the report.
fn cases(report: &mut Report) -> Vec<PathBuf> {
    let mut cases = Vec::new();
    for case in case_folders() {
        let config = case.join("model/config.json");
        if !config.is_file() {
            continue;
        }
        match read_decoder_config(&config) {
            Ok(_) => cases.push(case),
            Err(HfError::Architecture { found, .. }) => {
                let name = case.file_name().unwrap_or_default().display().to_string();
                report.skipped.push(format!("{name}: {found}"));
            }
            Err(error) => panic!("{error}"),
        }
    }
    cases
}

/// The folders in `ZOFO_GOLDEN_DIR`; none if it is not set.
fn case_folders() -> Vec<PathBuf> {
    let root = env::var_os("ZOFO_GOLDEN_DIR").map(PathBuf::from);
    let folders = root.map(|root| entries(&root)).unwrap_or_default();
    folders.into_iter().filter(|path| path.is_dir()).collect()
}

/// The adapter folders of a case: `adapter*`, and `adapter` in `peft-*`.
fn adapters(case: &Path) -> Vec<PathBuf> {
    let nested = entries(case).into_iter().map(|path| path.join("adapter"));
    let all = entries(case).into_iter().chain(nested);
    all.filter(|path| path.join("adapter_config.json").is_file()).collect()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}
