//! How text is split before byte pairs are merged, by the name under `tokenizer.ggml.pre`.
//!
//! A GGUF file has only this name; what it stands for is in `llama-vocab.cpp` of the llama.cpp project. Here each
//! becomes what the tokenizers of the original models have in their `tokenizer.json`.

use serde_json::{Value, json};

/// The split of Llama 3; the one of Qwen 2 takes every digit alone instead of up to three.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// llama.cpp's split for models that it knows nothing about: one after the other, each on the pieces of the one before.
const DEFAULT: [&str; 4] = [
    r"[\p{P}\$\+<=>\^~\|]+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
    r"\p{N}+",
    r"[0-9][0-9][0-9]",
];

/// A way of splitting text, and what the tokenizers that use it have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct PreTokenizer {
    /// The names of models that split so.
    names: &'static [&'static str],
    split: Split,
    /// Text is brought into Unicode's composed form first.
    compose: bool,
    /// A piece that is a token as it stands is not built up from merges.
    pub(super) ignore_merges: bool,
    /// Whether text starts with the begin-of-text token where `tokenizer.ggml.add_bos_token` does not say.
    pub(super) add_bos: bool,
}

#[derive(Clone, Copy, Debug)]
enum Split {
    /// GPT-2's, which the byte-level pre-tokenizer has built in.
    Gpt2,
    /// Every digit alone, then GPT-2's.
    DigitsThenGpt2,
    /// By regular expressions.
    Regexes(&'static [&'static str]),
}

const ALL: [PreTokenizer; 6] = [
    PreTokenizer {
        names: &["gpt-2", "phi-2", "mpt", "olmo"],
        split: Split::Gpt2,
        compose: false,
        ignore_merges: false,
        add_bos: false,
    },
    PreTokenizer {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
        split: Split::DigitsThenGpt2,
        compose: false,
        ignore_merges: false,
        add_bos: false,
    },
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3"],
        split: Split::Regexes(&[LLAMA3]),
        compose: false,
        ignore_merges: true,
        add_bos: true,
    },
    PreTokenizer {
        names: &["smaug-bpe", "dbrx"],
        split: Split::Regexes(&[LLAMA3]),
        compose: false,
        ignore_merges: false,
        add_bos: false,
    },
    PreTokenizer {
        names: &["qwen2", "deepseek-r1-qwen", "megrez"],
        split: Split::Regexes(&[QWEN2]),
        compose: true,
        ignore_merges: false,
        add_bos: false,
    },
    PreTokenizer {
        names: &["default"],
        split: Split::Regexes(&DEFAULT),
        compose: false,
        ignore_merges: false,
        add_bos: false,
    },
];

impl PreTokenizer {
    /// The one that goes by `name`.
    pub(super) fn named(name: &str) -> Option<Self> {
        ALL.into_iter().find(|known| known.names.contains(&name))
    }

    /// All names, for error messages.
    pub(super) fn names() -> String {
        let names: Vec<_> = ALL.iter().flat_map(|known| known.names).copied().collect();
        names.join(", ")
    }

    /// The `normalizer` of `tokenizer.json`.
    pub(super) fn normalizer(&self) -> Value {
        if self.compose { json!({ "type": "NFC" }) } else { Value::Null }
    }

    /// The `pre_tokenizer` of `tokenizer.json`.
    pub(super) fn to_json(self) -> Value {
        let sequence = |steps: Vec<Value>| json!({ "type": "Sequence", "pretokenizers": steps });
        match self.split {
            Split::Gpt2 => byte_level(true),
            Split::DigitsThenGpt2 => {
                sequence(vec![json!({ "type": "Digits", "individual_digits": true }), byte_level(true)])
            }
            Split::Regexes(regexes) => {
                let splits = regexes.iter().map(|regex| {
                    json!({
                        "type": "Split",
                        "pattern": { "Regex": regex },
                        "behavior": "Isolated",
                        "invert": false,
                    })
                });
                sequence(splits.chain([byte_level(false)]).collect())
            }
        }
    }
}

/// Bytes written as printable characters, after GPT-2's split if `use_regex`.
fn byte_level(use_regex: bool) -> Value {
    json!({
        "type": "ByteLevel",
        "add_prefix_space": false,
        "trim_offsets": true,
        "use_regex": use_regex,
    })
}
