//! Chat templates against transformers: the text of conversations, which of them are refused, and which tokens are answers.

mod golden_cases;

use golden_cases::{Case, Report, cases_with, entries, list, text};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs;
use tempfile::TempDir;
use tokenizers::Tokenizer;
use zofo::hf::{ChatTemplate, HfError, Message, ModelFiles};
use zofo::task::chat::{AnswerTurns, ChatText, SpanError, messages};

#[test]
fn golden_chat_templates() {
    let mut report = Report::default();
    for case in cases_with(&["expected.json"]).into_iter().filter(has_templates) {
        let expected = case.expected();
        let templates: BTreeMap<String, ChatTemplate> = templates(&case)
            .map(|name| {
                let folder = model_with(&case, &name, &expected["special_tokens"]);
                let files = ModelFiles::open(folder.path()).unwrap();
                (name, ChatTemplate::open(&files).unwrap().expect("a template"))
            })
            .collect();
        for wanted in list(&expected, "cases") {
            let (template, conversation) = (text(wanted, "template"), text(wanted, "conversation"));
            let messages: Vec<Message> =
                serde_json::from_value(expected["conversations"][conversation].clone()).unwrap();
            let add_generation_prompt = wanted["add_generation_prompt"].as_bool().unwrap();
            let place = format!("{template}: {conversation}");
            match (templates[template].render(&messages, add_generation_prompt), wanted["text"].as_str()) {
                (Ok(text), Some(wanted)) => report.equal(place, text.as_str(), wanted),
                (Err(HfError::ChatTemplate { line, reason, .. }), None) => {
                    assert!(line.is_some(), "{place}: {reason}");
                    if let Some(raised) = wanted["raised"].as_str() {
                        report.equal(place, &reason, &format!("it refuses the messages: {raised}"));
                    }
                }
                (found, wanted) => report.equal(place, &format!("{found:?}"), &format!("{wanted:?}")),
            }
            report.ran();
        }
    }
    report.finish();
}

fn has_templates(case: &Case) -> bool {
    templates(case).next().is_some()
}

/// The names of the template files in the case's folder.
fn templates(case: &Case) -> impl Iterator<Item = String> {
    let names = entries(&case.path("")).into_iter().filter_map(|path| path.file_name()?.to_str().map(str::to_owned));
    names.filter(|name| name.ends_with(".jinja"))
}

/// A model that has the template and these tokens; what else it is does not matter.
fn model_with(case: &Case, template: &str, special_tokens: &Value) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let models = cases_with(&["model/config.json", "model/model.safetensors"]);
    let model = models.iter().find(|case| case.name() == "tiny-gqa-tied").expect("a committed model");
    for file in ["config.json", "model.safetensors"] {
        fs::copy(model.path("model").join(file), folder.path().join(file)).unwrap();
    }
    let source = fs::read_to_string(case.path(template)).unwrap();
    let mut config = json!({ "chat_template": source });
    config.as_object_mut().unwrap().extend(special_tokens.as_object().unwrap().clone());
    fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    folder
}

/// What the assistant says, among the tokens: by transformers' mask where the template marks it, else by what the
/// beginnings of the conversation render to.
#[test]
fn golden_chat_answers() {
    let mut report = Report::default();
    for case in cases_with(&["answers.json"]) {
        let tokenizer = Tokenizer::from_file(case.path("tokenizer.json")).unwrap();
        let expected = case.expected();
        let answers: Vec<Answers> =
            serde_json::from_slice(&fs::read(case.path("answers.json")).unwrap()).expect("rows of tokens and ranges");
        for Answers { template, conversation, ids, answers } in answers {
            let folder = model_with(&case, &template, &expected["special_tokens"]);
            let source = ChatTemplate::open(&ModelFiles::open(folder.path()).unwrap()).unwrap().expect("a template");
            let row = Map::from_iter([("messages".to_owned(), expected["conversations"][&conversation].clone())]);
            let messages = messages(&row).unwrap();
            let text = ChatText::render(&messages, AnswerTurns::All, |messages, opens| source.render(messages, opens));
            let place = format!("{template}: {conversation}");
            match (text, answers) {
                (Ok(text), Some(answers)) => {
                    let encoded = text.encode::<HfError>(&tokenizer).unwrap();
                    report.equal(format!("{place}, tokens"), &encoded.ids, &ids);
                    let found: Vec<[usize; 2]> = encoded.answers.iter().map(|range| [range.start, range.end]).collect();
                    report.equal(place, &found, &answers);
                }
                (Err(SpanError::Rewritten { .. }), None) => {}
                (found, wanted) => report.equal(place, &format!("{found:?}"), &format!("{wanted:?}")),
            }
            report.ran();
        }
    }
    report.finish();
}

/// The assistant's tokens in a conversation; no answers if the template writes earlier turns in another way.
#[derive(Deserialize)]
struct Answers {
    template: String,
    conversation: String,
    ids: Vec<u32>,
    answers: Option<Vec<[usize; 2]>>,
}
