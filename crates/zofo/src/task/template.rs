//! A template: from a row to the text of a prompt and of each candidate answer.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::dataset::Example;
use super::definition::Field;
use super::definition::file::TemplateSource;
use super::engine::{Engine, Fault};
use super::error::{TaskError, TemplatePart};
use super::filters::is_space;
use super::row::Gold;

/// The name of one of a task's templates: letters, digits, `-` and `_`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct TemplateName(Cow<'static, str>);

impl TemplateName {
    /// The row's text with words that ask for the answer: the one that is used unless another is named.
    pub const PROMPT: Self = Self(Cow::Borrowed("prompt"));
    /// The row's text alone: no prompt.
    pub const NONE: Self = Self(Cow::Borrowed("none"));
    /// As published, where that differs from [`TemplateName::PROMPT`] by what looks like a mistake.
    pub const UPSTREAM: Self = Self(Cow::Borrowed("upstream"));

    /// The name as task and configuration files write it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TemplateName {
    fn default() -> Self {
        Self::PROMPT
    }
}

impl FromStr for TemplateName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        name.to_owned().try_into()
    }
}

impl TryFrom<String> for TemplateName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let plain = |character: char| character.is_alphanumeric() || "-_".contains(character);
        if name.is_empty() || !name.chars().all(plain) {
            return Err(format!("\"{name}\" is no name of a template: expected letters, digits, - and _"));
        }
        Ok(Self(Cow::Owned(name)))
    }
}

impl fmt::Display for TemplateName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The texts of one example, ready to be tokenised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// The prompt without an answer.
    pub prompt: String,
    /// The whole text, prompt and answer, of each candidate in label order; of a generation task, that of the answer
    /// that is trained on.
    pub verbalized: Vec<String>,
}

/// Where the answers come from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    /// Their number is the template's.
    Fixed(usize),
    /// One for every item of this list field.
    PerItem(String),
    /// From the row's gold answers.
    Generated,
}

/// A compiled template.
pub struct Template {
    /// Task and name.
    whole: TemplatePart,
    engine: Engine,
    form: Form,
    identical_candidates: bool,
}

impl fmt::Debug for Template {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Template").field("whole", &self.whole).field("form", &self.form).finish_non_exhaustive()
    }
}

/// Names of the parts, which messages use too.
const PROMPT: &str = "prompt";
const NULL: &str = "null";
/// Also a variable: the item of the list, and the answer.
const CANDIDATE: &str = "candidate";
const ANSWER: &str = "answer";
const ITEM: &str = "item";

/// As [`PROMPT`], for one of several candidates.
fn candidate_part(index: usize) -> String {
    format!("candidate {index}")
}

impl Template {
    /// Compiles a template and checks that it mentions declared fields only. `choices` is the list field of which every
    /// item makes a candidate.
    ///
    /// # Errors
    /// [`TaskError::TemplateSyntax`], [`TaskError::UnknownField`] and [`TaskError::Template`].
    pub(super) fn compile(
        task: &str,
        name: &TemplateName,
        source: TemplateSource,
        fields: &BTreeMap<String, Field>,
        choices: Option<&str>,
    ) -> Result<Self, TaskError> {
        let whole = TemplatePart { task: task.to_owned(), template: name.clone(), part: None };
        let invalid = |reason: String| TaskError::Template { place: Box::new(whole.clone()), reason };
        let (form, answers, variable) = match (source.candidates, source.candidate, source.answer, choices) {
            (Some(candidates), None, None, None) => {
                check_candidates(&candidates, source.identical_candidates).map_err(invalid)?;
                let parts = candidates.into_iter().enumerate().map(|(index, text)| (candidate_part(index), text));
                let parts: Vec<(String, String)> = parts.collect();
                (Form::Fixed(parts.len()), parts, None)
            }
            (None, Some(text), None, Some(list)) => {
                (Form::PerItem(list.to_owned()), vec![(CANDIDATE.to_owned(), text)], Some(ITEM))
            }
            (None, None, Some(text), None) => (Form::Generated, vec![(ANSWER.to_owned(), text)], Some(ANSWER)),
            _ => {
                return Err(invalid(
                    "expected one of `candidates` (a list of texts), `candidate` (a text for each item of the list that \
                     `label.choices` names) and `answer` (the text that a generation task trains on)"
                        .to_owned(),
                ));
            }
        };
        if let Some(variable) = variable.filter(|variable| fields.contains_key(*variable)) {
            return Err(invalid(format!(
                "`{variable}` stands for the {} here; declare the field under another name, with `from = \"{variable}\"`",
                if variable == ITEM { "item that makes a candidate" } else { "right answer" }
            )));
        }
        if form == Form::Generated && source.null.is_some() {
            return Err(invalid("`null` serves to compare candidates; a generation task has none".to_owned()));
        }
        let declared: BTreeSet<&str> = fields.keys().map(String::as_str).collect();
        let with_variable: BTreeSet<&str> = declared.iter().copied().chain(variable).collect();
        let mut engine = Engine::new().map_err(|fault| located(fault, whole.at(PROMPT), &declared))?;
        let mut add = |part: &str, text: String, known: &BTreeSet<&str>| {
            engine.add(part, text, known).map_err(|fault| located(fault, whole.at(part), known))
        };
        add(PROMPT, source.prompt, &declared)?;
        add(NULL, source.null.unwrap_or_default(), &declared)?;
        for (part, text) in answers {
            add(&part, text, &with_variable)?;
        }
        let identical_candidates = source.identical_candidates;
        Ok(Self { whole, engine, form, identical_candidates })
    }

    /// Its name.
    pub fn name(&self) -> &TemplateName {
        &self.whole.template
    }

    /// Number of candidate answers; `None` if it differs from row to row, or answers are generated.
    pub fn candidate_count(&self) -> Option<usize> {
        match self.form {
            Form::Fixed(count) => Some(count),
            Form::PerItem(_) | Form::Generated => None,
        }
    }

    /// Renders an example.
    ///
    /// The text of a candidate is the prompt followed by the answer. Every text then loses white space at its left end,
    /// and blanks (U+0020 only) at its right end, where line feeds stay. Trimming comes after joining, so that a blank
    /// between prompt and answer survives wherever the template puts it.
    ///
    /// # Errors
    /// With file and line of the row: [`TaskError::Render`], an answer without text ([`TaskError::EmptyAnswer`]),
    /// candidates that are alike ([`TaskError::IdenticalCandidates`]).
    pub fn render(&self, example: &Example) -> Result<Rendered, TaskError> {
        self.render_after("", example)
    }

    /// As [`render`](Self::render), with demonstrations and a separator `before` the prompt of every text.
    ///
    /// # Errors
    /// As [`render`](Self::render).
    pub(super) fn render_after(&self, before: &str, example: &Example) -> Result<Rendered, TaskError> {
        let prompt = self.part(PROMPT, example, &Map::new())?;
        let answers = self.answers(example)?;
        let verbalized: Vec<String> =
            answers.iter().map(|answer| assemble(before, &format!("{prompt}{answer}"))).collect();
        if !self.identical_candidates {
            self.check_distinct(&verbalized, example)?;
        }
        Ok(Rendered { prompt: assemble(before, &prompt), verbalized })
    }

    /// The prompt of [`render_after`](Self::render_after) alone.
    ///
    /// # Errors
    /// [`TaskError::Render`].
    pub(super) fn render_prompt_after(&self, before: &str, example: &Example) -> Result<String, TaskError> {
        Ok(assemble(before, &self.part(PROMPT, example, &Map::new())?))
    }

    /// An example with its right answer, as it stands before others to show what is asked for: without white space at
    /// both ends.
    ///
    /// # Errors
    /// As [`render`](Self::render).
    pub(super) fn demonstration(&self, example: &Example) -> Result<String, TaskError> {
        let mut rendered = self.render(example)?;
        let gold = match &example.gold {
            Gold::Candidates(golds) => golds[0],
            Gold::Answers(_) | Gold::Conversation => 0,
        };
        Ok(rendered.verbalized.swap_remove(gold).trim_matches(is_space).to_owned())
    }

    /// Renders what surface-form calibration compares an example with: the same answers after the null prompt, which
    /// says nothing of the row's content. These texts lose blanks at both ends and nothing else.
    ///
    /// # Errors
    /// As [`Template::render`].
    pub fn render_null(&self, example: &Example) -> Result<Rendered, TaskError> {
        self.null_texts(example, |text| text.trim_matches(' ').to_owned())
    }

    /// As [`render_null`](Self::render_null), with demonstrations and a separator `before` the null prompt, and trimmed as
    /// by [`render`](Self::render).
    ///
    /// # Errors
    /// As [`Template::render`].
    pub(super) fn render_null_after(&self, before: &str, example: &Example) -> Result<Rendered, TaskError> {
        self.null_texts(example, |text| assemble(before, text))
    }

    fn null_texts(&self, example: &Example, trim: impl Fn(&str) -> String) -> Result<Rendered, TaskError> {
        let prompt = self.part(NULL, example, &Map::new())?;
        let answers = self.answers(example)?;
        let verbalized = answers.iter().map(|answer| trim(&format!("{prompt}{answer}"))).collect();
        Ok(Rendered { prompt: trim(&prompt), verbalized })
    }

    /// The text that each candidate adds to a prompt, before trimming.
    fn answers(&self, example: &Example) -> Result<Vec<String>, TaskError> {
        let nothing = Map::new();
        let with = |variable: &str, value: Value| Map::from_iter([(variable.to_owned(), value)]);
        match (&self.form, &example.gold) {
            (Form::Fixed(count), _) => {
                (0..*count).map(|index| self.answer(&candidate_part(index), example, &nothing)).collect()
            }
            (Form::PerItem(field), _) => {
                let items = example.fields.get(field).and_then(Value::as_array).into_iter().flatten();
                items.map(|item| self.answer(CANDIDATE, example, &with(ITEM, item.clone()))).collect()
            }
            (Form::Generated, Gold::Answers(answers)) => answers
                .iter()
                .take(1)
                .map(|answer| self.answer(ANSWER, example, &with(ANSWER, answer.as_str().into())))
                .collect(),
            (Form::Generated, Gold::Candidates(_) | Gold::Conversation) => {
                Err(self.failed(ANSWER, example, "the example has no answer in words".to_owned()))
            }
        }
    }

    fn answer(&self, part: &str, example: &Example, besides: &Map<String, Value>) -> Result<String, TaskError> {
        let answer = self.part(part, example, besides)?;
        if answer.trim_matches(is_space).is_empty() {
            return Err(TaskError::EmptyAnswer {
                path: example.source.to_path_buf(),
                line: example.line,
                place: self.whole.at(part),
            });
        }
        Ok(answer)
    }

    fn part(&self, part: &str, example: &Example, besides: &Map<String, Value>) -> Result<String, TaskError> {
        self.engine.render(part, &example.fields, besides).map_err(|reason| self.failed(part, example, reason))
    }

    fn failed(&self, part: &str, example: &Example, reason: String) -> TaskError {
        TaskError::Render { path: example.source.to_path_buf(), line: example.line, place: self.whole.at(part), reason }
    }

    fn check_distinct(&self, texts: &[String], example: &Example) -> Result<(), TaskError> {
        match first_repeat(texts) {
            None => Ok(()),
            Some((first, second)) => Err(TaskError::IdenticalCandidates {
                path: example.source.to_path_buf(),
                line: example.line,
                place: Box::new(self.whole.clone()),
                first,
                second,
                text: texts[first].clone(),
            }),
        }
    }
}

/// A text without blanks at both ends, behind `before`; the whole then without white space at its left end and blanks at
/// its right end.
fn assemble(before: &str, text: &str) -> String {
    let whole = format!("{before}{}", text.trim_start_matches(' '));
    whole.trim_start_matches(is_space).trim_end_matches(' ').to_owned()
}

impl Rendered {
    /// The text of each candidate's answer, without white space at both ends.
    pub fn answers(&self) -> impl Iterator<Item = &str> {
        // Both were trimmed alike, so the prompt begins every text.
        let answer = |text| -> &str { str::strip_prefix(text, self.prompt.as_str()).unwrap_or(text) };
        self.verbalized.iter().map(move |text| answer(text).trim_matches(is_space))
    }
}

impl TemplatePart {
    /// One of the texts of this template.
    fn at(&self, part: &str) -> Box<Self> {
        Box::new(Self { part: Some(part.to_owned()), ..self.clone() })
    }
}

/// Puts a fault in its place.
fn located(fault: Fault, place: Box<TemplatePart>, known: &BTreeSet<&str>) -> TaskError {
    match fault {
        Fault::Syntax(reason) => TaskError::TemplateSyntax { place, reason },
        Fault::UnknownVariable(field) => {
            let known = known.iter().copied().collect::<Vec<_>>().join(", ");
            TaskError::UnknownField { place, field, known }
        }
    }
}

/// What is wrong with a list of candidates, whatever the row.
fn check_candidates(candidates: &[String], may_be_identical: bool) -> Result<(), String> {
    if candidates.len() < 2 {
        return Err(format!("expected at least 2 candidates, found {}", candidates.len()));
    }
    if let Some(blank) = candidates.iter().position(|text| text.trim_matches(is_space).is_empty()) {
        return Err(format!("candidate {blank} has no text"));
    }
    match first_repeat(candidates) {
        Some((first, second)) if !may_be_identical => Err(format!(
            "candidates {first} and {second} are both {:?}: the second could never be chosen",
            candidates[first]
        )),
        _ => Ok(()),
    }
}

/// The positions of the first text that occurred before, earlier one first.
fn first_repeat(texts: &[String]) -> Option<(usize, usize)> {
    let mut seen = BTreeMap::new();
    texts.iter().enumerate().find_map(|(index, text)| seen.insert(text, index).map(|earlier| (earlier, index)))
}

#[cfg(test)]
mod tests;
