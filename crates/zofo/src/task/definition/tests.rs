use serde_json::{Map, Value, json};

use super::*;
use crate::task::row::{self, Gold};

const MINE: &str = r#"
        name = "mine"
        description = "d"
        metric = "accuracy"
        [fields]
        text = { type = "string" }
        [label]
        field = "gold"
        [template.none]
        prompt = "{{ text }}"
        candidates = [" a", " b", " c"]
    "#;

/// As ReCoRD: candidates from a list of the row.
const CHOOSE: &str = r#"
        name = "choose"
        description = "d"
        candidate = " {{ item }}"
        [fields]
        text = "string"
        list = "strings"
        [label]
        field = ["right", "answer.text"]
        choices = "list"
        [template.prompt]
        prompt = "{{ text }}"
    "#;

const WRITE: &str = r#"
        name = "write"
        description = "d"
        kind = "generation"
        [fields]
        text = "string"
        [label]
        field = "gold.texts"
        [template.prompt]
        prompt = "{{ text }}"
        answer = " {{ answer }}"
    "#;

fn parse(text: &str) -> Result<Task, TaskError> {
    Task::parse(text, "mine.toml")
}

fn error(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

/// What is right for a row, or what was expected and found instead.
fn gold(task: &Task, row: Value) -> Result<Gold, (String, String)> {
    let Value::Object(row) = row else { panic!("not an object") };
    row::check(&row, task).map(|(_, gold)| gold).map_err(|error| (error.expected, error.found))
}

fn positions(positions: &[usize]) -> Result<Gold, (String, String)> {
    Ok(Gold::Candidates(positions.to_vec()))
}

#[test]
fn every_built_in_task_has_both_templates_and_its_own_name() {
    for name in Task::builtin_names() {
        let task = Task::load(name).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(task.name(), name);
        let templates = [TemplateName::PROMPT, TemplateName::NONE];
        for template in templates.iter().filter(|_| task.kind() != Kind::Chat) {
            assert_eq!(task.template(template).unwrap().candidate_count(), task.candidate_count(), "{name}");
        }
        assert_eq!(task.kind(), task.metric().kind());
        assert_eq!(task.generation().is_some(), task.kind() == Kind::Generation);
        // Classes have names, not just positions.
        assert!(task.classes().iter().all(|class| class.parse::<usize>().is_err()), "{name}");
    }
    assert!(Task::builtin_names().is_sorted());
}

#[test]
fn a_task_file_is_loaded_by_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.toml");
    fs::write(&path, MINE).unwrap();
    let task = Task::load(path.to_str().unwrap()).unwrap();
    assert_eq!(
        (task.label_place().as_str(), task.candidate_count(), task.metric()),
        ("gold", Some(3), Metric::Accuracy)
    );
    assert_eq!(task.classes(), ["0", "1", "2"]);
    let message = task.template(&TemplateName::PROMPT).unwrap_err().to_string();
    assert_eq!(message, "task \"mine\" has no template \"prompt\"; it has: none");
    let missing = folder.path().join("other.toml");
    let message = Task::load(missing.to_str().unwrap()).unwrap_err().to_string();
    assert!(message.contains("other.toml"), "{message}");
}

#[test]
fn an_unknown_name_gets_the_nearest_one() {
    let message = Task::load("sst-2").unwrap_err().to_string();
    assert!(message.contains("did you mean \"sst2\""), "{message}");
    assert!(message.contains("record, rotten-tomatoes, rte, "), "{message}");
}

#[test]
fn a_faulty_file_is_refused_with_its_place() {
    let message = error(&MINE.replace("metric =", "metrik ="));
    assert!(message.starts_with("mine.toml: ") && message.contains("metrik"), "{message}");
    assert!(message.contains("line 4"), "{message}");
    for (old, new, expected) in [
        ("\"accuracy\"", "\"bleu\"", "unknown variant `bleu`, expected one of `accuracy`, `macro-f1`, `f1`, `em`"),
        (
            "\"accuracy\"",
            "\"em\"",
            "metric = \"em\" is for kind = \"generation\", but this task's is \"classification\"",
        ),
        ("[\" a\", \" b\", \" c\"]", "[\" a\"]", "at least 2 candidates, found 1"),
        ("[template.none]", "[template.\"a b\"]", "\"a b\" is no name of a template"),
        ("name = \"mine\"", "name = \"../x\"", "plain word"),
        ("{ type = \"string\" }", "{ type = \"integer\", one_of = [\"a\"] }", "field `text`: `one_of`"),
        ("{ type = \"string\" }", "\"text\"", "unknown variant `text`, expected one of `string`, `strings`"),
        ("{ type = \"string\" }", "3", "expected a type, such as \"string\", or a table"),
        ("field = \"gold\"", "", "[label]: expected one of `field` and `value`"),
        ("field = \"gold\"", "field = \"gold\"\nvalues = [1, 2]", "`values` has 2 entries, but there are 3 candidates"),
        ("field = \"gold\"", "field = \"gold\"\nvalues = [1, 2, [3, 1]]", "`values` has 1 twice"),
        ("field = \"gold\"", "field = \"gold\"\nvalues = [1.5, 2, 3]", "a class stands for a string, an integer"),
        (
            "field = \"gold\"",
            "field = \"gold\"\nnames = [\"x\", \"y\"]",
            "`names` has 2 entries, but there are 3 candidates",
        ),
        ("field = \"gold\"", "field = \"gold\"\nnames = [\"x\", \"y\", \"x\"]", "`names` has \"x\" twice"),
        ("field = \"gold\"", "field = \"gold\"\nchoices = \"text\"", "`choices` must name a field of type \"strings\""),
        ("field = \"gold\"", "value = \"{{ txt }}\"", "[label]: `value`: unknown field `txt`; the task declares: text"),
        ("field = \"gold\"", "value = \"{{ text\"", "[label]: `value`: syntax error"),
        ("[label]", "[generation]\n[label]", "[generation] is for kind = \"generation\""),
        (
            "[label]",
            "[source]\nhub = \"a/b\"\nsplits = { train = \"t[\", validation = \"v\" }\n[label]",
            "\"t[\" names no rows",
        ),
        ("candidates =", "answer = \" x\"\ncandidates =", "`answer` and kind = \"generation\" go together"),
    ] {
        let message = error(&MINE.replace(old, new));
        assert!(message.starts_with("mine.toml: ") || message.starts_with("task \"mine\""), "{message}");
        assert!(message.contains(expected), "expected {expected:?} in {message}");
    }
    let two = format!("{MINE}\n[template.prompt]\nprompt = \"{{{{ text }}}}\"\ncandidates = [\"a\", \"b\"]\n");
    let message = error(&two);
    assert!(message.contains("has 2 candidates, another has 3"), "{message}");
    let message = error(&MINE[..MINE.find("[template").unwrap()]);
    assert!(message.contains("expected at least one template"), "{message}");
    let message = error(&MINE[..MINE.find("[label").unwrap()]);
    assert!(message.contains("expected a section [label]"), "{message}");
    let message = error(&CHOOSE.replace("description = \"d\"", "description = \"d\"\nmetric = \"macro-f1\""));
    assert!(message.contains("needs classes"), "{message}");
    let message = error(&WRITE.replace("[label]", "[label]\nvalues = [\"a\"]"));
    assert!(message.contains("are for kind = \"classification\""), "{message}");
    let message = error(&WRITE.replace("text = \"string\"", "text = \"string\"\nanswer = \"string\""));
    assert!(message.contains("`answer` stands for the right answer here"), "{message}");
}

#[test]
fn the_label_is_not_a_field_of_the_template() {
    let message = error(&MINE.replace("{{ text }}", "{{ gold }}"));
    assert!(message.contains("unknown field `gold`"), "{message}");
}

#[test]
fn candidates_of_the_task_serve_templates_without_their_own() {
    let text = MINE.replace("metric = \"accuracy\"", "candidates = [\" x\", \" y\", \" z\"]")
        + "[template.prompt]\nprompt = \"{{ text }}:\"\n";
    let task = parse(&text).unwrap();
    let example = crate::task::Example {
        source: Path::new("rows.jsonl").into(),
        line: 1,
        fields: [("text".to_owned(), json!("t"))].into(),
        gold: Gold::Candidates(vec![0]),
    };
    let texts = |name| task.template(&name).unwrap().render(&example).unwrap().verbalized;
    assert_eq!(texts(TemplateName::PROMPT), ["t: x", "t: y", "t: z"]);
    assert_eq!(texts(TemplateName::NONE), ["t a", "t b", "t c"]);
}

#[test]
fn a_class_has_any_value_that_stands_for_it() {
    let values = |values: &str| parse(&MINE.replace("\"gold\"", &format!("\"gold\"\nvalues = {values}"))).unwrap();
    let task = values("[\"bug\", [\"question\", \"?\"], 7]");
    assert_eq!(task.classes(), ["0", "1", "2"]);
    for (value, position) in [(json!("bug"), 0), (json!("?"), 1), (json!("question"), 1), (json!(7), 2)] {
        assert_eq!(gold(&task, json!({"text": "t", "gold": value})), positions(&[position]));
    }
    for value in [json!(0), json!("7"), json!(7.0), json!("Bug"), json!(null), json!(["bug"])] {
        let (expected, found) = gold(&task, json!({"text": "t", "gold": value})).unwrap_err();
        assert_eq!(expected, "the label `gold` to be one of \"bug\", \"question\", \"?\", 7");
        assert!(!found.is_empty());
    }
    assert_eq!(values("[\"a\", \"b\", \"c\"]").classes(), ["a", "b", "c"]);
    let truth = Task::load("boolq").unwrap();
    let boolq = |answer: Value| gold(&truth, json!({"passage": "p", "question": "q", "answer": answer}));
    assert_eq!((boolq(json!(true)), boolq(json!(false))), (positions(&[0]), positions(&[1])));
    assert_eq!(boolq(json!("true")).unwrap_err().0, "the label `answer` to be one of true, false");
    let health = Task::load("health-fact").unwrap();
    assert_eq!(gold(&health, json!({"claim": "c", "label": 1})), positions(&[3]));
    assert_eq!(gold(&health, json!({"claim": "c", "label": -1})).unwrap_err().1, "the number -1");
}

#[test]
fn a_label_may_be_computed_or_lie_deep() {
    let phrases = Task::load("financial-phrasebank").unwrap();
    let phrase = |label: &str| gold(&phrases, json!({"text": "t", "label": label}));
    assert_eq!(phrase("neutral\n"), positions(&[2]));
    let (expected, found) = phrase("neutral").unwrap_err();
    assert!(expected.starts_with("the label that `label.value` computes to be one of \"positive\""), "{expected}");
    assert_eq!(found, "the string \"neutra\"");
    let hate = Task::load("hatexplain").unwrap();
    for (label, position) in [("Hate speech", 1), ("normal", 0)] {
        assert_eq!(gold(&hate, json!({"text": "t", "major_label": label})), positions(&[position]));
    }
    let fever = Task::load("kilt-fever").unwrap();
    assert_eq!(gold(&fever, json!({"input": "i", "output": [{"answer": "SUPPORTS"}]})), positions(&[1]));
    let (expected, found) = gold(&fever, json!({"input": "i", "output": []})).unwrap_err();
    assert_eq!(expected, "the label `output.0.answer` to be one of \"REFUTES\", \"SUPPORTS\"");
    assert_eq!(found, "only the fields input, output");
}

#[test]
fn a_row_may_bring_its_candidates_and_have_several_right() {
    let task = parse(CHOOSE).unwrap();
    assert_eq!((task.candidate_count(), task.classes().len()), (None, 0));
    let read = |label: Value| gold(&task, json!({"text": "t", "list": ["a", "b", "c"], "right": label}));
    assert_eq!(read(json!("c")), positions(&[2]));
    assert_eq!(read(json!(["c", "a", "c"])), positions(&[2, 0]));
    assert_eq!(read(json!(1)), positions(&[1]));
    assert_eq!(gold(&task, json!({"text": "t", "list": ["a", "b"], "answer": {"text": ["b"]}})), positions(&[1]));
    for label in [json!("d"), json!(["a", "d"]), json!([]), json!(3), json!(-1), json!(null)] {
        let (expected, _) = read(label).unwrap_err();
        assert_eq!(
            expected,
            "the label `right` or `answer.text` to be an item of `list`, a list of its items, or a position in it"
        );
    }
    let (expected, found) = gold(&task, json!({"text": "t", "list": ["a"], "right": "a"})).unwrap_err();
    assert_eq!((expected.as_str(), found.as_str()), ("`list` to have at least 2 items, which are the candidates", "1"));

    let numbered = parse(&CHOOSE.replace("choices =", "values = [\"A\", \"B\", \"C\"]\nchoices =")).unwrap();
    let read = |label: &str| gold(&numbered, json!({"text": "t", "list": ["x", "y"], "right": label}));
    assert_eq!(read("B"), positions(&[1]));
    assert_eq!(read("C").unwrap_err().1, "the string \"C\"");
}

#[test]
fn answers_in_words() {
    let task = parse(WRITE).unwrap();
    assert_eq!((task.metric(), task.generation().unwrap().max_new_tokens), (Metric::F1, 50));
    let read = |texts: Value| gold(&task, json!({"text": "t", "gold": {"texts": texts}}));
    let answers = |texts: &[&str]| Ok(Gold::Answers(texts.iter().map(|&text| text.to_owned()).collect()));
    assert_eq!(read(json!(["one", "1"])), answers(&["one", "1"]));
    assert_eq!(read(json!("one")), answers(&["one"]));
    for (texts, found) in
        [(json!([]), "an empty list"), (json!(["one", " "]), "no text in answer 1"), (json!(5), "the number 5")]
    {
        let (expected, said) = read(texts).unwrap_err();
        assert_eq!(expected, "the label `gold.texts` to be an answer, or a list of answers");
        assert_eq!(said, found);
    }
    let message = task.expect_classification("training").unwrap_err().to_string();
    assert!(message.contains("training is only for tasks of kind \"classification\""), "{message}");
    assert!(parse(MINE).unwrap().expect_classification("training").is_ok());
    let stop = WRITE.replace("[label]", "[generation]\nstop = [\"\\n\"]\nmax_new_tokens = 9\n[label]");
    let generation = Generation { stop: vec!["\n".to_owned()], max_new_tokens: 9 };
    assert_eq!(parse(&stop).unwrap().generation(), Some(&generation));
}

#[test]
fn conversations() {
    let chat = "name = \"help\"\ndescription = \"d\"\nkind = \"chat\"\n";
    let task = parse(chat).unwrap();
    assert_eq!((task.metric(), task.label_place().as_str()), (Metric::Perplexity, "what the assistant says"));
    assert!(task.classes().is_empty() && task.generation().is_none() && task.templates().next().is_none());
    assert_eq!(
        task.template_names().iter().map(TemplateName::as_str).collect::<Vec<_>>(),
        ["prompt", "last", "alpaca"]
    );
    // What is not part of the conversation is dropped, and so is what has no value.
    let row = json!({"id": 1, "instruction": "Add.", "input": null, "output": "3", "system": "s"});
    let Value::Object(row) = row else { panic!("not an object") };
    let (fields, gold) = row::check(&row, &task).unwrap();
    assert_eq!(
        (fields.keys().map(String::as_str).collect::<Vec<_>>(), gold),
        (vec!["instruction", "output", "system"], Gold::Conversation)
    );
    assert_eq!(row::check(&Map::new(), &task).unwrap_err().found, "no fields");
    for (section, expected) in [
        ("[fields]\ntext = \"string\"\n", "[fields] is not for kind = \"chat\""),
        ("[label]\nfield = \"x\"\n", "[label] is not for kind = \"chat\""),
        ("metric = \"f1\"\n", "metric = \"f1\" is for kind = \"generation\", but this task's is \"chat\""),
    ] {
        let message = error(&format!("{chat}{section}"));
        assert!(message.contains(expected), "{message}");
    }
}

/// The example at the head of the documentation.
#[test]
fn the_documented_example_is_a_task() {
    let documentation = include_str!("../definition.rs");
    let example: String = documentation
        .lines()
        .skip_while(|line| *line != "//! ```toml")
        .skip(1)
        .take_while(|line| *line != "//! ```")
        .map(|line| line.trim_start_matches("//!").trim_start().to_owned() + "\n")
        .collect();
    let task = parse(&example).unwrap();
    assert_eq!((task.name(), task.classes()), ("tickets", &["bug".to_owned(), "question".to_owned()][..]));
    let row: Map<String, Value> =
        [("text".to_owned(), json!("t")), ("kind".to_owned(), json!("question"))].into_iter().collect();
    assert_eq!(row::check(&row, &task).unwrap().1, Gold::Candidates(vec![1]));
}
