//! How text is split before byte pairs are merged, by the name under `tokenizer.ggml.pre`.
//!
//! A GGUF file has only this name; what it stands for is in `llama-vocab.cpp` of the llama.cpp project. Here each
//! becomes what the tokenizers of the original models have in their `tokenizer.json`, and is recognised there. A name is
//! in the table only if both are known to agree.

use serde_json::{Value, json};

/// GPT-2's split, which the byte-level pre-tokenizer has built in.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// The split of Llama 3; the one of Qwen 2 takes every digit alone instead of up to three.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 3.5's, which keeps combining marks with their letters.
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Mistral's since Nemo: words end where lower case turns to upper case.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const SEED_CODER: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Every step works on the pieces of the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step<'a> {
    /// Every digit alone.
    Digits,
    /// What the expression matches, and what lies between.
    Regex(&'a str),
}

use Step::{Digits, Regex};

/// A way of splitting text, and what the tokenizers that use it have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct PreTokenizer {
    /// The names of models that split so; the first is the one to write.
    names: &'static [&'static str],
    steps: &'static [Step<'static>],
    /// Text is brought into Unicode's composed form first.
    compose: bool,
    /// A piece that is a token as it stands is not built up from merges.
    pub(super) ignore_merges: bool,
    /// Whether text starts with the begin-of-text token where `tokenizer.ggml.add_bos_token` does not say.
    pub(super) add_bos: bool,
}

/// What most entries have.
const PLAIN: PreTokenizer =
    PreTokenizer { names: &[], steps: &[], compose: false, ignore_merges: false, add_bos: false };

const ALL: [PreTokenizer; 12] = [
    PreTokenizer {
        names: &["gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4"],
        steps: &[Regex(GPT2)],
        ..PLAIN
    },
    PreTokenizer {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
        steps: &[Digits, Regex(GPT2)],
        ..PLAIN
    },
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
        steps: &[Regex(LLAMA3)],
        ignore_merges: true,
        add_bos: true,
        ..PLAIN
    },
    PreTokenizer { names: &["smaug-bpe", "dbrx", "glm4", "chatglm-bpe"], steps: &[Regex(LLAMA3)], ..PLAIN },
    PreTokenizer {
        names: &["qwen2", "deepseek-r1-qwen", "kormo", "megrez"],
        steps: &[Regex(QWEN2)],
        compose: true,
        ..PLAIN
    },
    PreTokenizer { names: &["qwen35"], steps: &[Regex(QWEN35)], compose: true, ..PLAIN },
    PreTokenizer { names: &["tekken"], steps: &[Regex(TEKKEN)], ignore_merges: true, add_bos: true, ..PLAIN },
    PreTokenizer { names: &["gpt-4o", "llama4", "kanana2"], steps: &[Regex(GPT4O)], ..PLAIN },
    PreTokenizer { names: &["seed-coder"], steps: &[Regex(SEED_CODER)], ..PLAIN },
    PreTokenizer {
        names: &["deepseek-coder"],
        steps: &[Regex("[\r\n]"), Regex(r"\s?\p{L}+"), Regex(r"\s?\p{P}+"), Regex("[一-龥ࠀ-一가-퟿]+"), Digits],
        ..PLAIN
    },
    PreTokenizer {
        names: &["deepseek-v3"],
        steps: &[
            Regex(r"\p{N}{1,3}"),
            Regex("[一-龥\u{3040}-ゟ゠-ヿ]+"),
            Regex(
                r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
            ),
        ],
        ..PLAIN
    },
    // llama.cpp's split for models that it knows nothing about.
    PreTokenizer {
        names: &["default"],
        steps: &[Regex(r"[\p{P}\$\+<=>\^~\|]+"), Regex(GPT2), Regex(r"\p{N}+"), Regex("[0-9][0-9][0-9]")],
        ..PLAIN
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

    /// The name of what a `tokenizer.json` has under `normalizer` and `pre_tokenizer`, and in its model under
    /// `ignore_merges`.
    pub(super) fn recognise(normalizer: &Value, pre_tokenizer: &Value, ignore_merges: bool) -> Option<&'static str> {
        let compose = match flatten(normalizer, "normalizers")[..] {
            [] => false,
            [only] if only["type"] == "NFC" => true,
            _ => return None,
        };
        let steps = steps_of(pre_tokenizer)?;
        let same = |known: &&Self| {
            known.compose == compose && known.ignore_merges == ignore_merges && known.steps == steps.as_slice()
        };
        ALL.iter().find(same)?.names.first().copied()
    }

    /// The `normalizer` of `tokenizer.json`.
    pub(super) fn normalizer(&self) -> Value {
        if self.compose { json!({ "type": "NFC" }) } else { Value::Null }
    }

    /// The `pre_tokenizer` of `tokenizer.json`.
    pub(super) fn to_json(self) -> Value {
        // As the original models write it: GPT-2's split is not spelt out where it comes last.
        let (spelt, gpt2) = match self.steps {
            [steps @ .., Regex(GPT2)] => (steps, true),
            steps => (steps, false),
        };
        let steps = spelt.iter().map(|step| match step {
            Digits => json!({ "type": "Digits", "individual_digits": true }),
            Regex(regex) => json!({
                "type": "Split",
                "pattern": { "Regex": regex },
                "behavior": "Isolated",
                "invert": false,
            }),
        });
        let steps: Vec<_> = steps.chain([byte_level(gpt2)]).collect();
        match <[Value; 1]>::try_from(steps) {
            Ok([only]) => only,
            Err(steps) => json!({ "type": "Sequence", "pretokenizers": steps }),
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

/// The steps of a `pre_tokenizer` that ends with bytes written as characters; none if it has others.
fn steps_of(pre_tokenizer: &Value) -> Option<Vec<Step<'_>>> {
    let parts = flatten(pre_tokenizer, "pretokenizers");
    let (bytes, splits) = parts.split_last()?;
    if bytes["type"] != "ByteLevel" || bytes["add_prefix_space"] != false {
        return None;
    }
    let mut steps = splits
        .iter()
        .map(|split| match split["type"].as_str()? {
            "Digits" if split["individual_digits"] == true => Some(Digits),
            "Split" if split["behavior"] == "Isolated" && split["invert"] != true => {
                split["pattern"]["Regex"].as_str().map(Regex)
            }
            _ => None,
        })
        .collect::<Option<Vec<_>>>()?;
    // Absent in files from before there was a choice.
    if bytes["use_regex"] != false {
        steps.push(Regex(GPT2));
    }
    Some(steps)
}

/// The parts of a normalizer or pre-tokenizer, whose sequences list theirs under `list`.
pub(super) fn flatten<'a>(part: &'a Value, list: &str) -> Vec<&'a Value> {
    match part[list].as_array() {
        Some(parts) if part["type"] == "Sequence" => parts.iter().flat_map(|part| flatten(part, list)).collect(),
        _ if part.is_null() => Vec::new(),
        _ => vec![part],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pre_tokenizer_is_recognised_in_what_it_becomes() {
        for known in ALL {
            let recognised = PreTokenizer::recognise(&known.normalizer(), &known.to_json(), known.ignore_merges);
            assert_eq!(recognised, Some(known.names[0]));
            for &name in known.names {
                let named = PreTokenizer::named(name).unwrap();
                assert_eq!(named.names, known.names, "{name} stands for two");
            }
        }
    }

    #[test]
    fn spellings_of_the_same() {
        let recognise = |value: Value| PreTokenizer::recognise(&Value::Null, &value, false);
        let split = |regex: &str| json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated" });
        assert_eq!(recognise(json!({ "type": "ByteLevel", "add_prefix_space": false })), Some("gpt-2"));
        let sequence = |steps: Value| json!({ "type": "Sequence", "pretokenizers": steps });
        assert_eq!(recognise(sequence(json!([split(GPT2), byte_level(false)]))), Some("gpt-2"));
        assert_eq!(
            recognise(sequence(json!([sequence(json!([split(LLAMA3)])), byte_level(false)]))),
            Some("smaug-bpe")
        );

        let qwen = sequence(json!([split(QWEN2), byte_level(false)]));
        let composed = json!({ "type": "Sequence", "normalizers": [{ "type": "NFC" }] });
        assert_eq!(PreTokenizer::recognise(&composed, &qwen, false), Some("qwen2"));
        // Not in the table without composition, and never with another normalizer.
        assert_eq!(recognise(qwen.clone()), None);
        assert_eq!(PreTokenizer::recognise(&json!({ "type": "NFKC" }), &qwen, false), None);
    }

    #[test]
    fn what_is_not_recognised() {
        let recognise = |value: Value| PreTokenizer::recognise(&Value::Null, &value, false);
        for other in [
            Value::Null,
            json!({ "type": "ByteLevel", "add_prefix_space": true }),
            json!({ "type": "Whitespace" }),
            json!({ "type": "Digits", "individual_digits": true }),
            json!({ "type": "Sequence", "pretokenizers": [] }),
            json!({ "type": "Sequence", "pretokenizers": [
                { "type": "Digits", "individual_digits": false }, byte_level(true),
            ] }),
            json!({ "type": "Sequence", "pretokenizers": [
                { "type": "Split", "pattern": { "Regex": LLAMA3 }, "behavior": "Removed" }, byte_level(false),
            ] }),
            json!({ "type": "Sequence", "pretokenizers": [
                { "type": "Split", "pattern": { "Regex": LLAMA3 }, "behavior": "Isolated", "invert": true },
                byte_level(false),
            ] }),
        ] {
            assert_eq!(recognise(other.clone()), None, "{other}");
        }
        assert_eq!(PreTokenizer::recognise(&Value::Null, &byte_level(true), true), None);
    }
}
