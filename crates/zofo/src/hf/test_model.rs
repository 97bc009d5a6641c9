//! Small models for the tests, right ones and wrong ones.

use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{error::HfError, family::family, json::Keys, pytorch::test_file::pytorch_bytes};
use crate::model::DecoderConfig;

/// The `config.json` of [`TestModel::new`].
pub(crate) fn llama_config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "dtype": "float32",
        "eos_token_id": 1,
        "head_dim": 4,
        "hidden_act": "silu",
        "hidden_size": 8,
        "intermediate_size": 12,
        "max_position_embeddings": 64,
        "model_type": "llama",
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-5,
        "rope_parameters": { "rope_theta": 50000.0, "rope_type": "default" },
        "tie_word_embeddings": false,
        "vocab_size": 6,
    })
}

/// The decoder of a `config.json`.
pub(super) fn read_decoder(config: &Value) -> Result<DecoderConfig, HfError> {
    let keys = Keys::new(Path::new("config.json"), config.as_object().unwrap());
    family(&keys)?.decoder(&keys)
}

/// The sliding window of every layer.
pub(super) fn windows(decoder: &DecoderConfig) -> Vec<Option<usize>> {
    decoder.layers.iter().map(|layer| layer.attention.sliding_window).collect()
}

/// An object with these keys set to other values.
pub(super) fn changed(object: &Value, changes: &Value) -> Value {
    let mut object = object.clone();
    for (key, value) in changes.as_object().unwrap() {
        object[key] = value.clone();
    }
    object
}

/// Checks that each of these changes of `config` is refused, with a message that names the file and has all the parts.
#[track_caller]
pub(super) fn assert_refused(config: &Value, cases: &[(Value, &[&str])]) {
    for (changes, parts) in cases {
        let text = message(read_decoder(&changed(config, changes)));
        assert_says(&text, &["config.json"]);
        assert_says(&text, parts);
    }
}

/// A tensor as it will stand in a file.
#[derive(Clone, Debug)]
pub(crate) struct TestTensor {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

impl TestTensor {
    pub(crate) fn f32(shape: &[usize], values: &[f32]) -> Self {
        Self { dtype: Dtype::F32, shape: shape.to_owned(), bytes: bytemuck::cast_slice(values).to_owned() }
    }

    /// Values that differ from each other and from those of tensors with another `first`.
    pub(crate) fn counting(shape: &[usize], first: f32) -> Self {
        let count = shape.iter().product::<usize>();
        let values: Vec<_> = (0..count).map(|index| first + index as f32 / 256.0).collect();
        Self::f32(shape, &values)
    }
}

pub(crate) type TestTensors = BTreeMap<String, TestTensor>;

/// The bytes of a safetensors file.
pub(crate) fn safetensors_bytes(tensors: &TestTensors) -> Vec<u8> {
    let views = tensors.iter().map(|(name, tensor)| {
        let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes).unwrap();
        (name, view)
    });
    safetensors::serialize(views, None).unwrap()
}

/// A model folder in the making.
#[derive(Clone, Debug)]
pub(crate) struct TestModel {
    pub(crate) config: Value,
    pub(crate) tensors: TestTensors,
    /// Further files.
    pub(crate) files: BTreeMap<&'static str, String>,
}

impl TestModel {
    /// A right one, in F32, with 2 layers, hidden size 8, 2 query heads and 1 key-value head of 4, and a vocabulary of 6.
    pub(crate) fn new() -> Self {
        let parameters = [("model.embed_tokens", &[6, 8][..]), ("model.norm", &[8]), ("lm_head", &[6, 8])];
        let parts = [
            ("input_layernorm", &[8][..]),
            ("self_attn.q_proj", &[8, 8]),
            ("self_attn.k_proj", &[4, 8]),
            ("self_attn.v_proj", &[4, 8]),
            ("self_attn.o_proj", &[8, 8]),
            ("post_attention_layernorm", &[8]),
            ("mlp.gate_proj", &[12, 8]),
            ("mlp.up_proj", &[12, 8]),
            ("mlp.down_proj", &[8, 12]),
        ];
        let layers =
            (0..2).flat_map(|layer| parts.map(|(part, shape)| (format!("model.layers.{layer}.{part}"), shape)));
        let all = parameters.map(|(name, shape)| (name.to_owned(), shape));
        let tensors = all
            .into_iter()
            .chain(layers)
            .enumerate()
            .map(|(index, (name, shape))| (format!("{name}.weight"), TestTensor::counting(shape, index as f32)));
        Self {
            config: llama_config(),
            tensors: tensors.collect(),
            files: BTreeMap::from([
                ("tokenizer.json", tokenizer_json()),
                ("tokenizer_config.json", "{\"model_max_length\": 64}".to_owned()),
                ("generation_config.json", "{\"eos_token_id\": [1, 2]}".to_owned()),
            ]),
        }
    }

    /// Without a head of its own.
    pub(crate) fn tied() -> Self {
        let mut model = Self::new();
        model.config["tie_word_embeddings"] = json!(true);
        model.tensors.remove("lm_head.weight");
        model
    }

    /// Writes the folder, with all weights in one file.
    pub(crate) fn write(&self) -> ModelFolder {
        self.write_one("model.safetensors", safetensors_bytes)
    }

    /// Writes the folder, with the weights in two files and an index.
    pub(crate) fn write_sharded(&self) -> ModelFolder {
        self.write_two(["one.safetensors", "two.safetensors"], "model.safetensors.index.json", safetensors_bytes)
    }

    /// As [`write`](Self::write), in PyTorch's format.
    pub(crate) fn write_pytorch(&self) -> ModelFolder {
        self.write_one("pytorch_model.bin", pytorch_bytes)
    }

    /// As [`write_sharded`](Self::write_sharded), in PyTorch's format.
    pub(crate) fn write_pytorch_sharded(&self) -> ModelFolder {
        self.write_two(["one.bin", "two.bin"], "pytorch_model.bin.index.json", pytorch_bytes)
    }

    fn write_one(&self, file: &str, bytes: fn(&TestTensors) -> Vec<u8>) -> ModelFolder {
        let folder = self.write_without_weights();
        fs::write(folder.path(file), bytes(&self.tensors)).unwrap();
        folder
    }

    fn write_two(&self, files: [&str; 2], index: &str, bytes: fn(&TestTensors) -> Vec<u8>) -> ModelFolder {
        let folder = self.write_without_weights();
        let mut shards = files.map(|file| (file, TestTensors::new()));
        let mut weight_map = BTreeMap::new();
        for (position, (name, tensor)) in self.tensors.iter().enumerate() {
            let (file, tensors) = &mut shards[position % 2];
            tensors.insert(name.clone(), tensor.clone());
            weight_map.insert(name, *file);
        }
        for (file, tensors) in shards {
            fs::write(folder.path(file), bytes(&tensors)).unwrap();
        }
        folder.write_json(index, &json!({ "weight_map": weight_map }));
        folder
    }

    fn write_without_weights(&self) -> ModelFolder {
        let folder = ModelFolder(tempfile::tempdir().unwrap());
        folder.write_json("config.json", &self.config);
        for (name, content) in &self.files {
            fs::write(folder.path(name), content).unwrap();
        }
        folder
    }
}

/// Writes the GGUF file of a model with the sizes of [`TestModel::new`] and these weights, without a tokenizer.
pub(crate) fn write_gguf(path: &Path, weights: &TestTensors) {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let mut header = vec![text("general.architecture"), 8_u32.to_le_bytes().to_vec(), text("llama")];
    let numbers = [
        ("block_count", 2_u32),
        ("context_length", 64),
        ("embedding_length", 8),
        ("feed_forward_length", 12),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
    ];
    for (key, number) in numbers {
        header.extend([text(&format!("llama.{key}")), [4, number].map(u32::to_le_bytes).concat()]);
    }
    let epsilon = [6_u32.to_le_bytes(), 1e-5_f32.to_le_bytes()].concat();
    header.extend([text("llama.attention.layer_norm_rms_epsilon"), epsilon]);

    let mut data = Vec::new();
    for (name, tensor) in weights {
        let kind = match tensor.dtype {
            Dtype::F32 => 0_u32,
            Dtype::BF16 => 30,
            other => panic!("{other:?} is not for GGUF"),
        };
        let dimensions = tensor.shape.iter().rev().map(|&size| size as u64);
        header.push(text(&gguf_name(name)));
        header.push((tensor.shape.len() as u32).to_le_bytes().to_vec());
        header.extend(dimensions.map(|size| size.to_le_bytes().to_vec()));
        header.push(kind.to_le_bytes().to_vec());
        header.push((data.len() as u64).to_le_bytes().to_vec());
        let rows: Vec<_> = tensor.bytes.chunks_exact(tensor.bytes.len() / tensor.shape[0]).collect();
        let rotated = name.contains("q_proj") || name.contains("k_proj");
        for stored in 0..rows.len() {
            // Heads have 4 rows, of which the file has the rotary pairs side by side.
            let row = if rotated { stored / 4 * 4 + stored % 2 * 2 + stored % 4 / 2 } else { stored };
            data.extend_from_slice(rows[row]);
        }
        data.resize(data.len().next_multiple_of(32), 0);
    }
    let counts = [weights.len() as u64, numbers.len() as u64 + 2].map(u64::to_le_bytes).concat();
    let mut file = [&b"GGUF"[..], &3_u32.to_le_bytes(), &counts, &header.concat()].concat();
    file.resize(file.len().next_multiple_of(32), 0);
    file.extend(data);
    fs::write(path, file).unwrap();
}

fn gguf_name(name: &str) -> String {
    [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers", "blk"),
        ("input_layernorm", "attn_norm"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.", "attn_"),
        ("post_attention_layernorm", "ffn_norm"),
        ("mlp.", "ffn_"),
        ("_proj", ""),
    ]
    .iter()
    .fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}

/// A folder that is removed when dropped.
#[derive(Debug)]
pub(crate) struct ModelFolder(pub(crate) TempDir);

impl ModelFolder {
    pub(crate) fn root(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    pub(crate) fn write_json(&self, name: &str, value: &Value) {
        fs::write(self.path(name), value.to_string()).unwrap();
    }

    pub(crate) fn read_json(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap()
    }
}

fn tokenizer_json() -> String {
    json!({
        "version": "1.0",
        "model": {
            "type": "WordLevel",
            "vocab": { "<unk>": 0, "</s>": 1, "a": 2, "b": 3, "c": 4, "d": 5 },
            "unk_token": "<unk>",
        },
        "pre_tokenizer": { "type": "Whitespace" },
    })
    .to_string()
}

/// The message of the error that `result` must be, with its causes.
#[track_caller]
pub(crate) fn message<T, E: Error>(result: Result<T, E>) -> String {
    let Err(error) = result else {
        panic!("expected an error");
    };
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

/// Checks that `text` has all of `parts`.
#[track_caller]
pub(crate) fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "\"{part}\" is not in: {text}");
    }
}
