//! One step of a run: what goes into it, what is recorded of it, and the way back from one that diverged.

use super::Session;
use crate::run::config::LrSchedule;
use crate::run::error::{Place, RunError};
use crate::run::inputs::Cursors;
use crate::run::progress::{BilevelRecord, EstimateRecord, Observer, StepRecord};
use crate::task::SplitMix64;
use crate::train::{Block, LearningRates, Method, OuterLosses, StepError, StepInput, StepReport};
use crate::zo::journal::Record;
use crate::zo::optimizer::Step;
use crate::zo::update::{BackboneUpdater, UpdaterState};
use std::time::{Duration, Instant};

/// What [`Session::diverged`] puts back.
struct RestorePoint {
    blocks: Vec<Block>,
    rule: Option<UpdaterState>,
    cursors: Cursors,
}

impl Session<'_> {
    /// One inner step before the first outer one; after the last, s is copied to p.
    pub(super) fn warm_step(&mut self, observer: &mut dyn Observer) -> Result<(), RunError> {
        let start = Instant::now();
        let before = self.restore_point();
        let dropout = self.dropout_seed("dropout, warm start", self.warm_steps as u64);
        let Method::Bilevel(method) = &mut self.method else { return Ok(()) };
        let loss = match method.inner_step(&mut self.batches, self.config.inner.lr, dropout) {
            Ok((loss, _)) => loss,
            Err(error) => return Err(self.diverged(Place::WarmStart(self.warm_steps + 1), before, error)),
        };
        self.warm_steps += 1;
        let total = self.config.method.warm_start;
        if self.warm_steps == total {
            method.copy_shadow();
        }
        self.training += start.elapsed();
        let event = serde_json::json!({ "inner_step": self.warm_steps, "loss": loss });
        self.metrics.write("warm_start", &event)?;
        observer.warm_start(self.warm_steps, total, loss);
        self.save_if_due()
    }

    /// One step of the method.
    pub(super) fn take_step(&mut self, observer: &mut dyn Observer) -> Result<(), RunError> {
        let start = Instant::now();
        let step = self.step + 1;
        let seeds = self.direction_seeds(step);
        let backbone = self.method.backbone();
        let input = StepInput {
            done: self.step,
            trained: self.training,
            directions: seeds.iter().map(|&seed| self.space.direction(seed, backbone)).collect(),
            rates: self.rates(),
            eps_share: self.eps_share(),
            penalty_share: warmup(self.step, self.config.method.penalty_warmup),
            dropout_seed: self.dropout_seed("dropout", step),
        };
        let before = self.restore_point();
        let report = match self.method.step(&input, &mut self.batches) {
            Ok(report) => report,
            Err(error) => return Err(self.diverged(Place::Step(step), before, error)),
        };
        if self.method.updater().is_some() {
            self.record(step, &seeds, &input, &report)?;
        }
        self.step = step;
        self.replay += report.update_time;
        self.training += start.elapsed();
        let record = self.step_record(&report, input.rates, start.elapsed());
        self.metrics.write("step", &record)?;
        observer.step(&record, self.fraction());
        self.save_if_due()
    }

    /// Appends what moved θ to the journal.
    fn record(&mut self, step: u64, seeds: &[u64], input: &StepInput, report: &StepReport) -> Result<(), RunError> {
        for ((&seed, direction), update) in seeds.iter().zip(&input.directions).zip(&report.updates) {
            if let Step::Apply { coefficient } = update.step {
                let slope = BackboneUpdater::recorded_slope(direction, update.estimate.slope);
                let learning_rate = input.rates.backbone as f32;
                self.journal.append(&Record { step, seed, slope, learning_rate, coefficient })?;
            }
        }
        Ok(())
    }

    fn step_record(&self, report: &StepReport, rates: LearningRates, elapsed: Duration) -> StepRecord {
        let bilevel = report.outer.map(|OuterLosses { a, b, c }| {
            let inner_loss = report.inner_losses.last().copied().unwrap_or(f64::NAN);
            BilevelRecord { a, b, c, gap: b - c, inner_loss, inner_cosine: report.inner_cosine }
        });
        let slopes = || report.updates.iter().map(|update| update.estimate.slope).collect();
        let estimate = report.updates.first().map(|first| EstimateRecord {
            objective_plus: first.estimate.plus,
            objective_minus: first.estimate.minus,
            slope: first.estimate.slope,
            slopes: if report.updates.len() > 1 { slopes() } else { Vec::new() },
            coefficient: first.step.coefficient(),
            skipped: match first.step {
                Step::Apply { .. } => None,
                Step::Skip(reason) => Some(reason.to_string()),
            },
        });
        StepRecord {
            step: self.step,
            loss: report.loss,
            bilevel,
            estimate,
            learning_rates: [rates.shadow, rates.adapter, rates.backbone],
            tokens: report.tokens,
            seconds: elapsed.as_secs_f64(),
            training_seconds: self.training.as_secs_f64(),
        }
    }

    fn rates(&self) -> LearningRates {
        let run = &self.config.run;
        let share = run.max_steps.map_or(0.0, |steps| self.step as f64 / steps as f64);
        let factor = match run.lr_schedule {
            LrSchedule::Constant => 1.0,
            LrSchedule::Linear => 1.0 - share,
            LrSchedule::Cosine => (1.0 + (std::f64::consts::PI * share).cos()) / 2.0,
        };
        let factor = factor * warmup(self.step, run.lr_warmup);
        LearningRates {
            shadow: self.config.inner.lr * factor,
            adapter: self.config.outer.adapter_lr * factor,
            backbone: self.config.outer.lr * factor,
        }
    }

    /// The share of ε that the next step takes.
    pub(super) fn eps_share(&self) -> f32 {
        let (Some(last), Some(steps)) = (self.config.outer.eps_final, self.config.run.max_steps) else { return 1.0 };
        let share = self.step as f64 / steps as f64;
        (last / self.config.outer.eps).powf(share) as f32
    }

    /// The seeds of a step's directions.
    fn direction_seeds(&self, step: u64) -> Vec<u64> {
        if !self.config.method.has_estimates() {
            return Vec::new();
        }
        let mut random = SplitMix64::keyed(self.config.run.seed, "direction", step);
        (0..self.config.outer.directions).map(|_| random.next_u64()).collect()
    }

    /// Where the masks of a step come from.
    fn dropout_seed(&self, purpose: &str, step: u64) -> u64 {
        SplitMix64::keyed(self.config.run.seed, purpose, step).next_u64()
    }

    /// What a step changes, apart from θ. The tensors are shared, not copied.
    fn restore_point(&self) -> RestorePoint {
        RestorePoint {
            blocks: self.method.blocks().into_iter().cloned().collect(),
            rule: self.method.rule(),
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
        for (block, before) in self.method.blocks_mut().into_iter().zip(before.blocks) {
            *block = before;
        }
        self.restore_rule(before.rule)?;
        self.batches.seek(before.cursors)
    }
}

/// The factor of a number that rises evenly from 0 over some steps, in the step after `done` of them.
fn warmup(done: u64, steps: usize) -> f64 {
    if steps == 0 { 1.0 } else { ((done + 1) as f64 / steps as f64).min(1.0) }
}
