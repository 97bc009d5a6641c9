//! What varies in a sweep, and the names that tell its runs apart.

use crate::report::toml_text;
use std::collections::BTreeSet;
use toml::Value;

/// Characters of one part of a name.
const LONGEST_PART: usize = 40;

/// A key of the configuration with a value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Setting {
    pub(super) key: String,
    pub(super) value: Value,
}

/// One place on an axis: settings that hold together.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Point {
    /// What it is called, if it has a name.
    pub(super) name: Option<String>,
    pub(super) settings: Vec<Setting>,
}

/// Something that varies.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Axis {
    pub(super) points: Vec<Point>,
}

impl Setting {
    /// Of `key=value`, where the value is TOML, or else text.
    pub(super) fn parse(overlay: &str) -> Result<Self, String> {
        let (key, text) = overlay.split_once('=').ok_or_else(|| format!("--set {overlay}: expected key=value"))?;
        let text = text.trim();
        let value = text.parse().unwrap_or_else(|_| Value::String(text.to_owned()));
        Ok(Self { key: key.trim().to_owned(), value })
    }

    /// As `zofo train --set` takes it.
    pub(super) fn overlay(&self) -> String {
        format!("{}={}", self.key, self.value)
    }
}

impl Axis {
    /// Of points, at least one, no two alike.
    pub(super) fn new(points: Vec<Point>, place: &str) -> Result<Self, String> {
        if points.is_empty() {
            return Err(format!("`{place}` is empty: give at least one value, or leave it out"));
        }
        for (index, point) in points.iter().enumerate() {
            let is_same = |other: &Point| match (&point.name, &other.name) {
                (Some(name), Some(other)) => name == other,
                _ => point == other,
            };
            if points[..index].iter().any(is_same) {
                let what = point.name.clone().unwrap_or_else(|| point.settings[0].value.to_string());
                return Err(format!("`{place}` has {what} twice"));
            }
        }
        Ok(Self { points })
    }

    /// Of values of a key.
    pub(super) fn of_key(key: &str, values: Vec<Value>) -> Result<Self, String> {
        let point = |value| Point { name: None, settings: vec![Setting { key: key.to_owned(), value }] };
        Self::new(values.into_iter().map(point).collect(), key)
    }

    /// The keys that it sets.
    pub(super) fn keys(&self) -> BTreeSet<&str> {
        self.points.iter().flat_map(|point| &point.settings).map(|setting| setting.key.as_str()).collect()
    }
}

/// Every combination of one point per axis; the last axis varies fastest.
pub(super) fn combinations(axes: &[Axis]) -> Vec<Vec<&Point>> {
    axes.iter().fold(vec![Vec::new()], |combinations, axis| {
        let extended = |combination: Vec<_>| {
            axis.points.iter().map(move |point| [combination.clone(), vec![point]].concat()).collect::<Vec<_>>()
        };
        combinations.into_iter().flat_map(extended).collect()
    })
}

/// The name of a combination: the names of its points, or key=value. A point of which `is_used` denies all keys has no
/// part in it.
pub(super) fn name_of(combination: &[&Point], axes: &[Axis], is_used: impl Fn(&str) -> bool) -> String {
    let part = |point: &&Point| match (&point.name, point.settings.as_slice()) {
        (_, settings) if !settings.is_empty() && !settings.iter().any(|setting| is_used(&setting.key)) => None,
        (Some(name), _) => Some(plain(name)),
        (None, [Setting { key, value }]) => {
            let value = plain(&toml_text(value));
            // A method speaks for itself.
            Some(if key == "method.name" { value } else { format!("{}={value}", short_key(key, axes)) })
        }
        (None, _) => None,
    };
    let parts: Vec<String> = combination.iter().filter_map(part).collect();
    if parts.is_empty() { "run".to_owned() } else { parts.join(",") }
}

/// A key without its section, if no other key that varies is called the same.
fn short_key<'a>(key: &'a str, axes: &[Axis]) -> &'a str {
    let own = |key: &'a str| key.rsplit('.').next().unwrap_or(key);
    let others = axes.iter().flat_map(Axis::keys).filter(|other| *other != key);
    let is_ambiguous = others.into_iter().any(|other| other.rsplit('.').next() == Some(own(key)));
    if is_ambiguous { key } else { own(key) }
}

/// Text that can be part of the name of a folder everywhere.
fn plain(text: &str) -> String {
    // Of a path, the end tells most.
    let text = if text.contains('/') { text.rsplit('/').next().unwrap_or(text) } else { text };
    let allowed = |character: char| character.is_ascii_alphanumeric() || "._-+".contains(character);
    let plain: String = text.chars().map(|character| if allowed(character) { character } else { '-' }).collect();
    let plain = plain.trim_matches(['-', '.']);
    let plain: String = plain.chars().take(LONGEST_PART).collect();
    if plain.is_empty() { "value".to_owned() } else { plain }
}
