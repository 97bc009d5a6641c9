//! What can go wrong between a task's name and its token sequences.

use std::fmt;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::chat::ChatError;
use super::dataset::DataSplit;
use super::definition::Kind;
use super::encode::ForeignToken;
use super::template::TemplateName;
use crate::data::{DataError, Format};
use crate::hf::HfError;
use crate::hf::hub::HubError;

/// A template of a task, or one of its texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplatePart {
    /// Name of the task.
    pub task: String,
    /// Name of the template.
    pub template: TemplateName,
    /// The prompt, or which candidate; `None` for the whole.
    pub part: Option<String>,
}

impl fmt::Display for TemplatePart {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "task \"{}\", template \"{}\"", self.task, self.template)?;
        self.part.iter().try_for_each(|part| write!(formatter, ", {part}"))
    }
}

/// An error of a task definition, of its data, or of their encoding.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TaskError {
    /// The name is neither a built-in task nor a path.
    #[error(
        "unknown task \"{name}\" (did you mean \"{nearest}\"?); built-in tasks: {}; for a task of your own, give the path of its .toml file",
        .known.join(", ")
    )]
    UnknownTask {
        /// The name that was asked for.
        name: String,
        /// The built-in name that is spelled most like it.
        nearest: &'static str,
        /// All built-in names.
        known: Vec<&'static str>,
    },

    /// The task file cannot be read.
    #[error("cannot read the task file {}", .path.display())]
    ReadDefinition {
        /// The task file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },

    /// The task file is not TOML, or not a task.
    #[error("{origin}: {reason}")]
    Definition {
        /// The file, or the name of the built-in task.
        origin: String,
        /// What is wrong, with the place where it is known.
        reason: String,
    },

    /// A template of the task file does not parse.
    #[error("{place}: {reason}")]
    TemplateSyntax {
        /// Which part of which template.
        place: Box<TemplatePart>,
        /// What the template engine says.
        reason: String,
    },

    /// A template contradicts itself or its task.
    #[error("{place}: {reason}")]
    Template {
        /// Which template.
        place: Box<TemplatePart>,
        /// What is wrong.
        reason: String,
    },

    /// A template mentions a field that the task does not declare.
    #[error("{place}: unknown field `{field}`; the task declares: {known}")]
    UnknownField {
        /// Which part of which template.
        place: Box<TemplatePart>,
        /// The undeclared name.
        field: String,
        /// The declared names, joined.
        known: String,
    },

    /// The task has no template of the name that was asked for.
    #[error("task \"{task}\" has no template \"{wanted}\"; it has: {defined}")]
    NoTemplate {
        /// Name of the task.
        task: String,
        /// The template that was asked for.
        wanted: TemplateName,
        /// Those that exist, joined.
        defined: String,
    },

    /// A template cannot be rendered for a row.
    #[error("{}:{line}: {place}: {reason}", .path.display())]
    Render {
        /// File of the row.
        path: PathBuf,
        /// Line of the row, from 1.
        line: usize,
        /// Which part of which template.
        place: Box<TemplatePart>,
        /// What the template engine says.
        reason: String,
    },

    /// A candidate or an answer has no text.
    #[error("{}:{line}: {place}: the answer is empty", .path.display())]
    EmptyAnswer {
        /// File of the row.
        path: PathBuf,
        /// Line of the row, from 1.
        line: usize,
        /// Which part of which template.
        place: Box<TemplatePart>,
    },

    /// Two candidates of a row are one text, so that the second could never be chosen.
    #[error("{}:{line}: {place}: candidates {first} and {second} are alike: {text:?}", .path.display())]
    IdenticalCandidates {
        /// File of the row.
        path: PathBuf,
        /// Line of the row, from 1.
        line: usize,
        /// Which template.
        place: Box<TemplatePart>,
        /// Position of the earlier one, from 0.
        first: usize,
        /// Position of the later one.
        second: usize,
        /// The text of both.
        text: String,
    },

    /// The task asks for generated text, where candidates are needed.
    #[error(
        "task \"{task}\" is of kind \"{kind}\": its answers are written, not chosen, and {purpose} is only for \
         tasks of kind \"classification\""
    )]
    NotClassification {
        /// Name of the task.
        task: String,
        /// Its kind.
        kind: Kind,
        /// What it was to be used for.
        purpose: &'static str,
    },

    /// Neither the data folder nor a folder of the task's name in it holds data.
    #[error(
        "no data for task \"{task}\": looked for {} ({} would do too, and each of them with .gz or .zst)",
        .looked_for.join(" and for "),
        Format::endings()
    )]
    MissingData {
        /// Name of the task.
        task: String,
        /// What was looked for.
        looked_for: Vec<String>,
    },

    /// A folder holds a split twice.
    #[error("which one is the {split} data, {} or {}? Leave one of them there", .first.display(), .second.display())]
    AmbiguousData {
        /// Which split.
        split: DataSplit,
        /// A file.
        first: PathBuf,
        /// Another one.
        second: PathBuf,
    },

    /// A split that comes in numbered parts lacks one.
    #[error(
        "the {split} data lacks part {missing:05} of {count:05}, which should lie beside {}: get it too",
        .example.display()
    )]
    MissingShard {
        /// Which split.
        split: DataSplit,
        /// The number of the first that is missing, from 0.
        missing: usize,
        /// How many there should be.
        count: usize,
        /// One that is there.
        example: PathBuf,
    },

    /// Nobody says where the data are.
    #[error(
        "no data for task \"{task}\", which does not name a data set of the hub: say where its rows are: data.dir is a \
         folder or a data set of the hub, data.train a file (`zofo eval` has --data for all three)"
    )]
    NoSource {
        /// Name of the task.
        task: String,
    },

    /// A text that should name a data set of the hub does not.
    #[error("\"{text}\" names no data set of the hub: expected hf://datasets/ORG/NAME[@REVISION][/CONFIGURATION]")]
    BadLocation {
        /// The text.
        text: String,
    },

    /// One file, where a run needs two splits.
    #[error(
        "{} is a file: name the training data by data.train, and, if they are in a file of their own, the data to evaluate \
         by data.validation",
        .path.display()
    )]
    OneFile {
        /// The file.
        path: PathBuf,
    },

    /// A data set of the hub cannot be had.
    #[error(transparent)]
    Hub(#[from] HubError),

    /// A data file cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),

    /// More rows are bad than were to be tolerated.
    #[error("more than {tolerated} bad rows, which data.skip_bad_rows tolerates: {}", .first.join("; "))]
    TooManyBadRows {
        /// How many were to be tolerated.
        tolerated: usize,
        /// What is wrong with the first of them.
        first: Vec<String>,
    },

    /// A line of a data file is not what the task says.
    #[error("{}:{line}: expected {expected}, found {found}", .path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What the task needs there.
        expected: String,
        /// What is there.
        found: String,
    },

    /// A data file has no rows.
    #[error("the {split} split is empty: {} has no rows", .path.display())]
    EmptyFile {
        /// Which split.
        split: DataSplit,
        /// The file.
        path: PathBuf,
    },

    /// The tokenizer fails on a text.
    #[error("{}:{line}: the tokenizer failed: {reason}", .path.display())]
    Tokenize {
        /// File of the row.
        path: PathBuf,
        /// Line of the row, from 1.
        line: usize,
        /// What the tokenizer says.
        reason: String,
    },

    /// The tokenizer cannot be used at all.
    #[error("the tokenizer is unusable: {reason}")]
    Tokenizer {
        /// Why.
        reason: String,
    },

    /// The tokenizer gives a token that the model does not know.
    #[error("{}:{line}: {problem}", .path.display())]
    ForeignToken {
        /// File of the row.
        path: PathBuf,
        /// Line of the row, from 1.
        line: usize,
        /// Which token, and what the model knows.
        problem: ForeignToken,
    },

    /// A candidate has no token of its own: nothing could be scored.
    #[error(
        "{}:{line}: candidate {candidate} (\"{text}\") adds no token to its prompt: prompt {prompt_tokens} tokens, with the answer {full_tokens}",
        .path.display()
    )]
    NoAnswerToken {
        /// File of the row.
        path: PathBuf,
        /// Line of the row, from 1.
        line: usize,
        /// Position of the candidate, from 0.
        candidate: usize,
        /// The text with the answer.
        text: String,
        /// Tokens of the prompt alone.
        prompt_tokens: usize,
        /// Tokens of prompt and answer.
        full_tokens: usize,
    },

    /// The prompt has no token, so nothing predicts the first token of the answer.
    #[error(
        "{}:{line}: the prompt has no tokens, so that the first token of an answer cannot be predicted; remove the row or use a template with words of its own",
        .path.display()
    )]
    EmptyPrompt {
        /// File of the row.
        path: PathBuf,
        /// Line of the row, from 1.
        line: usize,
    },

    /// An answer alone is longer than the model's context.
    #[error(
        "{}:{line}: candidate {candidate} alone has {answer_tokens} tokens; with the {needed} before it that a prediction needs it does not fit into a context of {limit}",
        .path.display()
    )]
    AnswerTooLong {
        /// File of the row.
        path: PathBuf,
        /// Line of the row, from 1.
        line: usize,
        /// Position of the candidate, from 0.
        candidate: usize,
        /// Its tokens.
        answer_tokens: usize,
        /// Tokens that must stand before it.
        needed: usize,
        /// Most tokens that fit.
        limit: usize,
    },

    /// The context has no room for a prompt and the answer that is to be generated.
    #[error(
        "an answer of up to {max_new_tokens} tokens, with the {needed} before it that a prediction needs, does not fit into \
         a context of {limit}: set a smaller generation.max_new_tokens in the task file"
    )]
    NoRoomToGenerate {
        /// Tokens of the longest answer.
        max_new_tokens: usize,
        /// Tokens that must stand before it.
        needed: usize,
        /// Most tokens that fit.
        limit: usize,
    },

    /// A conversation cannot be written down for the model.
    #[error("{}:{line}: {problem}", .path.display())]
    Chat {
        /// File of the row.
        path: PathBuf,
        /// Line of the row, from 1.
        line: usize,
        /// Why.
        problem: Box<ChatError>,
    },

    /// The model's chat template cannot be used.
    #[error(transparent)]
    ChatTemplate(Box<HfError>),

    /// No conversation has an answer within the context.
    #[error(
        "none of {total} conversations has any of an answer within the context of {limit} tokens: give shorter ones, or use \
         a model with a longer context"
    )]
    NoConversationFits {
        /// How many there are.
        total: usize,
        /// Most tokens that fit.
        limit: usize,
    },

    /// Fewer rows than there are to be demonstrations.
    #[error(
        "{shots} demonstrations were asked for, but {} has {rows} rows that can be one: ask for at most that many",
        .path.display()
    )]
    TooFewDemonstrations {
        /// The file that they are drawn from.
        path: PathBuf,
        /// Rows that there are.
        rows: usize,
        /// How many were asked for.
        shots: usize,
    },

    /// The training file is smaller than what was asked for.
    #[error(
        "the training data has {rows} rows, but data.train_examples = {train} and data.validation_examples = {validation} need {} of them: \
         set for example data.train_examples = {proposed_train} and data.validation_examples = {proposed_validation}",
        .train.saturating_add(*.validation)
    )]
    TooFewRows {
        /// Rows that there are.
        rows: usize,
        /// `data.train_examples`.
        train: usize,
        /// `data.validation_examples`.
        validation: usize,
        /// A value that would work.
        proposed_train: usize,
        /// A value that would work.
        proposed_validation: usize,
    },

    /// A class has fewer training rows than were asked for.
    #[error(
        "the training data has {rows} usable rows of class \"{class}\", but data.few_shot = {shots} needs {shots} of every \
         class: set data.few_shot = {rows} or less, or give more data"
    )]
    TooFewOfClass {
        /// Name of the class.
        class: String,
        /// Rows that there are.
        rows: usize,
        /// `data.few_shot`.
        shots: usize,
    },

    /// A division by classes, of a task that has none.
    #[error(
        "{key} divides rows by their classes, but task \"{task}\" has none: its candidates differ from row to row, or its \
         answers are written"
    )]
    NoClasses {
        /// Name of the task.
        task: String,
        /// The setting.
        key: &'static str,
    },

    /// A part of the training data would have no row.
    #[error("the {part} split would be empty: {reason}")]
    EmptySplit {
        /// Which part.
        part: &'static str,
        /// The numbers that make it empty, and what to set.
        reason: String,
    },

    /// A batch is larger than what it is drawn from.
    #[error(
        "a batch of {batch_size} cannot be drawn from the {split} split, which has {length} examples: use a batch size of at most {length}, or more training examples"
    )]
    BatchTooLarge {
        /// Name of the sampler's part of the data.
        split: String,
        /// Examples in it.
        length: usize,
        /// Examples per batch.
        batch_size: usize,
    },

    /// A stored position does not belong to this split.
    #[error(
        "the stored position {position} of the {split} split lies beyond its {length} examples: it belongs to other data"
    )]
    BadCursor {
        /// Name of the sampler's part of the data.
        split: String,
        /// The stored position.
        position: u64,
        /// Examples in the split.
        length: usize,
    },
}
