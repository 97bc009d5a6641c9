//! Optimizers of the backbone whose state is a scalar: from a slope g to the coefficient c of
//! θ ← θ − c·z.
//!
//! The estimated gradient is g·z, a known direction times one number, so a rule that scales the
//! whole gradient needs no memory of θ's size. `adam` works element by element and keeps two
//! states of θ's size; it shares [`SlopeGuard`] and has its own home.

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Decay of the mean of squared slopes.
const DECAY: f64 = 0.99;

/// What `rms` adds to the root mean square so that a run of zero slopes divides by something.
const STABILITY: f64 = 1e-12;

/// Accepted slopes before which no slope is called an outlier.
const WARM_UP: u64 = 10;

/// A slope beyond this many root mean squares is an outlier.
const OUTLIER: f64 = 100.0;

/// Skipped steps in a row that stop a run.
const MAX_SKIPPED_IN_A_ROW: u32 = 20;

/// The optimizers of the backbone, by the names they have in configurations and journals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackboneOptimizer {
    /// [`ScalarRule::Rms`].
    Rms,
    /// [`ScalarRule::Sgd`].
    Sgd,
    /// [`ScalarRule::Sign`].
    Sign,
    /// Adam on every weight: two states of θ's size.
    Adam,
}

impl BackboneOptimizer {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Rms, Self::Sgd, Self::Sign, Self::Adam];

    /// The name in configurations and journals.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rms => "rms",
            Self::Sgd => "sgd",
            Self::Sign => "sign",
            Self::Adam => "adam",
        }
    }

    /// The rule, unless the optimizer works element by element.
    pub fn scalar_rule(self) -> Option<ScalarRule> {
        match self {
            Self::Rms => Some(ScalarRule::Rms),
            Self::Sgd => Some(ScalarRule::Sgd),
            Self::Sign => Some(ScalarRule::Sign),
            Self::Adam => None,
        }
    }
}

/// How a slope g and a learning rate η make a coefficient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScalarRule {
    /// η · g/(√v̂ + 10⁻¹²), v̂ the bias-corrected mean of squared slopes, the current one included:
    /// as indifferent to the scale of the loss as Adam, as lean as `sgd`.
    Rms,
    /// η · g.
    Sgd,
    /// η · sign g, with sign 0 = 0.
    Sign,
}

impl ScalarRule {
    /// Name and value of the numbers that are fixed in the rule, for the journal's header.
    pub fn constants(self) -> &'static [(&'static str, f64)] {
        match self {
            Self::Rms => &[("decay", DECAY), ("stability", STABILITY)],
            Self::Sgd | Self::Sign => &[],
        }
    }

    /// The coefficient of a step; `moment` includes its slope.
    fn coefficient(self, slope: f64, learning_rate: f64, moment: &SecondMoment) -> f64 {
        match self {
            Self::Rms => learning_rate * (slope / (moment.root_mean_square() + STABILITY)),
            Self::Sgd => learning_rate * slope,
            Self::Sign if slope == 0.0 => 0.0,
            Self::Sign => learning_rate.copysign(slope),
        }
    }
}

/// The exponential mean of squared slopes: v ← 0.99 v + 0.01 g².
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecondMoment {
    /// v before bias correction.
    #[serde(with = "bits")]
    mean: f64,
    /// Steps in it.
    count: u64,
}

impl SecondMoment {
    /// The moment with the slopes of one more step in it: the mean of their squares.
    #[must_use]
    pub fn with(self, slopes: &[f64]) -> Self {
        let share = (1.0 - DECAY) / slopes.len() as f64;
        let mean = slopes.iter().fold(DECAY * self.mean, |mean, slope| mean + share * slope * slope);
        Self { mean, count: self.count + 1 }
    }

    /// √v̂ with v̂ = v/(1 − 0.99ⁿ) after n steps; 0 before the first.
    pub fn root_mean_square(&self) -> f64 {
        if self.count == 0 {
            return 0.0;
        }
        (self.mean / (1.0 - power(DECAY, self.count))).sqrt()
    }
}

/// baseⁿ by squaring: `powi` and `powf` may differ between platforms in the last bit.
pub(super) fn power(mut base: f64, mut exponent: u64) -> f64 {
    let mut power = 1.0;
    while exponent > 0 {
        if exponent % 2 == 1 {
            power *= base;
        }
        base *= base;
        exponent /= 2;
    }
    power
}

/// An `f64` as its bits: text formats need not give back the last one.
mod bits {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        value.to_bits().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        u64::deserialize(deserializer).map(f64::from_bits)
    }
}

/// Why a step was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum SkipReason {
    /// The slope, or the coefficient that follows from it, is not a finite `f32`.
    #[error("the slope {slope} or its coefficient is not finite")]
    NotFinite {
        /// The slope.
        slope: f64,
    },
    /// The slope is far beyond those of the steps before.
    #[error(
        "the slope {slope:e} is beyond {OUTLIER} times the root mean square {root_mean_square:e} \
         of the steps before"
    )]
    Outlier {
        /// The slope.
        slope: f64,
        /// √v̂ of the accepted steps before.
        root_mean_square: f64,
    },
    /// Of a conservative step.
    #[error("neither side of the step has a lower objective")]
    NoBetter,
}

/// Too many steps in a row were skipped: the run cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
#[error(
    "{MAX_SKIPPED_IN_A_ROW} steps in a row were skipped, the last because {reason}; lower the \
     learning rates (or `eps`, if losses are not finite) in a new run"
)]
pub struct Diverged {
    /// Why the last one was skipped.
    pub reason: SkipReason,
}

/// Keeps steps with an absurd slope from reaching θ, whatever the optimizer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlopeGuard {
    moment: SecondMoment,
    skipped: u64,
    skipped_in_a_row: u32,
}

impl SlopeGuard {
    /// Steps skipped so far.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The squared slopes of the accepted steps.
    pub fn moment(&self) -> &SecondMoment {
        &self.moment
    }

    /// Whether a step of this slope may be made.
    ///
    /// # Errors
    ///
    /// The reason to skip it: it is not finite, or beyond 100 √v̂ of the accepted steps before, if
    /// these are ten or more and not all zero.
    pub fn check(&self, slope: f64) -> Result<(), SkipReason> {
        // Journals hold slopes as `f32`.
        if !(slope as f32).is_finite() {
            return Err(SkipReason::NotFinite { slope });
        }
        let root_mean_square = self.moment.root_mean_square();
        let judges = self.moment.count >= WARM_UP && root_mean_square > 0.0;
        if judges && slope.abs() > OUTLIER * root_mean_square {
            return Err(SkipReason::Outlier { slope, root_mean_square });
        }
        Ok(())
    }

    /// Notes that a step of these slopes is made.
    pub fn accept(&mut self, slopes: &[f64]) {
        self.moment = self.moment.with(slopes);
        self.skipped_in_a_row = 0;
    }

    /// Checks the slopes of a step, and notes whether it is made: not if one of them may not be. Returns why it is not.
    ///
    /// # Errors
    ///
    /// As [`skip`](Self::skip).
    pub fn admit(&mut self, slopes: &[f64]) -> Result<Option<SkipReason>, Diverged> {
        match slopes.iter().try_for_each(|&slope| self.check(slope)) {
            Ok(()) => {
                self.accept(slopes);
                Ok(None)
            }
            Err(reason) => {
                self.skip(reason)?;
                Ok(Some(reason))
            }
        }
    }

    /// Notes that a step is skipped.
    ///
    /// # Errors
    ///
    /// [`Diverged`] if it is the twentieth in a row.
    pub fn skip(&mut self, reason: SkipReason) -> Result<(), Diverged> {
        self.skipped += 1;
        self.skipped_in_a_row += 1;
        if self.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW {
            return Err(Diverged { reason });
        }
        Ok(())
    }
}

/// What to do with θ in a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// θ ← θ − `coefficient`·z.
    Apply {
        /// Finite; what the journal records.
        coefficient: f32,
    },
    /// θ stays, and the journal gets no record.
    Skip(SkipReason),
}

impl Step {
    /// What multiplies z, if θ is moved.
    pub fn coefficient(self) -> Option<f32> {
        match self {
            Self::Apply { coefficient } => Some(coefficient),
            Self::Skip(_) => None,
        }
    }
}

/// A [`ScalarRule`] with its state and its guard: all that a checkpoint keeps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScalarOptimizer {
    rule: ScalarRule,
    guard: SlopeGuard,
}

impl ScalarOptimizer {
    /// The rule before its first step.
    pub fn new(rule: ScalarRule) -> Self {
        Self { rule, guard: SlopeGuard::default() }
    }

    /// The rule.
    pub fn rule(&self) -> ScalarRule {
        self.rule
    }

    /// The guard with its counts.
    pub fn guard(&self) -> &SlopeGuard {
        &self.guard
    }

    /// Turns the slope of a step into what to do with θ.
    ///
    /// # Errors
    ///
    /// [`Diverged`] at the twentieth skipped step in a row.
    pub fn step(&mut self, slope: f64, learning_rate: f64) -> Result<Step, Diverged> {
        Ok(self.step_mean(&[slope], learning_rate)?[0])
    }

    /// As [`step`](Self::step) for the mean of estimates along several directions: what to do along each of them. One slope
    /// that may not be used skips the step.
    ///
    /// # Errors
    ///
    /// [`Diverged`] at the twentieth skipped step in a row.
    pub fn step_mean(&mut self, slopes: &[f64], learning_rate: f64) -> Result<Vec<Step>, Diverged> {
        let moment = self.guard.moment.with(slopes);
        let share = learning_rate / slopes.len() as f64;
        let coefficient = |&slope: &f64| {
            self.guard.check(slope)?;
            let coefficient = self.rule.coefficient(slope, share, &moment) as f32;
            if coefficient.is_finite() { Ok(Step::Apply { coefficient }) } else { Err(SkipReason::NotFinite { slope }) }
        };
        match slopes.iter().map(coefficient).collect() {
            Ok(steps) => {
                self.guard.accept(slopes);
                Ok(steps)
            }
            Err(reason) => {
                self.guard.skip(reason)?;
                Ok(vec![Step::Skip(reason); slopes.len()])
            }
        }
    }
}
