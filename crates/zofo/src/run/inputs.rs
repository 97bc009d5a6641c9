//! Model, task and data of a run, ready to be trained on.

use super::blocks;
use super::config::{Config, DataConfig, Loss, MethodName, ObjectiveKind, Storage};
use super::data::{self, DataFiles, TrainingData};
use super::error::RunError;
use super::judge::{EvaluationSet, Judge, MetricMeasure};
use super::progress::Observer;
use crate::hf::ModelFiles;
use crate::hf::hub::{Hub, HubProgress, locate_model};
use crate::model::{Backbone, Batch};
use crate::peft::AdapterConfig;
use crate::task::chat::ChatEncoder;
use crate::task::{
    BatchSampler, Cursor, Dataset, Encoded, EncodedExample, EncodedPrompts, Encoder, Example, Kind, Metric,
    SkippedRows, Task, TaskError, TruncationReport, draw_demonstrations,
};
use crate::train::Batches;
use crate::train::objective::Measure;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where the inputs of a run are.
pub struct Located {
    model: PathBuf,
    task: Task,
    data: DataFiles,
}

/// Finds the model and the data of a run, from the hub if need be. What is of the hub is then named in `config` by the
/// commit that it is, so that the run goes on with the same weights and rows wherever a branch moves.
///
/// # Errors
///
/// As [`locate_model`] and [`Location::files`](crate::task::Location::files); `interrupted` ends a download.
pub fn locate(config: &mut Config, observer: &mut dyn Observer, interrupted: &AtomicBool) -> Result<Located, RunError> {
    let task = Task::load(&config.data.task)?;
    let hub = Hub::from_env();
    let mut watcher = |progress: HubProgress<'_>| {
        observer.downloading(progress);
        if interrupted.load(Ordering::SeqCst) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let location = locate_model(&config.model.path, &hub, &mut watcher)?;
    if let Some(id) = location.id {
        config.model.path = PathBuf::from(id.to_string());
    }
    let data = data::locate(&mut config.data, &task, &hub, &mut watcher)?;
    Ok(Located { model: location.path, task, data })
}

/// What a configuration names, opened, checked and encoded.
pub struct Inputs {
    /// The model's files.
    pub files: ModelFiles,
    /// What p and s are; the model has room for them.
    pub block: AdapterConfig,
    /// D_p; of a method of one level all that trains.
    pub inner: Arc<[EncodedExample]>,
    /// D_f; of a method of one level all that trains.
    pub outer: Arc<[EncodedExample]>,
    /// Cut from the training rows; selects.
    pub validation: EvaluationSet,
    /// Never selects.
    pub evaluation: EvaluationSet,
    /// How good a model is on the last two.
    pub(super) judge: Arc<Judge>,
    /// What takes the place of F where zeroth-order estimates do not descend the loss.
    pub measure: Option<Arc<dyn Measure>>,
    /// What was cut to fit the model's context, over all four.
    pub truncation: TruncationReport,
    /// What should be known of the data.
    pub notes: Vec<String>,
}

impl Inputs {
    /// Opens and encodes everything that `config` names.
    ///
    /// # Errors
    ///
    /// Anything missing, unreadable or inconsistent, with file and line where there is one.
    pub fn open(config: &Config, located: &Located) -> Result<Self, RunError> {
        let files = ModelFiles::open(&located.model)?;
        let tokenizer = files.tokenizer()?;
        let block = blocks::configured(&config.peft, &tokenizer)?;
        if config.method.has_block() {
            block.check(files.config())?;
        }
        if config.method.loss == Loss::Candidates {
            located.task.expect_classification("method.loss = \"candidates\"")?;
        }
        let by_metric = config.outer.objective == ObjectiveKind::Metric && config.method.has_estimates();
        if by_metric && located.task.metric() == Metric::Perplexity {
            return Err(RunError::Conflict(format!(
                "`outer.objective = \"metric\"` is for measures up to 1, and that of task \"{}\" is its perplexity: use \
                 \"loss\"",
                located.task.name()
            )));
        }
        let data = TrainingData::read(&config.data, &located.task, &located.data)?;

        // Only a method with a block gives positions to virtual tokens.
        let virtual_tokens = if config.method.has_block() { block.virtual_tokens() } else { 0 };
        let limits = files.config().limits().at_most(config.data.max_length).after(virtual_tokens);
        let (task, template) = (&located.task, &config.data.template);
        let encoder = match task.kind() {
            Kind::Classification | Kind::Generation => {
                let encoder = Encoder::new(task, template, &tokenizer, limits)?;
                RowEncoder::Task(Box::new(match config.method.name {
                    MethodName::Icl => encoder.with_demonstrations(&demonstrations(&data, &config.data)?)?,
                    _ => encoder,
                }))
            }
            Kind::Chat if config.method.name == MethodName::Icl => {
                return Err(RunError::Conflict(format!(
                    "`method.name = \"icl\"` puts solved examples before a prompt, and task \"{}\" has conversations: use \
                     \"zero-shot\"",
                    task.name()
                )));
            }
            Kind::Chat => RowEncoder::Chat(Box::new(ChatEncoder::new(task, template, &files, &tokenizer, limits)?)),
        };
        let (mut truncations, mut notes) = (Vec::new(), data.notes.clone());
        let mut train = |rows: Vec<&Example>| {
            let Encoded { examples, truncation } = encoder.encode(rows)?;
            truncations.push(truncation);
            Ok::<Arc<[EncodedExample]>, RunError>(examples.into())
        };
        let (inner, outer) = match config.method.name {
            MethodName::Bilevel => (train(data.inner())?, train(data.outer())?),
            _ => {
                let all = train(data.training())?;
                (all.clone(), all)
            }
        };
        let mut questions = |rows: Vec<&Example>, examples: Arc<[EncodedExample]>| {
            let (Some(generation), RowEncoder::Task(encoder)) = (task.generation(), &encoder) else {
                return Ok(EvaluationSet::choices(examples));
            };
            let EncodedPrompts { prompts, truncation } =
                encoder.encode_prompts(rows.iter().copied(), generation.max_new_tokens)?;
            if truncation.truncated > 0 {
                let room = generation.max_new_tokens;
                notes.push(format!("with room for written answers of {room} tokens, {truncation}"));
            }
            Ok::<_, RunError>(EvaluationSet::questions(examples, prompts, rows))
        };
        let mut held_out = |rows: Vec<&Example>| questions(rows.clone(), train(rows)?);
        let (validation, evaluation) = (held_out(data.validation())?, held_out(data.evaluation())?);
        let truncation = TruncationReport::sum(&truncations);
        let judge = Arc::new(Judge::new(task, &tokenizer, files.eos_token_ids()));
        let measure: Option<Arc<dyn Measure>> = match by_metric {
            true => {
                let rows = if config.method.name == MethodName::Bilevel { data.outer() } else { data.training() };
                Some(Arc::new(MetricMeasure { judge: judge.clone(), set: questions(rows, outer.clone())? }))
            }
            false => None,
        };
        Ok(Self { files, block, inner, outer, validation, evaluation, judge, measure, truncation, notes })
    }

    /// The untouched θ, stored and computed with as configured; on the disk, if that is configured, in `folder`. Without a
    /// folder it is in memory, where it must not be updated.
    ///
    /// # Errors
    ///
    /// Those of [`Backbone::load_onto_disk`].
    pub fn backbone(&self, config: &Config, folder: Option<&Path>) -> Result<Backbone, RunError> {
        let (files, dtype, device) = (&self.files, config.model.dtype, Device::flex());
        let backbone = match (config.model.storage, folder) {
            (Storage::Disk, Some(folder)) => Backbone::load_onto_disk(files, dtype, &device, folder)?,
            _ => Backbone::load(files, dtype, &device)?,
        };
        let backbone = backbone.computing_in(config.model.compute.into());
        Ok(backbone.with_gradient_checkpointing(config.inner.gradient_checkpointing))
    }
}

/// What makes token sequences of rows.
enum RowEncoder<'a> {
    Task(Box<Encoder<'a>>),
    Chat(Box<ChatEncoder<'a>>),
}

impl RowEncoder<'_> {
    fn encode(&self, rows: Vec<&Example>) -> Result<Encoded, TaskError> {
        match self {
            Self::Task(encoder) => encoder.encode(rows),
            Self::Chat(encoder) => encoder.encode(rows),
        }
    }
}

/// Training rows that stand, solved, before every prompt.
fn demonstrations(data: &TrainingData, config: &DataConfig) -> Result<Vec<Example>, TaskError> {
    let examples = data.training().into_iter().cloned().collect();
    draw_demonstrations(&Dataset { examples, skipped: SkippedRows::default() }, config.shots, config.seed)
}

/// Where the three streams of batches are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursors {
    inner: Cursor,
    outer: Cursor,
    penalty: Cursor,
}

/// The batches of a run, as its loss needs them, drawn epoch by epoch.
pub struct RunBatches<'a> {
    inputs: &'a Inputs,
    loss: Loss,
    inner: BatchSampler,
    outer: BatchSampler,
    penalty: BatchSampler,
}

impl<'a> RunBatches<'a> {
    /// The streams of a run from their start.
    ///
    /// # Errors
    ///
    /// If a batch is larger than its split.
    pub fn new(inputs: &'a Inputs, config: &Config) -> Result<Self, RunError> {
        let sampler = |name, examples: &[EncodedExample], batch_size| {
            BatchSampler::new(config.run.seed, name, examples.len(), batch_size)
        };
        // A stream that the method does not draw from must not complain of its batch size.
        let of_gradients = if config.method.has_gradients() { config.inner.batch_size } else { 1 };
        let of_estimates = if config.method.has_estimates() { config.outer.batch_size } else { 1 };
        Ok(Self {
            inputs,
            loss: config.method.loss,
            inner: sampler("inner", &inputs.inner, of_gradients)?,
            outer: sampler("outer", &inputs.outer, of_estimates)?,
            penalty: sampler("penalty", &inputs.inner, of_estimates)?,
        })
    }

    /// Where the streams are.
    pub fn cursors(&self) -> Cursors {
        Cursors { inner: self.inner.cursor(), outer: self.outer.cursor(), penalty: self.penalty.cursor() }
    }

    /// Goes on from there.
    ///
    /// # Errors
    ///
    /// If a cursor lies outside its split.
    pub fn seek(&mut self, cursors: Cursors) -> Result<(), RunError> {
        self.inner.seek(cursors.inner)?;
        self.outer.seek(cursors.outer)?;
        self.penalty.seek(cursors.penalty)?;
        Ok(())
    }
}

/// The examples at `rows`, with the predictions that count in the loss.
fn batch(loss: Loss, examples: &[EncodedExample], rows: &[usize]) -> Batch {
    let drawn = rows.iter().map(|&row| &examples[row]);
    let batch = match loss {
        Loss::Answer => Batch::answers(drawn.map(EncodedExample::gold_row)),
        Loss::All => Batch::whole(drawn.map(EncodedExample::gold_row)),
        Loss::Candidates => Batch::choices(drawn),
    };
    Batch { drawn: rows.to_vec(), ..batch }
}

impl Batches for RunBatches<'_> {
    fn inner(&mut self) -> Batch {
        batch(self.loss, &self.inputs.inner, &self.inner.next_batch())
    }

    fn outer(&mut self) -> Batch {
        batch(self.loss, &self.inputs.outer, &self.outer.next_batch())
    }

    fn penalty(&mut self) -> Batch {
        batch(self.loss, &self.inputs.inner, &self.penalty.next_batch())
    }
}
