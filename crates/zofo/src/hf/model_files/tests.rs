use std::{fs, path::Path};

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use super::super::test_model::{ModelFolder, TestModel, TestTensor, assert_says, message};
use super::*;

const EMBEDDING: &str = "model.embed_tokens.weight";
const Q: &str = "model.layers.0.self_attn.q_proj.weight";

fn open(model: &TestModel) -> Result<ModelFiles, HfError> {
    ModelFiles::open(model.write().root())
}

/// The model's weights as the files have them.
fn values(model: &ModelFiles, name: &str) -> Vec<f32> {
    let bytes = model.load(name, WeightDtype::F32).unwrap();
    bytemuck::cast_slice(&bytes).to_vec()
}

/// Writes `model` to `dir` with the values that it has.
fn copy(model: &ModelFiles, dir: &Path, dtype: WeightDtype) -> Result<(), HfError> {
    model.write_backbone(dir, dtype, |name| model.load(name, dtype))
}

fn assert_same(left: &ModelFiles, right: &ModelFiles, dtype: WeightDtype) {
    assert_eq!(left.config(), right.config());
    assert_eq!(left.parameters().len(), right.parameters().len());
    for (name, _) in left.parameters() {
        let (left, right) = (left.load(name, dtype).unwrap(), right.load(name, dtype).unwrap());
        assert_eq!(left[..], right[..], "{name}");
    }
}

#[test]
fn a_folder() {
    let test = TestModel::new();
    for folder in [test.write(), test.write_sharded(), test.write_pytorch(), test.write_pytorch_sharded()] {
        let model = ModelFiles::open(folder.root()).unwrap();
        assert_eq!(model.source_path(), folder.root());
        assert_eq!(model.config().vocabulary, 6);
        assert_eq!(model.parameters().len(), 21);
        for (name, shape) in model.parameters() {
            assert_eq!(model.stored_dtype(name).unwrap(), StoredDtype::F32);
            let expected = &test.tensors[name];
            assert_eq!(shape, expected.shape);
            assert_eq!(model.load(name, WeightDtype::F32).unwrap()[..], expected.bytes[..]);
            let narrow = values(&model, name);
            let narrow: Vec<_> = narrow.into_iter().map(bf16::from_f32).collect();
            let loaded = model.load(name, WeightDtype::Bf16).unwrap();
            assert_eq!(loaded[..], *bytemuck::cast_slice::<_, u8>(&narrow));
        }
        assert_says(&message(model.load("other", WeightDtype::F32)), &["missing", "other"]);
        assert_says(&message(model.stored_dtype("other")), &["missing", "other"]);
    }
}

#[test]
fn a_tied_head_may_be_stored_all_the_same() {
    let mut test = TestModel::tied();
    assert_eq!(open(&test).unwrap().parameters().len(), 20);
    test.tensors.insert(HEAD.to_owned(), test.tensors[EMBEDDING].clone());
    let inv_freq = "model.layers.1.self_attn.rotary_emb.inv_freq";
    test.tensors.insert(inv_freq.to_owned(), TestTensor::counting(&[2], 0.0));
    let model = open(&test).unwrap();
    assert_eq!(model.parameters().len(), 20);
    assert!(model.parameters().all(|(name, _)| name != HEAD && name != inv_freq));

    // Another one, which transformers 4 would leave out and transformers 5 would use.
    test.tensors.insert(HEAD.to_owned(), TestTensor::counting(&[6, 8], 99.0));
    assert_says(&message(open(&test)), &["model.safetensors", HEAD, EMBEDDING, "tie_word_embeddings"]);
}

#[test]
fn a_tied_matrix_may_have_the_name_of_the_head() {
    let mut test = TestModel::tied();
    let embedding = test.tensors.remove(EMBEDDING).unwrap();
    test.tensors.insert(HEAD.to_owned(), embedding.clone());
    let model = open(&test).unwrap();
    assert_eq!(model.load(EMBEDDING, WeightDtype::F32).unwrap()[..], embedding.bytes[..]);
    assert_eq!(model.stored_dtype(EMBEDDING).unwrap(), StoredDtype::F32);
}

#[test]
fn a_checkpoint_of_the_model_without_its_head() {
    let full = TestModel::tied();
    let mut base = full.clone();
    base.tensors =
        full.tensors.iter().map(|(name, tensor)| (name["model.".len()..].to_owned(), tensor.clone())).collect();
    let model = open(&base).unwrap();
    assert_same(&open(&full).unwrap(), &model, WeightDtype::F32);
    // Written as transformers would write the whole.
    let out = ModelFolder(tempfile::tempdir().unwrap());
    copy(&model, out.root(), WeightDtype::F32).unwrap();
    let written = fs::read(out.path("model.safetensors")).unwrap();
    let written = SafeTensors::deserialize(&written).unwrap();
    assert_eq!(written.tensor(Q).unwrap().data(), full.tensors[Q].bytes);

    base.tensors.remove(&Q["model.".len()..]);
    assert_says(&message(open(&base)), &["1 tensor is missing: layers.0.self_attn.q_proj.weight"]);
    base = full;
    base.config["tie_word_embeddings"] = json!(false);
    assert_says(&message(open(&base)), &["1 tensor is missing", HEAD]);
}

#[test]
fn weights_that_do_not_fit_the_configuration() {
    let changed = |change: &dyn Fn(&mut TestModel)| {
        let mut test = TestModel::new();
        change(&mut test);
        message(open(&test))
    };
    let text = changed(&|test| drop(test.tensors.remove(Q)));
    assert_says(&text, &["1 tensor is missing", Q]);
    let text = changed(&|test| test.config["num_hidden_layers"] = json!(3));
    assert_says(&text, &["9 tensors are missing", "model.layers.2.input_layernorm.weight", "…"]);
    let text = changed(&|test| test.config["num_hidden_layers"] = json!(1));
    assert_says(&text, &["9 tensors are without a place", "model.layers.1."]);
    let text = changed(&|test| {
        let bias = "model.layers.0.self_attn.q_proj.bias".to_owned();
        test.tensors.insert(bias, TestTensor::counting(&[8], 0.0));
    });
    assert_says(&text, &["1 tensor is without a place", "q_proj.bias"]);
    let text = changed(&|test| {
        test.tensors.insert(Q.to_owned(), TestTensor::counting(&[4, 16], 0.0));
    });
    assert_says(&text, &["model.safetensors", Q, "expected [8, 8]", "found [4, 16]"]);
    let text = changed(&|test| {
        if let Some(tensor) = test.tensors.get_mut(Q) {
            tensor.dtype = Dtype::I32;
        }
    });
    assert_says(&text, &["model.safetensors", Q, "I32", "F32, BF16, F16"]);
}

#[test]
fn paths_that_are_no_model() {
    let text = message(ModelFiles::open(Path::new("/nowhere/model")));
    assert_says(&text, &["cannot open /nowhere/model"]);
    let folder = TestModel::new().write();
    let text = message(ModelFiles::open(&folder.path("model.safetensors")));
    assert_says(&text, &["neither a folder nor a GGUF file", "a model folder holds"]);
    fs::write(folder.path("bad.gguf"), "text").unwrap();
    assert_says(&message(ModelFiles::open(&folder.path("bad.gguf"))), &["bad.gguf", "not a GGUF file"]);
    fs::write(folder.path("renamed"), "GGUF").unwrap();
    assert_says(&message(ModelFiles::open(&folder.path("renamed"))), &["renamed", "version"]);

    fs::remove_file(folder.path("config.json")).unwrap();
    let text = message(ModelFiles::open(folder.root()));
    assert_says(&text, &["config.json is missing", "a model folder holds"]);
}

#[test]
fn tokenizers() {
    let folder = TestModel::new().write();
    let model = ModelFiles::open(folder.root()).unwrap();
    let encoding = model.tokenizer().unwrap().encode("b a e", false).unwrap();
    assert_eq!(encoding.get_ids(), [3, 2, 0]);

    fs::write(folder.path("tokenizer.json"), "{}").unwrap();
    assert_says(&message(model.tokenizer()), &["tokenizer.json is not a tokenizer"]);
    fs::remove_file(folder.path("tokenizer.json")).unwrap();
    assert_says(&message(model.tokenizer()), &["tokenizer.json is missing", "a model folder holds"]);
}

#[test]
fn tokens_that_end_a_text() {
    let ids = |config: Value, generation: Option<Value>| {
        let mut test = TestModel::new();
        test.config["eos_token_id"] = config;
        test.files.remove("generation_config.json");
        if let Some(generation) = generation {
            test.files.insert("generation_config.json", generation.to_string());
        }
        open(&test).map(|model| model.eos_token_ids().to_vec())
    };
    assert_eq!(ids(json!(3), None).unwrap(), [3]);
    assert_eq!(ids(json!([3, 4]), None).unwrap(), [3, 4]);
    assert_eq!(ids(json!(null), None).unwrap(), [0; 0]);
    assert_eq!(ids(json!(3), Some(json!({ "eos_token_id": [1, 5] }))).unwrap(), [1, 5]);
    assert_eq!(ids(json!(3), Some(json!({ "eos_token_id": null }))).unwrap(), [3]);
    assert_says(&message(ids(json!(6), None)), &["config.json", "\"eos_token_id\"", "below the 6"]);
    let text = message(ids(json!(3), Some(json!({ "eos_token_id": "</s>" }))));
    assert_says(&text, &["generation_config.json", "\"eos_token_id\"", "</s>"]);

    let mut absent = TestModel::new();
    absent.config.as_object_mut().unwrap().remove("eos_token_id");
    absent.files.remove("generation_config.json");
    assert_eq!(open(&absent).unwrap().eos_token_ids(), [2]);
}

#[test]
fn a_backbone_is_read_back() {
    for dtype in [WeightDtype::F32, WeightDtype::Bf16] {
        let folder = TestModel::new().write();
        let model = ModelFiles::open(folder.root()).unwrap();
        let out = ModelFolder(tempfile::tempdir().unwrap());
        copy(&model, out.root(), dtype).unwrap();
        let written = ModelFiles::open(out.root()).unwrap();
        assert_same(&model, &written, dtype);
        let stored = written.stored_dtype(Q).unwrap();
        assert!(stored.is_stored_as(dtype));

        for file in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
            assert_eq!(fs::read(out.path(file)).unwrap(), fs::read(folder.path(file)).unwrap());
        }
        let mut expected = folder.read_json("config.json");
        expected["dtype"] = json!(dtype.torch_name());
        assert_eq!(out.read_json("config.json"), expected);
    }
}

#[test]
fn the_key_of_the_type_stays_what_it_was() {
    for (dtype, torch_dtype) in
        [(None, None), (None, Some("float16")), (Some("float16"), None), (Some("float16"), Some("float32"))]
    {
        let mut test = TestModel::new();
        let keys = [("dtype", dtype), ("torch_dtype", torch_dtype)];
        for (key, name) in keys {
            test.config[key] = json!(name);
        }
        let config = test.config.as_object_mut().unwrap();
        config.retain(|_, value| !value.is_null());
        let folder = test.write();
        let out = ModelFolder(tempfile::tempdir().unwrap());
        copy(&ModelFiles::open(folder.root()).unwrap(), out.root(), WeightDtype::Bf16).unwrap();
        let written = out.read_json("config.json");
        let expected = |present: bool| present.then_some("bfloat16").map_or(json!(null), Value::from);
        assert_eq!(written["dtype"], expected(dtype.is_some()));
        assert_eq!(written["torch_dtype"], expected(dtype.is_none() || torch_dtype.is_some()));
    }
}

#[test]
fn a_backbone_in_shards() {
    let folder = TestModel::tied().write();
    let model = ModelFiles::open(folder.root()).unwrap();
    let out = ModelFolder(tempfile::tempdir().unwrap());
    let content = |name: &str| model.load(name, WeightDtype::F32);
    model.write_backbone_in_shards(out.root(), WeightDtype::F32, 1000, content).unwrap();
    assert!(!out.path("model.safetensors").exists());
    let index = out.read_json("model.safetensors.index.json");
    let total: usize = model.parameters().map(|(_, shape)| 4 * shape.iter().product::<usize>()).sum();
    assert_eq!(index["metadata"]["total_size"], total);
    let mut files: Vec<_> = index["weight_map"].as_object().unwrap().values().cloned().collect();
    files.dedup();
    let count = files.len();
    assert!(count > 2);
    for (index, file) in files.iter().enumerate() {
        assert_eq!(*file, format!("model-{:05}-of-{count:05}.safetensors", index + 1));
        let bytes = fs::read(out.path(file.as_str().unwrap())).unwrap();
        let data: usize =
            SafeTensors::deserialize(&bytes).unwrap().tensors().iter().map(|(_, tensor)| tensor.data().len()).sum();
        assert!(data <= 1000);
    }
    assert_same(&model, &ModelFiles::open(out.root()).unwrap(), WeightDtype::F32);

    // In one file again: nothing of the shards stays.
    copy(&model, out.root(), WeightDtype::F32).unwrap();
    assert!(!out.path("model.safetensors.index.json").exists());
    assert!(!out.path("model-00001-of-00003.safetensors").exists());
    assert_same(&model, &ModelFiles::open(out.root()).unwrap(), WeightDtype::F32);
}

#[test]
fn a_backbone_over_its_own_model() {
    let folder = TestModel::new().write();
    let model = ModelFiles::open(folder.root()).unwrap();
    let doubled = |name: &str| -> Vec<u8> {
        let doubled: Vec<_> = values(&model, name).iter().map(|value| 2.0 * value).collect();
        bytemuck::cast_slice(&doubled).to_owned()
    };
    model.write_backbone(folder.root(), WeightDtype::F32, |name| Ok::<_, HfError>(doubled(name))).unwrap();
    let written = ModelFiles::open(folder.root()).unwrap();
    assert_eq!(written.load(Q, WeightDtype::F32).unwrap()[..], doubled(Q));
}

#[test]
fn a_backbone_that_fails_leaves_nothing() {
    let folder = TestModel::new().write();
    let model = ModelFiles::open(folder.root()).unwrap();
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("backbone");

    let short = |_: &str| Ok::<_, HfError>(vec![0_u8; 4]);
    let text = message(model.write_backbone(&dir, WeightDtype::F32, short));
    assert_says(&text, &["model.safetensors", "embed_tokens", "192 bytes", "found 4"]);
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);

    #[derive(Debug, thiserror::Error)]
    enum Callers {
        #[error("no device")]
        Device,
        #[error(transparent)]
        Files(#[from] HfError),
    }
    copy(&model, &dir, WeightDtype::F32).unwrap();
    let failing = |name: &str| match name {
        Q => Err(Callers::Device),
        _ => Ok(model.load(name, WeightDtype::Bf16)?),
    };
    let text = message(model.write_backbone(&dir, WeightDtype::Bf16, failing));
    assert_says(&text, &["no device"]);
    assert_same(&model, &ModelFiles::open(&dir).unwrap(), WeightDtype::F32);

    fs::write(dir.join("README.md"), "mine").unwrap();
    let text = message(copy(&model, &dir, WeightDtype::Bf16));
    assert_says(&text, &["cannot replace", "\"README.md\"", "choose another folder"]);
    assert_same(&model, &ModelFiles::open(&dir).unwrap(), WeightDtype::F32);
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
}

#[test]
fn a_copy_is_kept_as_the_matrices_are() {
    let narrowed = |which: &dyn Fn(&str, &TestTensor) -> bool, dtype: Dtype| {
        let mut test = TestModel::new();
        for (name, tensor) in &mut test.tensors {
            if which(name, tensor) {
                let values = tensor.bytes.as_chunks().0.iter().map(|&value| f32::from_le_bytes(value));
                tensor.bytes = match dtype {
                    Dtype::BF16 => values.flat_map(|value| bf16::from_f32(value).to_le_bytes()).collect(),
                    _ => values.flat_map(|value| f16::from_f32(value).to_le_bytes()).collect(),
                };
                tensor.dtype = dtype;
            }
        }
        open(&test).unwrap().usual_dtype().unwrap()
    };
    let all = |_: &str, _: &TestTensor| true;
    let matrices = |_: &str, tensor: &TestTensor| tensor.shape.len() == 2;
    assert_eq!(narrowed(&|_, _| false, Dtype::BF16), WeightDtype::F32);
    assert_eq!(narrowed(&all, Dtype::BF16), WeightDtype::Bf16);
    // Norms in f32 change nothing, one matrix in f32 does.
    assert_eq!(narrowed(&matrices, Dtype::BF16), WeightDtype::Bf16);
    assert_eq!(narrowed(&|name, tensor| matrices(name, tensor) && name != EMBEDDING, Dtype::BF16), WeightDtype::F32);
    assert_eq!(narrowed(&all, Dtype::F16), WeightDtype::F32);
}
