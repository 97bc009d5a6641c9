//! Signs that only other groups of the same task bring to light.

use super::{Finding, now};
use crate::report::format::score;
use crate::report::group::Group;
use crate::report::panel::Panel;
use crate::report::run::Run;
use crate::report::statistics::{Sample, difference};
use crate::task::Metric;

/// Standard errors by which two means have to differ.
const ERRORS: f64 = 2.0;

/// What validation says of the steps that a group's runs keep.
fn selected(group: &Group, runs: &[Run]) -> Option<Sample> {
    group.sample(runs, |run| run.selected()?.value)
}

/// The difference of two means, in standard errors, if it is more than two of them. Of equal seeds the error is 0, and any
/// difference infinitely many.
fn apart(left: Sample, right: Sample) -> Option<f64> {
    let (more, error) = difference(left, right)?;
    Some(more.abs() / error).filter(|errors| *errors > ERRORS)
}

/// How far apart, for people.
fn in_errors(errors: f64) -> String {
    if errors.is_finite() { format!("{errors:.1} standard errors apart") } else { "the same for all seeds".to_owned() }
}

/// The last third of the evaluations has brought the mean of a bilevel group no new best, and the best first-order group
/// with the same template is above it.
pub(super) fn plateau(panel: &Panel, group: &Group, runs: &[Run]) -> Option<Finding> {
    const LEAST_EVALUATIONS: usize = 6;
    if group.setting(runs, "method.name") != Some("bilevel") {
        return None;
    }
    let better = |left: f64, right: f64| if panel.is_better(right, left) { right } else { left };
    let means: Vec<f64> = panel.over_steps(group, runs).iter().map(|band| band.mean).collect();
    let (before, last) = means.split_at(means.len() - means.len() / 3);
    let [before, last] = [before, last].map(|part| part.iter().copied().reduce(better));
    if means.len() < LEAST_EVALUATIONS || panel.is_better(last?, before?) {
        return None;
    }
    let template = |group: &Group| group.setting(runs, "data.template");
    let is_rival = |other: &&Group| {
        other.setting(runs, "method.name") == Some("first-order") && template(other) == template(group)
    };
    let rivals = panel.groups.iter().filter(is_rival).filter_map(|other| Some((other, selected(other, runs)?)));
    let (rival, theirs) =
        rivals.reduce(|best, next| if panel.is_better(next.1.mean, best.1.mean) { next } else { best })?;
    let own = selected(group, runs)?;
    let errors = apart(own, theirs).filter(|_| panel.is_better(theirs.mean, own.mean))?;
    let metric = panel.metric.map_or("score", Metric::as_str);
    let evidence = format!(
        "validation {metric} {} and no new best in the last third of {} evaluations; {} of \"{}\", {}",
        score(own.mean),
        means.len(),
        score(theirs.mean),
        rival.label,
        in_errors(errors)
    );
    // λ weighs a loss against a share if the outer objective is a metric.
    let (usual, words) = match group.setting(runs, "outer.objective") {
        Some("metric") => (1.0..=100.0, "1 to 100"),
        _ => (1e3..=1e4, "1e3 to 1e4"),
    };
    let penalty = now(group, runs, "method.penalty");
    let advice = match group.number(runs, "method.penalty") {
        Some(number) if usual.contains(&number) => format!(
            "a longer warm start, method.warm_start{}, or more time; λ, method.penalty{penalty}, is within {words}",
            now(group, runs, "method.warm_start")
        ),
        _ => format!("set λ, method.penalty{penalty}, to {words}"),
    };
    Some(Finding { evidence, advice })
}

/// Prompt tuning of the text alone and with a template differ on the validation part, all else equal.
pub(super) fn prompt_sensitivity(panel: &Panel, group: &Group, runs: &[Run]) -> Option<Finding> {
    const TEMPLATE: &str = "data.template";
    if !tunes_prompt(group, runs) || group.setting(runs, TEMPLATE) != Some("none") {
        return None;
    }
    let rest = |group: &Group| {
        let mut settings = group.settings(runs);
        settings.remove(TEMPLATE);
        settings
    };
    let bare = selected(group, runs)?;
    let twins =
        panel.groups.iter().filter(|other| other.setting(runs, TEMPLATE) != Some("none") && rest(other) == rest(group));
    let differ = twins.filter_map(|twin| {
        let with = selected(twin, runs)?;
        Some((twin, with, apart(bare, with)?))
    });
    let (twin, with, errors) = differ.reduce(|most, next| if next.2 > most.2 { next } else { most })?;
    let evidence = format!(
        "validation {} {} without a template, {} with \"{}\", {}",
        panel.metric.map_or("score", Metric::as_str),
        score(bare.mean),
        score(with.mean),
        twin.setting(runs, TEMPLATE).unwrap_or_default(),
        in_errors(errors)
    );
    Some(Finding { evidence, advice: "LoRA instead of prompt tuning (peft.kind = \"lora\")".to_owned() })
}

/// Whether the method trains a block, and that is a soft prompt. Runs may keep the key of a block that they do not have.
fn tunes_prompt(group: &Group, runs: &[Run]) -> bool {
    let has_block = match group.setting(runs, "method.name") {
        Some("bilevel" | "first-order" | "two-stage") => true,
        Some("mezo") => group.setting(runs, "method.on") == Some("peft"),
        _ => false,
    };
    has_block && group.setting(runs, "peft.kind") == Some("prompt")
}
