//! The configuration of `zofo train`: a TOML file, overlaid by `--set key=value`, validated as a
//! whole.
//!
//! Loading has two stages. The first keeps what was written, where (`Source`); the second reads
//! typed values out of it (`Reader`) into a [`Config`], in which every default is filled in.
//! [`Config::to_toml`] writes that resolved form, and [`Config::fingerprint`] condenses the part of
//! it that determines what is computed.

mod choice;
mod error;
mod keys;
mod paths;
mod reader;
mod sections;
mod source;
mod training;
mod words;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Serialize;
use sha2::{Digest, Sha256};

pub(crate) use choice::Choice;
pub use error::ConfigError;
pub use paths::expand_home;
pub use sections::{DataConfig, ModelConfig, PeftConfig, RunConfig};
pub use training::{InnerConfig, MethodConfig, OuterConfig};
pub use words::{
    BlockInit, Compute, Device, ElementChoice, ElementDistribution, Keep, KeepAdapter, Loss, LrSchedule, MethodName,
    MezoTarget, ObjectiveKind, Optimizer, Overlap, PeftKind, ShadowInit, Storage,
};

use crate::hf::hub::is_hub_id;
use crate::task::{Location, Task};
use keys::{Choices, Effect, KEYS, Key};
use reader::Reader;
use source::Source;

/// A validated configuration with every default filled in.
///
/// A field is named as its key: `config.inner.lr` is `[inner] lr`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    /// `[model]`: the backbone θ.
    pub model: ModelConfig,
    /// `[data]`: the task and how its rows are divided.
    pub data: DataConfig,
    /// `[method]`: the algorithm.
    pub method: MethodConfig,
    /// `[peft]`: the blocks p and s.
    pub peft: PeftConfig,
    /// `[inner]`: what drives s.
    pub inner: InnerConfig,
    /// `[outer]`: what drives p and θ.
    pub outer: OuterConfig,
    /// `[run]`: limits, output, machine.
    pub run: RunConfig,
    #[serde(skip)]
    unused: Vec<String>,
}

impl Config {
    /// Reads a configuration file and applies `key=value` overlays, the last of a key winning.
    ///
    /// # Errors
    /// Whatever [`ConfigError`] lists; every message names the file and line, or the overlay, that
    /// it is about.
    pub fn load(path: &Path, overlays: &[String]) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, &path.display().to_string(), overlays)
    }

    /// As [`Config::load`], from text. `file` is what messages call it.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, file: &str, overlays: &[String]) -> Result<Self, ConfigError> {
        let source = Source::parse(text, file, overlays)?;
        let reader = Reader::new(&source);
        let model = ModelConfig::read(&reader)?;
        let data = DataConfig::read(&reader)?;
        let method = MethodConfig::read(&reader)?;
        let peft = PeftConfig::read(&reader)?;
        let inner = InnerConfig::read(&reader, &method)?;
        let outer = OuterConfig::read(&reader, &model, &method, &inner)?;
        let run = RunConfig::read(&reader, &method, outer.eps_final.is_some())?;
        let unused = unused_keys(KEYS, source.keys(), Choices { method: &method, block: peft.kind });
        Ok(Self { model, data, method, peft, inner, outer, run, unused })
    }

    /// The same configuration with paths of inputs that do not depend on the working folder. A path that has no such
    /// form in UTF-8, which is all that TOML can hold, stays as it is, and so does a hub id.
    #[must_use]
    pub fn with_absolute_paths(mut self) -> Self {
        if !is_hub_id(&self.model.path) {
            self.model.path = paths::absolute(&self.model.path);
        }
        for path in [&mut self.data.dir, &mut self.data.train, &mut self.data.validation].into_iter().flatten() {
            if !Location::is_hub(path) {
                *path = paths::absolute(path);
            }
        }
        let is_builtin = Task::builtin_names().any(|name| name == self.data.task);
        if !is_builtin && Path::new(&self.data.task).is_file() {
            self.data.task = paths::absolute(Path::new(&self.data.task)).display().to_string();
        }
        self
    }

    /// Keys that were set but belong to another method or PEFT block than the chosen one, in the
    /// order they were written.
    pub fn unused_keys(&self) -> &[String] {
        &self.unused
    }

    /// The resolved configuration as TOML, which [`Config::parse`] reads back to an equal one. Keys of another method or
    /// block are in it only if they were set.
    ///
    /// # Errors
    /// [`ConfigError::Write`] if a value has no TOML form; none that [`Config::parse`] accepts is
    /// so.
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        let failed = |error: toml::ser::Error| ConfigError::Write { reason: error.to_string() };
        let mut table = toml::Table::try_from(self).map_err(failed)?;
        for key in KEYS.iter().filter(|key| !key.applies(self.choices())) {
            let (section, name) = key.parts();
            if let Some(section) = table.get_mut(section).and_then(toml::Value::as_table_mut)
                && !self.unused.iter().any(|unused| unused == key.name)
            {
                section.retain(|present, _| present != name);
            }
        }
        toml::to_string(&table).map_err(failed)
    }

    fn choices(&self) -> Choices<'_> {
        Choices { method: &self.method, block: self.peft.kind }
    }

    /// The keys that a run of this method and block uses, with their values as TOML. Those that are not set and have no
    /// default are not among them.
    ///
    /// # Errors
    /// As [`Config::to_toml`].
    pub fn settings(&self) -> Result<BTreeMap<String, String>, ConfigError> {
        let table = toml::Table::try_from(self).map_err(|error| ConfigError::Write { reason: error.to_string() })?;
        let used = KEYS.iter().filter(|key| key.applies(self.choices()));
        let value = |key: &Key| {
            let (section, name) = key.parts();
            Some((key.name.to_owned(), table.get(section)?.get(name)?.to_string()))
        };
        Ok(used.filter_map(value).collect())
    }

    /// SHA-256, in hexadecimal, over the keys that determine what each step computes.
    ///
    /// A run may be resumed with another limit, output folder or number of threads, but not with
    /// another fingerprint. Keys of other methods and blocks do not count; where the model lies
    /// does not either, because the journal holds a hash of every tensor. With a schedule
    /// `run.max_steps` counts: it sets the learning rates.
    ///
    /// # Errors
    /// As [`Config::to_toml`].
    pub fn fingerprint(&self) -> Result<String, ConfigError> {
        let table = toml::Table::try_from(self).map_err(|error| ConfigError::Write { reason: error.to_string() })?;
        let mut hash = Sha256::new();
        hash.update(b"zofo configuration 1\n");
        for key in KEYS.iter().filter(|key| key.applies(self.choices())) {
            let counts = match key.effect {
                Effect::Trajectory => true,
                Effect::TrajectoryIfScheduled => {
                    self.run.lr_schedule != LrSchedule::Constant || self.outer.eps_final.is_some()
                }
                Effect::TrajectoryOfFull => self.method.name == MethodName::Full,
                Effect::None => false,
            };
            let (section, name) = key.parts();
            if let Some(value) = table.get(section).and_then(|section| section.get(name)).filter(|_| counts) {
                hash.update(format!("{} = {}\n", key.name, canonical(value)));
            }
        }
        Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// A value's text for the fingerprint. It must not depend on how some version of a library prints
/// numbers.
fn canonical(value: &toml::Value) -> String {
    match value {
        toml::Value::Float(number) => format!("{:016x}", number.to_bits()),
        toml::Value::Integer(number) => number.to_string(),
        toml::Value::Boolean(flag) => flag.to_string(),
        toml::Value::String(text) => format!("{text:?}"),
        toml::Value::Array(values) => {
            format!("[{}]", values.iter().map(canonical).collect::<Vec<_>>().join(", "))
        }
        toml::Value::Table(table) => {
            let entries: Vec<String> =
                table.iter().map(|(name, value)| format!("{name:?} = {}", canonical(value))).collect();
            format!("{{{}}}", entries.join(", "))
        }
        // No key has this type.
        toml::Value::Datetime(date) => date.to_string(),
    }
}

/// Those of the written keys that these choices do not use.
fn unused_keys<'a>(known: &[Key], written: impl Iterator<Item = &'a str>, choices: Choices<'_>) -> Vec<String> {
    written
        .filter(|name| known.iter().any(|key| key.name == *name && !key.applies(choices)))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests;
