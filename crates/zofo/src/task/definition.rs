//! Task definitions: the TOML format, the built-in tasks, and loading one by name or path.
//!
//! ```toml
//! name = "copa"                      # also the folder of its data
//! description = "…"
//! metric = "accuracy"
//!
//! [fields]                           # what every row must have, and of what type
//! premise = { type = "string" }      # string | integer | boolean
//! question = { type = "string", one_of = ["cause", "effect"] }
//!
//! [label]
//! field = "label"                    # an integer: position of the right answer in `candidates`
//!
//! [template.prompt]                  # at least one of `prompt` and `none`
//! prompt = "{{ premise | stem }} because"
//! candidates = [" {{ choice1 | lc }}", " {{ choice2 | lc }}"]
//! ```
//!
//! Templates are Jinja; an undefined name is an error. Besides the engine's own filters there are
//! `strip`, `stem`, `lc`, `qmark` and `lower`, which do what prompts written in Python do.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::TaskError;
use super::template::{Template, TemplateName, TemplateSource};

/// The tasks that are part of the program: name and definition.
const BUILTIN: [(&str, &str); 3] = [
    ("copa", include_str!("builtin/copa.toml")),
    ("movie-reviews", include_str!("builtin/movie-reviews.toml")),
    ("sst2", include_str!("builtin/sst2.toml")),
];

/// How predictions are turned into one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// The share of examples whose gold candidate has the highest score.
    Accuracy,
}

/// The JSON type of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FieldType {
    /// A JSON string.
    String,
    /// A JSON number without a fraction.
    Integer,
    /// `true` or `false`.
    Boolean,
}

/// What a task requires of a field.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Field {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: FieldType,
    /// If not empty, the only strings allowed.
    #[serde(default)]
    pub one_of: Vec<String>,
}

/// Where the right answer is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Label {
    field: String,
}

/// A task file, before its templates are compiled.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TaskFile {
    name: String,
    description: String,
    metric: Metric,
    fields: BTreeMap<String, Field>,
    label: Label,
    template: BTreeMap<TemplateName, TemplateSource>,
}

/// A task: the fields of its rows, its templates, its metric.
#[derive(Debug)]
pub struct Task {
    name: String,
    description: String,
    metric: Metric,
    fields: BTreeMap<String, Field>,
    label_field: String,
    candidates: usize,
    templates: BTreeMap<TemplateName, Template>,
}

impl Task {
    /// Names of the built-in tasks, sorted.
    pub fn builtin_names() -> impl Iterator<Item = &'static str> {
        BUILTIN.iter().map(|(name, _)| *name)
    }

    /// Loads a built-in task by name, or a task file by path (anything with a path separator or
    /// ending in `.toml`).
    ///
    /// # Errors
    /// An unknown name, an unreadable file, and whatever [`Task::parse`] refuses.
    pub fn load(name_or_path: &str) -> Result<Self, TaskError> {
        if let Some((name, text)) = BUILTIN.iter().find(|(name, _)| *name == name_or_path) {
            return Self::parse(text, &format!("built-in task \"{name}\""));
        }
        let path = Path::new(name_or_path);
        if path.extension().is_some_and(|extension| extension == "toml") || path.components().count() > 1 {
            let text = fs::read_to_string(path)
                .map_err(|source| TaskError::ReadDefinition { path: path.to_owned(), source })?;
            return Self::parse(&text, name_or_path);
        }
        let similarity = |name: &str| strsim::normalized_damerau_levenshtein(name, name_or_path);
        let nearest = Self::builtin_names()
            .max_by(|left, right| similarity(left).total_cmp(&similarity(right)))
            .unwrap_or_default();
        Err(TaskError::UnknownTask { name: name_or_path.to_owned(), nearest, known: Self::builtin_names().collect() })
    }

    /// Parses a task file. `origin` is what messages call it.
    ///
    /// # Errors
    /// TOML that does not parse, unknown or missing keys, a template without two candidates or with
    /// another number than its sibling, a template that does not compile or mentions an undeclared
    /// field.
    pub fn parse(text: &str, origin: &str) -> Result<Self, TaskError> {
        let invalid = |reason: String| TaskError::Definition { origin: origin.to_owned(), reason };
        let file: TaskFile = toml::from_str(text).map_err(|error| invalid(error.to_string().trim_end().to_owned()))?;

        // The name is also the name of a folder.
        if file.name.is_empty() || file.name.contains(['/', '\\']) || file.name.starts_with('.') {
            return Err(invalid(format!(
                "`name` must be a plain word, without slashes and not beginning with a full stop; found \"{}\"",
                file.name
            )));
        }
        for (name, field) in &file.fields {
            if field.kind != FieldType::String && !field.one_of.is_empty() {
                return Err(invalid(format!("field `{name}`: `one_of` is for fields of type \"string\"")));
            }
        }
        let mut candidates = None;
        for (name, template) in &file.template {
            let count = template.candidates.len();
            if count < 2 {
                return Err(invalid(format!("template \"{name}\": expected at least 2 candidates, found {count}")));
            }
            let expected = *candidates.get_or_insert(count);
            if count != expected {
                return Err(invalid(format!(
                    "template \"{name}\" has {count} candidates, another has {expected}; labels need one number"
                )));
            }
        }
        let candidates = candidates.ok_or_else(|| {
            invalid("expected a section [template.prompt] or [template.none], found neither".to_owned())
        })?;
        let templates = file
            .template
            .into_iter()
            .map(|(name, source)| Ok((name, Template::compile(&file.name, name, source, &file.fields)?)))
            .collect::<Result<_, TaskError>>()?;
        Ok(Self {
            name: file.name,
            description: file.description,
            metric: file.metric,
            fields: file.fields,
            label_field: file.label.field,
            candidates,
            templates,
        })
    }

    /// The task's name, which is also the name of its data folder.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// One sentence for people.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// How predictions are scored.
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// The fields that every row must have.
    pub fn fields(&self) -> &BTreeMap<String, Field> {
        &self.fields
    }

    /// The field that holds the position of the right answer.
    pub fn label_field(&self) -> &str {
        &self.label_field
    }

    /// Number of candidate answers of an example.
    pub fn candidate_count(&self) -> usize {
        self.candidates
    }

    /// The template of a name.
    ///
    /// # Errors
    /// [`TaskError::NoTemplate`] if the task file does not define it.
    pub fn template(&self, name: TemplateName) -> Result<&Template, TaskError> {
        self.templates.get(&name).ok_or_else(|| TaskError::NoTemplate {
            task: self.name.clone(),
            wanted: name,
            defined: self.templates.keys().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    fn error(text: &str) -> String {
        Task::parse(text, "mine.toml").unwrap_err().to_string()
    }

    #[test]
    fn every_built_in_task_has_both_templates_and_its_own_name() {
        for name in Task::builtin_names() {
            let task = Task::load(name).unwrap();
            assert_eq!(task.name(), name);
            assert_eq!(task.candidate_count(), 2);
            for template in TemplateName::ALL {
                assert_eq!(task.template(template).unwrap().candidate_count(), 2);
            }
        }
        assert!(Task::builtin_names().is_sorted());
    }

    #[test]
    fn a_task_file_is_loaded_by_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.toml");
        fs::write(&path, MINE).unwrap();
        let task = Task::load(path.to_str().unwrap()).unwrap();
        assert_eq!((task.label_field(), task.candidate_count(), task.metric()), ("gold", 3, Metric::Accuracy));
        let message = task.template(TemplateName::Prompt).unwrap_err().to_string();
        assert_eq!(message, "task \"mine\" has no template \"prompt\"; it has: none");
        let missing = folder.path().join("other.toml");
        let message = Task::load(missing.to_str().unwrap()).unwrap_err().to_string();
        assert!(message.contains("other.toml"), "{message}");
    }

    #[test]
    fn an_unknown_name_gets_the_nearest_one() {
        let message = Task::load("sst-2").unwrap_err().to_string();
        assert!(message.contains("did you mean \"sst2\""), "{message}");
        assert!(message.contains("copa, movie-reviews, sst2"), "{message}");
    }

    #[test]
    fn a_faulty_file_is_refused_with_its_place() {
        let message = error(&MINE.replace("metric =", "metrik ="));
        assert!(message.starts_with("mine.toml: ") && message.contains("metrik"), "{message}");
        assert!(message.contains("line 4"), "{message}");
        let message = error(&MINE.replace("\"accuracy\"", "\"bleu\""));
        assert!(message.contains("bleu") && message.contains("accuracy"), "{message}");
        let message = error(&MINE.replace("[\" a\", \" b\", \" c\"]", "[\" a\"]"));
        assert!(message.contains("at least 2 candidates, found 1"), "{message}");
        let message = error(&MINE.replace("[template.none]", "[template.zero]"));
        assert!(message.contains("zero"), "{message}");
        let message = error(&MINE.replace("name = \"mine\"", "name = \"../x\""));
        assert!(message.contains("plain word"), "{message}");
        let two = format!("{MINE}\n[template.prompt]\nprompt = \"{{{{ text }}}}\"\ncandidates = [\"a\", \"b\"]\n");
        let message = error(&two);
        assert!(message.contains("has 3 candidates, another has 2"), "{message}");
        let message = error(&MINE.replace("{ type = \"string\" }", "{ type = \"integer\", one_of = [\"a\"] }"));
        assert!(message.contains("field `text`: `one_of`"), "{message}");
    }

    #[test]
    fn the_label_is_not_a_field_of_the_template() {
        let message = error(&MINE.replace("{{ text }}", "{{ gold }}"));
        assert!(message.contains("unknown field `gold`"), "{message}");
    }
}
