//! What slopes look like before a run, and which learning rate and ε suit them: `zofo plan --probe`.

use super::config::{Config, ObjectiveKind};
use super::error::RunError;
use super::inputs::{Inputs, RunBatches};
use super::method;
use crate::model::{Batch, Part};
use crate::task::SplitMix64;
use crate::train::bilevel::Bilevel;
use crate::train::objective::Objective;
use crate::train::{Batches, Method};
use crate::zo::Perturbation;
use crate::zo::estimator::{Spsa, loss_noise, noise_floor};
use crate::zo::optimizer::BackboneOptimizer;
use serde::Serialize;
use std::fmt;

/// The largest part of a slope that rounding may be.
const LARGEST_FLOOR: f64 = 0.05;

/// The share of the step at which the objective is lowest along a direction: steps are taken along another direction each
/// time, on other examples.
const CAUTION: f64 = 0.5;

/// What some directions showed at the start of a run, and what follows.
#[derive(Clone, Debug, Serialize)]
pub struct Probe {
    /// How many directions.
    pub directions: usize,
    /// ε of the configuration.
    pub eps: f64,
    /// The root mean square of the slopes g.
    pub slope: f64,
    /// The part of a slope that is rounding.
    pub noise_floor: f64,
    /// The mean of zᵀHz, the second derivative along a direction: (G(θ+εz) − 2G(θ) + G(θ−εz)) / ε².
    pub curvature: f64,
    /// Its standard error over the directions.
    pub curvature_error: f64,
    /// Learning rate of the configuration.
    pub lr: f64,
    /// The learning rate that these figures propose, if the curvature is positive beyond two standard errors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proposed_lr: Option<f64>,
    /// The ε that they propose: that of the configuration, or the one at which rounding is a twentieth of a slope.
    pub proposed_eps: f64,
    #[serde(skip)]
    optimizer: BackboneOptimizer,
}

/// The slope and the second derivative along a direction.
struct Shape {
    slope: f64,
    curvature: f64,
}

/// Estimates slopes along `directions` directions, where the first step of the run would. What comes before that step, a
/// warm start and the T inner steps of the bilevel method, is done first; nothing of it is kept.
///
/// # Errors
///
/// If the method estimates no slopes of θ, or of what has no rounding to speak of; those of a run's start.
pub(super) fn probe(config: &Config, inputs: &Inputs, directions: usize) -> Result<Probe, RunError> {
    if !config.method.estimates_backbone() || config.outer.objective == ObjectiveKind::Metric {
        return Err(RunError::Conflict(format!(
            "a probe is of slopes of a loss with respect to the backbone, and method \"{}\" with these settings has none: \
             leave --probe out",
            config.method.name
        )));
    }
    let mut batches = RunBatches::new(inputs, config)?;
    let mut method = method::new(config, inputs, inputs.backbone(config, None)?)?;
    let space = method::space(config, method.backbone())?;
    if let Method::Bilevel(bilevel) = &mut method {
        prepare(bilevel, config, &mut batches)?;
    }
    let (penalty, scale) = match &method {
        Method::Bilevel(bilevel) => {
            (bilevel.penalty, if bilevel.penalty_normalized { 1.0 / (1.0 + bilevel.penalty) } else { 1.0 })
        }
        _ => (0.0, 1.0),
    };
    let drawn = [batches.outer(), batches.penalty()];
    let objective = |view: &Perturbation| objective(&method, &drawn, view);
    let eps = config.outer.eps as f32;
    let center = objective(&Perturbation::None)[0];
    let mut random = SplitMix64::keyed(config.run.seed, "probe", 0);
    let shapes: Vec<Shape> = (0..directions)
        .map(|_| {
            let direction = space.direction(random.next_u64(), method.backbone());
            let estimate = Spsa::two_sided(eps).slope(direction, objective);
            let second = estimate.plus - 2.0 * center + estimate.minus;
            Shape { slope: estimate.slope, curvature: second / f64::from(eps).powi(2) }
        })
        .collect();

    let blocks = method.blocks();
    let part = [Part { batch: &drawn[0], adapter: blocks.first().map(|block| &block.values) }];
    let loss = |view: &Perturbation| crate::train::loss::losses(method.backbone(), &part, view);
    let seeds = (0..4).map(|_| random.next_u64());
    let noise =
        loss_noise(seeds, loss(&Perturbation::None)[0][0], |view| loss(view).concat().try_into().unwrap_or([0.0; 2]));
    let floor = scale * noise_floor(noise, penalty, f64::from(eps));
    Ok(Probe::new(&shapes, floor, config))
}

/// The warm start and the inner steps of a first step.
fn prepare(bilevel: &mut Bilevel, config: &Config, batches: &mut RunBatches) -> Result<(), RunError> {
    let warm_start = config.method.warm_start;
    for step in 0..warm_start + config.method.inner_steps {
        if step == warm_start && warm_start > 0 {
            bilevel.copy_shadow();
        }
        bilevel
            .inner_step(batches, config.inner.lr, step as u64)
            .map_err(|error| RunError::Conflict(format!("the probe's inner steps failed: {error}")))?;
    }
    Ok(())
}

/// What the method's slopes are of, by sign.
fn objective(method: &Method, [b_f, b_p]: &[Batch; 2], view: &Perturbation) -> Vec<f64> {
    match method {
        Method::Bilevel(bilevel) => {
            let parts = bilevel.objective_parts(b_f, b_p);
            let signs = crate::train::loss::losses(&bilevel.backbone, &parts, view);
            signs.iter().map(|abc| bilevel.penalized(abc, 1.0)).collect()
        }
        _ => {
            let adapter = method.blocks().first().map(|block| &block.values);
            Objective::Loss.of(view, method.backbone(), adapter, std::iter::once(b_f)).values
        }
    }
}

impl Probe {
    /// With `rms`, `sign` and `adam` a step changes G by about −η·|g| + η²·zᵀHz/2, which is least at η = |g| / zᵀHz; with
    /// `sgd`, whose steps are η·g, at 1 / zᵀHz. With momentum a direction is used in W steps: η·g·Σβʲ in all.
    fn new(shapes: &[Shape], noise_floor: f64, config: &Config) -> Self {
        let count = shapes.len() as f64;
        let slope = (shapes.iter().map(|shape| shape.slope.powi(2)).sum::<f64>() / count).sqrt();
        let curvature = shapes.iter().map(|shape| shape.curvature).sum::<f64>() / count;
        let variance =
            shapes.iter().map(|shape| (shape.curvature - curvature).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
        let curvature_error = (variance / count).sqrt();
        let optimizer = config.outer.optimizer;
        let best = match optimizer {
            BackboneOptimizer::Sgd => 1.0 / curvature / uses(config.outer.momentum, config.outer.momentum_window),
            BackboneOptimizer::Rms | BackboneOptimizer::Sign | BackboneOptimizer::Adam => slope / curvature,
        };
        let eps = config.outer.eps;
        Self {
            directions: shapes.len(),
            eps,
            slope,
            noise_floor,
            curvature,
            curvature_error,
            lr: config.outer.lr,
            proposed_lr: (curvature > 2.0 * curvature_error).then_some(CAUTION * best),
            // The floor falls as 1/ε.
            proposed_eps: eps * (noise_floor / (LARGEST_FLOOR * slope)).max(1.0),
            optimizer,
        }
    }
}

/// Σ βʲ, j = 0 … W − 1.
fn uses(momentum: f64, window: usize) -> f64 {
    (1.0 - momentum.powf(window as f64)) / (1.0 - momentum)
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { directions, eps, slope, noise_floor, curvature, curvature_error, lr, proposed_eps, .. } = self;
        writeln!(
            f,
            "slopes      |g| = {slope:.2e} (root mean square over {directions} directions), of which {noise_floor:.1e} is rounding"
        )?;
        writeln!(f, "curvature   zᵀHz = {curvature:.2e} ± {curvature_error:.1e}")?;
        match self.proposed_lr {
            Some(proposed) => writeln!(
                f,
                "outer.lr    {proposed:.1e} with {}: half the step at which the objective is lowest along a direction (now {lr:e})",
                self.optimizer.name()
            )?,
            None => writeln!(f, "outer.lr    no proposal: the curvature is not clear of 0; probe more directions")?,
        }
        if proposed_eps > eps {
            write!(
                f,
                "outer.eps   {proposed_eps:.1e}: rounding would be a twentieth of a slope (now {eps:e}); or compute in f32"
            )
        } else {
            write!(
                f,
                "outer.eps   {eps:e} is large enough: rounding is {:.1} % of a slope",
                100.0 * noise_floor / slope
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(overlay: &str) -> Config {
        let text =
            "[model]\npath = \"m\"\n[data]\ntask = \"sst2\"\ndir = \"d\"\n[run]\noutput = \"o\"\nmax_steps = 5\n";
        Config::parse(text, "c.toml", &overlay.split(' ').map(str::to_owned).collect::<Vec<_>>()).unwrap()
    }

    fn probe(shapes: &[[f64; 2]], floor: f64, overlay: &str) -> Probe {
        let shapes: Vec<Shape> = shapes.iter().map(|&[slope, curvature]| Shape { slope, curvature }).collect();
        Probe::new(&shapes, floor, &config(overlay))
    }

    #[test]
    fn a_quadratic_gets_half_the_step_to_its_minimum() {
        let shapes = [[3.0, 100.0], [-3.0, 100.0]];
        let rms = probe(&shapes, 0.01, "outer.optimizer=rms");
        assert_eq!((rms.slope, rms.curvature, rms.curvature_error), (3.0, 100.0, 0.0));
        assert_eq!(rms.proposed_lr, Some(0.015));
        assert_eq!(rms.proposed_eps, 1e-3);
        assert_eq!(probe(&shapes, 0.01, "outer.optimizer=sgd").proposed_lr, Some(0.005));
        // 1 + ½ + ¼ = 7/4 of a step.
        let momentum = "outer.optimizer=sgd outer.momentum=0.5 outer.momentum_window=3";
        let proposed = probe(&shapes, 0.01, momentum).proposed_lr.unwrap();
        assert!((proposed - 0.005 * 4.0 / 7.0).abs() < 1e-12, "{proposed}");
    }

    #[test]
    fn rounding_asks_for_a_larger_eps() {
        // A floor of 0.6 at ε = 1e-3 is 0.15 = 3/20 at 4e-3.
        let proposed = probe(&[[3.0, 1.0], [3.0, 1.0]], 0.6, "outer.eps=1e-3").proposed_eps;
        assert!((proposed - 4e-3).abs() < 1e-12, "{proposed}");
    }

    #[test]
    fn curvature_that_is_not_clear_of_zero_proposes_nothing() {
        let unclear = probe(&[[1.0, 50.0], [1.0, -40.0]], 0.01, "outer.lr=1e-4");
        assert_eq!(unclear.proposed_lr, None);
        assert!(unclear.to_string().contains("no proposal"), "{unclear}");
    }
}
