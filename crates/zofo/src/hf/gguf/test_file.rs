//! Writes small GGUF files for the tests, right ones and wrong ones.

use std::fs;

use super::{GgufError, GgufFile, TensorType};

/// A file in the making. The fields are what the header will say; tests lie in them.
#[derive(Clone, Debug)]
pub(super) struct TestFile {
    pub(super) version: u32,
    pub(super) entries: Vec<Entry>,
    pub(super) tensors: Vec<Tensor>,
    pub(super) alignment: usize,
}

/// A metadata entry: the value as it stands in the file.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) kind: u32,
    pub(super) value: Vec<u8>,
}

/// A tensor: what the header says of it, and its data.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    pub(super) name: String,
    /// Fastest dimension first, as in the file.
    pub(super) dimensions: Vec<u64>,
    pub(super) kind: u32,
    pub(super) data: Vec<u8>,
    /// Instead of where the data is.
    pub(super) offset: Option<u64>,
}

pub(super) fn string_bytes(text: &str) -> Vec<u8> {
    let length = (text.len() as u64).to_le_bytes();
    [&length, text.as_bytes()].concat()
}

fn array_bytes(kind: u32, elements: Vec<Vec<u8>>) -> Vec<u8> {
    let count = (elements.len() as u64).to_le_bytes();
    [&kind.to_le_bytes()[..], &count, &elements.concat()].concat()
}

pub(super) fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

impl TestFile {
    pub(super) fn new() -> Self {
        Self { version: 3, entries: Vec::new(), tensors: Vec::new(), alignment: 32 }
    }

    /// Sets the metadata value of `key`, whether or not it is there already.
    pub(super) fn raw(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self = self.without(key);
        self.entries.push(Entry { key: key.to_owned(), kind, value: value.to_owned() });
        self
    }

    pub(super) fn without(mut self, key: &str) -> Self {
        self.entries.retain(|entry| entry.key != key);
        self
    }

    pub(super) fn u32(self, key: &str, value: u32) -> Self {
        self.raw(key, 4, &value.to_le_bytes())
    }

    pub(super) fn f32(self, key: &str, value: f32) -> Self {
        self.raw(key, 6, &value.to_le_bytes())
    }

    pub(super) fn bool(self, key: &str, value: bool) -> Self {
        self.raw(key, 7, &[value.into()])
    }

    pub(super) fn string(self, key: &str, value: &str) -> Self {
        self.raw(key, 8, &string_bytes(value))
    }

    pub(super) fn strings(self, key: &str, values: &[impl AsRef<str>]) -> Self {
        let elements = values.iter().map(|text| string_bytes(text.as_ref()));
        self.raw(key, 9, &array_bytes(8, elements.collect()))
    }

    pub(super) fn i32s(self, key: &str, values: &[i32]) -> Self {
        let elements = values.iter().map(|value| value.to_le_bytes().to_vec());
        self.raw(key, 9, &array_bytes(5, elements.collect()))
    }

    pub(super) fn f32s(self, key: &str, values: &[f32]) -> Self {
        let elements = values.iter().map(|value| value.to_le_bytes().to_vec());
        self.raw(key, 9, &array_bytes(6, elements.collect()))
    }

    /// Adds a tensor of this row-major shape, or replaces the one of that name.
    pub(super) fn tensor(mut self, name: &str, shape: &[u64], kind: TensorType, data: Vec<u8>) -> Self {
        self = self.without_tensor(name);
        self.tensors.push(Tensor {
            name: name.to_owned(),
            dimensions: shape.iter().rev().copied().collect(),
            kind: kind.id(),
            data,
            offset: None,
        });
        self
    }

    /// Adds an F32 tensor with values that count up from `first`.
    pub(super) fn counting(self, name: &str, shape: &[u64], first: f32) -> Self {
        let count: u64 = shape.iter().product();
        let values: Vec<_> = (0..count).map(|index| first + index as f32).collect();
        self.tensor(name, shape, TensorType::F32, f32_bytes(&values))
    }

    pub(super) fn without_tensor(mut self, name: &str) -> Self {
        self.tensors.retain(|tensor| tensor.name != name);
        self
    }

    /// The header up to the tensor data, and the whole file.
    pub(super) fn write(&self) -> (usize, Vec<u8>) {
        let mut file = b"GGUF".to_vec();
        file.extend(self.version.to_le_bytes());
        file.extend((self.tensors.len() as u64).to_le_bytes());
        file.extend((self.entries.len() as u64).to_le_bytes());
        for entry in &self.entries {
            file.extend(string_bytes(&entry.key));
            file.extend(entry.kind.to_le_bytes());
            file.extend(&entry.value);
        }
        let mut offset = 0;
        for tensor in &self.tensors {
            file.extend(string_bytes(&tensor.name));
            file.extend((tensor.dimensions.len() as u32).to_le_bytes());
            for dimension in &tensor.dimensions {
                file.extend(dimension.to_le_bytes());
            }
            file.extend(tensor.kind.to_le_bytes());
            file.extend(tensor.offset.unwrap_or(offset).to_le_bytes());
            offset += tensor.data.len().next_multiple_of(self.alignment) as u64;
        }
        let header = file.len();
        for tensor in &self.tensors {
            file.resize(file.len().next_multiple_of(self.alignment), 0);
            file.extend(&tensor.data);
        }
        (header, file)
    }

    pub(super) fn open(&self) -> Result<GgufFile, GgufError> {
        open_bytes(&self.write().1)
    }

    /// A model with 2 layers, hidden size 8, 2 query heads and 1 key-value head of 4, and a vocabulary of 6.
    pub(super) fn llama() -> Self {
        let mut file = Self::new()
            .string("general.architecture", "llama")
            .u32("llama.block_count", 2)
            .u32("llama.context_length", 64)
            .u32("llama.embedding_length", 8)
            .u32("llama.feed_forward_length", 12)
            .u32("llama.attention.head_count", 2)
            .u32("llama.attention.head_count_kv", 1)
            .u32("llama.vocab_size", 6)
            .u32("llama.rope.dimension_count", 4)
            .f32("llama.rope.freq_base", 50_000.0)
            .f32("llama.attention.layer_norm_rms_epsilon", 1e-5)
            .string("tokenizer.ggml.model", "gpt2")
            .string("tokenizer.ggml.pre", "gpt-2")
            .strings("tokenizer.ggml.tokens", &["<s>", "</s>", "a", "b", "ab", "Ġ"])
            .i32s("tokenizer.ggml.token_type", &[3, 3, 1, 1, 1, 1])
            .strings("tokenizer.ggml.merges", &["a b"])
            .u32("tokenizer.ggml.bos_token_id", 0)
            .u32("tokenizer.ggml.eos_token_id", 1)
            .counting("token_embd.weight", &[6, 8], 0.0)
            .counting("output_norm.weight", &[8], 0.0);
        for layer in 0..2 {
            for (name, shape) in [
                ("attn_norm", &[8][..]),
                ("attn_q", &[8, 8]),
                ("attn_k", &[4, 8]),
                ("attn_v", &[4, 8]),
                ("attn_output", &[8, 8]),
                ("ffn_norm", &[8]),
                ("ffn_gate", &[12, 8]),
                ("ffn_up", &[12, 8]),
                ("ffn_down", &[8, 12]),
            ] {
                let first = 1000.0 * layer as f32;
                file = file.counting(&format!("blk.{layer}.{name}.weight"), shape, first);
            }
        }
        file
    }
}

/// Opens a file with these bytes.
pub(super) fn open_bytes(bytes: &[u8]) -> Result<GgufFile, GgufError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, bytes).unwrap();
    GgufFile::open(&path)
}

/// The message of the error that `result` must be.
#[track_caller]
pub(super) fn message<T>(result: Result<T, GgufError>) -> String {
    match result {
        Ok(_) => panic!("expected an error"),
        Err(error) => error.to_string(),
    }
}

/// Checks that `text` has all of `parts`.
#[track_caller]
pub(super) fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "\"{part}\" is not in: {text}");
    }
}
