//! `zofo eval`.

mod input;
mod report;

use crate::arguments::{Decoding, Dtype, path, with_home};
use crate::data;
use crate::errors::Error;
use crate::model;
use crate::output::{print, print_json};
use crate::progress::{Display, Messenger, display, left};
use burn::tensor::Device;
use clap::{Args, ValueEnum};
use input::{Input, TaskInput};
use report::{Report, TaskReport, describe};
use serde::Serialize;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokenizers::Tokenizer;
use zofo::eval::{
    Answer, AnswerEnd, Author, Evaluation, Hypothesis, Scoring, beam_search, evaluate, evaluate_by, generate_answers,
    measure_choices, measure_conversations, measure_texts, write_predictions,
};
use zofo::model::Backbone;
use zofo::peft::Adapter;
use zofo::run::RunError;
use zofo::task::{DataSplit, Kind, Task, TemplateName};

/// The word for every built-in task that has data.
const ALL: &str = "all";

/// Arguments of `zofo eval`.
#[derive(Debug, Args)]
#[command(after_help = "\
The answer to a task with candidates is the one with the highest score (--score); tasks without write their answers,
with the likeliest next token unless asked otherwise; of conversations (task chat) the perplexity of what the assistant says is measured. Every measure has its 95 % bootstrap interval.

Examples:
  zofo eval --model runs/demo/backbone --adapter runs/demo/adapter --task movie-reviews
  zofo eval --model model.gguf --task sst2 --task copa --data my-data --limit 100 --json
  zofo eval --model HuggingFaceTB/SmolLM2-135M --task sst2
  zofo eval --model model.gguf --task tickets.toml --data tickets.csv
  zofo eval --model model.gguf --task all --data my-data --limit 100 --predictions predictions.jsonl
  zofo eval --model HuggingFaceTB/SmolLM2-135M --task sst2 --shots 4 --score icl-sfc --per-class")]
pub struct Arguments {
    /// A Hugging Face model folder, a .gguf file, or a model of the Hugging Face Hub: org/name[@revision], or
    /// org/name/file.gguf[@revision].
    #[arg(long, value_parser = path())]
    model: PathBuf,
    /// A PEFT adapter folder, or an adapter of the Hugging Face Hub: org/name[@revision].
    #[arg(long, value_parser = path())]
    adapter: Option<PathBuf>,
    /// A built-in task, or the path of a task file; may be repeated. `all` is every built-in task that has a folder in
    /// the data folder.
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
    /// By what candidates are compared.
    #[arg(long, value_enum, default_value_t)]
    score: Score,
    /// So many solved training rows stand before every prompt.
    #[arg(long, value_name = "ROWS", default_value_t = 0)]
    shots: usize,
    /// The same seed draws the same rows for --shots.
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    shots_seed: u64,
    #[command(flatten, next_help_heading = "Written answers")]
    decoding: Decoding,
    /// Show precision, recall and F1 of every class too.
    #[arg(long)]
    per_class: bool,
    /// Write what was predicted for every row to this file, one JSON object a line.
    #[arg(long, value_name = "FILE", value_parser = path())]
    predictions: Option<PathBuf>,
    /// How weights are stored in memory.
    #[arg(long, value_enum, default_value_t)]
    dtype: Dtype,
    /// Threads; one per core if not given. The result does not depend on it.
    #[arg(long)]
    pub(super) threads: Option<NonZeroUsize>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
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

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum Score {
    /// The mean log-probability of their tokens.
    #[default]
    Mean,
    /// The sum of the tokens' log-probabilities.
    Sum,
    /// That sum per byte of the candidate's text.
    Bytes,
    /// That sum less the one after the task's null prompt (surface-form calibration).
    Sfc,
    /// As sfc, with the demonstrations of --shots before the null prompt too.
    IclSfc,
}

impl Score {
    fn is_calibrated(self) -> bool {
        matches!(self, Self::Sfc | Self::IclSfc)
    }
}

impl From<Score> for Scoring {
    fn from(score: Score) -> Self {
        match score {
            Score::Mean => Self::Mean,
            Score::Sum => Self::Sum,
            Score::Bytes => Self::Bytes,
            Score::Sfc => Self::Sfc,
            Score::IclSfc => Self::IclSfc,
        }
    }
}

/// What a model made of a task.
enum Outcome {
    Choices(Evaluation),
    Texts(Vec<Answer>),
    Conversations(Evaluation),
}

/// A model, ready to be asked.
struct Model<'a> {
    backbone: Backbone,
    adapter: Option<Adapter>,
    tokenizer: &'a Tokenizer,
    end_of_text: &'a [u32],
}

/// Evaluates a model on tasks.
pub fn run(arguments: &Arguments) -> Result<(), Error> {
    check(arguments)?;
    let messenger = Messenger::new();
    let files = model::open(&arguments.model, &messenger)?;
    let tokenizer = files.tokenizer()?;
    let device = Device::flex();
    let adapter = match &arguments.adapter {
        Some(name) => Some(model::read_adapter(name, &files, &device, &messenger)?),
        None => None,
    };
    let limits = files.config().limits().after(adapter.as_ref().map_or(0, Adapter::virtual_tokens));
    // All data is read before the first task takes its time.
    let end_of_text = files.eos_token_ids();
    let mut inputs = Vec::new();
    for task in tasks(arguments, &messenger)? {
        inputs.push(TaskInput::read(task, &files, &tokenizer, limits, arguments, &messenger)?);
    }
    let backbone = Backbone::load(&files, arguments.dtype.into(), &device)?;
    let model = Model { backbone, adapter, tokenizer: &tokenizer, end_of_text };

    let mut display = display(&messenger);
    let mut report = Report { tasks: Vec::new() };
    let mut outcomes = Vec::new();
    for input in &inputs {
        let (result, outcome) = evaluate_task(input, &model, arguments, display.as_mut())?;
        report.tasks.push(result);
        outcomes.push(outcome);
    }
    display.clear();
    if let Some(file) = &arguments.predictions {
        let predictions = inputs.iter().zip(&outcomes).flat_map(|(input, outcome)| input.predictions(outcome));
        write_predictions(file, predictions).map_err(RunError::from)?;
    }
    if arguments.json { print_json(&report) } else { print(&describe(&report, arguments.per_class)) }?;
    Ok(())
}

/// Refuses arguments that contradict each other, and a place for predictions that does not exist.
fn check(arguments: &Arguments) -> Result<(), Error> {
    let usage = |message: &str| Err(Error::Usage(message.to_owned()));
    if arguments.score == Score::IclSfc && arguments.shots == 0 {
        return usage("--score icl-sfc calibrates with demonstrations: add --shots, or use --score sfc");
    }
    if arguments.shots > 0 && arguments.split == Split::Train {
        return usage(
            "--shots draws demonstrations from the training rows, which --split train evaluates: leave one out",
        );
    }
    let parent = arguments.predictions.as_deref().and_then(Path::parent);
    if let Some(parent) = parent.filter(|parent| !parent.as_os_str().is_empty() && !parent.is_dir()) {
        return Err(Error::Usage(format!("--predictions: there is no folder {}", parent.display())));
    }
    Ok(())
}

/// The tasks that the arguments name. Among all, those that cannot be scored as asked are left out.
fn tasks(arguments: &Arguments, messenger: &Messenger) -> Result<Vec<Task>, Error> {
    let folder = arguments.data.as_deref().unwrap_or(Path::new(data::DEFAULT));
    let mut tasks = Vec::new();
    for name in &arguments.task {
        if name != ALL {
            let task = Task::load(name)?;
            if arguments.score.is_calibrated() && task.kind() != Kind::Classification {
                return Err(Error::Usage(format!(
                    "task \"{}\" is of kind \"{}\": there are no candidates whose scores could be calibrated",
                    task.name(),
                    task.kind()
                )));
            }
            if arguments.shots > 0 && task.kind() == Kind::Chat {
                return Err(Error::Usage(format!(
                    "task \"{}\" is of kind \"chat\": --shots is for prompts, and a conversation has none",
                    task.name()
                )));
            }
            tasks.push(task);
            continue;
        }
        let mut found = 0;
        for name in Task::builtin_names().filter(|name| folder.join(name).is_dir()) {
            let task = Task::load(name)?;
            found += 1;
            if arguments.score.is_calibrated() && task.kind() != Kind::Classification {
                messenger
                    .say(&format!("{name}: left out, because it has no candidates whose scores could be calibrated"));
            } else if arguments.shots > 0 && task.kind() == Kind::Chat {
                messenger
                    .say(&format!("{name}: left out, because --shots is for prompts, and a conversation has none"));
            } else {
                tasks.push(task);
            }
        }
        if found == 0 {
            return Err(Error::Usage(format!(
                "--task all: {} has no folder of a built-in task's name",
                folder.display()
            )));
        }
    }
    Ok(tasks)
}

fn evaluate_task(
    input: &TaskInput,
    model: &Model,
    arguments: &Arguments,
    display: &mut dyn Display,
) -> Result<(TaskReport, Outcome), Error> {
    let task = &input.task;
    if input.truncation.truncated > 0 {
        display.say(&format!("{}: {}", task.name(), input.truncation));
    }
    let start = Instant::now();
    let examples = input.len();
    let mut progress = |done| display.count(task.name(), done, examples, &left(start.elapsed(), done, examples));
    let adapter = model.adapter.as_ref();
    let outcome = match &input.input {
        Input::Choices { examples, normalization, .. } => {
            let evaluation = evaluate_by(&model.backbone, adapter, examples, normalization, progress);
            Outcome::Choices(finite(evaluation, task)?)
        }
        Input::Conversations(examples) => {
            Outcome::Conversations(finite(evaluate(&model.backbone, adapter, examples, progress), task)?)
        }
        Input::Prompts { prompts, generation, .. } => {
            let end = AnswerEnd {
                tokens: model.end_of_text,
                texts: &generation.stop,
                max_new_tokens: generation.max_new_tokens,
            };
            let (author, tokenizer) = (Author::new(&model.backbone, adapter), model.tokenizer);
            let progress = |done| {
                progress(done);
                ControlFlow::Continue(())
            };
            let answers = match arguments.decoding.beams {
                None => {
                    let sampling = arguments.decoding.sampling();
                    generate_answers(author, tokenizer, prompts, end, sampling, progress)
                }
                Some(beams) => {
                    let answer = |Hypothesis { text, tokens, .. }: Hypothesis| Answer { text, tokens: tokens.len() };
                    let found = beam_search(author, tokenizer, prompts, end, beams, progress);
                    found.map(|found| found.into_iter().map(answer).collect())
                }
            };
            Outcome::Texts(answers.map_err(|error| Error::Input(format!("task \"{}\": {error}", task.name())))?)
        }
    };
    let seconds = start.elapsed();
    Ok((summarize(input, &outcome, arguments, seconds), outcome))
}

/// An evaluation, if its loss is a number.
fn finite(evaluation: Evaluation, task: &Task) -> Result<Evaluation, Error> {
    let loss = evaluation.loss();
    if loss.is_finite() {
        return Ok(evaluation);
    }
    Err(Error::Input(format!(
        "task \"{}\": the loss is {loss}: the weights of the model or the adapter are damaged, or too large for the \
         arithmetic",
        task.name()
    )))
}

fn summarize(input: &TaskInput, outcome: &Outcome, arguments: &Arguments, elapsed: Duration) -> TaskReport {
    let task = &input.task;
    let classes = task.candidate_count();
    let (measures, loss, tokens, per_class) = match (outcome, &input.input) {
        (Outcome::Choices(evaluation), _) => {
            let measures = measure_choices(evaluation, classes);
            (measures, Some(evaluation.loss()), evaluation.tokens, report::per_class(task.classes(), evaluation))
        }
        (Outcome::Conversations(evaluation), _) => {
            (measure_conversations(evaluation), Some(evaluation.loss()), evaluation.tokens, Vec::new())
        }
        (Outcome::Texts(answers), input) => {
            let texts = answers.iter().map(|answer| answer.text.as_str());
            let tokens = input.prompt_tokens() + answers.iter().map(|answer| answer.tokens).sum::<usize>();
            (measure_texts(texts.zip(input.golds())), None, tokens, Vec::new())
        }
    };
    let seconds = elapsed.as_secs_f64();
    TaskReport {
        task: task.name().to_owned(),
        template: arguments.template.clone(),
        examples: input.len(),
        shots: arguments.shots,
        score: (task.kind() == Kind::Classification).then_some(arguments.score),
        decoding: matches!(outcome, Outcome::Texts(_)).then(|| (&arguments.decoding).into()),
        metric: task.metric(),
        accuracy: measures.get("accuracy").map(|measure| measure.value),
        measures,
        loss,
        per_class,
        seconds,
        examples_per_second: input.len() as f64 / seconds,
        tokens,
        truncated: input.truncation.truncated,
        demonstrations_cut: input.truncation.demonstrations,
    }
}
