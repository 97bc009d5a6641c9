//! Runs that differ only by their seeds.

use super::run::Run;
use super::statistics::Sample;
use std::collections::{BTreeMap, BTreeSet};

/// Keys in which runs of one group may differ: seeds, and what does not change what is computed.
const WITHIN: [&str; 5] = ["run.seed", "data.seed", "run.output", "run.threads", "run.tensorboard"];

/// Keys that name a group before others do.
const FIRST: [&str; 7] = [
    "method.name",
    "method.on",
    "peft.kind",
    "data.template",
    "method.penalty",
    "method.inner_steps",
    "outer.optimizer",
];

/// Runs that differ only by their seeds.
#[derive(Clone, Debug)]
pub struct Group {
    /// What tells it from the others.
    pub label: String,
    /// Positions of its runs in the report.
    pub runs: Vec<usize>,
}

/// Keys with their values.
pub(super) type Settings<'a> = BTreeMap<&'a str, &'a str>;

/// The settings that all runs of a group share.
fn shared(run: &Run) -> Settings<'_> {
    let settings = run.settings.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    settings.filter(|(key, _)| !WITHIN.contains(key)).collect()
}

/// Groups the runs at `positions`, in the order of their first ones.
pub(super) fn group(runs: &[Run], positions: &[usize]) -> Vec<Group> {
    let mut groups: Vec<(Settings, Vec<usize>)> = Vec::new();
    for &position in positions {
        let settings = shared(&runs[position]);
        // A run without settings is like no other.
        match groups.iter_mut().find(|(known, _)| !settings.is_empty() && *known == settings) {
            Some((_, members)) => members.push(position),
            None => groups.push((settings, vec![position])),
        }
    }
    let settings: Vec<&Settings> = groups.iter().map(|(settings, _)| settings).collect();
    let mut labels = labels(&settings);
    for (label, (settings, members)) in labels.iter_mut().zip(&groups) {
        if settings.is_empty() {
            label.clone_from(&runs[members[0]].name);
        }
    }
    labels.into_iter().zip(groups).map(|(label, (_, runs))| Group { label, runs }).collect()
}

/// What tells each of the settings from the others.
pub(super) fn labels(settings: &[&Settings]) -> Vec<String> {
    let keys = telling_keys(settings);
    settings.iter().map(|settings| label(settings, &keys)).collect()
}

/// Few keys that tell all groups apart: one after the other, each that separates some that those before it do not.
fn telling_keys<'a>(groups: &[&Settings<'a>]) -> Vec<&'a str> {
    let settings = groups.iter().map(|group| group.iter().map(|(&key, &value)| (key, value)).collect::<Vec<_>>());
    let varying = varying_keys(settings.map(Vec::into_iter));
    let first = FIRST.iter().filter_map(|key| varying.get(*key).copied());
    let mut keys: Vec<&str> = Vec::new();
    let cells = |keys: &[&str]| {
        let cells = groups.iter().map(|group| keys.iter().map(|key| group.get(key).copied()).collect::<Vec<_>>());
        cells.collect::<BTreeSet<_>>().len()
    };
    let mut count = 1;
    for key in first.chain(varying.iter().copied()) {
        keys.push(key);
        let finer = cells(&keys);
        if finer > count {
            count = finer;
        } else {
            keys.pop();
        }
    }
    keys
}

/// Keys that do not have one value everywhere.
pub(super) fn varying_keys<'a>(
    settings: impl Iterator<Item = impl Iterator<Item = (&'a str, &'a str)>>,
) -> BTreeSet<&'a str> {
    let (mut values, mut count) = (BTreeMap::<&str, (BTreeSet<&str>, usize)>::new(), 0);
    for of_one in settings {
        count += 1;
        for (key, value) in of_one {
            let (different, set) = values.entry(key).or_default();
            different.insert(value);
            *set += 1;
        }
    }
    let varies = |(key, (different, set)): (&'a str, (BTreeSet<&str>, usize))| {
        (different.len() > 1 || set < count).then_some(key)
    };
    values.into_iter().filter_map(varies).collect()
}

fn label(settings: &Settings, keys: &[&str]) -> String {
    let part = |key: &&str| {
        let value = settings.get(*key)?;
        let name = key.rsplit('.').next().unwrap_or(key);
        let speaks_for_itself = ["method.name", "peft.kind", "data.task"].contains(key);
        let ambiguous = keys.iter().filter(|other| other.rsplit('.').next() == Some(name)).count() > 1;
        Some(match (speaks_for_itself, ambiguous) {
            (true, _) => (*value).to_owned(),
            (false, true) => format!("{key} {value}"),
            (false, false) => format!("{name} {value}"),
        })
    };
    let parts: Vec<String> = keys.iter().filter_map(part).collect();
    match parts.is_empty() {
        true => settings.get("method.name").map_or_else(|| "runs".to_owned(), |name| (*name).to_owned()),
        false => parts.join(", "),
    }
}

impl Group {
    /// The settings that its runs share.
    pub(super) fn settings<'a>(&self, runs: &'a [Run]) -> Settings<'a> {
        self.runs.first().map(|&first| shared(&runs[first])).unwrap_or_default()
    }

    /// A setting that its runs share.
    pub(super) fn setting<'a>(&self, runs: &'a [Run], key: &str) -> Option<&'a str> {
        runs[*self.runs.first()?].setting(key)
    }

    /// The same as a number.
    pub(super) fn number(&self, runs: &[Run], key: &str) -> Option<f64> {
        self.setting(runs, key)?.parse().ok().filter(|number: &f64| number.is_finite())
    }

    /// Statistics of something of its runs, over those that have it.
    pub(super) fn sample(&self, runs: &[Run], what: impl Fn(&Run) -> Option<f64>) -> Option<Sample> {
        let values: Vec<f64> = self.runs.iter().filter_map(|&run| what(&runs[run])).collect();
        Sample::of(&values)
    }

    /// Curves of its runs, those that have points.
    pub(super) fn curves(&self, runs: &[Run], of: impl Fn(&Run) -> Vec<(f64, f64)>) -> Vec<Vec<(f64, f64)>> {
        self.runs.iter().map(|&run| of(&runs[run])).filter(|curve| !curve.is_empty()).collect()
    }
}
