//! Signs by which training that went wrong is known, and what to do about each.
//!
//! Every rule is a function of what was logged of training and on the validation part. None looks at the test examples:
//! who follows advice that comes from them has chosen by them.

mod compared;
mod course;
#[cfg(test)]
mod tests;

use super::format::toml_text;
use super::group::Group;
use super::panel::Panel;
use super::run::Run;
use serde::Serialize;

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sign {
    /// A process ended for want of memory.
    OutOfMemory,
    /// The loss of the bilevel method goes up and down, and does not come to rest.
    OscillatingLoss,
    /// The bilevel method has come to rest below first-order training of a block alone.
    Plateau,
    /// The slope is hardly larger than its rounding.
    NoisySlope,
    /// With prompt tuning, a method still depends on the task's template.
    PromptSensitivity,
    /// No step of MeZO is better than the model that it began with.
    NothingKept,
}

impl Sign {
    /// A few words for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OutOfMemory => "out of memory",
            Self::OscillatingLoss => "oscillating loss",
            Self::Plateau => "plateau below first-order training",
            Self::NoisySlope => "slope at its noise floor",
            Self::PromptSensitivity => "sensitivity to the prompt persists",
            Self::NothingKept => "no step is better than none",
        }
    }
}

/// A sign that a group shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// The group's position in its panel.
    pub group: usize,
    /// What went wrong.
    pub sign: Sign,
    /// The numbers that show it.
    pub evidence: String,
    /// What to do.
    pub advice: String,
}

/// What a rule finds.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    evidence: String,
    advice: String,
}

type Rule = fn(&Panel, &Group, &[Run]) -> Option<Finding>;

const RULES: [(Sign, Rule); 6] = [
    (Sign::OutOfMemory, course::out_of_memory),
    (Sign::OscillatingLoss, course::oscillating_loss),
    (Sign::Plateau, compared::plateau),
    (Sign::NoisySlope, course::noisy_slope),
    (Sign::PromptSensitivity, compared::prompt_sensitivity),
    (Sign::NothingKept, course::nothing_kept),
];

/// What the groups of a panel show, group by group.
pub(super) fn diagnose(panel: &Panel, runs: &[Run]) -> Vec<Diagnosis> {
    let of_group = |(index, group): (usize, &Group)| {
        let find = |(sign, rule): &(Sign, Rule)| {
            let Finding { evidence, advice } = rule(panel, group, runs)?;
            Some(Diagnosis { group: index, sign: *sign, evidence, advice })
        };
        RULES.iter().filter_map(find).collect::<Vec<_>>()
    };
    panel.groups.iter().enumerate().flat_map(of_group).collect()
}

/// A number as a configuration has it.
fn value(number: f64) -> String {
    toml_text(&toml::Value::Float(number))
}

/// ` (now VALUE)`, if the group has the key.
fn now(group: &Group, runs: &[Run], key: &str) -> String {
    group.setting(runs, key).map_or_else(String::new, |value| format!(" (now {value})"))
}

/// `all 3 runs`, `2 of 3 runs`, or `the run`.
fn share(count: usize, of: usize) -> String {
    match (count, of) {
        (1, 1) => "the run".to_owned(),
        (count, of) if count == of => format!("all {of} runs"),
        (count, of) => format!("{count} of {of} runs"),
    }
}
