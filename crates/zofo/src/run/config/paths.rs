//! `~` in paths, and paths that hold in any working folder.

use std::path::{Path, PathBuf};

/// Replaces a leading `~` or `~/` by the home folder; every other path stays as it is. `None` if
/// `home` is needed and missing.
///
/// `home` is a parameter, so that the caller decides where it comes from (`HOME`).
pub fn expand_home(path: &str, home: Option<&str>) -> Option<String> {
    match path.strip_prefix('~') {
        Some("") => home.map(str::to_owned),
        Some(rest) if rest.starts_with('/') => {
            home.map(|home| format!("{}/{}", home.trim_end_matches('/'), rest.trim_start_matches('/')))
        }
        _ => Some(path.to_owned()),
    }
}

/// `path` from the root, if that is UTF-8; else as it is.
pub(super) fn absolute(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).ok().filter(|path| path.to_str().is_some());
    absolute.unwrap_or_else(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_leading_tilde_is_expanded() {
        let expand = |path| expand_home(path, Some("/home/me")).unwrap();
        assert_eq!(expand("~"), "/home/me");
        assert_eq!(expand("~/models/x"), "/home/me/models/x");
        assert_eq!(expand("~//x"), "/home/me/x");
        assert_eq!(expand("~backup/x"), "~backup/x");
        assert_eq!(expand("a/~/b"), "a/~/b");
        assert_eq!(expand("/a"), "/a");
        assert_eq!(expand_home("~/x", Some("/")), Some("/x".to_owned()));
        assert_eq!(expand_home("~/x", None), None);
        assert_eq!(expand_home("x", None), Some("x".to_owned()));
    }
}
