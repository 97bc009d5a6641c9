//! What can go wrong between a hub id and files on this machine.

use std::{error::Error as StdError, path::PathBuf};

use super::{
    super::atomic::FileError,
    id::{HubId, RepoKind},
};

/// Why a model, an adapter or a data set of the hub is not there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// A variable of the environment cannot be used.
    #[error("{variable} {problem}")]
    Setting {
        /// The variable that can be set.
        variable: &'static str,
        /// What is wrong, and what to write.
        problem: String,
    },

    /// The cache does not have it, and nothing else may be used.
    #[error("{id}: HF_HUB_OFFLINE is set, and the cache {} {problem}: unset it once to download the {}", cache.display(), id.kind())]
    Offline {
        /// What was asked for.
        id: HubId,
        /// The cache.
        cache: PathBuf,
        /// What the cache lacks.
        problem: String,
    },

    /// There is no such repository, or it is hidden.
    #[error(
        "{} is {} on {endpoint}{}",
        id.repository(),
        match id.kind() {
            RepoKind::Model => "neither a file or folder here nor a model",
            RepoKind::Adapter => "neither a folder here nor an adapter",
            RepoKind::Dataset => "no data set",
        },
        if *with_token { " that your token may see" } else { " that everyone may see; for a private one, set HF_TOKEN" }
    )]
    NoRepository {
        /// What was asked for.
        id: HubId,
        /// The hub.
        endpoint: String,
        /// Whether the hub was told a token.
        with_token: bool,
    },

    /// The repository has no such branch, tag or commit.
    #[error(
        "{endpoint} has no branch, tag or commit \"{}\" of {}{}",
        id.revision(),
        id.repository(),
        match id.kind() {
            RepoKind::Dataset if id.is_default_revision() =>
                ", where the hub keeps the Parquet form of a data set that it could convert: download the data set's own \
                 files, and name their folder or file",
            _ => "",
        }
    )]
    NoRevision {
        /// What was asked for.
        id: HubId,
        /// The hub.
        endpoint: String,
    },

    /// The repository has no such file.
    #[error("{id}: the model has no file {file}{}", among(available))]
    NoFile {
        /// What was asked for.
        id: HubId,
        /// The file.
        file: String,
        /// Files that could be meant.
        available: Vec<String>,
    },

    /// The repository is not a model that can be loaded.
    #[error("{id}: there is no {missing} in it{}", among(gguf))]
    NoModel {
        /// What was asked for.
        id: HubId,
        /// What every model has.
        missing: &'static str,
        /// Its GGUF files, which can be named instead.
        gguf: Vec<String>,
    },

    /// The repository is not an adapter that can be loaded.
    #[error("{id}: there is no {missing} in it, so it is no adapter in PEFT's format (is it a model?)")]
    NoAdapter {
        /// What was asked for.
        id: HubId,
        /// What every adapter has.
        missing: &'static str,
    },

    /// The hub wants to know who asks, or does not let them.
    #[error(
        "{id}: {endpoint} refuses access ({status}): {}, and if there are terms to accept, do that on {endpoint}/{}{}{}",
        if *with_token { "set HF_TOKEN to a token that may read it" } else { "set HF_TOKEN to an access token" },
        if id.kind() == RepoKind::Dataset { "datasets/" } else { "" },
        id.repository(),
        if *with_token { "" } else { ". What does not exist may be refused like this, too" }
    )]
    Refused {
        /// What was asked for.
        id: HubId,
        /// The hub.
        endpoint: String,
        /// 401 or 403, with the hub's words.
        status: String,
        /// Whether the hub was told a token.
        with_token: bool,
    },

    /// Too many requests, for longer than is waited.
    #[error("{url}: the hub answers 429 Too Many Requests{}: try again later{}", asks(*seconds), token_hint(*with_token))]
    TooManyRequests {
        /// What was asked for.
        url: String,
        /// How long the hub says to wait.
        seconds: Option<u64>,
        /// Whether the hub was told a token.
        with_token: bool,
    },

    /// Any other answer that is not a success.
    #[error("{url}: the hub answers {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// The number, with the hub's words.
        status: String,
    },

    /// The hub cannot be reached, or stops in the middle, again and again.
    #[error("cannot read {url}{hint}")]
    Network {
        /// What was asked for.
        url: String,
        /// What can be done without a network, starting with a semicolon, or nothing.
        hint: String,
        /// Why.
        source: Box<dyn StdError + Send + Sync>,
    },

    /// An answer that the hub does not give.
    #[error("{url}: {problem}: is HF_ENDPOINT a hub?")]
    Protocol {
        /// What was asked for.
        url: String,
        /// What is wrong with the answer.
        problem: String,
    },

    /// The repository lists a file that would be written elsewhere.
    #[error("{id}: it lists the file {name:?}, which could be written outside of the cache: it is refused")]
    UnsafeName {
        /// What was asked for.
        id: HubId,
        /// The name.
        name: String,
    },

    /// The data set has no such configuration, or several of which one has to be named.
    #[error(
        "{id}: {}; it has {}",
        match wanted {
            Some(wanted) => format!("the data set has no configuration \"{wanted}\""),
            None => format!(
                "the data set has several configurations: name one, as hf://datasets/{}/{}",
                id.repository(),
                available.first().map_or("CONFIGURATION", String::as_str)
            ),
        },
        available.join(", ")
    )]
    NoConfiguration {
        /// The data set.
        id: HubId,
        /// What was asked for.
        wanted: Option<String>,
        /// Those that it has.
        available: Vec<String>,
    },

    /// The data set has no such split.
    #[error("{id}: the configuration \"{configuration}\" has no split \"{wanted}\"; it has {}", available.join(", "))]
    NoSplit {
        /// The data set.
        id: HubId,
        /// Its configuration.
        configuration: String,
        /// What was asked for.
        wanted: String,
        /// Those that it has.
        available: Vec<String>,
    },

    /// An index of shards that cannot be used.
    #[error("{id}: {file}: {problem}")]
    Index {
        /// What was asked for.
        id: HubId,
        /// The index.
        file: String,
        /// What is wrong with it.
        problem: String,
    },

    /// A file is not as long as the hub says.
    #[error("{url}: expected {expected} bytes, found {found}: what was downloaded is deleted; try again")]
    WrongLength {
        /// The file.
        url: String,
        /// By the hub.
        expected: u64,
        /// In the answer.
        found: u64,
    },

    /// A file is not what the hub says.
    #[error("{url}: expected the {algorithm} {expected}, found {found}: what was downloaded is deleted; try again")]
    WrongChecksum {
        /// The file.
        url: String,
        /// Which checksum.
        algorithm: &'static str,
        /// By the hub.
        expected: String,
        /// Of what came.
        found: String,
    },

    /// A file of the cache cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),

    /// The caller asked to stop.
    #[error("interrupted while downloading; the same command goes on where it stopped")]
    Interrupted,
}

fn among(names: &[String]) -> String {
    match names {
        [] => String::new(),
        names => format!("; its GGUF files, which are named as org/name/file.gguf: {}", names.join(", ")),
    }
}

fn asks(seconds: Option<u64>) -> String {
    seconds.map_or_else(String::new, |seconds| format!(" and asks to wait {seconds} s"))
}

fn token_hint(with_token: bool) -> &'static str {
    if with_token { "" } else { ", or set HF_TOKEN, which may ask more often" }
}
