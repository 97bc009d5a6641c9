//! The bilevel objective against its float64 reference: losses, gradients, the slope along a stored direction, single
//! updates, and two outer steps of the algorithm.

mod golden_cases;

use burn::tensor::Device;
use golden_cases::{
    Case, LOSS, Report, Tensors, Tolerance, along, cases_with, labelled, list, number, numbers, values,
};
use serde_json::Value;
use std::collections::VecDeque;
use zofo::hf::WeightDtype;
use zofo::model::{Backbone, Batch};
use zofo::peft::{Adapter, AdapterOptimizer};
use zofo::run::config::Optimizer;
use zofo::train::bilevel::Bilevel;
use zofo::train::loss::{loss, loss_gradients, losses};
use zofo::train::objective::Objective;
use zofo::train::{Batches, Block, LearningRates, StepInput};
use zofo::zo::Perturbation;
use zofo::zo::estimator::Spsa;
use zofo::zo::optimizer::BackboneOptimizer;
use zofo::zo::update::BackboneUpdater;

/// A loss error δ becomes about λ·δ/ε in the slope; δ is about 1e-6.
const SLOPE: Tolerance = Tolerance { absolute: 0.3, relative: 0.0 };
/// Likewise for λ = 10⁴.
const SLOPE_OF_LARGE_PENALTY: Tolerance = Tolerance { absolute: 30.0, relative: 0.0 };
/// How far weights move for the slope along an exact gradient: below it rounding grows, above it curvature.
const GRADIENT_EPS: f32 = 3e-3;
const SLOPE_OF_GRADIENT: Tolerance = Tolerance { absolute: 0.1, relative: 1e-2 };
/// Tensors after updates.
const UPDATED: Tolerance = Tolerance { absolute: 1e-5, relative: 0.0 };
/// θ after one update: the result is rounded once.
const ROUNDED: Tolerance = Tolerance { absolute: 1e-9, relative: f32::EPSILON as f64 };
/// Losses on the way of a trajectory.
const TRAJECTORY_LOSS: Tolerance = Tolerance { absolute: 1e-4, relative: 0.0 };

/// What a bilevel case has.
const FILES: &[&str] = &["model", "adapter-p", "adapter-s", "batches.safetensors", "z.safetensors"];

/// The λ beside the case's own for which a slope is stored.
const LARGE_PENALTY: f64 = 1e4;

#[test]
fn golden_bilevel_losses_and_slope() {
    let mut report = Report::default();
    for case in cases_with(FILES) {
        let Some(mut method) = method(&case, &mut report) else { continue };
        let expected = case.expected();
        let direction = case.tensors("z.safetensors").direction();
        let [b_f, b_p] = batches(&case);
        let parts = method.objective_parts(&b_f, &b_p);
        let eps = method.spsa.eps;

        let center = losses(&method.backbone, &parts, &Perturbation::None);
        check_parts(&mut report, &format!("{}: θ", case.name()), &center[0], &expected);
        let both = losses(&method.backbone, &parts, &Perturbation::Pair { direction: direction.clone(), eps });
        let one = |scale| {
            let view = Perturbation::One { direction: direction.clone(), scale };
            losses(&method.backbone, &parts, &view).remove(0)
        };
        let alone = [one(eps), one(-eps)];
        for (sign, key) in ["plus", "minus"].into_iter().enumerate() {
            check_parts(&mut report, &format!("{}: {key}", case.name()), &both[sign], &expected[key]);
            check_parts(&mut report, &format!("{}: {key}, alone", case.name()), &alone[sign], &expected[key]);
            let objective = method.penalized(&both[sign], 1.0);
            let tolerance = objective_tolerance(method.penalty);
            report.number("G", format!("{}: {key}", case.name()), objective, number(&expected[key], "G"), tolerance);
        }

        let objective = method.penalized(&center[0], 1.0);
        let tolerance = objective_tolerance(method.penalty);
        report.number("G", case.name(), objective, number(&expected, "G"), tolerance);
        let slope = |method: &Bilevel| {
            let estimate = Spsa::two_sided(eps).slope(direction.clone(), |view| {
                let parts = method.objective_parts(&b_f, &b_p);
                let both = losses(&method.backbone, &parts, view);
                [0, 1].map(|sign| method.penalized(&both[sign], 1.0))
            });
            estimate.slope
        };
        let wanted = number(&expected, "projected_gradient");
        report.number("slope", case.name(), slope(&method), wanted, SLOPE);
        let [plus, minus] = alone.map(|losses| method.penalized(&losses, 1.0));
        let of_two_passes = (plus - minus) / (2.0 * f64::from(eps));
        report.number("slope", format!("{}: two passes", case.name()), of_two_passes, wanted, SLOPE);
        method.penalty = LARGE_PENALTY;
        let wanted = number(&expected, "projected_gradient_lambda_1e4");
        report.number("slope at λ = 10⁴", case.name(), slope(&method), wanted, SLOPE_OF_LARGE_PENALTY);
        report.ran();
    }
    report.finish();
}

/// G's slope along the exact gradient of a weight, at length 1, is that gradient's length.
#[test]
fn golden_bilevel_slopes_along_the_gradients_of_the_backbone() {
    let mut report = Report::default();
    for case in cases_with(FILES) {
        let Some(method) = method(&case, &mut report) else { continue };
        let [b_f, b_p] = batches(&case);
        let parts = method.objective_parts(&b_f, &b_p);
        let gradients = case.tensors("grad_theta.safetensors");
        report.equal(case.name(), &method.backbone.parameters().len(), &gradients.names().len());
        for name in gradients.names() {
            let gradient = gradients.real(name);
            let length = gradient.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
            let unit: Vec<f32> = gradient.iter().map(|&x| (f64::from(x) / length) as f32).collect();
            let estimate = Spsa::two_sided(GRADIENT_EPS).slope(along(&method.backbone, name, unit.into()), |view| {
                let both = losses(&method.backbone, &parts, view);
                [0, 1].map(|sign| method.penalized(&both[sign], 1.0))
            });
            let place = format!("{}: {name}", case.name());
            report.number("slope along ∇_θ G", place, estimate.slope, length, SLOPE_OF_GRADIENT);
        }
        report.ran();
    }
    report.finish();
}

#[test]
fn golden_bilevel_gradients_and_updates_of_the_blocks() {
    let mut report = Report::default();
    for case in cases_with(FILES) {
        let Some(method) = method(&case, &mut report) else { continue };
        let expected = case.expected();
        let [b_f, b_p] = batches(&case);
        let backbone = &method.backbone;
        let p = (&method.adapter.values, vec![(1.0, &b_f), (method.penalty, &b_p)]);
        let s = (&method.shadow.values, vec![(1.0, &b_p)]);
        for (name, (block, terms)) in [("p", p), ("s", s)] {
            let (_, gradients) = loss_gradients(backbone, block, &terms);
            let weights: f64 = terms.iter().map(|(weight, _)| weight).sum();
            // Rounding grows with the weights of the losses.
            let tolerance = Tolerance { absolute: 1e-5 * weights, relative: 1e-3 };
            let stored = case.tensors(&format!("grad_{name}.safetensors"));
            let named = block.with_tensors(gradients.clone());
            let kind = if name == "p" { "∇_p G" } else { "∇_s F" };
            check_block(&mut report, kind, &case.name(), &named, &stored, tolerance);

            let learning_rate = number(&expected, &format!("lr_{name}"));
            let after = AdapterOptimizer::new(Optimizer::Sgd).step(block, gradients, learning_rate);
            let stored = case.tensors(&format!("{name}_after.safetensors"));
            check_block(&mut report, "p and s after a step", &case.name(), &after, &stored, UPDATED);
        }
        report.ran();
    }
    report.finish();
}

#[test]
fn golden_bilevel_update_of_the_backbone() {
    let mut report = Report::default();
    for case in cases_with(FILES) {
        let Some(Bilevel { mut backbone, .. }) = method(&case, &mut report) else { continue };
        let expected = case.expected();
        let coefficient = (number(&expected, "lr_theta") * number(&expected, "projected_gradient")) as f32;
        let z = case.tensors("z.safetensors");
        let before: Vec<Vec<f32>> = backbone.parameters().iter().map(|p| values(p.value())).collect();
        backbone.descend(&z.direction(), coefficient);
        let checks = expected["theta_step"]["checks"].as_object().unwrap();
        report.equal(format!("{}: weights", case.name()), &backbone.parameters().len(), &checks.len());
        for (parameter, before) in backbone.parameters().iter().zip(before) {
            let place = format!("{}: {}", case.name(), parameter.name());
            let after = values(parameter.value());
            let check = &checks[parameter.name()];
            for (index, value) in list(check, "flat_index").iter().zip(numbers(check, "value")) {
                let index = index.as_u64().unwrap() as usize;
                report.number("θ after an update", &place, f64::from(after[index]), value, ROUNDED);
            }
            let step = |(w, z): (&f32, &f32)| (f64::from(*w) - f64::from(coefficient) * f64::from(*z)) as f32;
            let all: Vec<f32> = before.iter().zip(z.real(parameter.name())).map(step).collect();
            report.close("θ after an update", &place, &after, &all, ROUNDED);
        }
        report.ran();
    }
    report.finish();
}

#[test]
fn golden_bilevel_two_outer_steps() {
    let mut report = Report::default();
    for case in cases_with(FILES) {
        let Some(mut method) = method(&case, &mut report) else { continue };
        // Follows θ one step behind, to evaluate what the algorithm does not.
        let Some(Bilevel { backbone: mut before, .. }) = self::method(&case, &mut report) else { continue };
        let expected = &case.expected()["trajectory"];
        method.penalty = number(expected, "lambda");
        method.spsa = Spsa::two_sided(number(expected, "eps") as f32);
        method.inner_steps = expected["inner_steps"].as_u64().unwrap() as usize;
        let rates = LearningRates {
            shadow: number(expected, "lr_s"),
            adapter: number(expected, "lr_p"),
            backbone: number(expected, "lr_theta"),
        };
        let stored = case.tensors("trajectory_batches.safetensors");
        let batch = |name: &str| labelled(&stored.rows(name));
        let mut last = [Batch::default(), Batch::default()];
        for (k, expected) in list(expected, "steps").iter().enumerate() {
            let place = format!("{}: step {k}", case.name());
            let direction = case.tensors(&format!("trajectory_z{k}.safetensors")).direction();
            let inner = (0..method.inner_steps).map(|t| batch(&format!("k{k}.inner{t}."))).collect();
            last = ["f", "p"].map(|part| batch(&format!("k{k}.{part}.")));
            let [outer, penalty] = last.clone();
            let mut batches = StoredBatches { inner, outer, penalty };
            let step = method.step(&StepInput::new(vec![direction.clone()], rates), &mut batches).unwrap();
            let (outer, update) = (step.outer.unwrap(), step.updates[0]);

            let kind = "losses of a trajectory";
            for (t, (loss, expected)) in step.inner_losses.iter().zip(numbers(expected, "inner_losses")).enumerate() {
                report.number(kind, format!("{place}, inner {t}"), *loss, expected, TRAJECTORY_LOSS);
            }
            assert_eq!(step.inner_losses.len(), list(expected, "inner_losses").len());
            report.number(kind, &place, outer.a, number(expected, "F_p_f"), TRAJECTORY_LOSS);
            report.number(kind, &place, outer.b, number(expected, "F_p_p"), TRAJECTORY_LOSS);
            let c = loss(&before, &method.shadow.values, &last[1]);
            report.number(kind, &place, c, number(expected, "F_s_p"), TRAJECTORY_LOSS);
            let objective = objective_tolerance(method.penalty);
            report.number("G", &place, update.estimate.plus, number(expected, "G_plus"), objective);
            report.number("G", &place, update.estimate.minus, number(expected, "G_minus"), objective);
            let slope = number(expected, "projected_gradient");
            report.number("slope", &place, update.estimate.slope, slope, SLOPE);

            let coefficient = update.step.coefficient().unwrap();
            before.descend(&direction, coefficient);
            report.equal(format!("{place}: θ"), &before.hashes(), &method.backbone.hashes());
        }

        let place = format!("{}: the end", case.name());
        let [b_f, b_p] = &last;
        let parts = method.objective_parts(b_f, b_p);
        let after = losses(&method.backbone, &parts, &Perturbation::None).remove(0);
        for (loss, key) in after.iter().zip(["F_p_f", "F_p_p", "F_s_p"]) {
            let expected = number(&expected["losses_after_on_last_batches"], key);
            report.number("losses of a trajectory", format!("{place}: {key}"), *loss, expected, TRAJECTORY_LOSS);
        }
        let kind = "tensors of a trajectory";
        for (block, name) in [(&method.adapter.values, "p"), (&method.shadow.values, "s")] {
            let stored = case.tensors(&format!("trajectory_{name}.safetensors"));
            check_block(&mut report, kind, &place, block, &stored, UPDATED);
        }
        let theta = case.tensors("trajectory_theta.safetensors");
        report.equal(&place, &method.backbone.parameters().len(), &theta.names().len());
        for parameter in method.backbone.parameters() {
            let place = format!("{place}: {}", parameter.name());
            report.close(kind, place, &values(parameter.value()), theta.real(parameter.name()), UPDATED);
        }
        report.ran();
    }
    report.finish();
}

/// The batches of one outer step.
struct StoredBatches {
    inner: VecDeque<Batch>,
    outer: Batch,
    penalty: Batch,
}

impl Batches for StoredBatches {
    fn inner(&mut self) -> Batch {
        self.inner.pop_front().expect("more inner steps than there are batches")
    }

    fn outer(&mut self) -> Batch {
        self.outer.clone()
    }

    fn penalty(&mut self) -> Batch {
        self.penalty.clone()
    }
}

/// The algorithm with SGD throughout, at the stored θ, p and s.
fn method(case: &Case, report: &mut Report) -> Option<Bilevel> {
    let files = case.model("model", report)?;
    let backbone = Backbone::load(&files, WeightDtype::F32, &Device::flex()).unwrap();
    let [adapter, shadow] = ["adapter-p", "adapter-s"]
        .map(|name| Adapter::read(&case.path(name), backbone.config(), backbone.device()).unwrap());
    let expected = case.expected();
    report.equal(case.name(), &(backbone.len() as u64), &expected["num_backbone_parameters"].as_u64().unwrap());
    Some(Bilevel {
        backbone,
        adapter: Block::new(adapter, Optimizer::Sgd),
        shadow: Block::new(shadow, Optimizer::Sgd),
        backbone_optimizer: BackboneUpdater::new(BackboneOptimizer::Sgd),
        objective: Objective::Loss,
        spsa: Spsa::two_sided(number(&expected, "eps") as f32),
        conservative: false,
        penalty: number(&expected, "lambda"),
        penalty_normalized: false,
        inner_steps: 0,
        inner_accumulate: 1,
        outer_accumulate: 1,
    })
}

/// B_f and B_p.
fn batches(case: &Case) -> [Batch; 2] {
    let stored = case.tensors("batches.safetensors");
    ["f.", "p."].map(|prefix| labelled(&stored.rows(prefix)))
}

fn check_parts(report: &mut Report, place: &str, losses: &[f64], expected: &Value) {
    for (loss, key) in losses.iter().zip(["F_p_f", "F_p_p", "F_s_p"]) {
        report.number("a, b, c", format!("{place}: {key}"), *loss, number(expected, key), LOSS);
    }
}

/// What the errors that a, b and c may have make of G = a + λ(b − c).
fn objective_tolerance(penalty: f64) -> Tolerance {
    Tolerance { absolute: LOSS.absolute * (1.0 + 2.0 * penalty), relative: 0.0 }
}

fn check_block(
    report: &mut Report,
    kind: &'static str,
    place: &str,
    block: &Adapter,
    expected: &Tensors,
    tolerance: Tolerance,
) {
    let tensors = block.tensors();
    report.equal(place, &tensors.len(), &expected.names().len());
    for (name, tensor) in tensors {
        report.close(kind, format!("{place}: {name}"), &values(tensor), expected.real(&name), tolerance);
    }
}
