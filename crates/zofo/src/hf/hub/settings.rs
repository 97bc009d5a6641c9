//! Where the hub is, where its files are kept, and who asks.

use std::{
    env,
    ffi::OsString,
    fmt, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::run::config::expand_home;

/// The hub itself; `HF_ENDPOINT` names a mirror.
const ENDPOINT: &str = "https://huggingface.co";

/// What a [`Hub`](super::Hub) is told.
#[derive(Clone, Debug)]
pub struct HubSettings {
    /// The folder of the cache, in the layout of `huggingface_hub`. `None` if there is no home folder to put it in.
    pub cache: Option<PathBuf>,
    /// The address of the hub, with or without a slash at its end.
    pub endpoint: String,
    /// The access token, if the user has one.
    pub token: Option<Token>,
    /// Whether only the cache may be used.
    pub offline: bool,
    /// How often and how patiently a request is repeated.
    pub retry: RetryPolicy,
}

/// A secret that no message shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// This token.
    pub fn new(token: impl Into<String>) -> Self {
        Self(token.into())
    }

    /// The token itself.
    pub fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token(…)")
    }
}

/// When requests that failed for a passing reason are made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries without success in a row after which the error is reported; a part of a file is a success. At least 1.
    pub tries: u32,
    /// The pause after the first one, which doubles from one to the next.
    pub first_pause: Duration,
    /// The longest pause, also where the hub asks for a longer one: then the error is reported at once.
    pub longest_pause: Duration,
}

impl Default for RetryPolicy {
    /// Five tries within 8 s; pauses that the hub asks for, up to the five minutes over which it counts requests.
    fn default() -> Self {
        Self { tries: 5, first_pause: Duration::from_millis(500), longest_pause: Duration::from_secs(310) }
    }
}

impl HubSettings {
    /// What the environment says, by the variables of `huggingface_hub`: `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`,
    /// `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HUB_OFFLINE`, and those that older versions of it had.
    pub fn from_env() -> Self {
        Self::from_variables(|name| env::var_os(name))
    }

    /// As [`from_env`](Self::from_env), with another environment.
    pub fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let text = |name: &str| set(name).and_then(|value| value.into_string().ok());
        let user = set("HOME").map(PathBuf::from);
        let path = |name: &str| {
            let value = set(name)?;
            // `~` reaches us where a shell did not expand it, as in a service's configuration.
            let expanded = value.to_str().and_then(|value| expand_home(value, user.as_ref()?.to_str()));
            Some(expanded.map_or_else(|| PathBuf::from(&value), PathBuf::from))
        };
        let home = path("HF_HOME").or_else(|| {
            let caches = path("XDG_CACHE_HOME").or_else(|| Some(user.as_ref()?.join(".cache")))?;
            Some(caches.join("huggingface"))
        });
        let cache =
            path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE")).or_else(|| Some(home.as_ref()?.join("hub")));
        let token_file = path("HF_TOKEN_PATH").or_else(|| Some(home.as_ref()?.join("token")));
        let token = text("HF_TOKEN")
            .or_else(|| text("HUGGING_FACE_HUB_TOKEN"))
            .map(|token| token.trim().to_owned())
            .filter(|token| !token.is_empty())
            .or_else(|| stored_token(&token_file?));
        Self {
            cache,
            endpoint: text("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned()),
            token: token.map(Token),
            offline: text("HF_HUB_OFFLINE").or_else(|| text("TRANSFORMERS_OFFLINE")).is_some_and(|text| is_yes(&text)),
            retry: RetryPolicy::default(),
        }
    }
}

/// The token that `hf auth login` wrote. One that cannot be read is no token: the hub then says if one is needed.
fn stored_token(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    Some(text.trim().to_owned()).filter(|token| !token.is_empty())
}

fn is_yes(text: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].contains(&text.to_ascii_uppercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> HubSettings {
        HubSettings::from_variables(|name| {
            variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn the_cache_is_where_hugging_face_has_it() {
        let cache = |variables: &[(&str, &str)]| settings(variables).cache.map(|path| path.display().to_string());
        let home = ("HOME", "/home/me");
        assert_eq!(cache(&[home]).unwrap(), "/home/me/.cache/huggingface/hub");
        assert_eq!(cache(&[home, ("XDG_CACHE_HOME", "/c")]).unwrap(), "/c/huggingface/hub");
        assert_eq!(cache(&[home, ("XDG_CACHE_HOME", "/c"), ("HF_HOME", "~/hf")]).unwrap(), "/home/me/hf/hub");
        assert_eq!(cache(&[("HF_HOME", "/hf"), ("HUGGINGFACE_HUB_CACHE", "/old")]).unwrap(), "/old");
        assert_eq!(cache(&[("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HUB_CACHE", "/new")]).unwrap(), "/new");
        assert_eq!(cache(&[home, ("HF_HOME", "")]).unwrap(), "/home/me/.cache/huggingface/hub");
        assert_eq!(cache(&[]), None);
    }

    #[test]
    fn tokens_come_from_the_environment_or_a_file_and_are_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        assert_eq!(settings(&[("HF_HOME", home)]).token, None);
        fs::write(folder.path().join("token"), "hf_stored\n").unwrap();
        assert_eq!(settings(&[("HF_HOME", home)]).token, Some(Token::new("hf_stored")));
        assert_eq!(settings(&[("HF_HOME", home), ("HF_TOKEN", " hf_given ")]).token, Some(Token::new("hf_given")));
        assert_eq!(settings(&[("HF_HOME", home), ("HF_TOKEN", " ")]).token, Some(Token::new("hf_stored")));
        let elsewhere = folder.path().join("other");
        fs::write(&elsewhere, "hf_other").unwrap();
        let other = settings(&[("HF_HOME", home), ("HF_TOKEN_PATH", elsewhere.to_str().unwrap())]);
        assert_eq!(other.token, Some(Token::new("hf_other")));
        assert!(!format!("{other:?}").contains("hf_other"));
    }

    #[test]
    fn the_endpoint_and_offline() {
        assert_eq!(settings(&[]).endpoint, ENDPOINT);
        assert_eq!(settings(&[("HF_ENDPOINT", "http://mirror/")]).endpoint, "http://mirror/");
        assert!(!settings(&[]).offline && !settings(&[("HF_HUB_OFFLINE", "0")]).offline);
        assert!(settings(&[("HF_HUB_OFFLINE", "1")]).offline && settings(&[("TRANSFORMERS_OFFLINE", "true")]).offline);
    }
}
