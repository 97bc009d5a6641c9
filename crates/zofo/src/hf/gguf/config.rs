//! `config.json` from the metadata of a llama model.

use serde_json::{Value, json};

use super::{
    GgufFile, Metadata,
    error::{GgufError, GgufProblem},
    names::{EMBEDDING, OUTPUT},
    rope::rope_parameters,
};

/// Keys that would make llama.cpp compute something that `LlamaForCausalLM` does not, each with the value at which
/// it has no effect.
const KEYS_WITHOUT_COUNTERPART: [(&str, Neutral); 12] = [
    ("llama.expert_count", Neutral::Zero),
    ("llama.expert_used_count", Neutral::Zero),
    ("llama.attention.sliding_window", Neutral::Zero),
    ("llama.attention.clamp_kqv", Neutral::Zero),
    ("llama.attention.max_alibi_bias", Neutral::Zero),
    ("llama.attention.scale", Neutral::Zero),
    ("llama.attn_logit_softcapping", Neutral::Zero),
    ("llama.final_logit_softcapping", Neutral::Zero),
    ("llama.logit_scale", Neutral::Zero),
    ("llama.residual_scale", Neutral::Zero),
    ("llama.embedding_scale", Neutral::Zero),
    ("llama.use_parallel_residual", Neutral::False),
];

#[derive(Clone, Copy)]
enum Neutral {
    Zero,
    False,
}

/// The sizes of a llama model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) layers: usize,
    pub(super) hidden: usize,
    pub(super) intermediate: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) vocabulary: usize,
}

impl Sizes {
    /// Reads the sizes and checks that they fit together.
    pub(super) fn read(file: &GgufFile) -> Result<Self, GgufError> {
        let metadata = file.metadata();
        check_architecture(&metadata)?;
        let size = |key: &str| -> Result<usize, GgufError> {
            let value = metadata.required(key, Metadata::unsigned)?;
            positive_size(&metadata, key, value)
        };
        let optional_size = |key: &str, default: usize| -> Result<usize, GgufError> {
            match metadata.unsigned(key)? {
                Some(value) => positive_size(&metadata, key, value),
                None => Ok(default),
            }
        };

        let hidden = size("llama.embedding_length")?;
        let heads = size("llama.attention.head_count")?;
        // Both defaults are the format's: heads are not shared, and divide the hidden size, unless keys say otherwise.
        let kv_heads = optional_size("llama.attention.head_count_kv", heads)?;
        if !heads.is_multiple_of(kv_heads) {
            return Err(metadata.bad_value(
                "llama.attention.head_count_kv",
                kv_heads,
                format!("expected a divisor of the {heads} heads"),
            ));
        }
        let key_length = "llama.attention.key_length";
        let head_dim = optional_size(key_length, hidden / heads)?;
        if !metadata.contains(key_length) && !hidden.is_multiple_of(heads) {
            return Err(metadata.bad_value(
                "llama.embedding_length",
                hidden,
                format!("without {key_length}, expected a multiple of the {heads} heads"),
            ));
        }
        // All of a head is rotated, in pairs, and values are as long as keys.
        for key in ["llama.attention.value_length", "llama.rope.dimension_count"] {
            let length = optional_size(key, head_dim)?;
            if length != head_dim {
                return Err(metadata.bad_value(key, length, format!("a llama model has the {head_dim} of its heads")));
            }
        }
        if !head_dim.is_multiple_of(2) {
            return Err(metadata.bad_value(
                key_length,
                head_dim,
                "expected an even number: rotary positions turn pairs of values",
            ));
        }

        let embedding = file
            .tensor(EMBEDDING)
            .ok_or_else(|| metadata.error(GgufProblem::MissingTensor { tensor: EMBEDDING.to_owned() }))?;
        let vocabulary = embedding.rows();
        let stated = optional_size("llama.vocab_size", vocabulary)?;
        if stated != vocabulary {
            return Err(metadata.bad_value(
                "llama.vocab_size",
                stated,
                format!("tensor \"{EMBEDDING}\" has {vocabulary} rows"),
            ));
        }
        Ok(Self {
            layers: size("llama.block_count")?,
            hidden,
            intermediate: size("llama.feed_forward_length")?,
            heads,
            kv_heads,
            head_dim,
            vocabulary,
        })
    }
}

impl GgufFile {
    /// The `config.json` of the model, as transformers 5 writes it.
    ///
    /// # Errors
    /// The architecture is not llama; a key is missing, has the wrong type or an impossible value; or a key asks for
    /// something that transformers' `LlamaForCausalLM` does not compute.
    pub fn hf_config(&self) -> Result<Value, GgufError> {
        let metadata = self.metadata();
        let sizes = Sizes::read(self)?;
        reject_keys_without_counterpart(&metadata)?;
        let epsilon_key = "llama.attention.layer_norm_rms_epsilon";
        let epsilon = positive_float(&metadata, epsilon_key, metadata.required(epsilon_key, Metadata::float)?)?;
        let context_key = "llama.context_length";
        let context = positive_size(&metadata, context_key, metadata.required(context_key, Metadata::unsigned)?)?;

        let mut config = json!({
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": false,
            "attention_dropout": 0.0,
            "dtype": "float32",
            "head_dim": sizes.head_dim,
            "hidden_act": "silu",
            "hidden_size": sizes.hidden,
            "intermediate_size": sizes.intermediate,
            "max_position_embeddings": context,
            "mlp_bias": false,
            "model_type": "llama",
            "num_attention_heads": sizes.heads,
            "num_hidden_layers": sizes.layers,
            "num_key_value_heads": sizes.kv_heads,
            "rms_norm_eps": epsilon,
            "rope_parameters": rope_parameters(self, sizes.head_dim)?,
            "tie_word_embeddings": self.tensor(OUTPUT).is_none(),
            "use_cache": true,
            "vocab_size": sizes.vocabulary,
        });
        for (key, name) in [
            ("tokenizer.ggml.bos_token_id", "bos_token_id"),
            ("tokenizer.ggml.eos_token_id", "eos_token_id"),
            ("tokenizer.ggml.padding_token_id", "pad_token_id"),
        ] {
            if let Some(id) = metadata.unsigned(key)? {
                if id as usize >= sizes.vocabulary {
                    return Err(metadata.bad_value(key, id, format!("the vocabulary has {} tokens", sizes.vocabulary)));
                }
                config[name] = id.into();
            }
        }
        Ok(config)
    }
}

/// Only models of the llama architecture have a Hugging Face counterpart here.
pub(super) fn check_architecture(metadata: &Metadata<'_>) -> Result<(), GgufError> {
    match metadata.required("general.architecture", Metadata::string)? {
        "llama" => Ok(()),
        other => Err(metadata.error(GgufProblem::Architecture { found: other.to_owned() })),
    }
}

fn reject_keys_without_counterpart(metadata: &Metadata<'_>) -> Result<(), GgufError> {
    for (key, neutral) in KEYS_WITHOUT_COUNTERPART {
        if !metadata.contains(key) {
            continue;
        }
        let found = match neutral {
            Neutral::False => metadata.boolean(key)?.filter(|&set| set).map(f64::from),
            // Counts are integers, scales are floats.
            Neutral::Zero => match metadata.unsigned(key) {
                Ok(count) => count.map(f64::from),
                Err(_) => metadata.float(key)?,
            }
            .filter(|&value| value != 0.0),
        };
        if let Some(found) = found {
            return Err(metadata.bad_value(
                key,
                found,
                "transformers' llama has nothing that corresponds to it, so only models without it are supported",
            ));
        }
    }
    Ok(())
}

fn positive_size(metadata: &Metadata<'_>, key: &str, value: u32) -> Result<usize, GgufError> {
    match value {
        0 => Err(metadata.bad_value(key, value, "expected at least 1")),
        _ => Ok(value as usize),
    }
}

/// `value`, if it is a finite number above zero.
pub(super) fn positive_float(metadata: &Metadata<'_>, key: &str, value: f64) -> Result<f64, GgufError> {
    if value.is_finite() && value > 0.0 {
        Ok(value)
    } else {
        Err(metadata.bad_value(key, value, "expected a finite number above zero"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_file::{TestFile, assert_says, message};
    use super::*;

    fn config(file: &TestFile) -> Result<Value, GgufError> {
        file.open().unwrap().hf_config()
    }

    #[test]
    fn a_config_as_transformers_writes_it() {
        let expected = json!({
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": false,
            "attention_dropout": 0.0,
            "dtype": "float32",
            "head_dim": 4,
            "hidden_act": "silu",
            "hidden_size": 8,
            "intermediate_size": 12,
            "max_position_embeddings": 64,
            "mlp_bias": false,
            "model_type": "llama",
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
            "num_key_value_heads": 1,
            "rms_norm_eps": 1e-5,
            "rope_parameters": { "rope_theta": 50000.0, "rope_type": "default" },
            "tie_word_embeddings": true,
            "use_cache": true,
            "vocab_size": 6,
            "bos_token_id": 0,
            "eos_token_id": 1,
        });
        assert_eq!(config(&TestFile::llama()).unwrap(), expected);

        let untied = TestFile::llama().counting("output.weight", &[6, 8], 0.0);
        assert_eq!(config(&untied).unwrap()["tie_word_embeddings"], false);
    }

    #[test]
    fn keys_that_may_be_absent() {
        let file = TestFile::llama()
            .without("llama.attention.head_count_kv")
            .without("llama.rope.dimension_count")
            .without("llama.vocab_size")
            .without("tokenizer.ggml.bos_token_id");
        let config = config(&file).unwrap();
        assert_eq!(config["num_key_value_heads"], 2);
        assert_eq!(config["head_dim"], 4);
        assert_eq!(config["vocab_size"], 6);
        assert!(config.get("bos_token_id").is_none());
    }

    #[test]
    fn keys_that_must_be_there() {
        for key in [
            "general.architecture",
            "llama.block_count",
            "llama.context_length",
            "llama.embedding_length",
            "llama.feed_forward_length",
            "llama.attention.head_count",
            "llama.attention.layer_norm_rms_epsilon",
        ] {
            let text = message(config(&TestFile::llama().without(key)));
            assert_says(&text, &[&format!("\"{key}\" is missing")]);
        }
        let text = message(config(&TestFile::llama().without_tensor(EMBEDDING)));
        assert_says(&text, &["tensor \"token_embd.weight\" is missing"]);
    }

    #[test]
    fn values_that_do_not_fit() {
        for (key, value, part) in [
            ("llama.block_count", 0, "at least 1"),
            ("llama.attention.head_count", 3, "multiple of the 3 heads"),
            ("llama.attention.head_count_kv", 3, "divisor of the 2 heads"),
            ("llama.attention.key_length", 6, "6 of its heads"),
            ("llama.attention.value_length", 6, "4 of its heads"),
            ("llama.rope.dimension_count", 2, "4 of its heads"),
            ("llama.vocab_size", 7, "has 6 rows"),
            ("tokenizer.ggml.eos_token_id", 6, "has 6 tokens"),
        ] {
            let file = TestFile::llama().without("llama.attention.head_count_kv").u32(key, value);
            assert_says(&message(config(&file)), &[part]);
        }
        let odd = TestFile::llama().u32("llama.attention.key_length", 3).u32("llama.rope.dimension_count", 3);
        assert_says(&message(config(&odd)), &["key_length\" is 3", "even"]);
        for wrong in [0.0, -1e-5, f32::NAN, f32::INFINITY] {
            let key = "llama.attention.layer_norm_rms_epsilon";
            assert_says(&message(config(&TestFile::llama().f32(key, wrong))), &[key, "finite"]);
        }
        let text = message(config(&TestFile::llama().i32s("llama.attention.head_count", &[2, 2])));
        assert_says(&text, &["head_count\" holds an array of 2", "expected an integer"]);
    }

    #[test]
    fn what_transformers_would_not_compute() {
        let text = message(config(&TestFile::llama().string("general.architecture", "gemma")));
        assert_says(&text, &["architecture \"gemma\"", "supported: llama"]);

        let mixture = TestFile::llama().u32("llama.expert_count", 8);
        assert_says(&message(config(&mixture)), &["llama.expert_count", "is 8"]);
        config(&TestFile::llama().u32("llama.expert_count", 0)).unwrap();
        let scaled = TestFile::llama().f32("llama.logit_scale", 0.5);
        assert_says(&message(config(&scaled)), &["llama.logit_scale", "is 0.5"]);
        config(&TestFile::llama().f32("llama.logit_scale", 0.0)).unwrap();
        let parallel = TestFile::llama().bool("llama.use_parallel_residual", true);
        assert_says(&message(config(&parallel)), &["use_parallel_residual"]);
        config(&TestFile::llama().bool("llama.use_parallel_residual", false)).unwrap();
    }
}
