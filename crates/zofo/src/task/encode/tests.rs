use std::path::Path;

use serde_json::{Value, json};

use super::*;

/// A tokenizer whose tokens are the words listed, numbered from 0, with `[BOS]` and `[EOS]` after
/// them.
fn words(words: &str, template: Option<&str>) -> Tokenizer {
    let words: Vec<&str> = words.split(' ').collect();
    let (bos, eos) = (words.len(), words.len() + 1);
    let vocabulary: serde_json::Map<String, Value> =
        words.iter().chain(&["[BOS]", "[EOS]"]).enumerate().map(|(id, word)| ((*word).to_owned(), json!(id))).collect();
    let special = |name: &str| json!({"SpecialToken": {"id": name, "type_id": 0}});
    let piece = |name: &str| match name {
        "$A" => json!({"Sequence": {"id": "A", "type_id": 0}}),
        name => special(name),
    };
    let processor = template.map(|template| {
        json!({
            "type": "TemplateProcessing",
            "single": template.split(' ').map(piece).collect::<Vec<_>>(),
            "pair": [],
            "special_tokens": {
                "[BOS]": {"id": "[BOS]", "ids": [bos], "tokens": ["[BOS]"]},
                "[EOS]": {"id": "[EOS]", "ids": [eos], "tokens": ["[EOS]"]},
            },
        })
    });
    tokenizer(&json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": processor, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "a"},
    }))
}

/// Characters a, b, c, the word-joining token "ab", and the blank.
fn merging() -> Tokenizer {
    tokenizer(&json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {
            "type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2, "ab": 3, " ": 4}, "merges": [["a", "b"]],
            "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
        },
    }))
}

fn tokenizer(definition: &Value) -> Tokenizer {
    Tokenizer::from_bytes(definition.to_string()).unwrap()
}

fn task(prompt: &str, candidates: [&str; 2]) -> Task {
    let text = format!(
        "name = \"t\"\ndescription = \"d\"\nmetric = \"accuracy\"\n[fields]\ntext = {{ type = \"string\" }}\n\
         [label]\nfield = \"label\"\n[template.prompt]\nprompt = '{prompt}'\ncandidates = ['{}', '{}']\n",
        candidates[0], candidates[1]
    );
    Task::parse(&text, "t.toml").unwrap()
}

fn example(text: &str) -> Example {
    Example {
        source: Path::new("rows.jsonl").into(),
        line: 3,
        fields: [("text".to_owned(), json!(text))].into(),
        gold: Gold::Candidates(vec![1]),
    }
}

fn context(context: usize) -> ModelLimits {
    ModelLimits { vocabulary: usize::MAX, context }
}

fn encode(task: &Task, tokenizer: &Tokenizer, max_length: usize, texts: &[&str]) -> Result<Encoded, TaskError> {
    let rows: Vec<Example> = texts.iter().map(|text| example(text)).collect();
    Encoder::new(task, &TemplateName::PROMPT, tokenizer, context(max_length))?.encode(&rows)
}

const WORDS: &str = "a b c d e f good very bad";

fn sentiment() -> Task {
    task("{{ text }} f", [" bad", " very good"])
}

#[test]
fn whole_texts_are_tokenised_and_the_answer_is_the_difference() {
    let encoded = encode(&sentiment(), &words(WORDS, None), 64, &["a b c"]).unwrap();
    let example = &encoded.examples[0];
    assert_eq!(example.candidates[0], EncodedCandidate::new(vec![0, 1, 2, 5, 8], 1));
    assert_eq!(example.candidates[1], EncodedCandidate::new(vec![0, 1, 2, 5, 7, 6], 2));
    assert_eq!((example.gold(), example.line, example.shared_prefix_len()), (1, 3, 4));
    assert_eq!(example.gold_row(), &example.candidates[1]);
    assert_eq!(example.gold_row().context_len(), 4);
}

#[test]
fn bos_is_kept_and_eos_is_not_part_of_an_answer() {
    let both = words(WORDS, Some("[BOS] $A [EOS]"));
    let encoded = encode(&sentiment(), &both, 64, &["a b c"]).unwrap();
    assert_eq!(encoded.examples[0].candidates[0], EncodedCandidate::new(vec![9, 0, 1, 2, 5, 8], 1));
    assert_eq!(encoded.examples[0].shared_prefix_len(), 5);
    // With BOS, even an empty prompt predicts its answer.
    let bare = task("{{ text }}", [" bad", " good"]);
    let encoded = encode(&bare, &both, 64, &[""]).unwrap();
    assert_eq!(encoded.examples[0].candidates[0], EncodedCandidate::new(vec![9, 8], 1));
}

#[test]
fn tokens_that_join_prompt_and_answer_count_as_the_whole_text_has_them() {
    // "a" + "ba" is [ab, a]: one token more than the prompt alone, so the answer is the last one.
    let joined = task("{{ text }}", ["ba", " c"]);
    let encoded = encode(&joined, &merging(), 64, &["ca"]).unwrap();
    let candidates = &encoded.examples[0].candidates;
    assert_eq!(candidates[0], EncodedCandidate::new(vec![2, 3, 0], 1));
    assert_eq!(candidates[1], EncodedCandidate::new(vec![2, 0, 4, 2], 2));
    // The candidates differ from the prompt's last token on.
    assert_eq!(encoded.examples[0].shared_prefix_len(), 1);
    // "a" + "b" is one token, as is the prompt: nothing could be scored.
    let message = encode(&task("{{ text }}", [" c", "b"]), &merging(), 64, &["a"]).unwrap_err().to_string();
    assert_eq!(
        message,
        "rows.jsonl:3: candidate 1 (\"ab\") adds no token to its prompt: prompt 1 tokens, with the answer 1"
    );
}

#[test]
fn the_shared_prefix_stops_before_the_first_answer_token() {
    // The answers begin alike, but their tokens are scored and so are not shared.
    let alike = task("{{ text }}", [" very bad", " very good"]);
    let encoded = encode(&alike, &words(WORDS, None), 64, &["a b"]).unwrap();
    assert_eq!(encoded.examples[0].shared_prefix_len(), 2);
}

#[test]
fn a_long_prompt_loses_its_left_equally_for_all_candidates() {
    let both = words(WORDS, Some("[BOS] $A"));
    // Untruncated: BOS + 6 words + "f" + at most 2 = 10 tokens.
    let encoded = encode(&sentiment(), &both, 6, &["a b c d e a", "a", "b c"]).unwrap();
    assert_eq!(encoded.examples[0].candidates[0].ids, [9, 4, 0, 5, 8]);
    assert_eq!(encoded.examples[0].candidates[1].ids, [9, 4, 0, 5, 7, 6]);
    assert_eq!(encoded.examples[0].shared_prefix_len(), 4);
    assert_eq!(encoded.examples[1].candidates[1].ids, [9, 0, 5, 7, 6]);
    assert_eq!(
        encoded.truncation,
        TruncationReport { truncated: 1, total: 3, longest: 10, ..TruncationReport::empty(Cut::Prompt, 6) }
    );
    assert_eq!(
        encoded.truncation.to_string(),
        "1 of 3 examples do not fit into the context of 6 tokens (longest: 10): the left of their prompts was cut"
    );
    let fits = encode(&sentiment(), &both, 10, &["a b c d e a"]).unwrap();
    assert_eq!(fits.truncation.to_string(), "all 1 examples fit into the context of 10 tokens (longest: 10)");
}

#[test]
fn an_answer_is_never_cut() {
    let message = |template, limit| {
        encode(&sentiment(), &words(WORDS, template), limit, &["a b"]).map(|encoded| encoded.examples)
    };
    // One token must stay before the two of the answer, whether it is BOS or the prompt's last.
    assert_eq!(message(None, 3).unwrap()[0].candidates[1].ids, [5, 7, 6]);
    assert_eq!(message(Some("[BOS] $A"), 3).unwrap()[0].candidates[1].ids, [9, 7, 6]);
    for template in [None, Some("[BOS] $A")] {
        assert_eq!(
            message(template, 2).unwrap_err().to_string(),
            "rows.jsonl:3: candidate 1 alone has 2 tokens; with the 1 before it that a prediction needs it does not fit into a \
             context of 2"
        );
    }
}

#[test]
fn an_empty_prompt_without_bos_is_refused() {
    let bare = task("{{ text }}", [" bad", " good"]);
    let error = encode(&bare, &words(WORDS, None), 64, &["  "]).unwrap_err();
    assert!(error.to_string().starts_with("rows.jsonl:3: the prompt has no tokens"), "{error}");
}

#[test]
fn truncation_and_padding_of_the_tokenizer_file_are_ignored() {
    let mut definition: Value = serde_json::from_str(&words(WORDS, None).to_string(false).unwrap()).unwrap();
    definition["truncation"] = json!({"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0});
    definition["padding"] = json!({
        "strategy": {"Fixed": 12}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "a",
    });
    let encoded = encode(&sentiment(), &tokenizer(&definition), 64, &["a b c"]).unwrap();
    assert_eq!(encoded.examples[0].candidates[0].ids, [0, 1, 2, 5, 8]);
}

#[test]
fn tokens_that_the_model_does_not_know_are_refused() {
    let (task, tokenizer) = (sentiment(), words(WORDS, None));
    let with_vocabulary = |vocabulary| {
        let limits = ModelLimits { vocabulary, context: 64 };
        Encoder::new(&task, &TemplateName::PROMPT, &tokenizer, limits).unwrap().encode(&[example("a b c")])
    };
    // "bad" is the last word, with the id 8.
    with_vocabulary(9).unwrap();
    let message = with_vocabulary(8).unwrap_err().to_string();
    assert_eq!(
        message,
        "rows.jsonl:3: token \"bad\" has the id 8, but the model's vocabulary has 8 tokens: the text spells out a special \
         token that the model does not have, or the tokenizer is that of another model"
    );
}

#[test]
fn a_template_that_does_not_exist_is_refused() {
    let error = Encoder::new(&sentiment(), &TemplateName::NONE, &words(WORDS, None), context(64)).err().unwrap();
    assert!(matches!(error, TaskError::NoTemplate { .. }));
}

/// With the tokenizer of a real family: every candidate of the built-in tasks keeps its prompt and
/// decodes to its text.
#[test]
fn golden_tokenizer_round_trip() {
    let Some(folder) = std::env::var_os("ZOFO_GOLDEN_DIR") else {
        return;
    };
    let path = Path::new(&folder).join("smollm2/model/tokenizer.json");
    let tokenizer = Tokenizer::from_file(&path).unwrap();
    let task = Task::load("sst2").unwrap();
    let row = Example {
        source: Path::new("rows.jsonl").into(),
        line: 1,
        fields: [("sentence".to_owned(), json!("a gripping , 100 % honest film . "))].into(),
        gold: Gold::Candidates(vec![0]),
    };
    let encoder = Encoder::new(&task, &TemplateName::PROMPT, &tokenizer, context(512)).unwrap();
    let encoded = encoder.encode([&row]).unwrap();
    let example = &encoded.examples[0];
    for (candidate, answer) in example.candidates.iter().zip(["terrible", "great"]) {
        let whole = tokenizer.decode(&candidate.ids, true).unwrap();
        assert_eq!(whole, format!("a gripping , 100 % honest film . It was {answer}"));
        let answer_ids = &candidate.ids[candidate.context_len()..];
        assert_eq!(tokenizer.decode(answer_ids, true).unwrap(), format!(" {answer}"));
    }
    assert_eq!(example.shared_prefix_len(), example.candidates[0].context_len());
}
