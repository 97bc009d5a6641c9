//! What can be wrong with a configuration.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// An error of the configuration file or of an overlay.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },

    /// The file is not TOML.
    #[error("{file}: {reason}")]
    Syntax {
        /// The file.
        file: String,
        /// What the parser says, with line and column.
        reason: String,
    },

    /// An overlay has no `=`, or nothing before it.
    #[error("--set {text}: expected key=value, such as --set inner.lr=1e-3")]
    Overlay {
        /// The overlay.
        text: String,
    },

    /// A section that does not exist.
    #[error("{place}: unknown section [{section}]; the nearest known one is [{nearest}]")]
    UnknownSection {
        /// File and line.
        place: String,
        /// The section.
        section: String,
        /// The known one that is spelled most like it.
        nearest: String,
    },

    /// A key that does not exist.
    #[error("{place}: unknown key `{key}`; the nearest known one is `{nearest}`")]
    UnknownKey {
        /// File and line, or the overlay.
        place: String,
        /// The key, with its section.
        key: String,
        /// The known one that is spelled most like it.
        nearest: String,
    },

    /// A value of the wrong type, or out of range.
    #[error("{place}: `{key}` must be {expected}, found {found}")]
    Value {
        /// File and line, or the overlay.
        place: String,
        /// The key, with its section.
        key: String,
        /// What it takes.
        expected: String,
        /// What it was given.
        found: String,
    },

    /// A word that is not one of those that the key takes.
    #[error("{place}: `{key}` must be one of {}, found \"{found}\" (did you mean \"{nearest}\"?)", quoted(.valid))]
    UnknownValue {
        /// File and line, or the overlay.
        place: String,
        /// The key, with its section.
        key: String,
        /// What it was given.
        found: String,
        /// What it takes.
        valid: Vec<&'static str>,
        /// The valid one that is spelled most like it.
        nearest: &'static str,
    },

    /// A value that means something, but not to this build.
    #[error("{place}: `{key}` = \"{value}\" is not supported {advice}")]
    NotSupported {
        /// File and line, or the overlay.
        place: String,
        /// The key, with its section.
        key: String,
        /// What it was given.
        value: String,
        /// Since when or where, and what to use instead.
        advice: String,
    },

    /// A key without a default is not set.
    #[error("{file}: `{key}` is not set: {advice}")]
    Missing {
        /// The file.
        file: String,
        /// The key, or keys, with section.
        key: String,
        /// What to write.
        advice: String,
    },

    /// A path begins with `~`, but there is no home folder.
    #[error(
        "{place}: cannot expand `~` in `{key}`, because the environment variable HOME is not set, or not UTF-8: write the whole path"
    )]
    NoHome {
        /// File and line, or the overlay.
        place: String,
        /// The key, with its section.
        key: String,
    },

    /// The resolved configuration has no TOML form.
    #[error("cannot write the configuration as TOML: {reason}")]
    Write {
        /// What the writer says.
        reason: String,
    },
}

fn quoted(words: &[&str]) -> String {
    format!("\"{}\"", words.join("\", \""))
}
