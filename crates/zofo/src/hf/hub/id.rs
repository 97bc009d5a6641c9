//! Names of models and data sets on the hub.

use std::{fmt, str::FromStr};

/// What a repository has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepoKind {
    /// A model.
    Model,
    /// An adapter in PEFT's format, which the hub keeps among the models.
    Adapter,
    /// A data set, in the form of Parquet files that the hub makes of every one that it can read.
    Dataset,
}

impl RepoKind {
    /// The branch that is meant where no revision is given.
    fn default_revision(self) -> &'static str {
        match self {
            Self::Model | Self::Adapter => "main",
            Self::Dataset => "refs/convert/parquet",
        }
    }
}

impl fmt::Display for RepoKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Model => "model",
            Self::Adapter => "adapter",
            Self::Dataset => "data set",
        })
    }
}

/// The longest organisation or model name that the hub gives out.
const LONGEST_NAME: usize = 96;

/// A model on the hub: `org/name`, a GGUF file in one: `org/name/file.gguf`, each with an optional `@revision`, which is a
/// branch, a tag or a commit.
///
/// Names are those that the hub gives out (letters, digits, `-`, `_`, `.`), so a path with a leading `/`, `.` or `~`
/// is never one, and neither is `folder/model.gguf`.
///
/// A text is parsed as a model's name; [`HubId::adapter`] and [`HubId::dataset`] make those of other things.
#[derive(Clone, Debug, PartialEq, Eq)]
// Boxed, because every error of the hub holds one.
pub struct HubId(Box<Parts>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Parts {
    kind: RepoKind,
    /// `org/name`.
    repository: String,
    file: Option<String>,
    revision: Option<String>,
}

/// A text that is not a [`HubId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected org/name[@revision] or org/name/file.gguf[@revision]")]
pub struct NotAHubId;

impl HubId {
    /// The data set of this name, `org/name[@revision]`.
    ///
    /// # Errors
    /// It is no such name.
    pub fn dataset(text: &str) -> Result<Self, NotAHubId> {
        Self::whole_repository(RepoKind::Dataset, text)
    }

    /// The adapter of this name, `org/name[@revision]`.
    ///
    /// # Errors
    /// It is no such name.
    pub fn adapter(text: &str) -> Result<Self, NotAHubId> {
        Self::whole_repository(RepoKind::Adapter, text)
    }

    fn whole_repository(kind: RepoKind, text: &str) -> Result<Self, NotAHubId> {
        let (repository, revision) = split_revision(text);
        let is_id = repository.split_once('/').is_some_and(|(org, name)| is_name(org) && is_name(name))
            && revision.is_none_or(is_safe_path);
        if !is_id {
            return Err(NotAHubId);
        }
        let (repository, revision) = (repository.to_owned(), revision.map(str::to_owned));
        Ok(Self(Box::new(Parts { kind, repository, file: None, revision })))
    }

    /// What it names.
    pub fn kind(&self) -> RepoKind {
        self.0.kind
    }

    /// `org/name`.
    pub fn repository(&self) -> &str {
        &self.0.repository
    }

    /// The GGUF file in the repository; `None` for the model folder that the repository is.
    pub fn file(&self) -> Option<&str> {
        self.0.file.as_deref()
    }

    /// The branch, tag or commit; if none is given, `main`, and of a data set `refs/convert/parquet`.
    pub fn revision(&self) -> &str {
        self.0.revision.as_deref().unwrap_or(self.0.kind.default_revision())
    }

    /// Whether the revision is the one that is meant where none is given.
    pub fn is_default_revision(&self) -> bool {
        self.revision() == self.0.kind.default_revision()
    }

    /// The commit, if the revision is one: it always names the same files.
    pub fn commit(&self) -> Option<&str> {
        self.0.revision.as_deref().filter(|revision| is_commit(revision))
    }

    /// The same at this revision.
    #[must_use]
    pub fn at(&self, revision: &str) -> Self {
        let parts = Parts { revision: Some(revision.to_owned()), ..(*self.0).clone() };
        Self(Box::new(parts))
    }
}

impl FromStr for HubId {
    type Err = NotAHubId;

    fn from_str(text: &str) -> Result<Self, NotAHubId> {
        let (path, revision) = split_revision(text);
        let mut parts = path.splitn(3, '/');
        let (Some(org), Some(name)) = (parts.next(), parts.next()) else { return Err(NotAHubId) };
        let file = parts.next();
        let is_id = is_name(org)
            && is_name(name)
            && !is_gguf(name)
            && file.is_none_or(|file| is_gguf(file) && is_safe_path(file))
            && revision.is_none_or(is_safe_path);
        if !is_id {
            return Err(NotAHubId);
        }
        Ok(Self(Box::new(Parts {
            kind: RepoKind::Model,
            repository: format!("{org}/{name}"),
            file: file.map(str::to_owned),
            revision: revision.map(str::to_owned),
        })))
    }
}

impl fmt::Display for HubId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.repository())?;
        if let Some(file) = self.file() {
            write!(formatter, "/{file}")?;
        }
        match &self.0.revision {
            Some(revision) => write!(formatter, "@{revision}"),
            None => Ok(()),
        }
    }
}

fn split_revision(text: &str) -> (&str, Option<&str>) {
    match text.split_once('@') {
        Some((path, revision)) => (path, Some(revision)),
        None => (text, None),
    }
}

/// Whether `text` is a whole commit hash.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether `name` ends like a GGUF file's.
pub(super) fn is_gguf(name: &str) -> bool {
    name.len() > 5 && name.to_ascii_lowercase().ends_with(".gguf")
}

/// Whether `path` can be put into a URL as it is and stays inside the folder that it is joined to.
pub(super) fn is_safe_path(path: &str) -> bool {
    path.split('/').all(|part| {
        !matches!(part, "" | "." | "..")
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.+=".contains(&byte))
    })
}

/// The hub's rule for names of organisations and models.
fn is_name(name: &str) -> bool {
    let is_edge = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let bytes = name.as_bytes();
    bytes.len() <= LONGEST_NAME
        && bytes.first().is_some_and(|&byte| is_edge(byte))
        && bytes.last().is_some_and(|&byte| is_edge(byte))
        && bytes.iter().all(|&byte| is_edge(byte) || byte == b'-' || byte == b'.')
        && !name.contains("--")
        && !name.contains("..")
        && !name.ends_with(".git")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_files_and_revisions() {
        let id: HubId = "HuggingFaceTB/SmolLM2-135M".parse().unwrap();
        assert_eq!((id.repository(), id.file(), id.revision()), ("HuggingFaceTB/SmolLM2-135M", None, "main"));
        assert_eq!(id.commit(), None);
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let pinned = id.at(commit);
        assert_eq!(pinned.to_string(), format!("HuggingFaceTB/SmolLM2-135M@{commit}"));
        assert_eq!(pinned.to_string().parse::<HubId>().unwrap().commit(), Some(commit));

        let id: HubId = "org/repo/sub/model.Q4_K_M.gguf@refs/pr/3".parse().unwrap();
        assert_eq!((id.repository(), id.file()), ("org/repo", Some("sub/model.Q4_K_M.gguf")));
        assert_eq!((id.revision(), id.commit()), ("refs/pr/3", None));
        assert_eq!(id.to_string(), "org/repo/sub/model.Q4_K_M.gguf@refs/pr/3");
    }

    #[test]
    fn data_sets() {
        let id = HubId::dataset("nyu-mll/glue").unwrap();
        assert_eq!(
            (id.kind(), id.repository(), id.revision()),
            (RepoKind::Dataset, "nyu-mll/glue", "refs/convert/parquet")
        );
        assert!(id.is_default_revision() && id.commit().is_none());
        let pinned = id.at("0123456789abcdef0123456789abcdef01234567");
        assert_eq!(HubId::dataset(&pinned.to_string()).unwrap(), pinned);
        for text in ["glue", "org/name/x.gguf", "/org/name", "org/na me", "org/name@", "org/name@../x", ""] {
            assert_eq!(HubId::dataset(text), Err(NotAHubId), "{text}");
        }
    }

    #[test]
    fn adapters() {
        let id = HubId::adapter("org/name@v1").unwrap();
        assert_eq!((id.kind(), id.repository(), id.revision()), (RepoKind::Adapter, "org/name", "v1"));
        assert_eq!(HubId::adapter("org/name").unwrap().revision(), "main");
        for text in ["name", "org/name/x.gguf", "./name", "runs/demo/adapter", ""] {
            assert_eq!(HubId::adapter(text), Err(NotAHubId), "{text}");
        }
    }

    #[test]
    fn paths_are_no_ids() {
        for text in [
            "",
            "model",
            "model.gguf",
            "models/model.gguf",
            "/org/name",
            "./name",
            "../name",
            "~/name",
            "org/",
            "org//name",
            "org/name/",
            "org/name/config.json",
            "org/name/../x.gguf",
            "org/name/.gguf",
            "org/na me",
            "org/-name",
            "org/name.",
            "org/a--b",
            "org/a..b",
            "org/name.git",
            "org/name@",
            "org/name@../x",
            "org/name@/x",
            "org/name@a b",
            "org/name@a?b",
            "org/näme",
        ] {
            assert_eq!(text.parse::<HubId>(), Err(NotAHubId), "{text}");
        }
        assert_eq!(format!("org/{}", "x".repeat(97)).parse::<HubId>(), Err(NotAHubId));
    }
}
