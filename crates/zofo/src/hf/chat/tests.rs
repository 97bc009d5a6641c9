use std::{fs, path::Path, time::Instant};

use serde_json::{Value, json};

use super::super::test_model::{ModelFolder, TestModel, assert_says, message};
use super::*;

fn folder(files: &[(&'static str, &str)]) -> ModelFolder {
    let mut model = TestModel::new();
    for (name, content) in files {
        model.files.insert(name, (*content).to_owned());
    }
    model.write()
}

fn open(folder: &Path) -> Result<Option<ChatTemplate>, HfError> {
    ChatTemplate::open(&ModelFiles::open(folder).unwrap())
}

fn said(role: &str, content: &str) -> Message {
    Message { role: role.to_owned(), content: content.to_owned() }
}

fn with_template(template: &str) -> Result<ChatTemplate, HfError> {
    open(folder(&[("chat_template.jinja", template)]).root()).map(Option::unwrap)
}

fn rendered(template: &str) -> Result<String, HfError> {
    with_template(template)?.render(&[said("user", "hello")], true)
}

fn config(template: Value) -> String {
    json!({ "chat_template": template, "bos_token": "<s>", "eos_token": { "content": "</s>", "special": true } })
        .to_string()
}

#[test]
fn where_templates_are_found() {
    let text = |files: &[(&'static str, &str)]| {
        open(folder(files).root()).map(|found| found.map(|template| template.render(&[], false).unwrap()))
    };
    let first = ("chat_template.jinja", "jinja {{ bos_token }}");
    let inside = config(json!("config {{ bos_token }} {{ eos_token }} {{ pad_token }}."));
    let named = config(json!([
        { "name": "tool_use", "template": "tools" },
        { "name": "default", "template": "named {{ bos_token }}" },
    ]));
    let processor = ("chat_template.json", "{\"chat_template\": \"json {{ unk_token }}\"}");
    let tokens =
        ("special_tokens_map.json", "{\"pad_token\": \"<pad>\", \"bos_token\": \"<other>\", \"unk_token\": \"<unk>\"}");
    assert_eq!(text(&[]).unwrap(), None);
    assert_eq!(text(&[first, ("tokenizer_config.json", &inside)]).unwrap().unwrap(), "jinja <s>");
    assert_eq!(text(&[("tokenizer_config.json", &inside), processor]).unwrap().unwrap(), "config <s> </s> .");
    assert_eq!(text(&[("tokenizer_config.json", &inside), tokens]).unwrap().unwrap(), "config <s> </s> <pad>.");
    assert_eq!(text(&[("tokenizer_config.json", &named)]).unwrap().unwrap(), "named <s>");
    assert_eq!(text(&[processor, tokens]).unwrap().unwrap(), "json <unk>");

    let refused = |config: &str| message(text(&[("tokenizer_config.json", config)]));
    assert_says(&refused(&config(json!(3))), &["tokenizer_config.json", "\"chat_template\"", "a string", "found 3"]);
    assert_says(&refused(&config(json!([3]))), &["\"chat_template\"", "name and template"]);
    let rag = config(json!([{ "name": "rag", "template": "x" }]));
    assert_says(&refused(&rag), &["\"chat_template\"", "named \"default\"", "found rag"]);
    let bad_token = json!({ "chat_template": "x", "bos_token": 5 }).to_string();
    assert_says(&refused(&bad_token), &["\"bos_token\"", "a string", "found 5"]);
    let model = folder(&[]);
    fs::write(model.path("chat_template.jinja"), b"\xff").unwrap();
    assert_says(&message(open(model.root())), &["chat_template.jinja", "UTF-8"]);
}

#[test]
fn a_gguf_file_may_have_none() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/gguf-tiny/tied-llama.gguf");
    assert!(open(Path::new(path)).unwrap().is_none());
}

#[test]
fn errors_name_the_file_and_the_line() {
    let syntax = message(with_template("one\n{% if %}\n"));
    assert_says(&syntax, &["chat_template.jinja: the chat template, in its line 2: syntax error: "]);
    let refusal = message(rendered("{% for m in messages %}\n{{ raise_exception('no ' + m.role) }}{% endfor %}"));
    assert_says(&refusal, &["chat_template.jinja", "in its line 2", "it refuses the messages: no user"]);
    let failure = message(rendered("\n\n{{ messages[0].content.shout() }}"));
    assert_says(&failure, &["in its line 3", "shout"]);
    assert_says(&message(rendered("{{ tools.x.y }}")), &["in its line 1", "undefined value"]);
}

#[test]
fn hostile_templates_end() {
    let start = Instant::now();
    for template in [
        "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}x{% endfor %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(x='x') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x|tojson }}",
        "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
        "{{ 'x' * 99999999999 }}",
        "{{ [1]|tojson(indent=99999999999) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% set ns = namespace(x=1) %}{% for i in range(64) %}{% set ns.x = ns.x * 9999999999 %}{% endfor %}",
    ] {
        let end = rendered(template);
        if let Ok(text) = end {
            assert!(text.len() < 100_000, "{} bytes of {template}", text.len());
        }
    }
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}

#[test]
fn long_conversations_have_fuel_enough() {
    let template = "{% for m in messages %}<{{ m.role }}>{{ m.content.strip() | trim }}</>{% endfor %}";
    let template = with_template(template).unwrap();
    let long = [said("user", &"word ".repeat(1_000_000)), said("assistant", "ok")];
    assert!(template.render(&long, false).unwrap().len() > 4_999_990);
    let many = vec![said("user", "hi"); 5000];
    assert_eq!(template.render(&many, false).unwrap().len(), 5000 * "<user>hi</>".len());
}
