//! `zofo tasks`.

mod conversation;

use crate::arguments::{JsonArgument, path, with_home};
use crate::data;
use crate::errors::Error;
use crate::model;
use crate::output::{print, print_json};
use crate::progress::Messenger;
use clap::{Args, Subcommand};
use conversation::ConversationReport;
use serde::Serialize;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::PathBuf;
use tokenizers::Tokenizer;
use zofo::task::{
    DataSplit, Dataset, EncodedCandidate, Encoder, Example, Field, Gold, Kind, Metric, Rendered, Source, Task,
    Template, TemplateName,
};

/// Rows that `show` renders.
const SHOWN: usize = 3;

/// Arguments of `zofo tasks`.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  zofo tasks
  zofo tasks show copa
  zofo tasks show my-task.toml --data my-data --model model.gguf --template none"
)]
pub struct Arguments {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    report: JsonArgument,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show a task's definition; with data also its first rows, and with a model their tokens.
    Show(Show),
}

#[derive(Debug, Args)]
struct Show {
    /// A built-in task, or the path of a task file.
    #[arg(value_parser = with_home)]
    task: String,
    /// Where rows are: the folder that holds the task's folder, or that folder, or a file, or a data set of the hub,
    /// hf://datasets/ORG/NAME.
    #[arg(long, value_name = "PLACE", value_parser = path())]
    data: Option<PathBuf>,
    /// A Hugging Face model folder, a .gguf file, or a model of the Hugging Face Hub: org/name[@revision].
    #[arg(long, value_parser = path(), requires = "data")]
    model: Option<PathBuf>,
    /// Which of the task's templates to use, by its name in the task file.
    #[arg(long, value_name = "NAME", default_value_t)]
    template: TemplateName,
    #[command(flatten)]
    report: JsonArgument,
}

/// Lists tasks, or shows one.
pub fn run(arguments: &Arguments) -> Result<(), Error> {
    match &arguments.action {
        None => list(arguments.report.json),
        Some(Action::Show(arguments)) => show(arguments),
    }
}

fn list(json: bool) -> Result<(), Error> {
    let tasks = Task::builtin_names().map(Task::load).collect::<Result<Vec<_>, _>>()?;
    if json {
        let about = |task: &Task| {
            json!({
                "task": task.name(),
                "kind": task.kind(),
                "classes": task.classes(),
                "metric": task.metric(),
                "description": task.description(),
            })
        };
        let tasks: Vec<Value> = tasks.iter().map(about).collect();
        print_json(&json!({ "tasks": tasks }))?;
    } else {
        let rows = tasks.iter().map(|task| {
            let classes = task.candidate_count().map_or("-".to_owned(), |count| count.to_string());
            [task.name(), task.kind().as_str(), &classes, task.metric().as_str(), task.description()].map(str::to_owned)
        });
        let head = ["task", "kind", "classes", "metric", "description"].map(str::to_owned);
        let rows: Vec<[String; 5]> = std::iter::once(head).chain(rows).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or_default();
        let (task, kind, classes, metric) = (width(0), width(1), width(2), width(3));
        let lines = rows.iter().map(|[name, of, count, by, about]| {
            format!("{name:task$}  {of:kind$}  {count:>classes$}  {by:metric$}  {about}\n")
        });
        print(&lines.collect::<String>())?;
    }
    Ok(())
}

/// A task and some of its rows.
#[derive(Serialize)]
struct Report {
    task: String,
    description: String,
    kind: Kind,
    metric: Metric,
    /// Names in the order of the candidates; none where these differ from row to row or answers are written.
    classes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<Source>,
    fields: Vec<FieldReport>,
    label: String,
    templates: Vec<TemplateName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    examples: Option<Vec<ExampleReport>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    conversations: Option<Vec<ConversationReport>>,
}

/// What every row must have.
#[derive(Serialize)]
struct FieldReport {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    /// If not empty, the only strings allowed.
    one_of: Vec<String>,
    /// If not empty, the columns where it may be.
    from: Vec<String>,
    optional: bool,
}

/// A row as it is rendered.
#[derive(Serialize)]
struct ExampleReport {
    line: usize,
    /// Positions of the right candidates; the first is trained on.
    golds: Vec<usize>,
    /// Of a generation task, all right answers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    answers: Vec<String>,
    prompt: String,
    /// The prompt of surface-form calibration; generation has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    null: Option<String>,
    candidates: Vec<CandidateReport>,
}

#[derive(Serialize)]
struct CandidateReport {
    /// Prompt and answer.
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<Tokens>,
}

/// How a model reads a candidate.
#[derive(Clone, Serialize)]
struct Tokens {
    context: Vec<String>,
    scored: Vec<String>,
}

fn show(arguments: &Show) -> Result<(), Error> {
    let task = Task::load(&arguments.task)?;
    let (mut examples, mut conversations) = (None, None);
    if let Some(place) = &arguments.data {
        let files = data::locate(Some(place), &task, DataSplit::Train, &Messenger::new())?;
        let mut dataset = Dataset::read(&files, &task, DataSplit::Train, 0)?;
        dataset.examples.truncate(SHOWN);
        match task.kind() {
            Kind::Classification | Kind::Generation => {
                examples = Some(render(&task, &dataset.examples, arguments)?);
            }
            Kind::Chat => {
                let (model, template) = (arguments.model.as_deref(), &arguments.template);
                conversations = Some(conversation::read(&task, &dataset.examples, template, model)?);
            }
        }
    }
    let report = Report {
        task: task.name().to_owned(),
        description: task.description().to_owned(),
        kind: task.kind(),
        metric: task.metric(),
        classes: task.classes().to_vec(),
        source: task.source().cloned(),
        fields: task.fields().iter().map(|(name, field)| FieldReport::new(name, field)).collect(),
        label: task.label_place(),
        templates: task.template_names(),
        examples,
        conversations,
    };
    arguments.report.print(&report, || report.describe())
}

fn render(task: &Task, examples: &[Example], arguments: &Show) -> Result<Vec<ExampleReport>, Error> {
    let template = task.template(&arguments.template)?;
    let tokens = match &arguments.model {
        Some(path) => {
            let files = model::open(path, &Messenger::new())?;
            let tokenizer = files.tokenizer()?;
            let encoder = Encoder::new(task, &arguments.template, &tokenizer, files.config().limits())?;
            let encoded = encoder.encode(examples)?.examples;
            let of = |candidates: &[EncodedCandidate]| candidates.iter().map(|c| Tokens::of(c, &tokenizer)).collect();
            encoded.iter().map(|example| of(&example.candidates)).collect()
        }
        None => vec![Vec::new(); examples.len()],
    };
    examples.iter().zip(tokens).map(|(example, tokens)| ExampleReport::new(example, template, tokens)).collect()
}

impl FieldReport {
    fn new(name: &str, field: &Field) -> Self {
        Self {
            name: name.to_owned(),
            kind: field.kind.as_str(),
            one_of: field.one_of.clone(),
            from: field.from.clone(),
            optional: field.optional,
        }
    }

    fn describe(&self) -> String {
        let mut text = format!("{} ({}", self.name, self.kind);
        // Writing to a `String` cannot fail.
        if !self.one_of.is_empty() {
            let _ = write!(text, ", one of {}", self.one_of.join(", "));
        }
        if !self.from.is_empty() {
            let _ = write!(text, ", from {}", self.from.join(" or "));
        }
        text + if self.optional { ", optional)" } else { ")" }
    }
}

impl Tokens {
    fn of(candidate: &EncodedCandidate, tokenizer: &Tokenizer) -> Self {
        let (context, scored) = candidate.ids.split_at(candidate.context_len());
        let name = |&id: &u32| tokenizer.id_to_token(id).unwrap_or_else(|| id.to_string());
        Self { context: context.iter().map(name).collect(), scored: scored.iter().map(name).collect() }
    }
}

impl ExampleReport {
    /// `tokens` has one entry per candidate, or none without a model.
    fn new(example: &Example, template: &Template, tokens: Vec<Tokens>) -> Result<Self, Error> {
        let Rendered { prompt, verbalized } = template.render(example)?;
        let mut tokens = tokens.into_iter();
        let candidates = verbalized.into_iter().map(|text| CandidateReport { text, tokens: tokens.next() }).collect();
        let (golds, answers, null) = match &example.gold {
            Gold::Candidates(golds) => (golds.clone(), Vec::new(), Some(template.render_null(example)?.prompt)),
            Gold::Answers(answers) => (vec![0], answers.clone(), None),
            Gold::Conversation => (vec![0], Vec::new(), None),
        };
        Ok(Self { line: example.line, golds, answers, prompt, null, candidates })
    }

    fn describe(&self, text: &mut String) {
        // Writing to a `String` cannot fail. Texts are quoted, so that blanks and line feeds show.
        let _ = writeln!(text, "\nline {}    prompt {:?}", self.line, self.prompt);
        if let Some(null) = self.null.as_ref().filter(|null| !null.is_empty()) {
            let _ = writeln!(text, "          null   {null:?}");
        }
        // Candidates mostly share the tokens before their answers, which are then shown once.
        let shared =
            self.candidates.first().and_then(|candidate| candidate.tokens.as_ref()).map(|tokens| &tokens.context);
        if let Some(context) = shared {
            let _ = writeln!(text, "          tokens {} ({} before the answer)", context.join(" "), context.len());
        }
        for (index, candidate) in self.candidates.iter().enumerate() {
            let mark = if self.golds.contains(&index) { "right" } else { "     " };
            let answer = candidate.text.strip_prefix(&self.prompt).unwrap_or(&candidate.text);
            let _ = writeln!(text, "  {index} {mark}   {answer:?}");
            if let Some(Tokens { context, scored }) = &candidate.tokens {
                let before = if Some(context) == shared { String::new() } else { context.join(" ") + " " };
                let _ = writeln!(text, "            {before}| {} ({} scored)", scored.join(" "), scored.len());
            }
        }
        for other in self.answers.iter().skip(1) {
            let _ = writeln!(text, "    also    {other:?}");
        }
    }
}

impl Report {
    fn describe(&self) -> String {
        let classes: Vec<String> =
            self.classes.iter().enumerate().map(|(position, name)| format!("{position} {name}")).collect();
        let fields: Vec<String> = self.fields.iter().map(FieldReport::describe).collect();
        let templates: Vec<&str> = self.templates.iter().map(TemplateName::as_str).collect();
        let source = self.source.as_ref().map_or(String::new(), |source| {
            let config = source.config.as_ref().map_or(String::new(), |config| format!(" ({config})"));
            let Source { hub, splits, .. } = source;
            format!("hub dataset {hub}{config}: trains on {}, evaluates {}", splits.train, splits.validation)
        });
        let mut text = String::new();
        for (key, value) in [
            ("task", self.task.as_str()),
            ("about", &self.description),
            ("kind", self.kind.as_str()),
            ("metric", self.metric.as_str()),
            ("classes", &classes.join(", ")),
            ("fields", &fields.join("; ")),
            ("label", &self.label),
            ("templates", &templates.join(", ")),
            ("source", &source),
        ] {
            if !value.is_empty() {
                let _ = writeln!(text, "{key:11} {value}");
            }
        }
        self.examples.iter().flatten().for_each(|example| example.describe(&mut text));
        self.conversations.iter().flatten().for_each(|conversation| conversation.describe(&mut text));
        text
    }
}
