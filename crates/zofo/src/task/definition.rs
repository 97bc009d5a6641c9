//! Task files: their format, and loading one by name or path.
//!
//! A task file is TOML. What a user needs for two columns of texts and labels:
//!
//! ```toml
//! name = "tickets"                   # also the folder of its data
//! description = "What is a message to the help desk about?"
//!
//! [fields]                           # what every row must have, and of what type
//! text = "string"
//!
//! [label]
//! field = "kind"                     # the column with the right answer
//! values = ["bug", "question"]       # what stands for the first candidate, for the second, …
//!
//! [template.prompt]
//! prompt = "{{ text | strip }}\nThis is a"
//! candidates = [" bug", " question"]
//! ```
//!
//! # Top level
//!
//! | Key | Meaning |
//! | --- | --- |
//! | `name` | a plain word; data is looked for in the folder of this name |
//! | `description` | one sentence for people |
//! | `kind` | `"classification"` (default): a model chooses among candidates by their likelihood. `"generation"`: it writes the answer. `"chat"`: rows are conversations, see below |
//! | `metric` | classification: `"accuracy"` (default) or `"macro-f1"`; generation: `"f1"` (default) or `"em"`; chat: `"perplexity"`. See [`Metric`] |
//! | `candidates`, `candidate`, `answer` | as in a template, for all templates that have none of the three |
//!
//! # `[fields]`
//!
//! A field is a type (`"string"`, `"strings"` for a list of them, `"integer"`, `"boolean"`) or a table:
//!
//! | Key | Meaning |
//! | --- | --- |
//! | `type` | the type |
//! | `from` | the column, if it is called otherwise, or a list of columns of which the first that a row has counts. A full stop leads into a column: `answers.text`, `output.0.answer` |
//! | `one_of` | the only strings allowed |
//! | `optional` | `true`: rows may lack it (or have null); templates then ask `{% if title is defined %}` |
//!
//! What a row has besides its declared fields and its label is dropped.
//!
//! # `[label]`
//!
//! | Key | Meaning |
//! | --- | --- |
//! | `field` | the column with the right answer, as `from` of a field |
//! | `value` | instead of `field`: a template that computes the right answer, as text, from the declared fields |
//! | `values` | what stands for each candidate, in their order: a string, an integer, `true` or `false`, or a list of alternatives. Without it: integers from 0 |
//! | `names` | names of the classes for tables, in the order of the candidates. Default: `values` if they are strings |
//! | `choices` | a field of type `"strings"` whose items make the candidates of a row. The label is then an item, a list of items (all count as right, the first is trained on), a position among them, or what `values` has for a position |
//!
//! Of a generation task the label is a text or a list of texts: all count as right, the first is trained on.
//!
//! ```toml
//! # Rows as {"passage": …, "query": "@placeholder scored", "names": ["Ann", "Bob"], "right": ["Bob"]}
//! [label]
//! field = "right"
//! choices = "names"
//! [template.prompt]
//! prompt = "{{ passage }}\n"
//! candidate = "{{ query | fill(item) }}"
//! ```
//!
//! # `[template.NAME]`
//!
//! Any number of templates with names of letters, digits, `-` and `_`. `prompt` is used unless another is named; by
//! convention `none` is the row's text without words that ask for the answer, and `upstream` what was published where
//! that looks like a mistake.
//!
//! | Key | Meaning |
//! | --- | --- |
//! | `prompt` | the text before the answer |
//! | `candidates` | a list of texts that may follow it, in the order of the labels. A blank between prompt and answer belongs to the answer |
//! | `candidate` | with `label.choices`: the text for one of its items, which it calls `item` |
//! | `answer` | generation: the text to train on, in which the right answer is called `answer` |
//! | `null` | the prompt of surface-form calibration, which says nothing of the row. Default: empty |
//! | `identical_candidates` | `true`: candidates may be alike. Otherwise that is an error, in the file or for a row |
//!
//! All are [Jinja](https://docs.rs/minijinja/latest/minijinja/syntax/) templates over the declared fields; an undefined
//! name is an error. Besides the engine's filters there are these, which do what prompts written in Python do:
//!
//! | Filter | Meaning |
//! | --- | --- |
//! | `strip` | without white space at both ends |
//! | `stem` | without white space at the right end and without one full stop there |
//! | `lc` | the first word in lower case, unless it is `I` |
//! | `lower` | all in lower case |
//! | `qmark` | ends in a question mark, begins with a capital |
//! | `bullets` | every `@highlight` line becomes the beginning of a list item, `- ` |
//! | `fill(text)` | `text` in place of every `@placeholder` |
//! | `before(mark)`, `after(mark)` | what stands left or right of `mark`, which must occur exactly once |
//!
//! # `[generation]`
//!
//! | Key | Meaning |
//! | --- | --- |
//! | `stop` | texts that end an answer and are not part of it. Default: none but the model's end of text |
//! | `max_new_tokens` | the longest answer. Default: 50 |
//!
//! ```toml
//! # Rows as {"question": …, "answers": {"text": ["in 1066", "1066"]}}; kind = "generation" at the top
//! [label]
//! field = "answers.text"
//! [generation]
//! stop = ["\n"]
//! [template.prompt]
//! prompt = "Question: {{ question | strip }}\nAnswer:"
//! answer = " {{ answer }}\n"
//! ```
//!
//! # Conversations
//!
//! A task of kind `"chat"` has no fields, label and templates: its rows are in one of the forms that
//! [`messages`](super::chat::messages) reads, and the model's chat template makes texts of them, in which what the
//! assistant says counts. Templates are then these names ([`ChatStyle`]): `prompt`, of the
//! model's chat template (or, where it has none, Alpaca's plain form for rows with an `instruction`); `last`, the same,
//! but only the last answer counts; and `alpaca`, Alpaca's plain form. So a task for a data set of one's own is
//!
//! ```toml
//! name = "help"
//! description = "Answer as our help desk does."
//! kind = "chat"
//! [source]
//! hub = "acme/help-desk"
//! splits = { train = "train", validation = "test" }
//! ```
//!
//! # `[source]`
//!
//! Where the data set is on the Hugging Face hub: `hub` (its id), `config` (its configuration, if it has several) and
//! `splits = { train = "train", validation = "validation" }`, where rows may be cut and joined:
//! `"train[:2000]"`, `"train[2000:]"`, `"train+validation"`.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use super::builtin::BUILTIN;
use super::chat::ChatStyle;
use super::error::TaskError;
use super::label::Label;
use super::metric::Metric;
use super::source::Source;
use super::template::{Template, TemplateName};
use file::TaskFile;
pub use file::{Field, FieldType, Generation, Kind};

mod check;
pub(super) mod file;

/// A task: the fields of its rows, its templates, its metric.
pub struct Task {
    name: String,
    description: String,
    kind: Kind,
    metric: Metric,
    source: Option<Source>,
    generation: Option<Generation>,
    fields: BTreeMap<String, Field>,
    label: Option<Label>,
    classes: Vec<String>,
    templates: BTreeMap<TemplateName, Template>,
}

impl fmt::Debug for Task {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Task")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .field("templates", &self.templates)
            .finish_non_exhaustive()
    }
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
    /// TOML that does not parse, unknown or missing keys, sections that contradict each other, templates with different
    /// numbers of candidates, a template that does not compile or mentions an undeclared field.
    pub fn parse(text: &str, origin: &str) -> Result<Self, TaskError> {
        let invalid = |reason: String| TaskError::Definition { origin: origin.to_owned(), reason };
        let file: TaskFile = toml::from_str(text).map_err(|error| invalid(error.to_string().trim_end().to_owned()))?;
        check::name(&file.name).map_err(invalid)?;
        check::fields(&file.fields).map_err(invalid)?;
        check::kind(&file).map_err(invalid)?;

        let label = file.label.as_ref();
        let choices = label.and_then(|label| label.choices.as_deref());
        let mut templates = BTreeMap::new();
        for (name, mut source) in file.template {
            if source.candidates.is_none() && source.candidate.is_none() && source.answer.is_none() {
                source.candidates.clone_from(&file.candidates);
                source.candidate.clone_from(&file.candidate);
                source.answer.clone_from(&file.answer);
            }
            if source.answer.is_some() != (file.kind == Kind::Generation) {
                return Err(invalid(format!(
                    "template \"{name}\": `answer` and kind = \"generation\" go together; classification has `candidates` \
                     or `candidate`"
                )));
            }
            let template = Template::compile(&file.name, &name, source, &file.fields, choices)?;
            templates.insert(name, template);
        }
        let candidates = check::candidate_count(&templates).map_err(invalid)?;
        let metric = check::metric(file.metric, file.kind, candidates).map_err(invalid)?;
        let classes = check::classes(label, candidates).map_err(invalid)?;
        let computed = check::label_value(label, &file.fields).map_err(invalid)?;
        Ok(Self {
            label: file.label.map(|label| Label::new(label, candidates, computed)),
            name: file.name,
            description: file.description,
            kind: file.kind,
            metric,
            source: file.source,
            generation: (file.kind == Kind::Generation).then(|| file.generation.unwrap_or_default()),
            fields: file.fields,
            classes,
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

    /// What a model is asked for.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Refuses a task of another kind than classification.
    ///
    /// # Errors
    /// [`TaskError::NotClassification`], which names the `purpose`.
    pub fn expect_classification(&self, purpose: &'static str) -> Result<(), TaskError> {
        match self.kind {
            Kind::Classification => Ok(()),
            kind => Err(TaskError::NotClassification { task: self.name.clone(), kind, purpose }),
        }
    }

    /// How predictions are scored.
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// Where its data set is on the hub, if that is known.
    pub fn source(&self) -> Option<&Source> {
        self.source.as_ref()
    }

    /// How answers are generated; `None` for other kinds.
    pub fn generation(&self) -> Option<&Generation> {
        self.generation.as_ref()
    }

    /// The fields that every row must have.
    pub fn fields(&self) -> &BTreeMap<String, Field> {
        &self.fields
    }

    /// Where a row says what is right, for people.
    pub fn label_place(&self) -> String {
        self.label.as_ref().map_or_else(|| "what the assistant says".to_owned(), Label::place)
    }

    /// `None` if rows are conversations.
    pub(super) fn label(&self) -> Option<&Label> {
        self.label.as_ref()
    }

    /// Names of the classes in the order of the candidates; empty if candidates differ from row to row or answers are
    /// generated.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Number of candidate answers of every example; `None` if it differs from row to row or answers are generated.
    pub fn candidate_count(&self) -> Option<usize> {
        (!self.classes.is_empty()).then_some(self.classes.len())
    }

    /// The templates, by name. Conversations have none here: see [`ChatStyle`].
    pub fn templates(&self) -> impl Iterator<Item = &Template> {
        self.templates.values()
    }

    /// The names of all templates that can be chosen.
    pub fn template_names(&self) -> Vec<TemplateName> {
        match self.kind {
            Kind::Chat => ChatStyle::names().collect(),
            Kind::Classification | Kind::Generation => self.templates.keys().cloned().collect(),
        }
    }

    /// The template of a name.
    ///
    /// # Errors
    /// [`TaskError::NoTemplate`] if the task file does not define it.
    pub fn template(&self, name: &TemplateName) -> Result<&Template, TaskError> {
        self.templates.get(name).ok_or_else(|| self.no_template(name))
    }

    pub(super) fn no_template(&self, wanted: &TemplateName) -> TaskError {
        let defined: Vec<String> = self.template_names().iter().map(ToString::to_string).collect();
        TaskError::NoTemplate { task: self.name.clone(), wanted: wanted.clone(), defined: defined.join(", ") }
    }
}

#[cfg(test)]
mod tests;
