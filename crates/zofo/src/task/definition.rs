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
//! | `kind` | `"classification"` (default): a model chooses among candidates by their likelihood. `"generation"`: it writes the answer |
//! | `metric` | classification: `"accuracy"` (default) or `"macro-f1"`; generation: `"f1"` (default) or `"em"`. See [`Metric`] |
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
use super::engine::{Engine, Fault};
use super::error::TaskError;
use super::label::{self, Label};
use super::metric::Metric;
use super::source::Source;
use super::template::{Template, TemplateName};
pub use file::{Field, FieldType, Generation, Kind};
use file::{LabelSource, TaskFile};

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
    label: Label,
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
        check_name(&file.name).map_err(invalid)?;
        check_fields(&file.fields).map_err(invalid)?;
        check_kind(&file).map_err(invalid)?;

        let choices = file.label.choices.as_deref();
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
        let candidates = candidate_count(&templates).map_err(invalid)?;
        let metric = metric(file.metric, file.kind, candidates).map_err(invalid)?;
        let classes = classes(&file.label, candidates).map_err(invalid)?;
        let computed = compile_value(&file.label, &file.fields).map_err(invalid)?;
        Ok(Self {
            label: Label::new(file.label, candidates, computed),
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
            Kind::Generation => Err(TaskError::NotClassification { task: self.name.clone(), purpose }),
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

    /// How answers are generated; `None` for classification.
    pub fn generation(&self) -> Option<&Generation> {
        self.generation.as_ref()
    }

    /// The fields that every row must have.
    pub fn fields(&self) -> &BTreeMap<String, Field> {
        &self.fields
    }

    /// Where a row says what is right, for people.
    pub fn label_place(&self) -> String {
        self.label.place()
    }

    pub(super) fn label(&self) -> &Label {
        &self.label
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

    /// The templates, by name.
    pub fn templates(&self) -> impl Iterator<Item = &Template> {
        self.templates.values()
    }

    /// The template of a name.
    ///
    /// # Errors
    /// [`TaskError::NoTemplate`] if the task file does not define it.
    pub fn template(&self, name: &TemplateName) -> Result<&Template, TaskError> {
        self.templates.get(name).ok_or_else(|| TaskError::NoTemplate {
            task: self.name.clone(),
            wanted: name.clone(),
            defined: self.templates.keys().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        })
    }
}

/// The name is also the name of a folder.
fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.contains(['/', '\\']) || name.starts_with('.') {
        return Err(format!(
            "`name` must be a plain word, without slashes and not beginning with a full stop; found \"{name}\""
        ));
    }
    Ok(())
}

fn check_fields(fields: &BTreeMap<String, Field>) -> Result<(), String> {
    match fields.iter().find(|(_, field)| field.kind != FieldType::String && !field.one_of.is_empty()) {
        Some((name, _)) => Err(format!("field `{name}`: `one_of` is for fields of type \"string\"")),
        None => Ok(()),
    }
}

/// What sections may stand together.
fn check_kind(file: &TaskFile) -> Result<(), String> {
    let label = &file.label;
    if label.field.is_empty() == label.value.is_none() {
        return Err("[label]: expected one of `field` and `value`".to_owned());
    }
    if file.kind == Kind::Classification && file.generation.is_some() {
        return Err("[generation] is for kind = \"generation\"".to_owned());
    }
    if file.kind == Kind::Generation && (label.values.is_some() || label.names.is_some() || label.choices.is_some()) {
        return Err("[label]: `values`, `names` and `choices` are for kind = \"classification\"".to_owned());
    }
    if let Some(choices) = &label.choices {
        let fits = |field: &&Field| field.kind == FieldType::Strings && !field.optional;
        if file.fields.get(choices).filter(fits).is_none() {
            return Err(format!(
                "[label]: `choices` must name a field of type \"strings\" that is not optional; found \"{choices}\""
            ));
        }
    }
    if file.template.is_empty() {
        return Err("expected at least one template, as [template.prompt]".to_owned());
    }
    Ok(())
}

/// The number that all templates have; `None` if it is not theirs but the rows'.
fn candidate_count(templates: &BTreeMap<TemplateName, Template>) -> Result<Option<usize>, String> {
    let mut counts = templates.values().map(Template::candidate_count);
    let first = counts.next().flatten();
    let differs = templates.values().find(|template| template.candidate_count() != first);
    match (first, differs) {
        (Some(first), Some(other)) => Err(format!(
            "template \"{}\" has {} candidates, another has {first}; labels need one number",
            other.name(),
            other.candidate_count().unwrap_or_default()
        )),
        _ => Ok(first),
    }
}

fn metric(metric: Option<Metric>, kind: Kind, candidates: Option<usize>) -> Result<Metric, String> {
    match (metric, kind) {
        (None, Kind::Classification) => Ok(Metric::Accuracy),
        (None, Kind::Generation) => Ok(Metric::F1),
        (Some(metric), kind) if metric.kind() != kind => {
            Err(format!("metric = \"{metric}\" is for kind = \"{}\", but this task's is \"{kind}\"", metric.kind()))
        }
        (Some(Metric::MacroF1), _) if candidates.is_none() => {
            Err("metric = \"macro-f1\" needs classes, but here candidates differ from row to row".to_owned())
        }
        (Some(metric), _) => Ok(metric),
    }
}

/// Names of the classes, after a check that the label section has as many of everything as there are candidates.
fn classes(label: &LabelSource, candidates: Option<usize>) -> Result<Vec<String>, String> {
    let counted = |what: &str, found: usize| match candidates {
        Some(candidates) if found != candidates => {
            Err(format!("[label]: `{what}` has {found} entries, but there are {candidates} candidates"))
        }
        _ => Ok(()),
    };
    if let Some(values) = &label.values {
        counted("values", values.len())?;
        let all: Vec<_> = values.iter().flatten().collect();
        if let Some(twice) = all.iter().enumerate().find(|(index, value)| all[..*index].contains(value)) {
            return Err(format!("[label]: `values` has {} twice", twice.1));
        }
    }
    let Some(candidates) = candidates else {
        return match label.names {
            Some(_) => Err("[label]: `names` needs classes, but here candidates differ from row to row".to_owned()),
            None => Ok(Vec::new()),
        };
    };
    if let Some(names) = &label.names {
        counted("names", names.len())?;
        if let Some(twice) = names.iter().enumerate().find(|(index, name)| names[..*index].contains(name)) {
            return Err(format!("[label]: `names` has \"{}\" twice", twice.1));
        }
        return Ok(names.clone());
    }
    let strings = label.values.iter().flatten().map(|class| class[0].as_str().map(str::to_owned));
    let strings: Option<Vec<String>> = strings.collect();
    match strings {
        Some(names) if !names.is_empty() => Ok(names),
        _ => Ok((0..candidates).map(|position| position.to_string()).collect()),
    }
}

fn compile_value(label: &LabelSource, fields: &BTreeMap<String, Field>) -> Result<Option<Engine>, String> {
    let Some(source) = &label.value else {
        return Ok(None);
    };
    let known = fields.keys().map(String::as_str).collect();
    let compile = || {
        let mut engine = Engine::new()?;
        engine.add(label::VALUE, source.clone(), &known)?;
        Ok(engine)
    };
    match compile() {
        Ok(engine) => Ok(Some(engine)),
        Err(Fault::Syntax(reason)) => Err(format!("[label]: `value`: {reason}")),
        Err(Fault::UnknownVariable(field)) => Err(format!(
            "[label]: `value`: unknown field `{field}`; the task declares: {}",
            known.into_iter().collect::<Vec<_>>().join(", ")
        )),
    }
}

#[cfg(test)]
mod tests;
