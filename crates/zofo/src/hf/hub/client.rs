//! Requests to the hub: who asks, where redirections lead, and what an answer means.

use std::time::Duration;

use ureq::{
    Agent, Body,
    http::{HeaderMap, Method, Response, StatusCode, Uri, header},
};

use super::{
    cache::repo,
    error::HubError,
    id::HubId,
    progress::Watch,
    retry::{Failure, retrying},
    settings::{HubSettings, RetryPolicy, Token},
};

/// Until a connection stands.
const CONNECT: Duration = Duration::from_secs(20);
/// Until the next byte comes; after that the connection counts as lost.
const STALL: Duration = Duration::from_secs(60);
const MOST_REDIRECTIONS: usize = 10;
/// Longest description of a repository: 64 MiB.
const LONGEST_LISTING: u64 = 64 << 20;

/// How far redirections are followed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Follow {
    /// Those of renamed repositories, which stay on the host; not those to the storage of large files, because what the
    /// hub says of the file comes with them.
    OnHost,
    /// All.
    Anywhere,
}

/// What the hub says of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RemoteFile {
    pub(super) url: String,
    /// Names the content: the SHA-256 of a large file, git's hash of a small one.
    pub(super) etag: String,
    pub(super) bytes: u64,
}

/// One hub, asked by one user.
#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<Token>,
    retry: RetryPolicy,
}

impl Client {
    pub(super) fn new(settings: &HubSettings) -> Result<Self, HubError> {
        let endpoint = settings.endpoint.trim_end_matches('/').to_owned();
        let is_address = endpoint.parse::<Uri>().is_ok_and(|uri| {
            uri.host().is_some() && uri.query().is_none() && matches!(uri.scheme_str(), Some("http" | "https"))
        });
        if !is_address {
            return Err(HubError::Setting {
                variable: "HF_ENDPOINT",
                problem: format!("is \"{endpoint}\": expected the address of a hub, as https://huggingface.co"),
            });
        }
        let is_token = |token: &Token| token.secret().bytes().all(|byte| byte.is_ascii_graphic());
        if !settings.token.as_ref().is_none_or(is_token) {
            return Err(HubError::Setting {
                variable: "HF_TOKEN",
                problem: "has characters that no token has: expected one line of letters, digits and `_`".to_owned(),
            });
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_per_read(Some(STALL))
            .timeout_recv_response(Some(STALL))
            .user_agent(concat!("zofo/", env!("CARGO_PKG_VERSION")))
            // A compressed answer has another length than the file, and cannot be continued.
            .accept_encoding("identity")
            .build();
        Ok(Self { agent: config.new_agent(), endpoint, token: settings.token.clone(), retry: settings.retry })
    }

    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub(super) fn retry(&self) -> RetryPolicy {
        self.retry
    }

    /// The text at `path` of the hub's interface for programs.
    pub(super) fn api(&self, id: &HubId, path: &str, watch: &mut Watch<'_>) -> Result<Vec<u8>, HubError> {
        let url = format!("{}/api/{path}", self.endpoint);
        retrying(self.retry, watch, |_| {
            let (url, response) = self.send(&Method::GET, &url, None, Follow::Anywhere)?;
            let response = self.check(id, None, &url, response)?;
            let body = response.into_body().into_with_config().limit(LONGEST_LISTING);
            body.read_to_vec().map_err(|error| Failure::network(&url, error, false))
        })
    }

    /// What the hub says of the file `name` of a commit.
    pub(super) fn describe(
        &self,
        id: &HubId,
        commit: &str,
        name: &str,
        watch: &mut Watch<'_>,
    ) -> Result<RemoteFile, HubError> {
        let url = format!("{}/{}/resolve/{commit}/{name}", self.endpoint, repo(id).url());
        let (answered, response) = retrying(self.retry, watch, |_| {
            let (answered, response) = self.send(&Method::HEAD, &url, None, Follow::OnHost)?;
            let is_redirection = response.status().is_redirection();
            let response = if is_redirection { response } else { self.check(id, Some(name), &answered, response)? };
            Ok((answered, response))
        })?;
        let protocol = |problem: String| HubError::Protocol { url: answered.clone(), problem };
        let headers = response.headers();
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        if let Some(other) = text("x-repo-commit").filter(|other| *other != commit) {
            return Err(protocol(format!("asked for the commit {commit}, the answer is of {other}")));
        }
        let etag = text("x-linked-etag").or_else(|| text("etag")).map(plain_etag);
        let etag = etag.filter(|etag| is_file_name(etag)).ok_or_else(|| {
            let found = text("x-linked-etag").or_else(|| text("etag")).unwrap_or("none");
            protocol(format!("expected an etag that names the content, found {found}"))
        })?;
        let length = if response.status().is_redirection() { None } else { text("content-length") };
        let bytes = text("x-linked-size").or(length).and_then(|bytes| bytes.parse().ok());
        let bytes = bytes.ok_or_else(|| protocol("the answer does not say how long the file is".to_owned()))?;
        Ok(RemoteFile { url, etag: etag.to_owned(), bytes })
    }

    /// The content of a file from byte `start` on, or, where the server does not do that (the status says so), whole.
    pub(super) fn content(
        &self,
        id: &HubId,
        name: &str,
        file: &RemoteFile,
        start: u64,
    ) -> Result<Response<Body>, Failure> {
        let (url, response) = self.send(&Method::GET, &file.url, (start > 0).then_some(start), Follow::Anywhere)?;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            return Ok(response);
        }
        self.check(id, Some(name), &url, response)
    }

    /// One request with its redirections: the address that answered, and the answer.
    fn send(
        &self,
        method: &Method,
        url: &str,
        start: Option<u64>,
        follow: Follow,
    ) -> Result<(String, Response<Body>), Failure> {
        let mut url = url.to_owned();
        for _ in 0..MOST_REDIRECTIONS {
            let mut request = ureq::http::Request::builder().method(method).uri(&url);
            if let Some(start) = start {
                request = request.header(header::RANGE, format!("bytes={start}-"));
            }
            // The storage that large files are redirected to must not learn the token.
            if let Some(token) = self.token.as_ref().filter(|_| self.is_hub(&url)) {
                request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.secret()));
            }
            let request = request.body(()).map_err(|error| protocol(&url, format!("no such request: {error}")))?;
            let response = self.agent.run(request).map_err(|error| Failure::network(&url, error, false))?;
            if !response.status().is_redirection() {
                return Ok((url, response));
            }
            let target = location(&url, response.headers())?;
            let is_answer = response.headers().contains_key("x-linked-etag") || !same_host(&url, &target);
            if follow == Follow::OnHost && is_answer {
                return Ok((url, response));
            }
            url = target;
        }
        Err(protocol(&url, format!("more than {MOST_REDIRECTIONS} redirections")).into())
    }

    fn is_hub(&self, url: &str) -> bool {
        same_host(&self.endpoint, url)
    }

    /// The answer, if it is a success; else what it means. `file` is what was asked for, if not the repository itself.
    fn check(
        &self,
        id: &HubId,
        file: Option<&str>,
        url: &str,
        response: Response<Body>,
    ) -> Result<Response<Body>, Failure> {
        let code = response.status();
        if code.is_success() {
            return Ok(response);
        }
        let text = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let (id, url, endpoint) = (id.clone(), url.to_owned(), self.endpoint.clone());
        let with_token = self.token.is_some();
        let status = match text("x-error-message") {
            Some(words) => format!("{}: {words}", code.as_u16()),
            None => code.to_string(),
        };
        let passing = |error, after| Err(Failure::Passing { error, after, progressed: false });
        if !self.is_hub(&url) {
            // The storage knows neither models nor users; a link to it that is refused has run out, and the hub makes new ones.
            return passing(HubError::Status { url, status }, retry_after(response.headers()));
        }
        let error = match (text("x-error-code"), code.as_u16()) {
            (Some("RepoNotFound"), _) => HubError::NoRepository { id, endpoint, with_token },
            (Some("RevisionNotFound"), _) => HubError::NoRevision { id, endpoint },
            (Some("GatedRepo"), _) | (_, 401 | 403) => HubError::Refused { id, endpoint, status, with_token },
            (reason, 404) => match file {
                Some(file) => HubError::NoFile { id, file: file.to_owned(), available: Vec::new() },
                // A mirror that does not say which of the two is missing.
                None if reason.is_none() && !id.is_default_revision() => HubError::NoRevision { id, endpoint },
                None => HubError::NoRepository { id, endpoint, with_token },
            },
            (_, 429) => {
                let after = retry_after(response.headers()).or_else(|| rate_limit_end(response.headers()));
                let seconds = after.map(|after| after.as_secs());
                return passing(HubError::TooManyRequests { url, seconds, with_token }, after);
            }
            (_, 408 | 500..) => return passing(HubError::Status { url, status }, retry_after(response.headers())),
            _ => HubError::Status { url, status },
        };
        Err(Failure::Final(error))
    }
}

fn protocol(url: &str, problem: String) -> HubError {
    HubError::Protocol { url: url.to_owned(), problem }
}

/// How long a server says to wait, if it says so in seconds.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get("retry-after")?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// When the hub counts requests anew, by its `RateLimit: "api";r=0;t=55`. Every answer has that header.
fn rate_limit_end(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("ratelimit")?.to_str().ok()?;
    let seconds = text.split(';').find_map(|part| part.trim().strip_prefix("t="))?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// The content's name in `"name"` and `W/"name"`.
fn plain_etag(etag: &str) -> &str {
    etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"')
}

fn is_file_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 128
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

/// Scheme and authority of an absolute address, and the rest.
fn split_origin(url: &str) -> (&str, &str) {
    let host = url.find("://").map_or(0, |at| at + 3);
    let path = url[host..].find('/').map_or(url.len(), |at| host + at);
    url.split_at(path)
}

fn same_host(left: &str, right: &str) -> bool {
    split_origin(left).0.eq_ignore_ascii_case(split_origin(right).0)
}

/// Where a redirection leads.
fn location(url: &str, headers: &HeaderMap) -> Result<String, HubError> {
    let target = headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
    let (origin, _) = split_origin(url);
    match target {
        Some(target) if target.starts_with("http://") || target.starts_with("https://") => Ok(target.to_owned()),
        Some(target) if target.starts_with('/') && !target.starts_with("//") => Ok(format!("{origin}{target}")),
        other => Err(protocol(url, format!("a redirection to {}", other.unwrap_or("nowhere")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn redirections_lead_to_addresses() {
        let target = |to| location("https://hub/org/name", &headers(&[("location", to)]));
        assert_eq!(target("/new/name").unwrap(), "https://hub/new/name");
        assert_eq!(target("http://cdn/x?y").unwrap(), "http://cdn/x?y");
        for odd in ["name", "//cdn/x", "ftp://x"] {
            assert!(target(odd).unwrap_err().to_string().contains(odd));
        }
        assert!(same_host("https://hub", "https://HUB/x") && !same_host("https://hub", "https://hub.evil/x"));
        assert!(!same_host("https://hub", "http://hub/x") && !same_host("http://hub:1", "http://hub:2"));
    }

    #[test]
    fn waits_that_a_server_asks_for() {
        let wait = Duration::from_secs;
        assert_eq!(retry_after(&headers(&[("retry-after", "7")])), Some(wait(7)));
        assert_eq!(retry_after(&headers(&[("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT")])), None);
        assert_eq!(retry_after(&headers(&[])), None);
        assert_eq!(rate_limit_end(&headers(&[("ratelimit", "\"api\";r=0;t=55")])), Some(wait(55)));
        assert_eq!(rate_limit_end(&headers(&[("ratelimit", "none")])), None);
    }

    #[test]
    fn etags_name_files() {
        assert_eq!(plain_etag("\"abc\""), "abc");
        assert_eq!(plain_etag("W/\"abc-1\""), "abc-1");
        assert!(is_file_name("abc-1") && !is_file_name("../x") && !is_file_name("") && !is_file_name("a/b"));
    }

    #[test]
    fn settings_that_cannot_be_used() {
        let settings = |endpoint: &str, token: &str| HubSettings {
            endpoint: endpoint.to_owned(),
            token: Some(Token::new(token)),
            ..HubSettings::from_variables(|_| None)
        };
        Client::new(&settings("https://mirror/hub/", "hf_x")).unwrap();
        for endpoint in ["mirror", "", "ftp://mirror", "https://"] {
            let error = Client::new(&settings(endpoint, "hf_x")).unwrap_err().to_string();
            assert!(error.starts_with("HF_ENDPOINT is "), "{error}");
        }
        let error = Client::new(&settings("https://mirror", "hf x")).unwrap_err().to_string();
        assert!(error.starts_with("HF_TOKEN has ") && !error.contains("hf x"), "{error}");
    }
}
