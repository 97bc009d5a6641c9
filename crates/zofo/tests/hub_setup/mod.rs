//! A hub, a cache for what comes from it, and a model that it has.

// Every test binary uses a part of it.
#![allow(dead_code)]

use std::{
    collections::BTreeSet,
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    time::Duration,
};

use super::hub_server::{Repo, Server};
use tempfile::TempDir;
use zofo::hf::hub::{Fetched, Hub, HubError, HubSettings, RetryPolicy};

pub const COMMIT: &str = "1111111111111111111111111111111111111111";
pub const LATER: &str = "2222222222222222222222222222222222222222";
pub const WEIGHTS: &str = "model.safetensors";

/// A megabyte that is no two bytes alike where they are mixed up.
pub fn weights() -> Vec<u8> {
    (0..1_000_000u32).flat_map(|i| [i as u8 ^ (i >> 8) as u8]).collect()
}

pub fn small_files() -> [(&'static str, &'static [u8]); 4] {
    [
        ("config.json", b"{}"),
        ("tokenizer.json", b"{\"a\": 1}"),
        ("LICENSE", b"do what you like"),
        ("README.md", b"# Tiny"),
    ]
}

pub fn repo() -> Repo {
    let weights = weights();
    let mut files = small_files().to_vec();
    files.push((WEIGHTS, &weights));
    Repo::new(COMMIT, &files)
}

/// A server, and a cache for what comes from it.
pub struct Setup {
    pub server: Server,
    pub cache: TempDir,
}

impl Setup {
    pub fn new(repo: Repo) -> Self {
        Self { server: Server::start(repo), cache: tempfile::tempdir().unwrap() }
    }

    pub fn settings(&self) -> HubSettings {
        HubSettings {
            cache: Some(self.cache.path().to_owned()),
            endpoint: self.server.endpoint(),
            token: None,
            offline: false,
            retry: RetryPolicy {
                tries: 3,
                first_pause: Duration::from_millis(1),
                longest_pause: Duration::from_millis(1500),
            },
        }
    }

    pub fn fetch(&self, id: &str) -> Result<Fetched, HubError> {
        fetch(self.settings(), id)
    }

    /// Fails unless fetching fails with a message that has all of `words`.
    #[track_caller]
    pub fn refused(&self, id: &str, words: &[&str]) -> HubError {
        let error = self.fetch(id).unwrap_err();
        let text = error.to_string();
        for word in words {
            assert!(text.contains(word), "expected \"{word}\" in: {text}");
        }
        error
    }

    /// The folder of the model in the cache.
    pub fn folder(&self) -> PathBuf {
        self.cache.path().join("models--acme--tiny")
    }

    /// Where the content of the weights is, and what is there while it comes.
    pub fn blob(&self) -> [PathBuf; 2] {
        use sha2::Digest;
        let etag: String = sha2::Sha256::digest(weights()).iter().map(|byte| format!("{byte:02x}")).collect();
        [self.folder().join("blobs").join(&etag), self.folder().join("blobs").join(format!("{etag}.incomplete"))]
    }

    /// The requests for the content of the weights since the last call of this or of `server.requests`.
    pub fn transfers(&self) -> Vec<String> {
        let requests = self.server.requests();
        let transfers = requests.iter().filter(|request| request.starts_with("GET /storage/"));
        transfers
            .map(|request| request.split_once(' ').unwrap().1.split_once(' ').map_or("whole", |r| r.1).to_owned())
            .collect()
    }
}

pub fn fetch(settings: HubSettings, id: &str) -> Result<Fetched, HubError> {
    Hub::new(settings).fetch(&id.parse().unwrap(), &mut |_| ControlFlow::Continue(()))
}

pub fn names(folder: &Path) -> BTreeSet<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

pub fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}
