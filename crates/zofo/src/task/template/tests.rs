use std::path::Path;

use serde_json::json;

use super::*;
use crate::task::Task;

fn row(fields: Value, gold: Gold) -> Example {
    let Value::Object(fields) = fields else { panic!("not an object") };
    Example { source: Path::new("rows.jsonl").into(), line: 7, fields: fields.into_iter().collect(), gold }
}

fn example(fields: Value) -> Example {
    row(fields, Gold::Candidates(vec![0]))
}

/// A built-in template's texts for a row.
fn render(task: &str, template: &str, fields: Value) -> (String, Vec<String>) {
    let task = Task::load(task).unwrap();
    let rendered = task.template(&template.parse().unwrap()).unwrap().render(&example(fields)).unwrap();
    (rendered.prompt, rendered.verbalized)
}

/// Checks a built-in template's prompt and what each candidate adds to it.
#[track_caller]
fn assert_renders(task: &str, template: &str, fields: Value, prompt: &str, answers: &[&str]) {
    let (found, texts) = render(task, template, fields);
    assert_eq!(found, prompt);
    assert_eq!(texts, answers.iter().map(|answer| format!("{prompt}{answer}")).collect::<Vec<_>>());
}

/// The null prompt of a built-in template and the texts after it.
fn null(task: &str, template: &str, fields: Value) -> (String, Vec<String>) {
    let task = Task::load(task).unwrap();
    let rendered = task.template(&template.parse().unwrap()).unwrap().render_null(&example(fields)).unwrap();
    (rendered.prompt, rendered.verbalized)
}

fn compile(source: TemplateSource, choices: Option<&str>) -> Result<Template, TaskError> {
    let fields: BTreeMap<String, Field> =
        toml::from_str("text = \"string\"\nlist = \"strings\"\ntitle = { type = \"string\", optional = true }")
            .unwrap();
    Template::compile("mine", &TemplateName::PROMPT, source, &fields, choices)
}

fn custom(prompt: &str, candidates: [&str; 2]) -> Result<Template, TaskError> {
    let candidates = Some(candidates.map(str::to_owned).into());
    compile(TemplateSource { prompt: prompt.to_owned(), candidates, ..TemplateSource::default() }, None)
}

#[test]
fn sst2() {
    let row = || json!({"sentence": " a gripping film .\n"});
    assert_renders("sst2", "prompt", row(), "a gripping film . It was", &[" terrible", " great"]);
    assert_renders("sst2", "none", row(), "a gripping film .", &[" terrible", " great"]);
    assert_eq!(null("sst2", "prompt", row()), ("It was".into(), vec!["It was terrible".into(), "It was great".into()]));
    assert_eq!(null("sst2", "none", row()), (String::new(), vec!["terrible".into(), "great".into()]));
}

fn copa(question: &str, choice1: &str) -> Value {
    json!({
        "premise": "My body cast a shadow over the grass.",
        "question": question,
        "choice1": choice1,
        "choice2": "I'm in the Sun. ",
    })
}

#[test]
fn copa_asks_by_its_conjunction() {
    let prompt = "My body cast a shadow over the grass because";
    let sun = || copa("cause", "The sun was rising.");
    assert_renders("copa", "prompt", sun(), prompt, &[" the sun was rising.", " i'm in the Sun."]);
    assert_eq!(null("copa", "prompt", sun()).1, ["because the sun was rising.", "because i'm in the Sun."]);
    let prompt = "My body cast a shadow over the grass so";
    assert_renders("copa", "prompt", copa("effect", "I sat."), prompt, &[" I sat.", " i'm in the Sun."]);
    assert_eq!(null("copa", "prompt", copa("effect", "I sat.")).0, "so");
    // A choice that begins with a blank keeps it, and its capital.
    let prompt = "My body cast a shadow over the grass";
    assert_renders("copa", "none", copa("cause", " The sun."), prompt, &["  The sun.", " i'm in the Sun."]);
}

#[test]
fn boolq_has_four_forms() {
    let row = || json!({"passage": "Melaleuca -- A plant.", "question": "is tea tree oil a plant"});
    let asked = "Melaleuca -- A plant. Is tea tree oil a plant?";
    assert_renders("boolq", "prompt", row(), &format!("{asked}\n"), &["Yes", "No"]);
    assert_renders("boolq", "upstream", row(), asked, &[" Yes", " No"]);
    assert_renders("boolq", "v2", row(), &format!("{asked}\\n\\n"), &["Yes", "No"]);
    assert_renders("boolq", "none", row(), "Melaleuca -- A plant.\nis tea tree oil a plant\n", &["Yes", "No"]);
}

#[test]
fn questions_that_end_in_a_line_feed() {
    let row = json!({"paragraph": "Light rays strike. ", "question": "How?", "answer": "At an angle"});
    let prompt =
        "Light rays strike. \nQuestion: How?\nI found this answer \"At an angle\". Is that correct? Yes or No?\n";
    assert_renders("multirc", "prompt", row, prompt, &["No", "Yes"]);
    let row = json!({"premise": "It rains.", "hypothesis": "the street is wet"});
    let prompt = "Suppose It rains. Can we infer that \"the street is wet\"? Yes, No, or Maybe?\n";
    assert_renders("cb", "prompt", row, prompt, &["Yes", "No", "Maybe"]);
    let row = json!({"word": "place", "sentence1": "Come to my place.", "sentence2": "No place for it."});
    let prompt = "Does the word \"place\" have the same meaning in these two sentences? Yes, No?\nCome to my place.\nNo place for it.\n";
    assert_renders("wic", "prompt", row, prompt, &["No", "Yes"]);
    let row = json!({"text": "Mark told Pete lies. He wept.", "span1_text": "Mark", "span2_text": "He"});
    let prompt =
        "Mark told Pete lies. He wept.\nIn the previous sentence, does the pronoun \"he\" refer to Mark? Yes or No?\n";
    assert_renders("wsc", "prompt", row, prompt, &["No", "Yes"]);
    let row = || json!({"premise": "It rains.", "hypothesis": "It is wet."});
    let prompt = "It rains.\nDoes this mean that \"It is wet.\" is true? Yes or No?\n";
    assert_renders("rte", "prompt", row(), prompt, &["Yes", "No"]);
    assert_renders("rte", "none", row(), "It rains.\n\"It is wet.\"\n", &["Yes", "No"]);
}

#[test]
fn record_fills_the_gap_in_a_sentence_of_its_own() {
    let row = || {
        json!({
            "passage": "Chelsea won.\n@highlight\nCosta scored\n@highlight\nZouma too",
            "query": "@placeholder came back and @placeholder won",
            "entities": ["Chelsea", "Costa"],
        })
    };
    let answers = [" Chelsea came back and Chelsea won", " Costa came back and Costa won"];
    assert_renders("record", "prompt", row(), "Chelsea won.\n- Costa scored\n- Zouma too\n-", &answers);
    assert_eq!(null("record", "prompt", row()).1, answers.map(|answer| format!("-{answer}")));
    let prompt = "Chelsea won.\n@highlight\nCosta scored\n@highlight\nZouma too\n@placeholder came back and @placeholder won\n\
                  Question: what is the \"@placeholder\"\nAnswer:";
    assert_renders("record", "question", row(), prompt, &[" Chelsea", " Costa"]);
}

#[test]
fn winogrande_scores_what_follows_the_gap() {
    let row = |sentence: &str| json!({"sentence": sentence, "option1": "Ian", "option2": "Dennis"});
    let prompt = "Ian ate it because";
    assert_renders(
        "winogrande",
        "prompt",
        row("Ian ate it because _ likes it."),
        prompt,
        &[" Ian likes it.", " Dennis likes it."],
    );
    assert_renders("winogrande", "prompt", row("\"_\" he said."), "\"", &["Ian\" he said.", "Dennis\" he said."]);
    assert_eq!(null("winogrande", "prompt", row("So _ left.")).1, ["Ian left.", "Dennis left."]);
    let task = Task::load("winogrande").unwrap();
    let error = task.template(&TemplateName::PROMPT).unwrap().render(&example(row("_ and _"))).unwrap_err().to_string();
    assert!(error.starts_with("rows.jsonl:7: task \"winogrande\", template \"prompt\", prompt: "), "{error}");
    assert!(error.contains("\"_\" exactly once, found it 2 times"), "{error}");
}

#[test]
fn generation_trains_on_the_first_answer() {
    let texts = |task: &str, fields: Value| {
        let task = Task::load(task).unwrap();
        let gold = Gold::Answers(vec!["99.1".to_owned(), "99".to_owned()]);
        let rendered = task.template(&TemplateName::PROMPT).unwrap().render(&row(fields, gold)).unwrap();
        assert_eq!(rendered.verbalized.len(), 1);
        (rendered.prompt.clone(), rendered.verbalized[0].strip_prefix(&rendered.prompt).unwrap().to_owned())
    };
    let (prompt, answer) = texts("drop", json!({"passage": "P.", "question": " How many? "}));
    assert_eq!((prompt.as_str(), answer.as_str()), ("Passage: P.\nQuestion: How many?\nAnswer:", " 99.1\n"));
    let (prompt, answer) = texts("squad", json!({"title": "T", "context": "C.", "question": "Q?"}));
    assert_eq!((prompt.as_str(), answer.as_str()), ("Title: T\nContext: C.\nQuestion: Q?\nAnswer:", " 99.1\n"));
    // Some copies of SQuAD have no titles.
    assert_eq!(texts("squad", json!({"context": "C.", "question": "Q?"})).0, "Context: C.\nQuestion: Q?\nAnswer:");
}

#[test]
fn what_was_published_with_a_mistake_is_a_template_of_its_own() {
    let text = || json!({"text": "fine"});
    assert_renders("tweeteval-sentiment", "prompt", text(), "fine It was", &[" terrible", " neutral", " great"]);
    assert_renders("tweeteval-sentiment", "upstream", text(), "fine It was", &[" terrible", " neutral", " neutral"]);
    assert_renders("tweeteval-hate", "prompt", text(), "fine\nIs the text hate speech? Yes or No?\n", &["No", "Yes"]);
    assert_renders(
        "tweeteval-hate",
        "upstream",
        text(),
        "fine\n Is the text hate speech? Yes or No?\n",
        &["No", "Yes"],
    );
    let pair = || json!({"premise": "A.", "hypothesis": "B."});
    let prompt = "Premise: A.\nHypothesis: B.\nDoes the premise entail the hypothesis? Yes, No, or Maybe?\n";
    assert_renders("mnli", "prompt", pair(), prompt, &["Yes", "Maybe", "No"]);
    assert_renders("mnli", "upstream", pair(), prompt, &["Yes", "No", "Maybe"]);
    assert_renders("anli", "upstream", pair(), prompt, &[" 0", " 1", " 2"]);
    assert_renders("scitail", "upstream", pair(), prompt, &[" neutral", " entails"]);
    // The blank after the line feed is part of the text, but not of what calibration scores.
    assert_eq!(null("scitail", "upstream", pair()).1, ["neutral", "entails"]);
}

#[test]
fn trimming_comes_after_joining_and_final_line_feeds_stay() {
    let template = custom("{{ text }} ", ["great", "bad \n"]).unwrap();
    let rendered = template.render(&example(json!({"text": " \n a"}))).unwrap();
    assert_eq!(rendered.prompt, "a");
    assert_eq!(rendered.verbalized, ["a great", "a bad \n"]);
    let template = custom("{{ text }}?\n", ["Yes", "No"]).unwrap();
    let rendered = template.render(&example(json!({"text": "a <b>&{{ text }}"}))).unwrap();
    assert_eq!(rendered.prompt, "a <b>&{{ text }}?\n");
    assert_eq!(rendered.verbalized[0], "a <b>&{{ text }}?\nYes");
}

#[test]
fn an_undeclared_field_is_named_before_any_row_is_read() {
    let message = custom("{{ text }}", [" a", " {{ txet | lc }}"]).unwrap_err().to_string();
    assert_eq!(
        message,
        "task \"mine\", template \"prompt\", candidate 1: unknown field `txet`; the task declares: list, text, title"
    );
    // `item` is known only where there are items.
    let message = custom("{{ text }}", [" a", " {{ item }}"]).unwrap_err().to_string();
    assert!(message.contains("unknown field `item`"), "{message}");
}

#[test]
fn an_optional_field_must_be_asked_for() {
    let template = custom("{{ title }}", [" a", " b"]).unwrap();
    assert_eq!(template.render(&example(json!({"text": "x", "title": "T"}))).unwrap().prompt, "T");
    let message = template.render(&example(json!({"text": "x"}))).unwrap_err().to_string();
    assert_eq!(
        message,
        "rows.jsonl:7: task \"mine\", template \"prompt\", prompt: the row has no `title`, which is optional; the template \
         must ask `title is defined`"
    );
}

#[test]
fn candidates_have_text_and_differ() {
    let message = |candidates| custom("{{ text }}", candidates).unwrap_err().to_string();
    assert_eq!(message([" a", " "]), "task \"mine\", template \"prompt\": candidate 1 has no text");
    let alike = message([" a", " a"]);
    assert!(alike.ends_with("candidates 0 and 1 are both \" a\": the second could never be chosen"), "{alike}");
    // What differs in the file may be alike for a row.
    let template = custom("It:", [" {{ text }}", " {{ text | lower }}"]).unwrap();
    let render = |text: &str| template.render(&example(json!({ "text": text })));
    assert_eq!(render("A").unwrap().verbalized, ["It: A", "It: a"]);
    assert_eq!(
        render("a").unwrap_err().to_string(),
        "rows.jsonl:7: task \"mine\", template \"prompt\": candidates 0 and 1 are alike: \"It: a\""
    );
    assert_eq!(
        render(" ").unwrap_err().to_string(),
        "rows.jsonl:7: task \"mine\", template \"prompt\", candidate 0: the answer is empty"
    );
}

#[test]
fn the_form_of_the_answers_fits_the_task() {
    let source = || TemplateSource { prompt: "{{ text }}".to_owned(), ..TemplateSource::default() };
    let item = || Some(" {{ item }}".to_owned());
    let per_item = compile(TemplateSource { candidate: item(), ..source() }, Some("list")).unwrap();
    let rendered = per_item.render(&example(json!({"text": "x", "list": ["a", "b", "c"]}))).unwrap();
    assert_eq!(rendered.verbalized, ["x a", "x b", "x c"]);
    for (source, choices) in [
        (source(), None),
        (TemplateSource { candidate: item(), ..source() }, None),
        (TemplateSource { candidate: item(), answer: item(), ..source() }, Some("list")),
    ] {
        let message = compile(source, choices).unwrap_err().to_string();
        assert!(message.contains("expected one of `candidates`"), "{message}");
    }
    let generated = TemplateSource { answer: Some("{{ answer }}".to_owned()), null: Some("x".to_owned()), ..source() };
    let message = compile(generated, None).unwrap_err().to_string();
    assert!(message.contains("`null` serves to compare candidates"), "{message}");
}

#[test]
fn a_template_may_use_variables_and_functions_of_its_own() {
    let source = "{% set n = 2 %}{% for i in range(n) %}{{ i }}{{ text }}{% endfor %}";
    let template = custom(source, ["a", "b"]).unwrap();
    assert_eq!(template.render(&example(json!({"text": "x"}))).unwrap().prompt, "0x1x");
}

#[test]
fn a_syntax_error_names_its_place() {
    let error = custom("{{ text", [" a", " b"]).unwrap_err();
    assert!(matches!(error, TaskError::TemplateSyntax { .. }));
    assert!(error.to_string().starts_with("task \"mine\", template \"prompt\", prompt: syntax error"), "{error}");
}

#[test]
fn a_failing_or_unknown_filter_names_file_and_line() {
    let template = custom("{{ text | lc }}", [" a", " b"]).unwrap();
    let error = template.render(&example(json!({"text": 3}))).unwrap_err().to_string();
    assert!(error.starts_with("rows.jsonl:7: task \"mine\", template \"prompt\", prompt: "), "{error}");
    assert!(error.contains("not a string"), "{error}");
    let template = custom("{{ text | shout }}", [" a", " b"]).unwrap();
    let error = template.render(&example(json!({"text": "x"}))).unwrap_err().to_string();
    assert!(error.contains("unknown filter") && error.contains("shout"), "{error}");
}
