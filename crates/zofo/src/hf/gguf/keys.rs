//! The keys that describe a model, which begin with the name of its architecture.

use super::{
    GgufFile, Metadata,
    architecture::Architecture,
    error::{GgufError, GgufProblem},
};

/// Keys of a model, named without the architecture: `block_count` stands for `llama.block_count`.
#[derive(Clone, Copy, Debug)]
pub(super) struct ModelKeys<'a> {
    pub(super) file: &'a GgufFile,
    pub(super) architecture: &'static Architecture,
}

impl<'a> ModelKeys<'a> {
    /// # Errors
    /// `general.architecture` is missing, or none of those that are supported.
    pub(super) fn of(file: &'a GgufFile) -> Result<Self, GgufError> {
        let metadata = file.metadata();
        let found = metadata.required("general.architecture", Metadata::string)?;
        match Architecture::named(found) {
            Some(architecture) => Ok(Self { file, architecture }),
            None => Err(metadata.error(GgufProblem::Architecture { found: found.to_owned() })),
        }
    }

    pub(super) fn metadata(&self) -> Metadata<'a> {
        self.file.metadata()
    }

    /// The whole name of a key.
    pub(super) fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture.name)
    }

    pub(super) fn contains(&self, key: &str) -> bool {
        self.metadata().contains(&self.name(key))
    }

    pub(super) fn string(&self, key: &str) -> Result<Option<&'a str>, GgufError> {
        self.metadata().string(&self.name(key))
    }

    /// A number of things of which there is at least one.
    pub(super) fn size(&self, key: &str) -> Result<Option<usize>, GgufError> {
        match self.metadata().unsigned(&self.name(key))? {
            None => Ok(None),
            Some(0) => Err(self.bad_value(key, 0, "expected at least 1")),
            Some(size) => Ok(Some(size as usize)),
        }
    }

    /// A size that must be there.
    pub(super) fn required_size(&self, key: &str) -> Result<usize, GgufError> {
        self.size(key)?.ok_or_else(|| self.missing(key))
    }

    /// A finite number above zero.
    pub(super) fn positive(&self, key: &str) -> Result<Option<f64>, GgufError> {
        match self.metadata().float(&self.name(key))? {
            None => Ok(None),
            Some(value) if value.is_finite() && value > 0.0 => Ok(Some(value)),
            Some(value) => Err(self.bad_value(key, value, "expected a finite number above zero")),
        }
    }

    /// As [`positive`](Self::positive), but 0 is how some writers say that there is none.
    pub(super) fn positive_or_zero(&self, key: &str) -> Result<Option<f64>, GgufError> {
        match self.metadata().float(&self.name(key))? {
            Some(0.0) => Ok(None),
            _ => self.positive(key),
        }
    }

    pub(super) fn missing(&self, key: &str) -> GgufError {
        self.metadata().error(GgufProblem::MissingKey { key: self.name(key) })
    }

    pub(super) fn bad_value(&self, key: &str, found: impl std::fmt::Display, expected: impl Into<String>) -> GgufError {
        self.metadata().bad_value(&self.name(key), found, expected)
    }
}
