//! A template: from a row to the text of a prompt and of each candidate answer.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value};
use serde::{Deserialize, Serialize};

use super::dataset::Example;
use super::definition::Field;
use super::error::TaskError;
use super::filters;

/// Which of a task's templates is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TemplateName {
    /// The row's text with words that ask for the answer.
    #[default]
    Prompt,
    /// The row's text alone: no prompt.
    None,
}

impl TemplateName {
    /// Every name, in the order of documentation.
    pub const ALL: [TemplateName; 2] = [TemplateName::Prompt, TemplateName::None];

    /// The name as task and configuration files write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            TemplateName::Prompt => "prompt",
            TemplateName::None => "none",
        }
    }
}

impl fmt::Display for TemplateName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// The source of a template, as a task file has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TemplateSource {
    /// Jinja source of the prompt.
    pub(super) prompt: String,
    /// Jinja sources of the candidate answers, in label order. A blank that separates an answer
    /// from the prompt belongs to it.
    pub(super) candidates: Vec<String>,
}

/// The texts of one example, ready to be tokenised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// The prompt without an answer.
    pub prompt: String,
    /// The whole text, prompt and answer, of each candidate in label order.
    pub verbalized: Vec<String>,
}

/// A compiled template.
pub struct Template {
    task: String,
    name: TemplateName,
    environment: Environment<'static>,
    candidates: usize,
}

impl fmt::Debug for Template {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Template")
            .field("task", &self.task)
            .field("name", &self.name)
            .field("candidates", &self.candidates)
            .finish_non_exhaustive()
    }
}

/// The name under which the prompt is kept in a template's environment, and which messages use.
const PROMPT: &str = "prompt";

/// As [`PROMPT`], for a candidate.
fn candidate_part(index: usize) -> String {
    format!("candidate {index}")
}

impl Template {
    /// Compiles a template and checks that it mentions declared fields only.
    ///
    /// # Errors
    /// [`TaskError::TemplateSyntax`] and [`TaskError::UnknownField`].
    pub(super) fn compile(
        task: &str,
        name: TemplateName,
        source: TemplateSource,
        fields: &BTreeMap<String, Field>,
    ) -> Result<Self, TaskError> {
        let syntax_error = |part: &str, error: minijinja::Error| TaskError::TemplateSyntax {
            task: task.to_owned(),
            template: name,
            part: part.to_owned(),
            reason: error.to_string(),
        };
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        // Model input is plain text, whatever a template is called.
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        // Jinja drops a final line feed; in a prompt it is a token.
        let syntax =
            SyntaxConfig::builder().keep_trailing_newline(true).build().map_err(|error| syntax_error(PROMPT, error))?;
        environment.set_syntax(syntax);
        filters::register(&mut environment);

        let globals: BTreeSet<String> = environment.globals().map(|(name, _)| name.to_owned()).collect();
        let candidates = source.candidates.len();
        let parts = std::iter::once((PROMPT.to_owned(), source.prompt))
            .chain(source.candidates.into_iter().enumerate().map(|(index, text)| (candidate_part(index), text)));
        for (part, text) in parts {
            environment.add_template_owned(part.clone(), text).map_err(|error| syntax_error(&part, error))?;
            let used = environment
                .get_template(&part)
                .map_err(|error| syntax_error(&part, error))?
                .undeclared_variables(false);
            // The smallest, so that the message does not depend on the order of a hash set.
            let unknown =
                used.into_iter().filter(|variable| !fields.contains_key(variable) && !globals.contains(variable)).min();
            if let Some(field) = unknown {
                return Err(TaskError::UnknownField {
                    task: task.to_owned(),
                    template: name,
                    part,
                    field,
                    known: fields.keys().cloned().collect::<Vec<_>>().join(", "),
                });
            }
        }
        Ok(Self { task: task.to_owned(), name, environment, candidates })
    }

    /// Number of candidate answers.
    pub fn candidate_count(&self) -> usize {
        self.candidates
    }

    /// Renders an example.
    ///
    /// The text of a candidate is the prompt followed by the answer. Every text then loses blanks
    /// (U+0020 only) at both ends; line feeds stay. Trimming comes after joining, so that a blank
    /// between prompt and answer survives wherever the template puts it.
    ///
    /// # Errors
    /// [`TaskError::Render`] with the file and line of the row.
    pub fn render(&self, example: &Example) -> Result<Rendered, TaskError> {
        let context = Value::from(Serde(&example.fields));
        let render = |part: &str| {
            self.environment.get_template(part).and_then(|template| template.render(&context)).map_err(|error| {
                TaskError::Render {
                    path: example.source.to_path_buf(),
                    line: example.line,
                    task: self.task.clone(),
                    template: self.name,
                    part: part.to_owned(),
                    reason: error.to_string(),
                }
            })
        };
        let prompt = render(PROMPT)?;
        let verbalized = (0..self.candidates)
            .map(|index| {
                let answer = render(&candidate_part(index))?;
                Ok(trim_blanks(&format!("{prompt}{answer}")).to_owned())
            })
            .collect::<Result<_, TaskError>>()?;
        Ok(Rendered { prompt: trim_blanks(&prompt).to_owned(), verbalized })
    }
}

/// Removes blanks, and nothing else, at both ends.
fn trim_blanks(text: &str) -> &str {
    text.trim_matches(' ')
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;
    use crate::task::Task;

    fn example(fields: serde_json::Value) -> Example {
        let serde_json::Value::Object(fields) = fields else { panic!("not an object") };
        Example { source: Path::new("rows.jsonl").into(), line: 7, fields: fields.into_iter().collect(), gold: 0 }
    }

    fn render(task: &str, template: TemplateName, fields: serde_json::Value) -> (String, Vec<String>) {
        let task = Task::load(task).unwrap();
        let rendered = task.template(template).unwrap().render(&example(fields)).unwrap();
        (rendered.prompt, rendered.verbalized)
    }

    fn custom(prompt: &str, candidates: [&str; 2]) -> Result<Template, TaskError> {
        let text: Field = toml::from_str("type = \"string\"").unwrap();
        let fields = BTreeMap::from([("text".to_owned(), text)]);
        let source = TemplateSource { prompt: prompt.to_owned(), candidates: candidates.map(str::to_owned).into() };
        Template::compile("mine", TemplateName::Prompt, source, &fields)
    }

    #[test]
    fn sst2() {
        let row = || json!({"sentence": " a gripping film .\n"});
        let (prompt, texts) = render("sst2", TemplateName::Prompt, row());
        assert_eq!(prompt, "a gripping film . It was");
        assert_eq!(texts, ["a gripping film . It was terrible", "a gripping film . It was great"]);
        let (prompt, texts) = render("sst2", TemplateName::None, row());
        assert_eq!(prompt, "a gripping film .");
        assert_eq!(texts, ["a gripping film . terrible", "a gripping film . great"]);
    }

    #[test]
    fn movie_reviews() {
        let (prompt, texts) = render("movie-reviews", TemplateName::Prompt, json!({"text": "dull"}));
        assert_eq!((prompt.as_str(), texts[0].as_str()), ("dull It was", "dull It was terrible"));
        let (prompt, texts) = render("movie-reviews", TemplateName::None, json!({"text": "dull"}));
        assert_eq!((prompt.as_str(), texts[1].as_str()), ("dull", "dull great"));
    }

    fn copa(question: &str, choice1: &str) -> serde_json::Value {
        json!({
            "premise": "My body cast a shadow over the grass.",
            "question": question,
            "choice1": choice1,
            "choice2": "I'm in the Sun. ",
        })
    }

    #[test]
    fn copa_asks_by_its_conjunction() {
        let (prompt, texts) = render("copa", TemplateName::Prompt, copa("cause", "The sun was rising."));
        assert_eq!(prompt, "My body cast a shadow over the grass because");
        assert_eq!(
            texts,
            [
                "My body cast a shadow over the grass because the sun was rising.",
                "My body cast a shadow over the grass because i'm in the Sun.",
            ]
        );
        let (prompt, texts) = render("copa", TemplateName::Prompt, copa("effect", "I sat down."));
        assert_eq!(prompt, "My body cast a shadow over the grass so");
        assert_eq!(texts[0], "My body cast a shadow over the grass so I sat down.");
    }

    #[test]
    fn copa_without_a_prompt_and_with_odd_blanks() {
        let (prompt, texts) = render("copa", TemplateName::None, copa("cause", " The sun was rising."));
        assert_eq!(prompt, "My body cast a shadow over the grass");
        assert_eq!(texts[0], "My body cast a shadow over the grass  The sun was rising.");
    }

    #[test]
    fn blanks_are_trimmed_after_joining_and_line_feeds_stay() {
        let template = custom("{{ text }} ", ["great", "bad \n"]).unwrap();
        let rendered = template.render(&example(json!({"text": " a"}))).unwrap();
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
            "task \"mine\", template \"prompt\", candidate 1: unknown field `txet`; the task declares: text"
        );
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
}
