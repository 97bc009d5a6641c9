//! A model or an adapter at one commit: what of it the cache has, and bringing the rest.

use std::fs;

use hf_hub::api::RepoInfo;

use super::{
    super::atomic::failed_to,
    Fetched,
    cache::{RepositoryCache, repo},
    client::Client,
    error::HubError,
    files::{self, CONFIG, Weights},
    id::{HubId, RepoKind, is_commit},
    progress::Watch,
    transfer,
};

/// A model, one GGUF file, or an adapter, at one commit.
#[derive(Clone, Copy)]
pub(super) struct Snapshot<'a> {
    pub(super) cache: &'a RepositoryCache,
    pub(super) id: &'a HubId,
    pub(super) commit: &'a str,
}

impl Snapshot<'_> {
    /// What the cache has of `id`, by the commit that its revision was last seen at.
    ///
    /// # Errors
    /// What the cache has or lacks, in words.
    pub(super) fn cached(cache: &RepositoryCache, id: &HubId) -> Result<Fetched, String> {
        let commit = cache.commit_of(id).ok_or_else(|| "does not have it".to_owned())?;
        let snapshot = Snapshot { cache, id, commit: &commit };
        match snapshot.lacks() {
            None => Ok(snapshot.fetched()),
            Some(file) => Err(format!("has no {file} of its commit {commit}")),
        }
    }

    /// The first file that is needed and not in the cache.
    fn lacks(&self) -> Option<String> {
        let has = |name: &str| self.cache.file(self.commit, name).is_some();
        match (self.id.kind(), self.id.file()) {
            (_, Some(file)) => (!has(file)).then(|| file.to_owned()),
            (RepoKind::Adapter, None) => files::adapter_files(has).err().map(str::to_owned),
            (RepoKind::Model | RepoKind::Dataset, None) => self.cache.lacks(self.commit),
        }
    }

    /// Whether there is nothing left to download.
    pub(super) fn is_complete(&self) -> bool {
        match (self.id.kind(), self.id.file()) {
            (RepoKind::Model, None) => self.cache.is_complete(self.commit),
            _ => self.lacks().is_none(),
        }
    }

    /// Brings one file, if the cache lacks it.
    pub(super) fn fetch(&self, client: &Client, name: &str, watch: &mut Watch<'_>) -> Result<(), HubError> {
        let Snapshot { cache, id, commit } = *self;
        if cache.file(commit, name).is_some() {
            return Ok(());
        }
        let file = client.describe(id, commit, name, watch)?;
        transfer::download(client, cache, id, name, &file, watch)?;
        Ok(cache.link(commit, name, &file.etag)?)
    }

    pub(super) fn fetched(&self) -> Fetched {
        let folder = self.cache.snapshot(self.commit);
        let path = self.id.file().map_or_else(|| folder.clone(), |file| folder.join(file));
        Fetched { path, id: self.id.at(self.commit) }
    }
}

/// Asks the hub where the revision is, and brings what the cache lacks of that commit.
pub(super) fn download(
    client: &Client,
    cache: &RepositoryCache,
    id: &HubId,
    watch: &mut Watch<'_>,
) -> Result<Fetched, HubError> {
    let listing = listing(client, id, watch)?;
    let snapshot = Snapshot { cache, id, commit: &listing.sha };
    if !snapshot.is_complete() {
        Download { client, snapshot, names: listing.siblings.iter().map(|file| file.rfilename.as_str()).collect() }
            .run(watch)?;
    }
    // Only now: until then, what an earlier download brought is the better answer to who is offline.
    if id.commit().is_none() {
        cache.set_commit(id.revision(), &listing.sha)?;
    }
    Ok(snapshot.fetched())
}

/// The commit of a revision and the files in it.
pub(super) fn listing(client: &Client, id: &HubId, watch: &mut Watch<'_>) -> Result<RepoInfo, HubError> {
    let path = repo(id).api_url();
    let text = client.api(id, &path, watch)?;
    let protocol = |problem: String| HubError::Protocol { url: format!("{}/api/{path}", client.endpoint()), problem };
    let listing: RepoInfo = serde_json::from_slice(&text)
        .map_err(|error| protocol(format!("expected a {}'s commit and list of files: {error}", id.kind())))?;
    if !is_commit(&listing.sha) || id.commit().is_some_and(|commit| commit != listing.sha) {
        let expected = id.commit().unwrap_or("a commit");
        return Err(protocol(format!("expected {expected}, found \"{}\"", listing.sha)));
    }
    match listing.siblings.iter().find(|file| files::escapes(&file.rfilename)) {
        Some(file) => Err(HubError::UnsafeName { id: id.clone(), name: file.rfilename.clone() }),
        None => Ok(listing),
    }
}

struct Download<'a> {
    client: &'a Client,
    snapshot: Snapshot<'a>,
    /// The files of the repository.
    names: Vec<&'a str>,
}

impl Download<'_> {
    fn run(&self, watch: &mut Watch<'_>) -> Result<(), HubError> {
        let Snapshot { cache, id, commit } = self.snapshot;
        if let Some(file) = id.file() {
            if !self.has(file) {
                return Err(HubError::NoFile { id: id.clone(), file: file.to_owned(), available: self.gguf_files() });
            }
            return self.fetch(file, watch);
        }
        if id.kind() == RepoKind::Adapter {
            let missing = |missing| HubError::NoAdapter { id: id.clone(), missing };
            let files = files::adapter_files(|name| self.has(name)).map_err(missing)?;
            let terms = self.names.iter().copied().filter(|name| files::is_terms(name));
            return terms.chain(files).try_for_each(|name| self.fetch(name, watch));
        }
        if !self.has(CONFIG) {
            return Err(self.no_model(CONFIG));
        }
        let weights = Weights::of(|name| self.has(name)).ok_or_else(|| self.no_model("model.safetensors"))?;
        // What says whether the model can be used comes before what takes long.
        for name in self.names.iter().filter(|name| files::is_small_file(name)) {
            self.fetch(name, watch)?;
        }
        for name in files::SMALL.into_iter().filter(|name| !self.has(name)) {
            cache.note_absent(commit, name)?;
        }
        match weights {
            Weights::Whole(file) => self.fetch(file, watch),
            Weights::Index(index) => {
                self.fetch(index, watch)?;
                self.shards(index)?.iter().try_for_each(|shard| self.fetch(shard, watch))
            }
        }
    }

    fn has(&self, name: &str) -> bool {
        self.names.contains(&name)
    }

    fn fetch(&self, name: &str, watch: &mut Watch<'_>) -> Result<(), HubError> {
        self.snapshot.fetch(self.client, name, watch)
    }

    /// The shards that an index names.
    fn shards(&self, index: &str) -> Result<Vec<String>, HubError> {
        let Snapshot { cache, id, commit } = self.snapshot;
        let path = cache.snapshot(commit).join(index);
        let text = fs::read(&path).map_err(failed_to("read", &path))?;
        let problem = |problem| HubError::Index { id: id.clone(), file: index.to_owned(), problem };
        let shards = files::shards(&text).map_err(problem)?;
        match shards.iter().find(|shard| !self.has(shard)) {
            Some(absent) => Err(problem(format!("it names {absent}, which the model does not have"))),
            None => Ok(shards.into_iter().collect()),
        }
    }

    fn no_model(&self, missing: &'static str) -> HubError {
        HubError::NoModel { id: self.snapshot.id.clone(), missing, gguf: self.gguf_files() }
    }

    fn gguf_files(&self) -> Vec<String> {
        files::gguf_files(self.names.iter().copied())
    }
}
