//! `zofo tasks`.

use crate::arguments::{Template, path, with_home};
use crate::errors::Error;
use crate::model;
use crate::output::{print, print_json};
use crate::progress::Messenger;
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::PathBuf;
use tokenizers::Tokenizer;
use zofo::task::{
    DataSplit, Dataset, EncodedCandidate, Encoder, Example, Field, FieldType, Metric, Rendered, Task, TemplateName,
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
    /// Print JSON.
    #[arg(long)]
    json: bool,
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
    /// The folder that holds the task's folder.
    #[arg(long, value_parser = path())]
    data: Option<PathBuf>,
    /// A Hugging Face model folder, a .gguf file, or a model of the Hugging Face Hub: org/name[@revision].
    #[arg(long, value_parser = path(), requires = "data")]
    model: Option<PathBuf>,
    /// Which of the task's templates to use.
    #[arg(long, value_enum, default_value_t)]
    template: Template,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Lists tasks, or shows one.
pub fn run(arguments: &Arguments) -> Result<(), Error> {
    match &arguments.action {
        None => list(arguments.json),
        Some(Action::Show(arguments)) => show(arguments),
    }
}

fn list(json: bool) -> Result<(), Error> {
    let tasks = Task::builtin_names().map(Task::load).collect::<Result<Vec<_>, _>>()?;
    if json {
        let tasks: Vec<Value> =
            tasks.iter().map(|task| json!({ "task": task.name(), "description": task.description() })).collect();
        print_json(&json!({ "tasks": tasks }))?;
    } else {
        let width = tasks.iter().map(|task| task.name().len()).max().unwrap_or_default();
        let lines = tasks.iter().map(|task| format!("{:width$}  {}\n", task.name(), task.description()));
        print(&lines.collect::<String>())?;
    }
    Ok(())
}

/// A task and some of its rows.
#[derive(Serialize)]
struct Report {
    task: String,
    description: String,
    metric: Metric,
    fields: Vec<FieldReport>,
    label: String,
    candidates: usize,
    templates: Vec<TemplateName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    examples: Option<Vec<ExampleReport>>,
}

/// What every row must have.
#[derive(Serialize)]
struct FieldReport {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    /// If not empty, the only strings allowed.
    one_of: Vec<String>,
}

/// A row as it is rendered.
#[derive(Serialize)]
struct ExampleReport {
    line: usize,
    gold: usize,
    prompt: String,
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
    let examples = match &arguments.data {
        Some(folder) => {
            let mut dataset = Dataset::open(folder, &task, DataSplit::Train)?;
            dataset.examples.truncate(SHOWN);
            Some(render(&task, &dataset.examples, arguments)?)
        }
        None => None,
    };
    let templates = TemplateName::ALL.into_iter().filter(|name| task.template(*name).is_ok());
    let report = Report {
        task: task.name().to_owned(),
        description: task.description().to_owned(),
        metric: task.metric(),
        fields: task.fields().iter().map(|(name, field)| FieldReport::new(name, field)).collect(),
        label: task.label_field().to_owned(),
        candidates: task.candidate_count(),
        templates: templates.collect(),
        examples,
    };
    if arguments.json { print_json(&report) } else { print(&report.describe()) }?;
    Ok(())
}

fn render(task: &Task, examples: &[Example], arguments: &Show) -> Result<Vec<ExampleReport>, Error> {
    let template = task.template(arguments.template.into())?;
    let rendered = examples.iter().map(|example| template.render(example)).collect::<Result<Vec<_>, _>>()?;
    let tokens = match &arguments.model {
        Some(path) => {
            let files = model::open(path, &Messenger::new())?;
            let tokenizer = files.tokenizer()?;
            let encoder = Encoder::new(task, arguments.template.into(), &tokenizer, files.config().limits())?;
            let encoded = encoder.encode(examples)?.examples;
            let of = |candidates: &[EncodedCandidate]| candidates.iter().map(|c| Tokens::of(c, &tokenizer)).collect();
            encoded.iter().map(|example| of(&example.candidates)).collect()
        }
        None => vec![Vec::new(); examples.len()],
    };
    let reports = examples.iter().zip(rendered).zip(tokens);
    Ok(reports.map(|((example, rendered), tokens)| ExampleReport::new(example, rendered, tokens)).collect())
}

impl FieldReport {
    fn new(name: &str, field: &Field) -> Self {
        let kind = match field.kind {
            FieldType::String => "string",
            FieldType::Integer => "integer",
            FieldType::Boolean => "boolean",
        };
        Self { name: name.to_owned(), kind, one_of: field.one_of.clone() }
    }

    fn describe(&self) -> String {
        let values =
            if self.one_of.is_empty() { String::new() } else { format!(", one of {}", self.one_of.join(", ")) };
        format!("{} ({}{values})", self.name, self.kind)
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
    fn new(example: &Example, rendered: Rendered, tokens: Vec<Tokens>) -> Self {
        let mut tokens = tokens.into_iter();
        let candidates = rendered.verbalized.into_iter().map(|text| CandidateReport { text, tokens: tokens.next() });
        Self { line: example.line, gold: example.gold, prompt: rendered.prompt, candidates: candidates.collect() }
    }
}

impl Report {
    fn describe(&self) -> String {
        let fields: Vec<String> = self.fields.iter().map(FieldReport::describe).collect();
        let templates: Vec<&str> = self.templates.iter().map(|name| name.as_str()).collect();
        let mut text = format!(
            "task        {}\n\
             about       {}\n\
             fields      {}\n\
             label       {}: 0 to {}, which answer is right\n\
             templates   {}\n",
            self.task,
            self.description,
            fields.join("; "),
            self.label,
            self.candidates.saturating_sub(1),
            templates.join(", "),
        );
        for example in self.examples.iter().flatten() {
            // Writing to a `String` cannot fail. Texts are quoted, so that blanks and line feeds show.
            let _ = writeln!(text, "\nline {}    prompt {:?}", example.line, example.prompt);
            for (index, candidate) in example.candidates.iter().enumerate() {
                let mark = if index == example.gold { "right" } else { "     " };
                let _ = writeln!(text, "  {index} {mark}   {:?}", candidate.text);
                if let Some(tokens) = &candidate.tokens {
                    let (context, scored) = (tokens.context.join(" "), tokens.scored.join(" "));
                    let (before, after) = (tokens.context.len(), tokens.scored.len());
                    let _ = writeln!(text, "            {context} | {scored}   ({before} before, {after} scored)");
                }
            }
        }
        text
    }
}
