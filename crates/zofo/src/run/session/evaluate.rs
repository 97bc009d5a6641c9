//! Evaluation in the course of training: which step is the best, and how noisy the slope is.

use super::Session;
use crate::model::Part;
use crate::peft::Adapter;
use crate::run::checkpoint::Best;
use crate::run::config::KeepAdapter;
use crate::run::error::{Place, RunError};
use crate::run::inputs::RunBatches;
use crate::run::judge::Judged;
use crate::run::progress::{EvaluationRecord, Observer, Score};
use crate::task::SplitMix64;
use crate::train::bilevel::Batches;
use crate::train::loss::losses;
use crate::zo::Perturbation;
use crate::zo::estimator::{loss_noise, noise_floor};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Directions over which the rounding of a loss is measured.
const NOISE_DIRECTIONS: u64 = 4;

impl Session<'_> {
    /// Scores p and s on the validation part and measures the noise of the slope. False if it was interrupted, and has to
    /// be done again.
    ///
    /// # Errors
    ///
    /// [`RunError::Diverged`] if a loss is not finite. The last checkpoint is left as it is.
    pub(super) fn evaluate(&mut self, observer: &mut dyn Observer, interrupted: &AtomicBool) -> Result<bool, RunError> {
        let start = Instant::now();
        let p = self.score("validation, p", "F(θ,p) on the validation part", &self.method.adapter, observer)?;
        if interrupted.load(Ordering::SeqCst) {
            return Ok(false);
        }
        let s = self.score("validation, s", "F(θ,s) on the validation part", &self.method.shadow, observer)?;
        if interrupted.load(Ordering::SeqCst) {
            return Ok(false);
        }
        let noise = self.measure_noise()?;
        let kept = match self.config.method.keep {
            KeepAdapter::P => p,
            KeepAdapter::S => s,
        };
        let is_best = self.best.as_ref().is_none_or(|(best, ..)| best.is_beaten_by(&kept));
        if is_best {
            let best =
                Best { step: self.step, journal_records: self.journal.records(), value: kept.value, loss: kept.loss };
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
        Ok(true)
    }

    fn score(
        &self,
        what: &'static str,
        loss: &'static str,
        adapter: &Adapter,
        observer: &mut dyn Observer,
    ) -> Result<Score, RunError> {
        let judged = Judged { what, loss, place: Place::Validation(self.step), output: self.folder.path() };
        let (judge, examples) = (&self.inputs.judge, &self.inputs.validation);
        judge.score(&self.method.backbone, Some(adapter), examples, judged, observer)
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
}
