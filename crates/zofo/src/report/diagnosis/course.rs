//! Signs that the course of a group's own runs shows.

use super::{Finding, now, share, value};
use crate::report::format::short;
use crate::report::group::Group;
use crate::report::panel::Panel;
use crate::report::run::{Run, RunState};
use crate::report::statistics::Sample;

/// A process ended for want of memory. Checkpointing costs time alone; of the outer step's memory the batch has the larger
/// part; and a smaller T takes from what the method computes: hence the order.
pub(super) fn out_of_memory(_: &Panel, group: &Group, runs: &[Run]) -> Option<Finding> {
    let told: Vec<&str> = group.runs.iter().filter_map(|&run| runs[run].out_of_memory.as_deref()).collect();
    let section = match group.setting(runs, "method.name") {
        Some("first-order" | "full") => "inner",
        _ => "outer",
    };
    let key = format!("{section}.batch_size");
    let mut advice = match group.number(runs, &key) {
        Some(rows) if rows <= 1.0 => format!("{key} is 1 already: set a smaller data.max_length"),
        _ => format!(
            "halve {key}{} and double {section}.accumulate, which keeps the rows of a step",
            now(group, runs, &key)
        ),
    };
    // Methods without exact gradients do not have the setting.
    if group.setting(runs, "inner.gradient_checkpointing") == Some("false") {
        advice = format!("set inner.gradient_checkpointing = true, which costs time and nothing else; then {advice}");
    }
    if group.setting(runs, "method.name") == Some("bilevel") {
        advice += "; only then a smaller T, method.inner_steps";
    }
    Some(Finding { evidence: format!("{}: {}", share(told.len(), group.runs.len()), told.first()?), advice })
}

/// How a curve goes up and down.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Swings {
    /// Points where it turns.
    turns: usize,
    /// Points where it could.
    of: usize,
    /// The mean size of the changes in its first half.
    early: f64,
    /// The same in its second half.
    late: f64,
    /// The last one as a share of the mean value.
    relative: f64,
}

impl Swings {
    /// Of at least four points.
    fn of(values: &[f64]) -> Option<Self> {
        let changes: Vec<f64> = values.windows(2).map(|pair| pair[1] - pair[0]).collect();
        if changes.len() < 3 {
            return None;
        }
        let turns = changes.windows(2).filter(|pair| pair[0] * pair[1] < 0.0).count();
        let size = |changes: &[f64]| changes.iter().map(|change| change.abs()).sum::<f64>() / changes.len() as f64;
        let (first, second) = changes.split_at(changes.len() / 2);
        let late = size(second);
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        Some(Self { turns, of: changes.len() - 1, early: size(first), late, relative: late / mean.abs() })
    }

    /// Whether it turns at nearly every point, by changes that stay as large (with a quarter of leeway, for they scatter)
    /// and that matter.
    fn oscillate(self, share_of_turns: f64) -> bool {
        const MATTERS: f64 = 0.05;
        self.turns as f64 >= share_of_turns * self.of as f64
            && self.late >= 0.75 * self.early
            && self.relative >= MATTERS
    }

    /// Whether there are so many turns that a curve of independent values, as the losses of random batches are, would not
    /// have them: more than three standard deviations above the 2/3 of its points that turn on average (Wallis and Moore's
    /// test of turning points).
    fn beyond_chance(self) -> bool {
        let points = self.of as f64 + 2.0;
        let (mean, variance) = (2.0 * (points - 2.0) / 3.0, (16.0 * points - 29.0) / 90.0);
        self.turns as f64 > mean + 3.0 * variance.sqrt()
    }
}

/// The swings of a run's loss, if it oscillates: on the validation part, which is always the same, or else before the
/// inner steps, whose batches differ.
fn oscillation(run: &Run) -> Option<(&'static str, Swings)> {
    const EVALUATIONS: usize = 8;
    const STEPS: usize = 30;
    // What comes before the first step is no part of the course.
    let after = run.evaluations.iter().filter(|at| at.step > 0);
    let validation: Vec<f64> = after.filter_map(|at| at.loss).collect();
    let inner: Vec<f64> = run.steps.iter().filter_map(|step| step.value("inner_loss")).collect();
    let of = |values: &[f64], least: usize| Swings::of(values).filter(|_| values.len() >= least);
    let seen = of(&validation, EVALUATIONS).filter(|swings| swings.oscillate(0.75));
    let trained = || of(&inner, STEPS).filter(|swings| swings.oscillate(0.8) && swings.beyond_chance());
    seen.map(|swings| ("validation loss", swings)).or_else(|| Some(("loss of the inner steps", trained()?)))
}

/// Half of the runs or more oscillate: s does not come near its optimum in T steps, and p and θ follow it to and fro.
pub(super) fn oscillating_loss(_: &Panel, group: &Group, runs: &[Run]) -> Option<Finding> {
    if group.setting(runs, "method.name") != Some("bilevel") {
        return None;
    }
    let found: Vec<(&str, Swings)> = group.runs.iter().filter_map(|&run| oscillation(&runs[run])).collect();
    let (what, swings) = found.first().filter(|_| 2 * found.len() >= group.runs.len())?;
    let evidence = format!(
        "{}: the {what} turns at {} of {} points, by {} on average in the first half and {} in the second, {:.0} % of its mean",
        share(found.len(), group.runs.len()),
        swings.turns,
        swings.of,
        short(swings.early),
        short(swings.late),
        100.0 * swings.relative
    );
    let advice = match group.number(runs, "method.inner_steps") {
        Some(steps) if steps >= 50.0 => {
            format!(
                "T, method.inner_steps, is {steps} already: lower the rates, inner.lr{} first",
                now(group, runs, "inner.lr")
            )
        }
        Some(steps) if steps >= 20.0 => format!("raise T, method.inner_steps (now {steps}), to 50"),
        _ => format!("set T, method.inner_steps{}, to 20 to 50", now(group, runs, "method.inner_steps")),
    };
    Some(Finding { evidence, advice })
}

/// In the second half of training the root mean square of g is below twice the part of it that is rounding.
pub(super) fn noisy_slope(_: &Panel, group: &Group, runs: &[Run]) -> Option<Finding> {
    const LEAST_SLOPES: usize = 10;
    let late = |run: &Run| run.step_count / 2;
    let of_group = || group.runs.iter().map(|&run| &runs[run]);
    let squares = of_group().flat_map(|run| {
        let steps = run.steps.iter().filter(move |step| step.step > late(run));
        steps.filter_map(|step| Some(step.value("slope")?.powi(2)))
    });
    let floors = of_group().flat_map(|run| {
        let evaluations = run.evaluations.iter().filter(move |at| at.step > late(run));
        evaluations.filter_map(|at| at.noise_floor)
    });
    let square = Sample::of(&squares.collect::<Vec<f64>>()).filter(|sample| sample.count >= LEAST_SLOPES)?;
    let floor = Sample::of(&floors.collect::<Vec<f64>>())?.mean;
    let size = square.mean.sqrt();
    if size >= 2.0 * floor {
        return None;
    }
    let larger = group.number(runs, "outer.eps").map_or_else(
        || "a larger outer.eps".to_owned(),
        |eps| format!("a larger outer.eps (now {}, perhaps {})", value(eps), value(10.0 * eps)),
    );
    let advice = match group.setting(runs, "model.compute") {
        Some("f32") => larger,
        _ => format!("compute in f32 (model.compute = \"f32\"), or {larger}"),
    };
    let evidence = format!(
        "in the second half of training the root mean square of g over {} steps is {}, its noise floor {}",
        square.count,
        short(size),
        short(floor)
    );
    Some(Finding { evidence, advice })
}

/// All runs of MeZO keep step 0.
pub(super) fn nothing_kept(_: &Panel, group: &Group, runs: &[Run]) -> Option<Finding> {
    const RISES: f64 = 0.01;
    let kept_none = |run: &Run| {
        let ended = matches!(run.state, RunState::Finished | RunState::Diverged(_));
        ended && run.kept_step == Some(0) && run.evaluations.last().is_some_and(|at| at.step > 0)
    };
    let of_group: Vec<&Run> = group.runs.iter().map(|&run| &runs[run]).collect();
    if group.setting(runs, "method.name") != Some("mezo") || !of_group.iter().all(|run| kept_none(run)) {
        return None;
    }
    let mean = |values: Vec<f64>| Sample::of(&values).map(|sample| sample.mean);
    let first = mean(of_group.iter().filter_map(|run| run.evaluations.first()?.loss).collect())?;
    let last = mean(of_group.iter().filter_map(|run| run.evaluations.last()?.loss).collect())?;
    let steps = mean(of_group.iter().filter_map(|run| Some(run.evaluations.last()?.step as f64)).collect())?;
    let change = (last - first) / first.abs();
    let (course, advice) = if change > RISES {
        let third = group.number(runs, "outer.lr").map_or_else(String::new, |rate| format!(": {}", short(rate / 3.0)));
        ("rises", format!("the rate is too large: divide outer.lr{} by three{third}", now(group, runs, "outer.lr")))
    } else {
        let course = if change < -RISES { "falls, but no answer gets better" } else { "is flat" };
        (course, format!("more steps, or a larger outer.lr{}", now(group, runs, "outer.lr")))
    };
    let evidence = format!(
        "{} kept step 0: the validation loss {course}, from {} to {} after {steps:.0} steps ({:+.1} %)",
        share(of_group.len(), of_group.len()),
        short(first),
        short(last),
        100.0 * change
    );
    Some(Finding { evidence, advice })
}
