//! `SWEEP.toml`: a base configuration and what varies.
//!
//! ```toml
//! [sweep]
//! base = "../sst2-bilevel.toml"      # beside this file
//! output = "runs/penalty"            # in the working folder, one folder per run
//! seeds = [0, 1, 2]                  # run.seed
//! methods = ["bilevel", "mezo"]      # method.name
//!
//! [set]                              # for all runs
//! run.max_minutes = 5
//!
//! [grid]                             # every combination
//! method.penalty = [1, 1e2, 1e4]
//!
//! [[list.task]]                      # settings that go together, by name
//! name = "copa"
//! data.task = "copa"
//! data.train_examples = 320
//! ```

use super::axes::{Axis, Point, Setting};
use super::error::SweepError;
use crate::run::config::expand_home;
use serde::Deserialize;
use std::fs;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// What a sweep's file says.
#[derive(Clone, Debug)]
pub struct SweepFile {
    /// The file.
    pub path: PathBuf,
    /// The configuration that all runs start from.
    pub base: PathBuf,
    /// The folder of the runs' folders.
    pub output: PathBuf,
    /// Whether trained backbones stay: without them a run takes little room, and `zofo replay` rebuilds one from its journal.
    pub keep_backbones: bool,
    /// For all runs.
    pub(super) set: Vec<Setting>,
    /// What varies, the slowest first.
    pub(super) axes: Vec<Axis>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    sweep: Section,
    #[serde(default)]
    set: Table,
    list: Option<Value>,
    #[serde(default)]
    grid: Table,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    base: String,
    output: String,
    #[serde(default = "yes")]
    keep_backbones: bool,
    methods: Option<Vec<String>>,
    seeds: Option<Vec<u32>>,
}

fn yes() -> bool {
    true
}

impl SweepFile {
    /// Reads a file. `set` are `key=value` for all runs, on top of what the file sets.
    ///
    /// # Errors
    ///
    /// [`SweepError::Read`] or [`SweepError::File`].
    pub fn load(path: &Path, set: &[String]) -> Result<Self, SweepError> {
        let text = fs::read_to_string(path).map_err(|source| SweepError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path, set)
    }

    /// As [`load`](Self::load), from text.
    ///
    /// # Errors
    ///
    /// [`SweepError::File`].
    pub fn parse(text: &str, path: &Path, set: &[String]) -> Result<Self, SweepError> {
        Self::read(text, path, set).map_err(|problem| SweepError::File { path: path.to_owned(), problem })
    }

    fn read(text: &str, path: &Path, set: &[String]) -> Result<Self, String> {
        let document: Document = toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        let Document { sweep, set: settings, list, grid } = document;
        let expanded = |key: &str, text: &str| {
            let home = std::env::var("HOME").ok();
            let path = expand_home(text, home.as_deref()).filter(|path| !path.is_empty()).map(PathBuf::from);
            path.ok_or_else(|| format!("`sweep.{key}` must be a path, found \"{text}\""))
        };
        let mut axes = match list {
            None => Vec::new(),
            Some(Value::Array(points)) => vec![list_axis("list", points)?],
            Some(Value::Table(lists)) => {
                let axis = |(name, points)| match points {
                    Value::Array(points) => list_axis(&format!("list.{name}"), points),
                    _ => Err(format!("`list.{name}` must be written as [[list.{name}]]")),
                };
                lists.into_iter().map(axis).collect::<Result<_, _>>()?
            }
            Some(_) => return Err("`list` must be written as [[list]] or [[list.NAME]]".to_owned()),
        };
        for Setting { key, value } in settings_of("grid", grid)? {
            let Value::Array(values) = value else {
                return Err(format!("[grid] `{key}` must be a list of values, found {value}"));
            };
            axes.push(Axis::of_key(&key, values)?);
        }
        if let Some(methods) = sweep.methods {
            axes.push(Axis::of_key("method.name", methods.into_iter().map(Value::from).collect())?);
        }
        if let Some(seeds) = sweep.seeds {
            axes.push(Axis::of_key("run.seed", seeds.into_iter().map(Value::from).collect())?);
        }
        let mut set_for_all = settings_of("set", settings)?;
        for overlay in set {
            set_for_all.push(Setting::parse(overlay)?);
        }
        refuse_repeated(&axes, &set_for_all)?;
        // Beside the file, wherever the program is called.
        let folder = path.parent().unwrap_or(Path::new(""));
        Ok(Self {
            path: path.to_owned(),
            base: folder.join(expanded("base", &sweep.base)?),
            output: expanded("output", &sweep.output)?,
            keep_backbones: sweep.keep_backbones,
            set: set_for_all,
            axes,
        })
    }
}

/// An axis of settings that go together.
fn list_axis(place: &str, points: Vec<Value>) -> Result<Axis, String> {
    let point = |(index, point): (usize, Value)| {
        let place = format!("[[{place}]] {}", index + 1);
        let Value::Table(mut settings) = point else { return Err(format!("{place} must be a table")) };
        let Some(Value::String(name)) = settings.remove("name") else {
            return Err(format!("{place} needs a `name`, which becomes part of the names of its runs"));
        };
        Ok(Point { name: Some(name), settings: settings_of(&place, settings)? })
    };
    Axis::new(points.into_iter().enumerate().map(point).collect::<Result<_, _>>()?, place)
}

/// The settings of a table, whose keys are `section.key`, or sections with keys.
fn settings_of(place: &str, table: Table) -> Result<Vec<Setting>, String> {
    let mut settings = Vec::new();
    for (key, value) in table {
        match value {
            value if key.contains('.') => settings.push(Setting { key, value }),
            Value::Table(keys) => {
                settings.extend(keys.into_iter().map(|(name, value)| Setting { key: format!("{key}.{name}"), value }))
            }
            _ => {
                return Err(format!(
                    "{place}: `{key}` is no key of a configuration: expected section.key, as inner.lr"
                ));
            }
        }
    }
    Ok(settings)
}

/// A key has one place, or else it is not to be seen which holds.
fn refuse_repeated(axes: &[Axis], set: &[Setting]) -> Result<(), String> {
    for (index, axis) in axes.iter().enumerate() {
        for key in axis.keys() {
            let elsewhere = axes[index + 1..].iter().any(|other| other.keys().contains(key));
            if elsewhere {
                return Err(format!("`{key}` varies in two places: leave it out of one of them"));
            }
        }
    }
    for key in ["run.output"] {
        if set.iter().any(|setting| setting.key == key) || axes.iter().any(|axis| axis.keys().contains(key)) {
            return Err(format!("`{key}` is the sweep's: set `sweep.output`, in which every run has a folder"));
        }
    }
    Ok(())
}
