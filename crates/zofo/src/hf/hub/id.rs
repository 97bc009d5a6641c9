//! Names of models on the hub.

use std::{fmt, str::FromStr};

/// The branch that is meant where no revision is given.
const DEFAULT_REVISION: &str = "main";

/// The longest organisation or model name that the hub gives out.
const LONGEST_NAME: usize = 96;

/// A model on the hub: `org/name`, a GGUF file in one: `org/name/file.gguf`, each with an optional `@revision`, which is a
/// branch, a tag or a commit.
///
/// Names are those that the hub gives out (letters, digits, `-`, `_`, `.`), so a path with a leading `/`, `.` or `~`
/// is never one, and neither is `folder/model.gguf`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubId {
    // Boxed, because every error of the hub holds one.
    /// `org/name`.
    repository: Box<str>,
    file: Option<Box<str>>,
    revision: Option<Box<str>>,
}

/// A text that is not a [`HubId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected org/name[@revision] or org/name/file.gguf[@revision]")]
pub struct NotAHubId;

impl HubId {
    /// `org/name`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The GGUF file in the repository; `None` for the model folder that the repository is.
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    /// The branch, tag or commit; `main` if none is given.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(DEFAULT_REVISION)
    }

    /// Whether the revision is the one that is meant where none is given.
    pub(super) fn is_default_revision(&self) -> bool {
        self.revision() == DEFAULT_REVISION
    }

    /// The commit, if the revision is one: it always names the same files.
    pub fn commit(&self) -> Option<&str> {
        self.revision.as_deref().filter(|revision| is_commit(revision))
    }

    /// The same at this revision.
    #[must_use]
    pub fn at(&self, revision: &str) -> Self {
        Self { revision: Some(revision.into()), ..self.clone() }
    }
}

impl FromStr for HubId {
    type Err = NotAHubId;

    fn from_str(text: &str) -> Result<Self, NotAHubId> {
        let (path, revision) = match text.split_once('@') {
            Some((path, revision)) => (path, Some(revision)),
            None => (text, None),
        };
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
        Ok(Self {
            repository: format!("{org}/{name}").into(),
            file: file.map(Into::into),
            revision: revision.map(Into::into),
        })
    }
}

impl fmt::Display for HubId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.repository)?;
        if let Some(file) = &self.file {
            write!(formatter, "/{file}")?;
        }
        match &self.revision {
            Some(revision) => write!(formatter, "@{revision}"),
            None => Ok(()),
        }
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
