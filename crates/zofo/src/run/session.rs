//! A training run from its first step, or from its last checkpoint, to its end.

use super::checkpoint::{self, Best, Blocks, Progress, Stage, State};
use super::config::{Config, KeepAdapter, LrSchedule, ShadowInit};
use super::error::RunError;
use super::finish::{self, Kept};
use super::folder::RunFolder;
use super::inputs::{Cursors, Inputs, RunBatches};
use super::metrics::Metrics;
use super::plan::{Plan, Speed};
use super::progress::{EvaluationRecord, Observer, Score, StepRecord};
use super::replay;
use super::snapshot::{self, SnapshotReference};
use crate::eval::evaluate;
use crate::hf::WeightDtype;
use crate::model::{Backbone, Batch, Part};
use crate::peft::{Adapter, AdapterOptimizer, Lora, LoraConfig};
use crate::task::SplitMix64;
use crate::train::bilevel::{Batches, Bilevel, LearningRates, StepError, StepReport};
use crate::train::loss::{loss, loss_gradients, losses};
use crate::zo::estimator::{loss_noise, noise_floor};
use crate::zo::journal::{JournalWriter, Record};
use crate::zo::optimizer::{BackboneOptimizer, Step};
use crate::zo::update::{BackboneUpdater, UpdaterState};
use crate::zo::{BackboneDirection, Perturbation};
use burn::tensor::Device;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// At most this long between two checkpoints.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(60);
/// A snapshot of θ is written when replaying from the last one would take longer than this.
const LONGEST_REPLAY: Duration = Duration::from_secs(60);
/// Directions over which the rounding of a loss is measured.
const NOISE_DIRECTIONS: u64 = 4;

/// What to train.
pub enum Start<'a> {
    /// A new run.
    New(Box<Config>),
    /// The run in this folder, from its last checkpoint.
    Resume(&'a Path),
}

/// How a run ended.
#[derive(Debug)]
pub enum Outcome {
    /// Results are in the folder.
    Finished,
    /// It had ended before; nothing was done.
    AlreadyFinished,
    /// It was interrupted, and all is saved.
    Interrupted,
}

/// Starts or resumes a run. When `interrupted` becomes true, the step at hand is finished, everything is saved, and
/// [`Outcome::Interrupted`] is returned.
///
/// # Errors
///
/// Whatever [`RunError`] says; what was trained until then is in the run's folder.
pub fn train(start: Start, observer: &mut dyn Observer, interrupted: &AtomicBool) -> Result<Outcome, RunError> {
    let (folder, config, inputs) = match start {
        Start::New(config) => {
            // Everything that can be wrong with the inputs is found before the folder is made.
            let inputs = Inputs::open(&config)?;
            check(&config)?;
            RunBatches::new(&inputs, &config)?;
            new_adapters(&config, &inputs)?;
            (RunFolder::create(&config)?, *config, inputs)
        }
        Start::Resume(path) => {
            let (folder, config) = RunFolder::open(path)?;
            if checkpoint_stage(&folder)? == Some(Stage::Finished) {
                return Ok(Outcome::AlreadyFinished);
            }
            let inputs = Inputs::open(&config)?;
            (folder, config, inputs)
        }
    };
    let mut session = Session::open(&folder, &config, &inputs)?;
    observer.plan(&session.plan()?);
    if session.step > 0 || session.warm_steps > 0 {
        observer.note(&format!("resumed after step {}", session.step));
    }
    if session.stage == Stage::Training {
        if !session.train(observer, interrupted)? {
            return Ok(Outcome::Interrupted);
        }
        session.stage = Stage::Trained;
        session.save()?;
    }
    let kept = session.into_kept();
    match finish::finish(&folder, &config, &inputs, kept, observer, interrupted)? {
        Some(summary) => {
            observer.summary(&summary);
            Ok(Outcome::Finished)
        }
        None => Ok(Outcome::Interrupted),
    }
}

/// The plan of a run that is not started.
///
/// # Errors
///
/// Those of [`train`] that can be found without training.
pub fn plan(config: &Config) -> Result<Plan, RunError> {
    let inputs = Inputs::open(config)?;
    check(config)?;
    let mut batches = RunBatches::new(&inputs, config)?;
    let backbone = Backbone::load(&inputs.files, config.model.dtype, &Device::flex())?;
    let (adapter, _) = new_adapters(config, &inputs)?;
    let speed = measure_speed(&backbone, &adapter, &batches.inner());
    Ok(Plan::new(config, &inputs, backbone.len(), adapter.len(), speed))
}

fn check(config: &Config) -> Result<(), RunError> {
    if config.outer.optimizer == BackboneOptimizer::Adam && config.model.dtype == WeightDtype::Bf16 {
        return Err(RunError::Conflict(
            "`outer.optimizer = \"adam\"` works with `model.dtype = \"f32\"` only: use that, or `rms`, which rounds \
             updates of bf16 weights stochastically"
                .to_owned(),
        ));
    }
    Ok(())
}

/// p₀ and s₀.
fn new_adapters(config: &Config, inputs: &Inputs) -> Result<(Adapter, Adapter), RunError> {
    let peft = &config.peft;
    let new = |purpose: &str| -> Result<Adapter, RunError> {
        let lora =
            LoraConfig { rank: peft.rank, alpha: peft.alpha, rank_stabilized: false, targets: peft.targets.clone() };
        let seed = SplitMix64::keyed(config.run.seed, purpose, 0).next_u64();
        Ok(Adapter::Lora(Lora::new(lora, inputs.files.config(), seed, &Device::flex())?))
    };
    let p = new("adapter")?;
    let s = match peft.shadow_init {
        ShadowInit::Copy => p.clone(),
        ShadowInit::Independent => new("shadow")?,
    };
    Ok((p, s))
}

/// The stage of a run's last checkpoint, if there is one.
fn checkpoint_stage(folder: &RunFolder) -> Result<Option<Stage>, RunError> {
    let path = folder.checkpoint();
    if path.exists() { checkpoint::stage(&path).map(Some) } else { Ok(None) }
}

/// Times a pass with gradients, which also warms up, and a pass without.
fn measure_speed(backbone: &Backbone, adapter: &Adapter, batch: &Batch) -> Speed {
    let tokens = batch.tokens() as f64;
    let start = Instant::now();
    loss_gradients(backbone, adapter, &[(1.0, batch)]);
    let gradient = start.elapsed().as_secs_f64() / tokens;
    let start = Instant::now();
    loss(backbone, adapter, batch);
    Speed { gradient, forward: start.elapsed().as_secs_f64() / tokens }
}

/// A run that is being trained.
struct Session<'a> {
    folder: &'a RunFolder,
    config: &'a Config,
    inputs: &'a Inputs,
    fingerprint: String,
    method: Bilevel,
    batches: RunBatches<'a>,
    journal: JournalWriter,
    metrics: Metrics,
    stage: Stage,
    warm_steps: usize,
    step: u64,
    evaluated: Option<u64>,
    /// Training without evaluation, over all resumes.
    training: Duration,
    best: Option<(Best, Adapter, Adapter)>,
    snapshot: Option<SnapshotReference>,
    /// Time that the updates since the last snapshot took.
    replay: Duration,
    saved: Instant,
}

/// What [`Session::diverged`] puts back.
struct RestorePoint {
    adapter: Adapter,
    shadow: Adapter,
    adapter_optimizer: AdapterOptimizer,
    shadow_optimizer: AdapterOptimizer,
    backbone_optimizer: UpdaterState,
    cursors: Cursors,
}

impl<'a> Session<'a> {
    /// The state of a run: fresh, or as its last checkpoint has it.
    fn open(folder: &'a RunFolder, config: &'a Config, inputs: &'a Inputs) -> Result<Self, RunError> {
        let device = Device::flex();
        let mut backbone = Backbone::load(&inputs.files, config.model.dtype, &device)?;
        let (adapter, shadow) = new_adapters(config, inputs)?;
        let kind = config.outer.optimizer;
        let mut updater = BackboneUpdater::new(kind);
        let mut batches = RunBatches::new(inputs, config)?;
        let fingerprint = config.fingerprint()?;
        let checkpoint = folder.checkpoint();
        let saved: Option<(State, Blocks)> =
            if checkpoint.exists() { Some(checkpoint::load(&checkpoint, &adapter, &device)?) } else { None };

        let journal_path = folder.journal();
        let header = replay::header(&backbone, kind);
        let records = saved.as_ref().map_or(0, |(state, _)| state.journal_records);
        let (journal, history) = if saved.is_none() {
            // Without a checkpoint the run starts again: a journal may have been left by a kill in its first moments.
            if journal_path.exists() {
                std::fs::remove_file(&journal_path).map_err(RunError::io(&journal_path))?;
            }
            (JournalWriter::create(&journal_path, &header)?, Vec::new())
        } else {
            let (writer, journal) = JournalWriter::resume(&journal_path, records)?;
            replay::check_base(&journal.header, &backbone, &journal_path, &config.model.path)?;
            (writer, journal.records)
        };

        let mut adapter_optimizer = AdapterOptimizer::new(config.outer.adapter_optimizer);
        let mut shadow_optimizer = AdapterOptimizer::new(config.inner.optimizer);
        let metrics_bytes = saved.as_ref().map_or(0, |(state, _)| state.metrics_bytes);
        let metrics = Metrics::open(&folder.metrics(), metrics_bytes)?;
        let method = |backbone, adapter, shadow, adapter_optimizer, shadow_optimizer, updater| Bilevel {
            backbone,
            adapter,
            shadow,
            adapter_optimizer,
            shadow_optimizer,
            backbone_optimizer: updater,
            penalty: config.method.penalty,
            inner_steps: config.method.inner_steps,
            eps: config.outer.eps as f32,
        };
        let Some((state, blocks)) = saved else {
            return Ok(Self {
                folder,
                config,
                inputs,
                fingerprint,
                method: method(backbone, adapter, shadow, adapter_optimizer, shadow_optimizer, updater),
                batches,
                journal,
                metrics,
                stage: Stage::Training,
                warm_steps: 0,
                step: 0,
                evaluated: None,
                training: Duration::ZERO,
                best: None,
                snapshot: None,
                replay: Duration::ZERO,
                saved: Instant::now(),
            });
        };

        if state.fingerprint != fingerprint {
            return Err(RunError::Checkpoint {
                path: checkpoint,
                problem: "belongs to other settings than the folder's config.toml, which was changed: undo that, or \
                          start a new run"
                    .to_owned(),
            });
        }
        let from = match state.snapshot {
            Some(reference) => {
                snapshot::read(folder, reference, &mut backbone, &mut updater)?;
                reference.journal_records
            }
            None => 0,
        };
        let start = Instant::now();
        for record in history.iter().skip(from as usize) {
            updater.replay(&mut backbone, record);
        }
        updater.restore(state.backbone_optimizer);
        adapter_optimizer.restore(blocks.adapter_optimizer);
        shadow_optimizer.restore(blocks.shadow_optimizer);
        batches.seek(state.cursors)?;
        let best = state.best.zip(blocks.best).map(|(best, (p, s))| (best, p, s));
        Ok(Self {
            folder,
            config,
            inputs,
            fingerprint,
            method: method(backbone, blocks.adapter, blocks.shadow, adapter_optimizer, shadow_optimizer, updater),
            batches,
            journal,
            metrics,
            stage: state.stage,
            warm_steps: state.warm_steps,
            step: state.step,
            evaluated: state.evaluated,
            training: Duration::from_secs_f64(state.training_seconds),
            best,
            snapshot: state.snapshot,
            replay: start.elapsed(),
            saved: Instant::now(),
        })
    }

    fn plan(&self) -> Result<Plan, RunError> {
        let batch = RunBatches::new(self.inputs, self.config)?.inner();
        let speed = measure_speed(&self.method.backbone, &self.method.adapter, &batch);
        let (backbone, adapter) = (self.method.backbone.len(), self.method.adapter.len());
        Ok(Plan::new(self.config, self.inputs, backbone, adapter, speed))
    }

    /// Trains to the end. False if it was interrupted, with everything saved.
    fn train(&mut self, observer: &mut dyn Observer, interrupted: &AtomicBool) -> Result<bool, RunError> {
        let stop = |session: &mut Self| -> Result<bool, RunError> {
            let stop = interrupted.load(Ordering::SeqCst);
            if stop {
                session.save()?;
            }
            Ok(stop)
        };
        while self.warm_steps < self.config.method.warm_start {
            if stop(self)? {
                return Ok(false);
            }
            self.warm_step(observer)?;
        }
        loop {
            if self.evaluation_is_due() {
                self.evaluate(observer)?;
                self.save()?;
            }
            if self.is_over() {
                return Ok(true);
            }
            if stop(self)? {
                return Ok(false);
            }
            self.outer_step(observer)?;
        }
    }

    fn is_over(&self) -> bool {
        let run = &self.config.run;
        let minutes = self.training.as_secs_f64() / 60.0;
        run.max_steps.is_some_and(|steps| self.step >= steps as u64)
            || run.max_minutes.is_some_and(|limit| minutes >= limit)
    }

    fn evaluation_is_due(&self) -> bool {
        let due = self.step.is_multiple_of(self.config.run.eval_every as u64) || self.is_over();
        due && self.evaluated != Some(self.step)
    }

    fn rates(&self) -> LearningRates {
        let factor = match (self.config.run.lr_schedule, self.config.run.max_steps) {
            (LrSchedule::Linear, Some(steps)) => 1.0 - self.step as f64 / steps as f64,
            _ => 1.0,
        };
        LearningRates {
            shadow: self.config.inner.lr * factor,
            adapter: self.config.outer.adapter_lr * factor,
            backbone: self.config.outer.lr * factor,
        }
    }

    /// One inner step before the first outer one; after the last, s is copied to p.
    fn warm_step(&mut self, observer: &mut dyn Observer) -> Result<(), RunError> {
        let start = Instant::now();
        let before = self.restore_point();
        let batch = self.batches.inner();
        let loss = match self.method.inner_step(&batch, self.config.inner.lr) {
            Ok(loss) => loss,
            Err(error) => return Err(self.diverged(before, error)),
        };
        self.warm_steps += 1;
        let total = self.config.method.warm_start;
        if self.warm_steps == total {
            self.method.adapter = self.method.shadow.clone();
        }
        self.training += start.elapsed();
        let event = serde_json::json!({ "inner_step": self.warm_steps, "loss": loss });
        self.metrics.write("warm_start", &event)?;
        observer.warm_start(self.warm_steps, total, loss);
        self.save_if_due()
    }

    fn outer_step(&mut self, observer: &mut dyn Observer) -> Result<(), RunError> {
        let start = Instant::now();
        let rates = self.rates();
        let step = self.step + 1;
        let seed = SplitMix64::keyed(self.config.run.seed, "direction", step).next_u64();
        let before = self.restore_point();
        let report = match self.method.step(BackboneDirection::Seeded(seed), &mut self.batches, rates) {
            Ok(report) => report,
            Err(error) => return Err(self.diverged(before, error)),
        };
        if let Step::Apply { coefficient } = report.update {
            self.journal.append(&Record {
                step,
                seed,
                slope: report.estimate.slope as f32,
                learning_rate: rates.backbone as f32,
                coefficient,
            })?;
        }
        self.step = step;
        self.replay += report.update_time;
        self.training += start.elapsed();
        let record = self.step_record(&report, rates, start.elapsed());
        self.metrics.write("step", &record)?;
        observer.step(&record, self.fraction());
        self.save_if_due()
    }

    fn step_record(&self, report: &StepReport, rates: LearningRates, elapsed: Duration) -> StepRecord {
        let (coefficient, skipped) = match report.update {
            Step::Apply { coefficient } => (Some(coefficient), None),
            Step::Skip(reason) => (None, Some(reason.to_string())),
        };
        StepRecord {
            step: self.step,
            a: report.a,
            b: report.b,
            c: report.c,
            gap: report.b - report.c,
            objective_plus: report.estimate.plus,
            objective_minus: report.estimate.minus,
            slope: report.estimate.slope,
            coefficient,
            skipped,
            inner_loss: report.inner_losses.last().copied().unwrap_or(f64::NAN),
            learning_rates: [rates.shadow, rates.adapter, rates.backbone],
            tokens: report.tokens,
            seconds: elapsed.as_secs_f64(),
            training_seconds: self.training.as_secs_f64(),
        }
    }

    /// The share of the run that is done.
    fn fraction(&self) -> f64 {
        let run = &self.config.run;
        let by_steps = run.max_steps.map_or(0.0, |steps| self.step as f64 / steps as f64);
        let by_time = run.max_minutes.map_or(0.0, |limit| self.training.as_secs_f64() / 60.0 / limit);
        by_steps.max(by_time).min(1.0)
    }

    /// Scores p and s on the validation part and measures the noise of the slope.
    fn evaluate(&mut self, observer: &mut dyn Observer) -> Result<(), RunError> {
        let start = Instant::now();
        let examples = &self.inputs.validation;
        let mut score = |what: &str, adapter: &Adapter| {
            let progress = |done| observer.evaluating(what, done, examples.len());
            let evaluation = evaluate(&self.method.backbone, Some(adapter), examples, progress);
            Score { accuracy: evaluation.accuracy(), loss: evaluation.loss() }
        };
        let p = score("validation, p", &self.method.adapter);
        let s = score("validation, s", &self.method.shadow);
        let noise = self.measure_noise()?;
        let kept = match self.config.method.keep {
            KeepAdapter::P => p,
            KeepAdapter::S => s,
        };
        let is_best = self.best.as_ref().is_none_or(|(best, ..)| best.is_beaten_by(&kept));
        if is_best {
            let best = Best {
                step: self.step,
                journal_records: self.journal.records(),
                accuracy: kept.accuracy,
                loss: kept.loss,
            };
            self.best = Some((best, self.method.adapter.clone(), self.method.shadow.clone()));
        }
        self.evaluated = Some(self.step);
        let record = EvaluationRecord {
            step: self.step,
            p,
            s,
            loss_noise: noise,
            noise_floor: noise_floor(noise, self.method.penalty, f64::from(self.method.eps)),
            best: is_best,
            seconds: start.elapsed().as_secs_f64(),
        };
        self.metrics.write("evaluation", &record)?;
        observer.evaluated(&record);
        Ok(())
    }

    /// δ of F(θ, p; B) on the first penalty batch of the run, always the same one.
    fn measure_noise(&self) -> Result<f64, RunError> {
        let batch = RunBatches::new(self.inputs, self.config)?.penalty();
        let part = [Part { batch: &batch, adapter: Some(&self.method.adapter) }];
        let backbone = &self.method.backbone;
        let center = losses(backbone, &part, &Perturbation::None)[0][0];
        let seeds = (0..NOISE_DIRECTIONS).map(|i| SplitMix64::keyed(self.config.run.seed, "noise", i).next_u64());
        Ok(loss_noise(seeds, center, |view| {
            let both = losses(backbone, &part, view);
            [both[0][0], both[1][0]]
        }))
    }

    fn save_if_due(&mut self) -> Result<(), RunError> {
        if self.saved.elapsed() >= CHECKPOINT_EVERY { self.save() } else { Ok(()) }
    }

    /// Writes a checkpoint: afterwards the run can be killed at any instant and goes on from here.
    fn save(&mut self) -> Result<(), RunError> {
        self.journal.sync()?;
        let metrics_bytes = self.metrics.sync()?;
        let records = self.journal.records();
        let optimizer = &self.method.backbone_optimizer;
        let is_new = self.snapshot.is_none_or(|snapshot| snapshot.journal_records < records);
        let slow = self.replay > LONGEST_REPLAY || optimizer.has_moments() && records > 0;
        if slow && is_new {
            let backbone = &self.method.backbone;
            self.snapshot = Some(snapshot::write(self.folder, records, backbone, optimizer)?);
            self.replay = Duration::ZERO;
        }
        let progress = Progress {
            fingerprint: self.fingerprint.clone(),
            stage: self.stage,
            warm_steps: self.warm_steps,
            step: self.step,
            evaluated: self.evaluated,
            journal_records: records,
            metrics_bytes,
            training_seconds: self.training.as_secs_f64(),
            cursors: self.batches.cursors(),
            backbone_optimizer: optimizer.state(),
            best: self.best.as_ref().map(|(best, ..)| *best),
            snapshot: self.snapshot,
        };
        let blocks = Blocks {
            adapter: self.method.adapter.clone(),
            shadow: self.method.shadow.clone(),
            adapter_optimizer: self.method.adapter_optimizer.state(),
            shadow_optimizer: self.method.shadow_optimizer.state(),
            best: self.best.as_ref().map(|(_, p, s)| (p.clone(), s.clone())),
        };
        checkpoint::save(&self.folder.checkpoint(), progress, &blocks)?;
        snapshot::remove_others(self.folder, self.snapshot)?;
        self.saved = Instant::now();
        Ok(())
    }

    /// What a step changes, apart from θ. The tensors are shared, not copied.
    fn restore_point(&self) -> RestorePoint {
        RestorePoint {
            adapter: self.method.adapter.clone(),
            shadow: self.method.shadow.clone(),
            adapter_optimizer: self.method.adapter_optimizer.clone(),
            shadow_optimizer: self.method.shadow_optimizer.clone(),
            backbone_optimizer: self.method.backbone_optimizer.state(),
            cursors: self.batches.cursors(),
        }
    }

    /// Goes back to where the failed step began (it has not moved θ), saves that, and returns the error to report.
    fn diverged(&mut self, before: RestorePoint, source: StepError) -> RunError {
        self.method.adapter = before.adapter;
        self.method.shadow = before.shadow;
        self.method.adapter_optimizer = before.adapter_optimizer;
        self.method.shadow_optimizer = before.shadow_optimizer;
        self.method.backbone_optimizer.restore(before.backbone_optimizer);
        let saved = self.batches.seek(before.cursors).and_then(|()| self.save());
        match saved {
            Ok(()) => RunError::Diverged { step: self.step + 1, output: self.folder.path().to_owned(), source },
            Err(error) => error,
        }
    }

    /// What the run keeps, without θ, whose memory is free afterwards.
    fn into_kept(self) -> Kept {
        let last = (self.step, self.journal.records());
        let (step, records, p, s) = match (self.config.run.keep, self.best) {
            (super::config::Keep::Best, Some((best, p, s))) => (best.step, best.journal_records, p, s),
            _ => (last.0, last.1, self.method.adapter, self.method.shadow),
        };
        Kept {
            step,
            journal_records: records,
            adapter: p,
            shadow: s,
            metrics: self.metrics,
            steps: last.0,
            skipped: self.method.backbone_optimizer.guard().skipped(),
            training_seconds: self.training.as_secs_f64(),
        }
    }
}
