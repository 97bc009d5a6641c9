//! A training run from its first step, or from its last checkpoint, to its end.

mod evaluate;
mod open;

use super::blocks;
use super::checkpoint::{self, Best, Blocks, Stage, State};
use super::config::{Config, Keep, LrSchedule};
use super::environment::EnvironmentFile;
use super::error::{Place, RunError};
use super::finish::{self, Kept};
use super::folder::RunFolder;
use super::inputs::{Cursors, Inputs, RunBatches, locate};
use super::metrics::Metrics;
use super::plan::{Plan, Speed};
use super::progress::{Observer, StepRecord};
use super::snapshot::{self, SnapshotReference};
use crate::hf::WeightDtype;
use crate::peft::{Adapter, AdapterOptimizer};
use crate::task::SplitMix64;
use crate::train::bilevel::{Batches, Bilevel, LearningRates, StepError, StepReport};
use crate::zo::BackboneDirection;
use crate::zo::journal::{JournalWriter, Record};
use crate::zo::optimizer::{BackboneOptimizer, Step};
use crate::zo::update::UpdaterState;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// At most this long between two checkpoints.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(60);
/// A snapshot of θ is written when replaying from the last one would take longer than this.
const LONGEST_REPLAY: Duration = Duration::from_secs(60);

/// What to train.
pub enum Start<'a> {
    /// A new run.
    New(Box<Config>),
    /// A run, from its last checkpoint.
    Resume {
        /// Its folder.
        folder: &'a Path,
        /// `key=value` over its configuration; what a step computes cannot be changed.
        overlays: &'a [String],
    },
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
            let mut config = config.with_absolute_paths();
            // Everything that can be wrong with the inputs is found before the folder is made.
            let located = locate(&mut config, observer, interrupted)?;
            let inputs = Inputs::open(&config, &located)?;
            check(&config)?;
            RunBatches::new(&inputs, &config)?;
            (RunFolder::create(&config)?, config, inputs)
        }
        Start::Resume { folder: path, overlays } => {
            let (mut folder, mut config) = RunFolder::open(path, overlays)?;
            if checkpoint_stage(&folder)? == Some(Stage::Finished) {
                // A kill may have come between the end and this.
                snapshot::remove_others(&folder, None)?;
                return Ok(Outcome::AlreadyFinished);
            }
            let located = locate(&mut config, observer, interrupted)?;
            folder.set_inputs(&config);
            let inputs = Inputs::open(&config, &located)?;
            check(&config)?;
            (folder, config, inputs)
        }
    };
    let Some(mut session) = Session::open(&folder, &config, &inputs, observer, interrupted)? else {
        return Ok(Outcome::Interrupted);
    };
    let _environment = EnvironmentFile::begin(&folder)?;
    observer.plan(&session.plan()?);
    if session.step > 0 || session.warm_steps > 0 {
        observer.note(&format!("resumed after step {}", session.step));
    }
    if session.stage == Stage::Training {
        match session.train(observer, interrupted) {
            Ok(true) => {}
            Ok(false) => return Ok(Outcome::Interrupted),
            Err(error) => return Err(salvage(session, error, observer, interrupted)),
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

/// If training diverged after it had reached something, writes the results of the best step. Returns the error to report.
fn salvage(session: Session, error: RunError, observer: &mut dyn Observer, interrupted: &AtomicBool) -> RunError {
    let RunError::Diverged { place, output, source, .. } = error else { return error };
    let diverged = |results| RunError::Diverged { place, output, source, results };
    let (folder, config, inputs) = (session.folder, session.config, session.inputs);
    let Some(kept) = session.into_best(format!("{place}: {source}")) else { return diverged(None) };
    let step = kept.step;
    observer.note(&format!("training diverged: writing the results of step {step}, the best on the validation part"));
    match finish::finish(folder, config, inputs, kept, observer, interrupted) {
        Ok(Some(_)) => diverged(Some(step)),
        Ok(None) | Err(RunError::Diverged { .. }) => diverged(None),
        Err(error) => error,
    }
}

/// The plan of a run that is not started. A model of the hub is downloaded for it; `observer` is told.
///
/// # Errors
///
/// Those of [`train`] that can be found without training.
pub fn plan(config: &Config, observer: &mut dyn Observer) -> Result<Plan, RunError> {
    let mut config = config.clone();
    let located = locate(&mut config, observer, &AtomicBool::new(false))?;
    let config = &config;
    let inputs = Inputs::open(config, &located)?;
    check(config)?;
    let mut batches = RunBatches::new(&inputs, config)?;
    let backbone = inputs.backbone(config)?;
    let (adapter, _) = blocks::new(config, &inputs, &backbone)?;
    let speed = Speed::measure(&backbone, &adapter, &batches.inner());
    Ok(Plan::new(config, &inputs, backbone.len(), &adapter, speed)?)
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

/// The stage of a run's last checkpoint, if there is one.
fn checkpoint_stage(folder: &RunFolder) -> Result<Option<Stage>, RunError> {
    let path = folder.checkpoint();
    if path.exists() { checkpoint::stage(&path).map(Some) } else { Ok(None) }
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
    fn plan(&self) -> Result<Plan, RunError> {
        let batch = RunBatches::new(self.inputs, self.config)?.inner();
        let speed = Speed::measure(&self.method.backbone, &self.method.adapter, &batch);
        let (backbone, adapter) = (self.method.backbone.len(), &self.method.adapter);
        Ok(Plan::new(self.config, self.inputs, backbone, adapter, speed)?)
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
            if self.is_over() {
                // Time is up: p gets what there is.
                self.method.adapter = self.method.shadow.clone();
                break;
            }
            self.warm_step(observer)?;
        }
        loop {
            if self.evaluation_is_due() {
                let is_done = self.evaluate(observer, interrupted)?;
                self.save()?;
                if !is_done {
                    return Ok(false);
                }
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

    /// Where the masks of a step come from.
    fn dropout_seed(&self, purpose: &str, step: u64) -> u64 {
        SplitMix64::keyed(self.config.run.seed, purpose, step).next_u64()
    }

    /// One inner step before the first outer one; after the last, s is copied to p.
    fn warm_step(&mut self, observer: &mut dyn Observer) -> Result<(), RunError> {
        let start = Instant::now();
        let before = self.restore_point();
        let batch = self.batches.inner();
        let dropout = self.dropout_seed("dropout, warm start", self.warm_steps as u64);
        let loss = match self.method.inner_step(&batch, self.config.inner.lr, dropout) {
            Ok(loss) => loss,
            Err(error) => return Err(self.diverged(Place::WarmStart(self.warm_steps + 1), before, error)),
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
        let dropout = self.dropout_seed("dropout", step);
        let report = match self.method.step(BackboneDirection::Seeded(seed), &mut self.batches, rates, dropout) {
            Ok(report) => report,
            Err(error) => return Err(self.diverged(Place::Step(step), before, error)),
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
        let blocks = Blocks {
            adapter: self.method.adapter.clone(),
            shadow: self.method.shadow.clone(),
            adapter_optimizer: self.method.adapter_optimizer.state(),
            shadow_optimizer: self.method.shadow_optimizer.state(),
            best: self.best.as_ref().map(|(_, p, s)| (p.clone(), s.clone())),
        };
        let state = State {
            version: checkpoint::VERSION,
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
            adapter_steps: blocks.adapter_optimizer.steps,
            shadow_steps: blocks.shadow_optimizer.steps,
            best: self.best.as_ref().map(|(best, ..)| *best),
            snapshot: self.snapshot,
        };
        checkpoint::save(&self.folder.checkpoint(), &state, &blocks)?;
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
    fn diverged(&mut self, place: Place, before: RestorePoint, source: StepError) -> RunError {
        let output = self.folder.path().to_owned();
        match self.go_back(before).and_then(|()| self.save()) {
            Ok(()) => RunError::Diverged { place, output, source, results: None },
            Err(error) => error,
        }
    }

    fn go_back(&mut self, before: RestorePoint) -> Result<(), RunError> {
        self.method.adapter = before.adapter;
        self.method.shadow = before.shadow;
        self.method.adapter_optimizer = before.adapter_optimizer;
        self.method.shadow_optimizer = before.shadow_optimizer;
        self.restore_updater(before.backbone_optimizer)?;
        self.batches.seek(before.cursors)
    }

    fn restore_updater(&mut self, state: UpdaterState) -> Result<(), RunError> {
        self.method
            .backbone_optimizer
            .restore(state)
            .map_err(|error| RunError::Checkpoint { path: self.folder.checkpoint(), problem: error.to_string() })
    }

    /// What the run keeps, without θ, whose memory is free afterwards.
    fn into_kept(mut self) -> Kept {
        match self.best.take().filter(|_| self.config.run.keep == Keep::Best) {
            Some((best, p, s)) => self.keep(best.step, best.journal_records, p, s, None),
            None => {
                let (p, s) = (self.method.adapter.clone(), self.method.shadow.clone());
                let (step, records) = (self.step, self.journal.records());
                self.keep(step, records, p, s, None)
            }
        }
    }

    /// What a run keeps that diverged: its best step, whatever `run.keep` says.
    fn into_best(mut self, diverged: String) -> Option<Kept> {
        let (best, p, s) = self.best.take()?;
        Some(self.keep(best.step, best.journal_records, p, s, Some(diverged)))
    }

    fn keep(self, step: u64, records: u64, p: Adapter, s: Adapter, diverged: Option<String>) -> Kept {
        Kept {
            step,
            journal_records: records,
            snapshot: self.snapshot.filter(|snapshot| snapshot.journal_records <= records),
            adapter: p,
            shadow: s,
            metrics: self.metrics,
            steps: self.step,
            skipped: self.method.backbone_optimizer.guard().skipped(),
            training_seconds: self.training.as_secs_f64(),
            diverged,
        }
    }
}
