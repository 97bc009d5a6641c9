//! The runs that a sweep's file means.

use super::axes::{Setting, combinations, name_of};
use super::error::SweepError;
use super::file::SweepFile;
use crate::run::config::{Config, ConfigError};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Settings that do not make a run another one: where it is, how many threads compute it, and who else is told.
const NOT_COMPARED: [&str; 3] = ["run.output", "run.threads", "run.tensorboard"];

/// One run of a sweep.
#[derive(Clone, Debug, Serialize)]
pub struct PlannedRun {
    /// The name of its folder: the values that vary.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
    /// `key=value` over the base configuration.
    pub overlays: Vec<String>,
    /// All settings that its method uses. They tell whether the sweep has changed since it was started.
    #[serde(skip)]
    pub settings: BTreeMap<String, String>,
    /// Threads, if the sweep or its base says so.
    #[serde(skip)]
    pub threads: Option<usize>,
}

/// The runs of a sweep, each once.
#[derive(Clone, Debug)]
pub struct SweepPlan {
    /// What was written.
    pub file: SweepFile,
    /// The runs, in the order of the file.
    pub runs: Vec<PlannedRun>,
    /// How many combinations compute what one before them computes, and are left out: a method does not use all keys.
    pub repeated: usize,
}

impl SweepPlan {
    /// Reads a sweep's file, and checks the configuration of every run. `set` are `key=value` for all runs; `output` takes
    /// the place of the file's.
    ///
    /// # Errors
    ///
    /// [`SweepError::Read`], [`SweepError::File`], or [`SweepError::Config`] with the run and its key.
    pub fn load(path: &Path, set: &[String], output: Option<&Path>) -> Result<Self, SweepError> {
        let mut file = SweepFile::load(path, set)?;
        if let Some(output) = output {
            file.output = output.to_owned();
        }
        Self::new(file)
    }

    fn new(file: SweepFile) -> Result<Self, SweepError> {
        let mut runs: Vec<PlannedRun> = Vec::new();
        let (mut names, mut known) = (BTreeSet::new(), BTreeSet::new());
        let mut repeated = 0;
        for combination in combinations(&file.axes) {
            let varying = combination.iter().flat_map(|point| &point.settings);
            let mut overlays: Vec<String> = file.set.iter().chain(varying).map(Setting::overlay).collect();
            let name = |is_used: &dyn Fn(&str) -> bool| name_of(&combination, &file.axes, is_used);
            let whole = file.output.join(name(&|_| true));
            overlays.push(format!("run.output={}", toml::Value::from(whole.to_string_lossy().as_ref())));
            let failed = |source: ConfigError| SweepError::Config {
                path: file.path.clone(),
                base: file.base.clone(),
                run: name(&|_| true),
                settings: overlays[..overlays.len() - 1].join(", "),
                source: Box::new(source),
            };
            let config = Config::load(&file.base, &overlays).map_err(failed)?;
            let mut settings = config.settings().map_err(failed)?;
            settings.retain(|key, _| !NOT_COMPARED.contains(&key.as_str()));
            if !known.insert(settings.clone()) {
                repeated += 1;
                continue;
            }
            let unused = config.unused_keys();
            let name = unique(name(&|key| !unused.iter().any(|unused| unused == key)), &mut names);
            overlays.pop();
            let folder = file.output.join(&name);
            runs.push(PlannedRun { name, folder, overlays, settings, threads: config.run.threads });
        }
        Ok(Self { file, runs, repeated })
    }
}

/// A name that no run before has: values that differ can have one form in a folder's name.
fn unique(name: String, names: &mut BTreeSet<String>) -> String {
    let candidates = (2..).map(|number| format!("{name}-{number}"));
    let free = std::iter::once(name.clone()).chain(candidates).find(|name| !names.contains(name)).unwrap_or(name);
    names.insert(free.clone());
    free
}
