//! `zofo eval`.

use crate::arguments::{Dtype, path, set_threads, with_home};
use crate::data;
use crate::errors::Error;
use crate::model;
use crate::output::{print, print_json, table};
use crate::progress::{Display, Messenger, display};
use burn::tensor::Device;
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Instant;
use tokenizers::Tokenizer;
use zofo::eval::evaluate;
use zofo::model::Backbone;
use zofo::peft::Adapter;
use zofo::task::{DataSplit, Dataset, Encoded, Encoder, ModelLimits, Task, TemplateName, evaluation_count};

/// Arguments of `zofo eval`.
#[derive(Debug, Args)]
#[command(after_help = "\
The answer is the candidate whose tokens have the highest mean log-probability.

Examples:
  zofo eval --model runs/demo/backbone --adapter runs/demo/adapter --task movie-reviews
  zofo eval --model model.gguf --task sst2 --task copa --data my-data --limit 100 --json
  zofo eval --model HuggingFaceTB/SmolLM2-135M --task sst2
  zofo eval --model model.gguf --task tickets.toml --data tickets.csv")]
pub struct Arguments {
    /// A Hugging Face model folder, a .gguf file, or a model of the Hugging Face Hub: org/name[@revision], or
    /// org/name/file.gguf[@revision].
    #[arg(long, value_parser = path())]
    model: PathBuf,
    /// A PEFT adapter folder.
    #[arg(long, value_parser = path())]
    adapter: Option<PathBuf>,
    /// A built-in task, or the path of a task file; may be repeated.
    #[arg(long, required = true, num_args = 1.., value_parser = with_home)]
    task: Vec<String>,
    /// Where the rows are: a folder with a folder for each task, or the folder or file of the one task, or a data set of
    /// the hub, hf://datasets/ORG/NAME[@REVISION][/CONFIGURATION]. Without it: the folder `data` if there is one, else
    /// the data set that the task names.
    #[arg(long, value_name = "PLACE", value_parser = path())]
    data: Option<PathBuf>,
    /// Which of the task's templates to use, by its name in the task file.
    #[arg(long, value_name = "NAME", default_value_t)]
    template: TemplateName,
    /// Leave out up to so many bad rows of each task, and say which.
    #[arg(long, value_name = "ROWS", default_value_t = 0)]
    skip_bad_rows: usize,
    /// Which part of the task's data to use.
    #[arg(long, value_enum, default_value_t)]
    split: Split,
    /// Evaluate the first rows only.
    #[arg(long, value_name = "ROWS")]
    limit: Option<NonZeroUsize>,
    /// How weights are stored in memory.
    #[arg(long, value_enum, default_value_t)]
    dtype: Dtype,
    /// Threads; one per core if not given. The result does not depend on it.
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Split {
    /// What is only ever evaluated.
    #[default]
    Validation,
    /// What models are trained on.
    Train,
}

impl From<Split> for DataSplit {
    fn from(split: Split) -> Self {
        match split {
            Split::Validation => Self::Validation,
            Split::Train => Self::Train,
        }
    }
}

/// What is printed.
#[derive(Serialize)]
struct Report {
    tasks: Vec<TaskReport>,
}

/// The result of one task.
#[derive(Serialize)]
struct TaskReport {
    task: String,
    template: TemplateName,
    examples: usize,
    accuracy: f64,
    /// Mean negative log-likelihood per token of the right answers, nats.
    loss: f64,
    seconds: f64,
    examples_per_second: f64,
    /// Tokens fed; a prompt counts once for all its candidates.
    tokens: usize,
    /// Examples that were cut to fit the model's context.
    truncated: usize,
}

/// Evaluates a model on tasks.
pub fn run(arguments: &Arguments) -> Result<(), Error> {
    set_threads(arguments.threads)?;
    let messenger = Messenger::new();
    let files = model::open(&arguments.model, &messenger)?;
    let tokenizer = files.tokenizer()?;
    let device = Device::flex();
    let adapter = match &arguments.adapter {
        Some(folder) => Some(Adapter::read(folder, files.config(), &device)?),
        None => None,
    };
    let limits = files.config().limits().after(adapter.as_ref().map_or(0, Adapter::virtual_tokens));
    // All data is read before the first task takes its time.
    let mut tasks = Vec::new();
    for name in &arguments.task {
        let task = Task::load(name)?;
        task.expect_classification("zofo eval")?;
        let encoded = encode(&task, &tokenizer, limits, arguments, &messenger)?;
        tasks.push((task, encoded));
    }
    let backbone = Backbone::load(&files, arguments.dtype.into(), &device)?;

    let mut display = display(&messenger);
    let mut report = Report { tasks: Vec::new() };
    for (task, encoded) in &tasks {
        let result = evaluate_task(task, encoded, &backbone, adapter.as_ref(), arguments, display.as_mut());
        report.tasks.push(result?);
    }
    display.clear();
    if arguments.json { print_json(&report) } else { print(&describe(&report)) }?;
    Ok(())
}

fn encode(
    task: &Task,
    tokenizer: &Tokenizer,
    limits: ModelLimits,
    arguments: &Arguments,
    messenger: &Messenger,
) -> Result<Encoded, Error> {
    let split = arguments.split.into();
    let files = data::locate(arguments.data.as_deref(), task, split, messenger)?;
    let dataset = Dataset::read(&files, task, split, arguments.skip_bad_rows)?;
    if dataset.skipped.count > 0 {
        messenger.say(&format!("{}: {}", task.name(), dataset.skipped));
    }
    let encoder = Encoder::new(task, &arguments.template, tokenizer, limits)?;
    let count = evaluation_count(dataset.examples.len(), arguments.limit.map(NonZeroUsize::get));
    Ok(encoder.encode(&dataset.examples[..count])?)
}

fn evaluate_task(
    task: &Task,
    encoded: &Encoded,
    backbone: &Backbone,
    adapter: Option<&Adapter>,
    arguments: &Arguments,
    display: &mut dyn Display,
) -> Result<TaskReport, Error> {
    if encoded.truncation.truncated > 0 {
        display.say(&format!("{}: {}", task.name(), encoded.truncation));
    }
    let start = Instant::now();
    let examples = encoded.examples.len();
    let progress = |done| display.count(task.name(), done, examples, "");
    let evaluation = evaluate(backbone, adapter, &encoded.examples, progress);
    let seconds = start.elapsed().as_secs_f64();
    let loss = evaluation.loss();
    if !loss.is_finite() {
        return Err(Error::Input(format!(
            "task \"{}\": the loss is {loss}: the weights of the model or the adapter are damaged, or too large for \
             the arithmetic",
            task.name()
        )));
    }
    Ok(TaskReport {
        task: task.name().to_owned(),
        template: arguments.template.clone(),
        examples,
        accuracy: evaluation.accuracy(),
        loss,
        seconds,
        examples_per_second: examples as f64 / seconds,
        tokens: evaluation.tokens,
        truncated: encoded.truncation.truncated,
    })
}

fn describe(report: &Report) -> String {
    let head = ["task", "template", "examples", "accuracy", "loss", "seconds", "examples/s"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(report.tasks.iter().map(|task| {
        vec![
            task.task.clone(),
            task.template.to_string(),
            task.examples.to_string(),
            format!("{:.4}", task.accuracy),
            format!("{:.4}", task.loss),
            format!("{:.1}", task.seconds),
            format!("{:.1}", task.examples_per_second),
        ]
    }));
    table(&rows)
}
