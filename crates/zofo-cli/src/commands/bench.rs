//! `zofo bench`.

use crate::arguments::{Dtype, path, with_home};
use crate::data;
use crate::errors::Error;
use crate::model;
use crate::output::{print, print_json, table};
use crate::progress::{Messenger, display};
use burn::tensor::Device;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::{Deserialize, Serialize};
use std::env;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;
use zofo::bench::{self, Machine, Measurement, MezoReport, Workload};
use zofo::hf::{HfError, ModelFiles, WeightDtype};
use zofo::model::Backbone;
use zofo::run::RunError;
use zofo::run::config::Compute;
use zofo::task::{DataSplit, Dataset, Task};

/// Arguments of `zofo bench`.
#[derive(Debug, Args)]
#[command(after_help = "\
Batches are the first rows of the training file, in order, each with its right answer; the first batch warms up, and times \
are means over the others. An outer step takes one batch for a and the next for b and c, and has no inner steps.

Examples:
  zofo bench --model model.gguf --data data
  zofo bench --dtype bf16 --batches 7 --json
  zofo bench --only inner,outer --batches 20")]
pub struct Arguments {
    /// A Hugging Face model folder, a .gguf file, or a model of the Hugging Face Hub: org/name[@revision], or
    /// org/name/file.gguf[@revision].
    #[arg(long, value_parser = path(), default_value = "HuggingFaceTB/SmolLM2-135M")]
    model: PathBuf,
    /// A built-in task, or the path of a task file.
    #[arg(long, value_parser = with_home, default_value = "sst2")]
    task: String,
    /// Where the rows are: a folder with a folder for each task, or the folder or file of the task, or a data set of the
    /// hub, hf://datasets/ORG/NAME[@REVISION][/CONFIGURATION]. Without it: the folder `data` if there is one, else the
    /// data set that the task names.
    #[arg(long, value_name = "PLACE", value_parser = path())]
    data: Option<PathBuf>,
    /// Rows of so many random tokens in place of a task's.
    #[arg(long, value_name = "N", conflicts_with_all = ["task", "data"])]
    row_tokens: Option<NonZeroUsize>,
    /// How weights are stored in memory, and in what precision they are multiplied.
    #[arg(long, value_enum, default_value_t)]
    dtype: Dtype,
    /// Rows of a batch.
    #[arg(long, value_name = "ROWS", default_value = "8")]
    batch_size: NonZeroUsize,
    /// Batches that are counted.
    #[arg(long, value_name = "N", default_value = "7")]
    batches: NonZeroUsize,
    /// Directions of a MeZO step, all of them in one pass over the weights.
    #[arg(long, value_name = "Q", default_value = "1")]
    directions: NonZeroUsize,
    /// Measure only this; without it, everything.
    #[arg(long, value_name = "WHAT", value_delimiter = ',', value_parser = measurement())]
    only: Vec<Measurement>,
    /// Threads; one per core if not given.
    #[arg(long)]
    pub(super) threads: Option<NonZeroUsize>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Measure MeZO only, in this process: its peak of memory must not hold anything else.
    #[arg(long, hide = true)]
    mezo_only: bool,
}

/// What is printed. The keys of the measurements are those of the library.
#[derive(Serialize)]
struct Report<'a> {
    model: &'a Path,
    /// None of random tokens.
    task: Option<&'a str>,
    dtype: WeightDtype,
    machine: Machine,
    /// Rows of a batch.
    batch_size: NonZeroUsize,
    /// Batches that are counted.
    batches: NonZeroUsize,
    /// Directions of a MeZO step.
    directions: NonZeroUsize,
    /// Tokens that are fed per batch, on average.
    tokens: f64,
    tokens_per_batch: Vec<usize>,
    #[serde(flatten)]
    alone: Option<Alone>,
    #[serde(flatten)]
    parts: bench::Report,
    /// The most memory that this process has had, which measures everything but MeZO.
    #[serde(skip_serializing_if = "Option::is_none")]
    other_peak_rss_mib: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    direction_ns_per_weight: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gemm_gflops: Option<f64>,
}

/// What a process of its own says about MeZO.
#[derive(Serialize, Deserialize)]
struct Alone {
    /// From the start of the process until model and data are ready for the first step.
    start_ms: f64,
    #[serde(flatten)]
    mezo: MezoReport,
}

/// Times a model.
pub fn run(arguments: &Arguments) -> Result<(), Error> {
    let start = Instant::now();
    let messenger = Messenger::new();
    let files = model::open(&arguments.model, &messenger)?;
    let workload = workload(&files, arguments, &messenger)?;
    let (dtype, compute) = match arguments.dtype {
        Dtype::F32 => (WeightDtype::F32, Compute::F32),
        Dtype::Bf16 => (WeightDtype::Bf16, Compute::Bf16),
    };
    let backbone = || Ok::<_, HfError>(Backbone::load(&files, dtype, &Device::flex())?.computing_in(compute.into()));
    if arguments.mezo_only {
        let backbone = backbone()?;
        let start_ms = start.elapsed().as_secs_f64() * 1e3;
        print_json(&Alone { start_ms, mezo: bench::measure_mezo(backbone, &workload, arguments.directions.get()) })?;
        return Ok(());
    }
    let asked = if arguments.only.is_empty() { &Measurement::ALL[..] } else { &arguments.only };
    let mut display = messenger.bars().map(|_| display(&messenger));
    let mut done = 0;
    let mut show = |measurement: Measurement| {
        if let Some(display) = &mut display {
            display.count("measuring", done, asked.len(), measurement.name());
        }
        done += 1;
    };
    // The other process has ended before this one holds the weights.
    let alone = match asked.contains(&Measurement::Mezo) {
        true => {
            show(Measurement::Mezo);
            Some(measure_alone()?)
        }
        false => None,
    };
    let of_model: Vec<_> = asked.iter().copied().filter(|&measurement| !is_without_model(measurement)).collect();
    let parts = match of_model.is_empty() {
        true => bench::Report::default(),
        false => {
            let mut method = bench::bilevel(backbone()?).map_err(RunError::from)?;
            bench::measure(&mut method, &workload, &of_model, &mut show)?
        }
    };
    let other_peak_rss_mib = if of_model.is_empty() { None } else { bench::peak_rss_mib() };
    let machine = asked.contains(&Measurement::Machine).then(|| {
        show(Measurement::Machine);
        (bench::direction_ns_per_weight(), bench::gemm_gflops(compute.into()))
    });
    if let Some(mut display) = display {
        display.clear();
    }
    let tokens_per_batch = workload.tokens();
    let report = Report {
        model: &arguments.model,
        task: arguments.row_tokens.is_none().then_some(&arguments.task),
        dtype,
        machine: Machine::current(),
        batch_size: arguments.batch_size,
        batches: arguments.batches,
        directions: arguments.directions,
        tokens: tokens_per_batch.iter().sum::<usize>() as f64 / tokens_per_batch.len() as f64,
        tokens_per_batch,
        alone,
        parts,
        other_peak_rss_mib,
        direction_ns_per_weight: machine.map(|(directions, _)| directions),
        gemm_gflops: machine.map(|(_, gemm)| gemm),
    };
    if arguments.json { print_json(&report) } else { print(&describe(&report)) }?;
    Ok(())
}

/// Parses what may be measured.
fn measurement() -> impl TypedValueParser<Value = Measurement> {
    PossibleValuesParser::new(Measurement::ALL.map(Measurement::name))
        .map(|name| Measurement::of_name(&name).expect("the parser lets only these names through"))
}

/// Whether another process or none has the model.
fn is_without_model(measurement: Measurement) -> bool {
    matches!(measurement, Measurement::Mezo | Measurement::Machine)
}

fn workload(files: &ModelFiles, arguments: &Arguments, messenger: &Messenger) -> Result<Workload, Error> {
    let (batch_size, batches) = (arguments.batch_size.get(), arguments.batches.get());
    let limits = files.config().limits();
    if let Some(row_tokens) = arguments.row_tokens {
        return Ok(Workload::random(limits, row_tokens.get(), batch_size, batches)?);
    }
    let task = Task::load(&arguments.task)?;
    task.expect_classification("zofo bench")?;
    let read = |split| {
        let files = data::locate(arguments.data.as_deref(), &task, split, messenger)?;
        Ok::<_, Error>(Dataset::read(&files, &task, split, 0)?.examples)
    };
    let (train, held_out) = (read(DataSplit::Train)?, read(DataSplit::Validation)?);
    let tokenizer = files.tokenizer()?;
    Ok(Workload::new(&task, &tokenizer, limits, [&train, &held_out], batch_size, batches)?)
}

/// Measures MeZO in another process with the arguments of this one: the peak of this process's memory is not MeZO's.
fn measure_alone() -> Result<Alone, Error> {
    let failed = |why: String| Error::OwnProcess(why);
    let mut command = Command::new(env::current_exe().map_err(|error| failed(error.to_string()))?);
    command.args(env::args_os().skip(1)).arg("--mezo-only").stderr(Stdio::inherit());
    let output = command.output().map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(output.status.to_string()));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| failed(error.to_string()))
}

fn describe(report: &Report) -> String {
    let Report { machine, parts, alone, .. } = report;
    let head = format!(
        "{} in {}, {}: {} batches of {} rows, {:.0} tokens each\n{}\n\n",
        report.model.display(),
        report.dtype,
        report.task.map_or("random tokens".to_owned(), |task| format!("task {task}")),
        report.batches,
        report.batch_size,
        report.tokens,
        machine
    );
    let row = |what: &str, value: Option<f64>, decimals: usize, unit: &str| {
        Some(vec![format!("{what}, {unit}"), format!("{:.decimals$}", value?)])
    };
    let mezo = alone.as_ref().map(|alone| alone.mezo);
    let rows = [
        row("inner step", parts.inner_ms, 0, "ms"),
        row("outer step", parts.outer_ms, 0, "ms"),
        row(&format!("MeZO step, q = {}", report.directions), mezo.map(|mezo| mezo.mezo_ms), 0, "ms"),
        row("forward pass", parts.forward_ms, 0, "ms"),
        row("forward pass, both signs", parts.forward_pair_ms, 0, "ms"),
        row("update of the weights", parts.update_ms, 0, "ms"),
        row("evaluation", parts.eval_examples_per_s, 1, "examples/s"),
        row("generation", parts.generate_tokens_per_s, 1, "tokens/s"),
        row("start of a process", alone.as_ref().map(|alone| alone.start_ms), 0, "ms"),
        row("peak memory, MeZO alone", mezo.and_then(|mezo| mezo.peak_rss_mib), 0, "MiB"),
        row("peak memory, all else", report.other_peak_rss_mib, 0, "MiB"),
        row("fastest forward pass", parts.forward_gflops, 0, "GFLOP/s"),
        row("fastest matrix product", report.gemm_gflops, 0, "GFLOP/s"),
        row("directions", report.direction_ns_per_weight, 2, "ns per weight"),
    ];
    head + &table(&rows.into_iter().flatten().collect::<Vec<_>>())
}
