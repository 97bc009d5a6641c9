//! Models, adapters and data sets by their names on the Hugging Face Hub.
//!
//! [`Hub::fetch`] turns `org/name[@revision]` into a folder, and `org/name/file.gguf[@revision]` into a file, of the
//! cache that all of Hugging Face's programs share: what `transformers` downloaded is not downloaded again, and the
//! other way round. [`locate_model`] and [`locate_adapter`] are what commands call: a path that exists is taken as it is.
//!
//! Only what a model needs is fetched: its configuration, tokenizer, chat template, terms of use, and one form of its
//! weights; of an adapter, its configuration and weights. A download that ended, or was killed, goes on where it stopped. Every content is checked: the SHA-256 that
//! the hub names a large file by, git's hash of a small one, and the length of both.
//!
//! [`Hub::fetch_dataset`] does the same for the splits of a data set, of which the hub keeps Parquet files: they need no
//! program of the data set's author, and none is ever run.
//!
//! # What the `hf-hub` crate does here
//!
//! Its version 0.5 gives the layout of the cache ([`hf_hub::Cache`]), the addresses ([`hf_hub::Repo`]) and the
//! listing ([`hf_hub::api::RepoInfo`]). Transfers are made with `ureq` directly, because those of the crate verify no
//! checksum, continue a file also where the server sent it from the start, and give up the headers of a refusal, which say
//! which of repository, revision and file is missing and how long to wait after a 429. Version 1.0 of the crate needs
//! an asynchronous runtime and some 280 more crates, and its downloads over HTTP neither continue nor verify.

mod cache;
mod client;
mod dataset;
mod error;
mod files;
mod id;
mod locate;
mod progress;
mod retry;
mod settings;
mod snapshot;
mod transfer;

use std::path::PathBuf;

use self::{cache::RepositoryCache, client::Client, progress::Watch, snapshot::Snapshot};
pub use self::{
    dataset::{DatasetRequest, FetchedDataset},
    error::HubError,
    id::{HubId, NotAHubId, RepoKind},
    locate::{Located, is_hub_id, locate_adapter, locate_model},
    progress::{HubProgress, Watcher},
    settings::{HubSettings, RetryPolicy, Token},
};

/// A hub and the cache of what came from it.
#[derive(Clone, Debug)]
pub struct Hub {
    settings: HubSettings,
}

/// A model or an adapter that is in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The folder of the model or adapter, or the GGUF file. It is part of the cache and not to be written to.
    pub path: PathBuf,
    /// What was asked for, at the commit that it is.
    pub id: HubId,
}

impl Hub {
    /// With these settings.
    pub fn new(settings: HubSettings) -> Self {
        Self { settings }
    }

    /// With the settings of [`HubSettings::from_env`].
    pub fn from_env() -> Self {
        Self::new(HubSettings::from_env())
    }

    /// Brings a model or an adapter into the cache, as far as it is not there, and says where it is. For a commit that the cache has,
    /// nothing is asked of the hub.
    ///
    /// # Errors
    /// Whatever [`HubError`] says. What was downloaded until then is kept, and continued by the next call.
    pub fn fetch(&self, id: &HubId, watcher: Watcher<'_>) -> Result<Fetched, HubError> {
        let folder = self.cache_folder()?;
        let cache = RepositoryCache::new(folder, id);
        if self.settings.offline {
            return Snapshot::cached(&cache, id).map_err(|problem| HubError::Offline {
                id: id.clone(),
                cache: folder.clone(),
                problem,
            });
        }
        if let Some(commit) = id.commit() {
            let snapshot = Snapshot { cache: &cache, id, commit };
            if snapshot.is_complete() {
                return Ok(snapshot.fetched());
            }
        }
        let client = Client::new(&self.settings)?;
        snapshot::download(&client, &cache, id, &mut Watch(watcher))
            .map_err(|error| with_hint(error, || Snapshot::cached(&cache, id).map(|cached| cached.id)))
    }

    /// Brings splits of a data set into the cache, as far as they are not there, and says where their files are. For a
    /// commit and a configuration that the cache has, nothing is asked of the hub.
    ///
    /// # Errors
    /// Whatever [`HubError`] says. What was downloaded until then is kept, and continued by the next call.
    pub fn fetch_dataset(
        &self,
        request: &DatasetRequest<'_>,
        watcher: Watcher<'_>,
    ) -> Result<FetchedDataset, HubError> {
        let folder = self.cache_folder()?;
        let cache = RepositoryCache::new(folder, request.id);
        let cached = || dataset::cached(&cache, request);
        if self.settings.offline {
            return cached().map_err(|problem| HubError::Offline {
                id: request.id.clone(),
                cache: folder.clone(),
                problem,
            });
        }
        if request.id.commit().is_some()
            && request.config.is_some()
            && let Ok(fetched) = cached()
        {
            return Ok(fetched);
        }
        let client = Client::new(&self.settings)?;
        dataset::download(&client, &cache, request, &mut Watch(watcher))
            .map_err(|error| with_hint(error, || cached().map(|fetched| fetched.id)))
    }

    fn cache_folder(&self) -> Result<&PathBuf, HubError> {
        self.settings.cache.as_ref().ok_or_else(|| HubError::Setting {
            variable: "HF_HOME",
            problem: "is not set, and HOME is not either: set it to a folder for what is downloaded".to_owned(),
        })
    }
}

/// Adds to an error of the network what can be done without one.
fn with_hint(error: HubError, cached: impl FnOnce() -> Result<HubId, String>) -> HubError {
    match error {
        HubError::Network { url, source, .. } => {
            let hint = match cached() {
                Ok(id) => format!("; the cache has {id}: HF_HUB_OFFLINE=1 uses that"),
                Err(lacks) => format!("; the cache, which HF_HUB_OFFLINE=1 uses alone, {lacks}"),
            };
            HubError::Network { url, hint, source }
        }
        other => other,
    }
}
