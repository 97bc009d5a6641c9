//! Tokenizers into metadata, and out of them again. The golden tests do this with whole tokenizers.

use std::str::FromStr;

use serde_json::json;
use tokenizers::Tokenizer;

use super::{
    super::super::{GgufFile, test_file::assert_says, writer::write_gguf},
    *,
};

/// A tokenizer of a few tokens, as `tokenizer.json` and its companions have it.
struct Files {
    tokenizer: Value,
    tokenizer_config: Value,
    config: Value,
    chat_template: Option<&'static str>,
    vocabulary: usize,
}

fn added(id: u32, content: &str, special: bool) -> Value {
    json!({
        "id": id,
        "content": content,
        "single_word": false,
        "lstrip": false,
        "rstrip": false,
        "normalized": false,
        "special": special,
    })
}

fn byte_level() -> Files {
    Files {
        tokenizer: json!({
            "added_tokens": [added(0, "<s>", true), added(1, "</s>", true), added(7, "<tool>", false)],
            "normalizer": null,
            "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true },
            "post_processor": null,
            "model": {
                "type": "BPE",
                "vocab": { "<s>": 0, "</s>": 1, "a": 2, "b": 3, "Ġ": 4, "ab": 5, "Ġab": 6 },
                "merges": [["a", "b"], ["Ġ", "ab"]],
            },
        }),
        tokenizer_config: json!({ "bos_token": "<s>", "eos_token": { "content": "</s>" }, "pad_token": null }),
        config: json!({}),
        chat_template: None,
        vocabulary: 10,
    }
}

fn sentence_piece() -> Files {
    let mut files = byte_level();
    files.tokenizer["normalizer"] = json!({ "type": "Sequence", "normalizers": [
        { "type": "Prepend", "prepend": "▁" },
        { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
    ] });
    files.tokenizer["pre_tokenizer"] = Value::Null;
    files.tokenizer["added_tokens"].as_array_mut().unwrap().push(added(8, "<unk>", true));
    files.tokenizer["model"] = json!({
        "type": "BPE",
        "unk_token": "<unk>",
        "byte_fallback": true,
        "fuse_unk": true,
        "vocab": { "<s>": 0, "</s>": 1, "a": 2, "<0x0A>": 3, "▁": 4, "ba": 5, "▁ba": 6, "<tool>": 7, "<unk>": 8, "b": 9 },
        "merges": ["b a", "▁ ba"],
    });
    files.vocabulary = 11;
    files
}

impl Files {
    fn convert(&self) -> Result<(NewMetadata, Vec<String>), HfError> {
        let mut metadata = NewMetadata::new();
        let object = |value: &Value| value.as_object().unwrap().clone();
        let losses = tokenizer_metadata(
            &HfTokenizerFiles {
                path: Path::new("folder/tokenizer.json"),
                tokenizer: &object(&self.tokenizer),
                tokenizer_config: &object(&self.tokenizer_config),
                config: &object(&self.config),
                chat_template: self.chat_template,
                vocabulary: self.vocabulary,
            },
            &mut metadata,
        )?;
        Ok((metadata, losses))
    }

    /// The file that the metadata make, and what is said about it.
    #[track_caller]
    fn write(&self) -> (GgufFile, Vec<String>) {
        let (metadata, losses) = self.convert().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.gguf");
        write_gguf(&path, &metadata, &[], |_, _, _| Ok(())).unwrap();
        (GgufFile::open(&path).unwrap(), losses)
    }

    /// The file, in which the tokenizer encodes as this one does.
    #[track_caller]
    fn check(&self) -> GgufFile {
        let (file, losses) = self.write();
        assert_eq!(losses, [""; 0]);
        let original = Tokenizer::from_str(&self.tokenizer.to_string()).unwrap();
        let copy = file.tokenizer().unwrap();
        for text in ["", "ab ab", "<s>ab<tool>ba", "ba ba\nab"] {
            for special in [false, true] {
                let ids = |tokenizer: &Tokenizer| tokenizer.encode(text, special).unwrap().get_ids().to_vec();
                assert_eq!(ids(&copy), ids(&original), "{text:?}");
            }
        }
        file
    }

    #[track_caller]
    fn fails(&self, parts: &[&str]) {
        let error = self.convert().unwrap_err().to_string();
        assert_says(&error, &["folder/tokenizer"]);
        assert_says(&error, parts);
    }
}

#[test]
fn byte_level_bpe() {
    let mut files = byte_level();
    let file = files.check();
    let metadata = file.metadata();
    assert_eq!(metadata.string("tokenizer.ggml.pre").unwrap(), Some("gpt-2"));
    // Filled up to the embedding.
    let tokens = metadata.strings(TOKENS).unwrap().unwrap();
    assert_eq!(tokens, ["<s>", "</s>", "a", "b", "Ġ", "ab", "Ġab", "<tool>", "[PAD8]", "[PAD9]"]);
    assert_eq!(metadata.integers(TYPES).unwrap().unwrap(), [3, 3, 1, 1, 1, 1, 1, 4, 5, 5]);
    assert_eq!(metadata.unsigned("tokenizer.ggml.bos_token_id").unwrap(), Some(0));
    assert_eq!(metadata.unsigned("tokenizer.ggml.eos_token_id").unwrap(), Some(1));
    assert!(!metadata.contains("tokenizer.ggml.padding_token_id"));
    assert_eq!(metadata.boolean(ADD_BOS).unwrap(), Some(false));

    // What config.json says counts if nothing else does and the token is an added one.
    files.config = json!({ "pad_token_id": [7, 2], "eos_token_id": 0, "unk_token_id": 2 });
    let file = files.check();
    assert_eq!(file.metadata().unsigned("tokenizer.ggml.padding_token_id").unwrap(), Some(7));
    assert_eq!(file.metadata().unsigned("tokenizer.ggml.eos_token_id").unwrap(), Some(1));
    assert!(!file.metadata().contains("tokenizer.ggml.unknown_token_id"));
}

#[test]
fn byte_fallback_bpe() {
    let mut files = sentence_piece();
    let file = files.check();
    let metadata = file.metadata();
    assert_eq!(metadata.string(MODEL).unwrap(), Some("llama"));
    assert_eq!(metadata.integers(TYPES).unwrap().unwrap(), [3, 3, 1, 6, 1, 1, 1, 4, 2, 1, 5]);
    let scores = metadata.numbers(SCORES).unwrap().unwrap();
    assert_eq!((scores[5], scores[6]), (-1.0, -2.0), "ranks of the merges");
    assert!(scores.iter().enumerate().all(|(id, &score)| [5, 6].contains(&id) || score < -2.0));
    assert_eq!(metadata.unsigned("tokenizer.ggml.unknown_token_id").unwrap(), Some(8));

    files.tokenizer["normalizer"] = json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" });
    files.tokenizer["pre_tokenizer"] =
        json!({ "type": "Split", "pattern": { "String": " " }, "behavior": "MergedWithPrevious", "invert": false });
    let file = files.check();
    assert_eq!(file.metadata().boolean(ADD_SPACE).unwrap(), Some(false));
}

#[test]
fn runs_of_spaces_stay_pieces() {
    let mut files = sentence_piece();
    files.tokenizer["model"]["vocab"]["▁▁"] = 10.into();
    files.tokenizer["model"]["merges"] = json!(["▁ ▁", "b a", "▁ ba"]);
    files.tokenizer["added_tokens"].as_array_mut().unwrap().push(added(10, "▁▁", false));
    let file = files.check();
    assert_eq!(file.metadata().integers(TYPES).unwrap().unwrap()[10], 1);
    let tokens = |text: &str| file.tokenizer().unwrap().encode(text, false).unwrap().get_ids().to_vec();
    assert_eq!(tokens("  ba"), [10, 6]);
}

#[test]
fn tokens_around_a_text() {
    let template = |single: Value| {
        json!({
            "type": "TemplateProcessing",
            "single": single,
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 0 } }],
            "special_tokens": {
                "<s>": { "id": "<s>", "ids": [0], "tokens": ["<s>"] },
                "</s>": { "id": "</s>", "ids": [1], "tokens": ["</s>"] },
            },
        })
    };
    let special = |token: &str| json!({ "SpecialToken": { "id": token, "type_id": 0 } });
    let text = json!({ "Sequence": { "id": "A", "type_id": 0 } });
    let mut files = byte_level();
    files.tokenizer["post_processor"] = template(json!([special("<s>"), text, special("</s>")]));
    let file = files.check();
    assert_eq!(file.metadata().boolean(ADD_BOS).unwrap(), Some(true));
    assert_eq!(file.metadata().boolean(ADD_EOS).unwrap(), Some(true));

    // As in Llama 3's, with the token's part not named elsewhere.
    files.tokenizer_config = json!({});
    files.tokenizer["post_processor"] = json!({ "type": "Sequence", "processors": [
        { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true },
        template(json!([special("</s>"), text])),
    ] });
    let file = files.check();
    assert_eq!(file.metadata().unsigned("tokenizer.ggml.bos_token_id").unwrap(), Some(1));

    files.tokenizer_config = json!({ "bos_token": "<s>" });
    files.fails(&["post_processor", "\"bos_token\"", "id 0", "id 1"]);
    files.tokenizer["post_processor"] = template(json!([special("<s>"), special("<s>"), text]));
    files.fails(&["post_processor", "at most one token"]);
    files.tokenizer["post_processor"] = json!({ "type": "BertProcessing" });
    files.fails(&["post_processor", "BertProcessing"]);
}

#[test]
fn chat_templates() {
    let mut files = byte_level();
    let template = |files: &Files| {
        let (file, _) = files.write();
        file.metadata().string(CHAT_TEMPLATE).unwrap().map(str::to_owned)
    };
    assert_eq!(template(&files), None);
    files.tokenizer_config["chat_template"] = "one".into();
    assert_eq!(template(&files).as_deref(), Some("one"));
    files.tokenizer_config["chat_template"] =
        json!([{ "name": "tools", "template": "two" }, { "name": "default", "template": "three" }]);
    assert_eq!(template(&files).as_deref(), Some("three"));
    files.chat_template = Some("file");
    assert_eq!(template(&files).as_deref(), Some("file"));
}

#[test]
fn what_a_file_cannot_say_is_reported() {
    let mut files = byte_level();
    files.tokenizer["added_tokens"][0]["rstrip"] = true.into();
    files.tokenizer["added_tokens"][1]["lstrip"] = true.into();
    files.tokenizer["added_tokens"][2]["single_word"] = true.into();
    // Nothing is normalized here, so that this changes nothing.
    files.tokenizer["added_tokens"][2]["normalized"] = true.into();
    let (_, losses) = files.write();
    assert_eq!(losses.len(), 2, "{losses:?}");
    assert_says(&losses[0], &["\"<s>\"", "lstrip, rstrip", "and 1 more"]);
    assert_says(&losses[1], &["\"<tool>\"", "single_word"]);

    let mut files = sentence_piece();
    files.tokenizer["added_tokens"][2]["normalized"] = true.into();
    assert_says(&files.write().1[0], &["\"<tool>\" is looked for in normalized text"]);

    let mut files = sentence_piece();
    files.tokenizer["normalizer"] = Value::Null;
    files.tokenizer["pre_tokenizer"] =
        json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false });
    let (file, losses) = files.write();
    assert_says(&losses[0], &["a space is put before"]);
    assert_eq!(file.metadata().boolean(ADD_SPACE).unwrap(), Some(true));
    files.tokenizer["pre_tokenizer"]["prepend_scheme"] = "never".into();
    files.check();
}

#[test]
fn merges_that_scores_cannot_stand_for_are_reported() {
    let mut files = sentence_piece();
    let mut losses = |merges: Value| {
        files.tokenizer["model"]["vocab"]["▁b"] = 10.into();
        files.tokenizer["model"]["merges"] = merges;
        files.convert().unwrap().1
    };
    assert_eq!(losses(json!(["b a", "▁ ba", "▁b a", "▁ b"])).len(), 0);
    // The order among those that make the same token does not count, that between others does.
    assert_eq!(losses(json!(["b a", "▁b a", "▁ ba", "▁ b"])).len(), 0);
    assert_says(&losses(json!(["b a", "▁ ba", "▁ b", "▁b a"]))[0], &["4 merges", "0 are lost", "0 others"]);
    assert_says(&losses(json!(["b a", "▁ ba"]))[0], &["2 merges", "0 are lost", "2 others"]);

    // Control tokens are not parts of others.
    let mut files = sentence_piece();
    files.tokenizer["model"]["vocab"]["a<s>"] = 10.into();
    files.tokenizer["model"]["merges"] = json!(["b a", "▁ ba", "a <s>"]);
    assert_says(&files.convert().unwrap().1[0], &["3 merges", "1 are lost", "0 others"]);
}

#[test]
fn what_cannot_be_converted() {
    let with = |change: fn(&mut Files)| {
        let mut files = byte_level();
        change(&mut files);
        files
    };
    with(|files| files.tokenizer["model"]["type"] = "Unigram".into()).fails(&["model.type", "Unigram", "BPE"]);
    with(|files| files.tokenizer["model"] = Value::Null).fails(&["\"model\"", "none"]);
    with(|files| files.tokenizer["model"]["vocab"] = json!([])).fails(&["is not a tokenizer"]);
    with(|files| files.tokenizer["added_tokens"] = json!([{}])).fails(&["is not a tokenizer"]);
    with(|files| files.tokenizer["model"]["end_of_word_suffix"] = "</w>".into()).fails(&["end_of_word_suffix", "</w>"]);
    with(|files| files.tokenizer["model"]["unk_token"] = "?".into()).fails(&["unk_token", "\"?\""]);
    with(|files| files.tokenizer["model"]["merges"] = json!(["a b", "b a"])).fails(&["merge 1", "\"b a\""]);
    with(|files| files.tokenizer["model"]["merges"] = json!(["ab"])).fails(&["merge 0", "two tokens"]);
    with(|files| files.tokenizer["model"]["vocab"]["c"] = 2.into()).fails(&["id 2", "one token", "\"a\"", "\"c\""]);
    with(|files| files.tokenizer["model"]["vocab"]["[PAD9]"] = 8.into()).fails(&["id 9", "\"[PAD9]\""]);
    with(|files| files.vocabulary = 7).fails(&["\"<tool>\"", "7 rows", "found 7"]);
    with(|files| files.tokenizer_config["bos_token"] = "?".into()).fails(&[
        "tokenizer_config.json",
        "bos_token",
        "\"?\"",
    ]);
    with(|files| files.tokenizer["pre_tokenizer"]["add_prefix_space"] = true.into()).fails(&[
        "pre_tokenizer",
        "add_prefix_space",
        "gpt-2",
        "qwen2",
    ]);
    with(|files| files.tokenizer["normalizer"] = json!({ "type": "NFKC" })).fails(&["pre_tokenizer", "NFKC"]);

    let mut files = sentence_piece();
    files.tokenizer["normalizer"] = json!({ "type": "NFKC" });
    files.fails(&["\"normalizer\"", "NFKC", "Llama 2"]);
    files.tokenizer["pre_tokenizer"] = json!({ "type": "Metaspace", "replacement": "▁", "split": true });
    files.fails(&["\"pre_tokenizer\"", "Metaspace"]);
}
