//! The part of the cache that belongs to one repository, laid out as `huggingface_hub` does:
//!
//! ```text
//! models--org--name/             of a data set: datasets--org--name/
//!     refs/main                    the commit that the branch was at
//!     snapshots/COMMIT/FILE        a link to the content
//!     blobs/ETAG                   the content; ETAG.incomplete while it comes
//!     .no_exist/COMMIT/FILE        an empty file: the commit has no such FILE
//! .locks/models--org--name/ETAG.lock
//! ```

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    path::{Path, PathBuf},
};

use hf_hub::{Cache, CacheRepo, Repo, RepoType};

use super::{
    super::atomic::{FileError, failed_to, write_file_atomically},
    error::HubError,
    files::{self, CONFIG, Weights},
    id::{HubId, RepoKind, is_commit},
    progress::Watch,
};

/// The cached files of one repository.
#[derive(Debug)]
pub(super) struct RepositoryCache {
    repo: CacheRepo,
    folder: PathBuf,
    locks: PathBuf,
}

impl RepositoryCache {
    pub(super) fn new(cache: &Path, id: &HubId) -> Self {
        let repo = repo(id);
        let name = repo.folder_name();
        Self {
            folder: cache.join(&name),
            locks: cache.join(".locks").join(name),
            repo: Cache::new(cache.to_owned()).repo(repo),
        }
    }

    /// The folder of a commit's files.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.repo.pointer_path(commit)
    }

    /// A file of a commit, if it is there.
    pub(super) fn file(&self, commit: &str, name: &str) -> Option<PathBuf> {
        let path = self.snapshot(commit).join(name);
        path.exists().then_some(path)
    }

    /// The content of a file with this etag.
    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.repo.blob_path(etag)
    }

    /// The commit that a revision was at when it was last downloaded.
    pub(super) fn commit_of(&self, id: &HubId) -> Option<String> {
        if let Some(commit) = id.commit() {
            return Some(commit.to_owned());
        }
        let commit = fs::read_to_string(self.reference(id.revision())).ok()?;
        Some(commit.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// Notes the commit that a revision is at.
    pub(super) fn set_commit(&self, revision: &str, commit: &str) -> Result<(), FileError> {
        let path = self.reference(revision);
        create_parent(&path)?;
        write_file_atomically(&path, |writer| writer.write_all(commit.as_bytes()))
    }

    fn reference(&self, revision: &str) -> PathBuf {
        self.folder.join("refs").join(revision)
    }

    /// What a snapshot lacks to be a model; `None` if it is one. Small files that a model may do without are not missed.
    pub(super) fn lacks(&self, commit: &str) -> Option<String> {
        let has = |name: &str| self.file(commit, name).is_some();
        if !has(CONFIG) {
            return Some(CONFIG.to_owned());
        }
        match Weights::of(has) {
            None => Some("model.safetensors".to_owned()),
            Some(Weights::Whole(_)) => None,
            Some(Weights::Index(index)) => {
                let read = fs::read(self.snapshot(commit).join(index)).ok().and_then(|text| files::shards(&text).ok());
                match read {
                    None => Some(index.to_owned()),
                    Some(shards) => shards.into_iter().find(|shard| !has(shard)),
                }
            }
        }
    }

    /// Whether nothing that belongs to the model is left on the hub. Snapshots that other programs made may hold the
    /// weights and no tokenizer, so what is not there must be known not to exist.
    pub(super) fn is_complete(&self, commit: &str) -> bool {
        let is_known = |name: &&str| self.file(commit, name).is_some() || self.is_absent(commit, name);
        files::SMALL.iter().all(is_known) && self.lacks(commit).is_none()
    }

    /// Notes that a commit has no such file.
    pub(super) fn note_absent(&self, commit: &str, name: &str) -> Result<(), FileError> {
        let path = self.absence(commit, name);
        create_parent(&path)?;
        File::create(&path).map_err(failed_to("create", &path))?;
        Ok(())
    }

    /// Whether a commit is known to have no such file.
    pub(super) fn is_absent(&self, commit: &str, name: &str) -> bool {
        self.absence(commit, name).exists()
    }

    fn absence(&self, commit: &str, name: &str) -> PathBuf {
        self.folder.join(".no_exist").join(commit).join(name)
    }

    /// Gives the content with this etag its name in a commit.
    pub(super) fn link(&self, commit: &str, name: &str, etag: &str) -> Result<(), FileError> {
        let (path, blob) = (self.snapshot(commit).join(name), self.blob(etag));
        create_parent(&path)?;
        if path.is_symlink() {
            // It leads nowhere, or the file would not have been fetched.
            fs::remove_file(&path).map_err(failed_to("remove", &path))?;
        }
        // From snapshots/COMMIT/, and one step more for every folder in the name.
        let up = "../".repeat(2 + name.matches('/').count());
        let target = PathBuf::from(format!("{up}blobs/{etag}"));
        link_or_copy(&target, &path, &blob).map_err(failed_to("create", &path))
    }

    /// Waits until no other process writes the content with this etag. The lock ends with the returned file.
    pub(super) fn lock(&self, etag: &str, name: &str, watch: &mut Watch<'_>) -> Result<File, HubError> {
        let path = self.locks.join(format!("{etag}.lock"));
        create_parent(&path)?;
        let options = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let lock = options.map_err(failed_to("create", &path))?;
        let reason = format!("another process downloads {name}: waiting for it");
        watch.wait_for(&reason, || match lock.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(source)) => Err(FileError::new("lock", &path, source).into()),
        })?;
        Ok(lock)
    }
}

/// A repository in the words of the `hf-hub` crate, which knows how its folder and addresses are called.
pub(super) fn repo(id: &HubId) -> Repo {
    let kind = match id.kind() {
        RepoKind::Model | RepoKind::Adapter => RepoType::Model,
        RepoKind::Dataset => RepoType::Dataset,
    };
    Repo::with_revision(id.repository().to_owned(), kind, id.revision().to_owned())
}

pub(super) fn create_parent(path: &Path) -> Result<(), FileError> {
    match path.parent() {
        Some(parent) => fs::create_dir_all(parent).map_err(failed_to("create", parent)),
        None => Ok(()),
    }
}

/// Another process may have been faster, with the same content.
fn link_or_copy(target: &Path, path: &Path, blob: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    let linked = std::os::unix::fs::symlink(target, path);
    #[cfg(windows)]
    let linked = std::os::windows::fs::symlink_file(target, path);
    match linked {
        Err(_) if path.exists() => Ok(()),
        // Where links are not allowed.
        Err(_) => fs::copy(blob, path).map(drop),
        Ok(()) => Ok(()),
    }
}
