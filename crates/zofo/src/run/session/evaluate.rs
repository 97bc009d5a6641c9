//! Evaluation in the course of training: which step is the best, and how noisy the slope is.

use super::Session;
use crate::model::Part;
use crate::peft::Adapter;
use crate::run::checkpoint::Best;
use crate::run::config::{KeepAdapter, ObjectiveKind};
use crate::run::error::{Place, RunError};
use crate::run::inputs::RunBatches;
use crate::run::judge::Judged;
use crate::run::progress::{EvaluationRecord, Observer, Score};
use crate::run::snapshot::{self, SnapshotKind};
use crate::task::SplitMix64;
use crate::train::loss::losses;
use crate::train::{Batches, Method};
use crate::zo::Perturbation;
use crate::zo::estimator::{loss_noise, noise_floor};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// Directions over which the rounding of a loss is measured.
const NOISE_DIRECTIONS: u64 = 4;

impl Session<'_> {
    /// Scores θ on the validation part, with each of the blocks, or alone if there is none, and measures the noise of the
    /// slope. False if it was interrupted, and has to be done again.
    ///
    /// # Errors
    ///
    /// [`RunError::Diverged`] if a loss is not finite. The last checkpoint is left as it is.
    pub(super) fn evaluate(&mut self, observer: &mut dyn Observer, interrupted: &AtomicBool) -> Result<bool, RunError> {
        const WITH_BLOCKS: [(&str, &str); 2] =
            [("validation, p", "F(θ,p) on the validation part"), ("validation, s", "F(θ,s) on the validation part")];
        let start = Instant::now();
        let blocks: Vec<Adapter> = self.method.blocks().into_iter().map(|block| block.values.clone()).collect();
        let mut scores = Vec::with_capacity(blocks.len());
        for ((what, loss), block) in WITH_BLOCKS.into_iter().zip(&blocks) {
            let Some(score) = self.score(what, loss, Some(block), observer, interrupted)? else { return Ok(false) };
            scores.push(score);
        }
        let backbone = match scores.is_empty() {
            true => {
                let score = self.score("validation", "F(θ) on the validation part", None, observer, interrupted)?;
                let Some(score) = score else { return Ok(false) };
                Some(score)
            }
            false => None,
        };
        let noise = self.measure_noise()?;
        let (p, s) = (scores.first().copied(), scores.get(1).copied());
        let kept = match self.config.method.keep {
            KeepAdapter::P => p,
            KeepAdapter::S => s.or(p),
        };
        let is_best = kept.or(backbone).is_some_and(|score| self.is_best(&score));
        if let Some(score) = kept.or(backbone).filter(|_| is_best) {
            self.best = Some((self.best_at(&score)?, blocks));
            self.since_best = 0;
        } else {
            self.since_best += 1;
        }
        self.evaluated = Some(self.step);
        let record = EvaluationRecord {
            step: self.step,
            p,
            s,
            backbone,
            loss_noise: noise,
            noise_floor: noise.map(|noise| self.noise_floor(noise)),
            best: is_best,
            seconds: start.elapsed().as_secs_f64(),
        };
        self.metrics.write("evaluation", &record)?;
        observer.evaluated(&record);
        Ok(true)
    }

    fn is_best(&self, score: &Score) -> bool {
        self.best.as_ref().is_none_or(|(best, _)| best.is_beaten_by(score))
    }

    /// This step as the best, with what brings its θ back.
    fn best_at(&self, score: &Score) -> Result<Best, RunError> {
        let snapshot = if self.method.moves_backbone_by_gradients() {
            Some(snapshot::write(self.folder, SnapshotKind::Best, self.updates(), &self.method)?)
        } else {
            None
        };
        Ok(Best {
            step: self.step,
            journal_records: self.journal.records(),
            snapshot,
            value: score.value,
            loss: score.loss,
        })
    }

    fn score(
        &self,
        what: &'static str,
        loss: &'static str,
        adapter: Option<&Adapter>,
        observer: &mut dyn Observer,
        interrupted: &AtomicBool,
    ) -> Result<Option<Score>, RunError> {
        let (place, output) = (Place::Validation(self.step), self.folder.path());
        let judged = Judged { what, loss, place, output, interrupted };
        let (judge, examples) = (&self.inputs.judge, &self.inputs.validation);
        judge.score(self.method.backbone(), adapter, examples, judged, observer)
    }

    /// δ of F(θ, p; B) on the first batch of estimates of the run, always the same one, if the method estimates slopes of
    /// F. Of a metric there is none: it changes in steps.
    fn measure_noise(&self) -> Result<Option<f64>, RunError> {
        if !self.config.method.has_estimates() || self.config.outer.objective == ObjectiveKind::Metric {
            return Ok(None);
        }
        let batch = RunBatches::new(self.inputs, self.config)?.penalty();
        let blocks = self.method.blocks();
        let part = [Part { batch: &batch, adapter: blocks.first().map(|block| &block.values) }];
        let backbone = self.method.backbone();
        let center = losses(backbone, &part, &Perturbation::None)[0][0];
        let seeds = (0..NOISE_DIRECTIONS).map(|i| SplitMix64::keyed(self.config.run.seed, "noise", i).next_u64());
        Ok(Some(loss_noise(seeds, center, |view| {
            let both = losses(backbone, &part, view);
            [both[0][0], both[1][0]]
        })))
    }

    /// The part of a slope that rounding of this size in each loss makes.
    fn noise_floor(&self, noise: f64) -> f64 {
        let (penalty, scale) = match &self.method {
            Method::Bilevel(method) if method.penalty_normalized => (method.penalty, 1.0 / (1.0 + method.penalty)),
            Method::Bilevel(method) => (method.penalty, 1.0),
            _ => (0.0, 1.0),
        };
        scale * noise_floor(noise, penalty, f64::from(self.config.outer.eps as f32 * self.eps_share()))
    }
}
