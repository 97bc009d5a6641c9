//! A training run from its first step, or from its last checkpoint, to its end.

mod evaluate;
mod open;
mod step;

use super::checkpoint::{self, Best, Blocks, Stage, State};
use super::config::{Config, Keep, MethodName};
use super::cost::Speed;
use super::environment::EnvironmentFile;
use super::error::RunError;
use super::finish::{self, Kept, KeptBackbone};
use super::folder::RunFolder;
use super::inputs::{Inputs, RunBatches, locate};
use super::method;
use super::metrics::Metrics;
use super::plan::Plan;
use super::probe::{self, Probe};
use super::progress::Observer;
use super::snapshot::{self, SnapshotKind, SnapshotReference};
use crate::hf::WeightDtype;
use crate::peft::Adapter;
use crate::train::Method;
use crate::zo::journal::JournalWriter;
use crate::zo::optimizer::{BackboneOptimizer, SlopeGuard};
use crate::zo::space::DirectionSpace;
use crate::zo::update::UpdaterState;
use std::path::Path;
use std::sync::Arc;
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
            check(&config, &inputs)?;
            RunBatches::new(&inputs, &config)?;
            (RunFolder::create(&config)?, config, inputs)
        }
        Start::Resume { folder: path, overlays } => {
            let (mut folder, mut config) = RunFolder::open(path, overlays)?;
            if checkpoint_stage(&folder)? == Some(Stage::Finished) {
                // A kill may have come between the end and this.
                snapshot::remove_others(&folder, [None, None])?;
                return Ok(Outcome::AlreadyFinished);
            }
            let located = locate(&mut config, observer, interrupted)?;
            folder.set_inputs(&config);
            let inputs = Inputs::open(&config, &located)?;
            check(&config, &inputs)?;
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
    check(config, &inputs)?;
    let mut batches = RunBatches::new(&inputs, config)?;
    let backbone = inputs.backbone(config, None)?;
    let method = method::new(config, &inputs, backbone)?;
    let speed = Speed::measure(config, &method, &mut batches);
    Ok(Plan::new(config, &inputs, &method, speed)?)
}

/// A [probe](Probe) of a run that is not started, along so many directions, at least 2.
///
/// # Errors
///
/// Those of [`plan`]; and if the method estimates no slopes of a loss with respect to θ.
pub fn probe(config: &Config, directions: usize, observer: &mut dyn Observer) -> Result<Probe, RunError> {
    let mut config = config.clone();
    let located = locate(&mut config, observer, &AtomicBool::new(false))?;
    let inputs = Inputs::open(&config, &located)?;
    check(&config, &inputs)?;
    probe::probe(&config, &inputs, directions)
}

fn check(config: &Config, inputs: &Inputs) -> Result<(), RunError> {
    let is_bf16 = config.model.dtype == WeightDtype::Bf16;
    if config.method.name == MethodName::Full && is_bf16 {
        return Err(RunError::Conflict(
            "`method.name = \"full\"` works with `model.dtype = \"f32\"` only: bf16 weights would lose most of AdamW's \
             small steps"
                .to_owned(),
        ));
    }
    if config.method.estimates_backbone() && config.outer.optimizer == BackboneOptimizer::Adam && is_bf16 {
        return Err(RunError::Conflict(
            "`outer.optimizer = \"adam\"` works with `model.dtype = \"f32\"` only: use that, or `rms`, which rounds \
             updates of bf16 weights stochastically"
                .to_owned(),
        ));
    }
    let directions = method::update_scheme(config).directions;
    let names: Vec<String> = inputs.files.config().parameters().into_iter().map(|(name, _)| name).collect();
    directions
        .covered(names.iter().map(String::as_str))
        .map_err(|error| RunError::Conflict(format!("`outer.mask_names` or `outer.mask_layers`: {error}")))?;
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
    method: Method,
    /// What directions are.
    space: Arc<DirectionSpace>,
    batches: RunBatches<'a>,
    journal: JournalWriter,
    metrics: Metrics,
    stage: Stage,
    warm_steps: usize,
    step: u64,
    evaluated: Option<u64>,
    /// Training without evaluation, over all resumes.
    training: Duration,
    /// The best evaluation, and the blocks of its step.
    best: Option<(Best, Vec<Adapter>)>,
    /// Evaluations since then.
    since_best: usize,
    snapshot: Option<SnapshotReference>,
    /// Time that the updates since the last snapshot took.
    replay: Duration,
    saved: Instant,
}

impl<'a> Session<'a> {
    fn plan(&self) -> Result<Plan, RunError> {
        let mut batches = RunBatches::new(self.inputs, self.config)?;
        let speed = Speed::measure(self.config, &self.method, &mut batches);
        Ok(Plan::new(self.config, self.inputs, &self.method, speed)?)
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
        while self.warm_steps < self.config.method.warm_start_steps() {
            if stop(self)? {
                return Ok(false);
            }
            if self.is_over() {
                // Time is up: p gets what there is.
                if let Method::Bilevel(method) = &mut self.method {
                    method.copy_shadow();
                }
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
            self.take_step(observer)?;
        }
    }

    fn is_over(&self) -> bool {
        let run = &self.config.run;
        let minutes = self.training.as_secs_f64() / 60.0;
        !self.config.method.trains()
            || run.patience.is_some_and(|patience| self.since_best >= patience)
            || run.max_steps.is_some_and(|steps| self.step >= steps as u64)
            || run.max_minutes.is_some_and(|limit| minutes >= limit)
    }

    fn evaluation_is_due(&self) -> bool {
        let due = self.step.is_multiple_of(self.config.run.eval_every as u64) || self.is_over();
        due && self.evaluated != Some(self.step)
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
        let updates = self.updates();
        let is_new = self.snapshot.is_none_or(|snapshot| snapshot.updates < updates);
        let slow = self.replay > LONGEST_REPLAY || self.method.has_moments() && updates > 0;
        if slow && is_new {
            self.snapshot = Some(snapshot::write(self.folder, SnapshotKind::Latest, updates, &self.method)?);
            self.replay = Duration::ZERO;
        }
        let trained = self.method.blocks();
        let blocks = Blocks {
            values: trained.iter().map(|block| block.values.clone()).collect(),
            optimizers: trained.iter().map(|block| block.optimizer.state()).collect(),
            best: self.best.as_ref().map(|(_, blocks)| blocks.clone()),
        };
        let state = State {
            version: checkpoint::VERSION,
            fingerprint: self.fingerprint.clone(),
            stage: self.stage,
            warm_steps: self.warm_steps,
            step: self.step,
            evaluated: self.evaluated,
            journal_records: self.journal.records(),
            metrics_bytes,
            training_seconds: self.training.as_secs_f64(),
            cursors: self.batches.cursors(),
            rule: self.method.rule(),
            block_steps: blocks.optimizers.iter().map(|optimizer| optimizer.steps).collect(),
            best: self.best.as_ref().map(|(best, _)| *best),
            since_best: self.since_best,
            snapshot: self.snapshot,
        };
        checkpoint::save(&self.folder.checkpoint(), &state, &blocks)?;
        snapshot::remove_others(self.folder, [self.snapshot, state.best.and_then(|best| best.snapshot)])?;
        self.saved = Instant::now();
        Ok(())
    }

    /// Updates of θ so far: what a snapshot is named by.
    fn updates(&self) -> u64 {
        if self.method.moves_backbone_by_gradients() { self.step } else { self.journal.records() }
    }

    fn restore_rule(&mut self, state: Option<UpdaterState>) -> Result<(), RunError> {
        self.method
            .restore_rule(state)
            .map_err(|error| RunError::Checkpoint { path: self.folder.checkpoint(), problem: error.to_string() })
    }

    /// What the run keeps, without θ, whose memory is free afterwards.
    fn into_kept(mut self) -> Kept {
        match self.best.take().filter(|_| self.config.run.keep == Keep::Best) {
            Some((best, blocks)) => self.keep(best, blocks, None),
            None => {
                let blocks = self.method.blocks().into_iter().map(|block| block.values.clone()).collect();
                let (step, journal_records) = (self.step, self.journal.records());
                // Where θ is moved by exact gradients, the last checkpoint has written a snapshot of the last step.
                let snapshot = self.snapshot.filter(|_| self.method.moves_backbone_by_gradients());
                let last = Best { step, journal_records, snapshot, value: f64::NAN, loss: f64::NAN };
                self.keep(last, blocks, None)
            }
        }
    }

    /// What a run keeps that diverged: its best step, whatever `run.keep` says.
    fn into_best(mut self, diverged: String) -> Option<Kept> {
        let (best, blocks) = self.best.take()?;
        Some(self.keep(best, blocks, Some(diverged)))
    }

    fn keep(self, best: Best, blocks: Vec<Adapter>, diverged: Option<String>) -> Kept {
        let records = best.journal_records;
        let on_the_way = self.snapshot.filter(|snapshot| snapshot.updates <= records);
        Kept {
            step: best.step,
            journal_records: records,
            theta: match best.snapshot {
                Some(snapshot) => KeptBackbone::Snapshot(snapshot),
                None => KeptBackbone::Replayed { from: on_the_way },
            },
            blocks,
            metrics: self.metrics,
            steps: self.step,
            skipped: self.method.guard().map_or(0, SlopeGuard::skipped),
            training_seconds: self.training.as_secs_f64(),
            diverged,
        }
    }
}
