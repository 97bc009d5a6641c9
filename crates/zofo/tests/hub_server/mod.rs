//! A hub on this machine with one model or data set, which can be told to misbehave.
//!
//! It speaks what a download needs: `/api/models/ORG/NAME/revision/REV`, and `/ORG/NAME/resolve/COMMIT/FILE` (of a data
//! set `/api/datasets/…` and `/datasets/ORG/…`), which redirects large files to `/storage/SHA256`, with the headers that the hub sends.

// Every test binary uses a part of it.
#![allow(dead_code)]

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Write},
    net::{Shutdown, TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

/// The one repository's name.
pub const NAME: &str = "acme/tiny";

/// A file of the model.
#[derive(Clone)]
pub struct RepoFile {
    pub content: Vec<u8>,
    /// Large files are redirected to the storage, and named by their SHA-256.
    pub etag: String,
    pub is_large: bool,
}

/// A model or a data set: its branches, and the files of every commit.
#[derive(Clone, Default)]
pub struct Repo {
    pub is_dataset: bool,
    pub branches: BTreeMap<String, String>,
    pub commits: BTreeMap<String, BTreeMap<String, RepoFile>>,
    /// Names that are listed besides.
    pub listed: Vec<String>,
}

impl Repo {
    /// With these files at `commit`, where the branch `main` is. Files of weights are large.
    pub fn new(commit: &str, files: &[(&str, &[u8])]) -> Self {
        let mut repo = Self::default();
        repo.commit("main", commit, files);
        repo
    }

    /// A data set with these files at `commit`, where the branch of Parquet files is.
    pub fn dataset(commit: &str, files: &[(&str, &[u8])]) -> Self {
        let mut repo = Self { is_dataset: true, ..Self::default() };
        repo.commit("refs/convert/parquet", commit, files);
        repo
    }

    /// With the files of a folder.
    pub fn of_folder(commit: &str, folder: &Path) -> Self {
        let files: Vec<(String, Vec<u8>)> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
            .collect();
        let files: Vec<(&str, &[u8])> =
            files.iter().map(|(name, content)| (name.as_str(), content.as_slice())).collect();
        Self::new(commit, &files)
    }

    /// Moves a branch to a new commit with these files.
    pub fn commit(&mut self, branch: &str, commit: &str, files: &[(&str, &[u8])]) {
        let file = |(name, content): &(&str, &[u8])| ((*name).to_owned(), file(name, content));
        self.commits.insert(commit.to_owned(), files.iter().map(file).collect());
        self.branches.insert(branch.to_owned(), commit.to_owned());
    }
}

fn file(name: &str, content: &[u8]) -> RepoFile {
    use sha1::Digest;
    let is_large = [".safetensors", ".bin", ".gguf", ".parquet"].iter().any(|ending| name.ends_with(ending));
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let etag = if is_large {
        hex(&sha2::Sha256::digest(content))
    } else {
        let hash = sha1::Sha1::new_with_prefix(format!("blob {}\0", content.len())).chain_update(content);
        hex(&hash.finalize())
    };
    RepoFile { content: content.to_owned(), etag, is_large }
}

/// What the server does instead of answering.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Sends so many bytes of the body that it announced, and hangs up.
    DropAfter(usize),
    /// Sends the whole file where a part was asked for.
    IgnoreRange,
    /// Sends the whole file where a part was asked for, so many bytes of it, and hangs up.
    IgnoreRangeAndDrop(usize),
    /// Announces and sends this body.
    Body(Vec<u8>),
    /// Sends this body, without saying how long it is.
    UnmeasuredBody(Vec<u8>),
    /// Answers with this status and these headers.
    Status(u16, Vec<(&'static str, String)>),
    /// Waits first.
    Slow(Duration),
    /// Leaves out this header.
    Without(&'static str),
    /// Sends this header besides.
    With(&'static str, String),
}

struct Rule {
    /// Beginning of the request's line, as `GET /storage/`.
    request: String,
    times: usize,
    fault: Fault,
}

struct State {
    repo: Mutex<Repo>,
    rules: Mutex<Vec<Rule>>,
    log: Mutex<Vec<String>>,
    stopped: AtomicBool,
}

/// The server; it ends when this is dropped.
pub struct Server {
    address: String,
    state: Arc<State>,
    accepting: Option<thread::JoinHandle<()>>,
}

impl Server {
    pub fn start(repo: Repo) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(State {
            repo: Mutex::new(repo),
            rules: Mutex::default(),
            log: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        let accepting = thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stopped.load(Ordering::SeqCst) {
                    break;
                }
                let (stream, state) = (stream.unwrap(), Arc::clone(&shared));
                // A client that hangs up is no failure.
                thread::spawn(move || drop(answer(&state, &stream)));
            }
        });
        Self { address, state, accepting: Some(accepting) }
    }

    /// The address of the hub.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers the next `times` requests that begin so with a fault.
    pub fn fault(&self, request: &str, times: usize, fault: Fault) {
        self.state.rules.lock().unwrap().push(Rule { request: request.to_owned(), times, fault });
    }

    /// The requests since the last call, as `GET /path range=bytes=5- token=x`.
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state.log.lock().unwrap())
    }

    /// Changes what the hub has.
    pub fn change(&self, change: impl FnOnce(&mut Repo)) {
        change(&mut self.state.repo.lock().unwrap());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::SeqCst);
        // Wakes the thread, so that it sees that.
        drop(TcpStream::connect(&self.address));
        if let Some(accepting) = self.accepting.take() {
            accepting.join().unwrap();
        }
    }
}

/// An answer without what belongs to the body.
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn error(status: u16, code: &str) -> Self {
        let headers = if code.is_empty() { Vec::new() } else { vec![("X-Error-Code", code.to_owned())] };
        Self { status, headers, body: Vec::new() }
    }
}

fn answer(state: &State, stream: &TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let (mut range, mut token) = (None, String::new());
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "range" => range = Some(value.to_owned()),
            "authorization" => token = format!(" token={}", value.trim_start_matches("Bearer ")),
            _ => {}
        }
    }
    let mut words = line.split(' ');
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(()) };
    let shown = range.as_ref().map_or_else(String::new, |range| format!(" range={range}"));
    state.log.lock().unwrap().push(format!("{method} {path}{shown}{token}"));

    let start = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let fault = {
        let mut rules = state.rules.lock().unwrap();
        let rule =
            rules.iter_mut().find(|rule| rule.times > 0 && format!("{method} {path}").starts_with(&rule.request));
        rule.map(|rule| {
            rule.times -= 1;
            rule.fault.clone()
        })
    };
    if let Some(Fault::Slow(pause)) = fault {
        thread::sleep(pause);
    }
    let ignores_range = matches!(fault, Some(Fault::IgnoreRange | Fault::IgnoreRangeAndDrop(_)));
    let mut answer = route(&state.repo.lock().unwrap(), path, start.filter(|_| !ignores_range));
    let mut sent = usize::MAX;
    let mut is_measured = true;
    match fault {
        Some(Fault::DropAfter(bytes) | Fault::IgnoreRangeAndDrop(bytes)) => sent = bytes,
        Some(Fault::Body(body)) => answer.body = body,
        Some(Fault::UnmeasuredBody(body)) => (answer.body, is_measured) = (body, false),
        Some(Fault::Status(status, headers)) => answer = Answer { status, headers, body: Vec::new() },
        Some(Fault::Without(name)) => answer.headers.retain(|(header, _)| *header != name),
        Some(Fault::With(name, value)) => answer.headers.push((name, value)),
        Some(Fault::IgnoreRange | Fault::Slow(_)) | None => {}
    }
    let mut text = format!("HTTP/1.1 {} Status\r\nConnection: close\r\n", answer.status);
    if is_measured {
        text += &format!("Content-Length: {}\r\n", answer.body.len());
    }
    for (name, value) in &answer.headers {
        text += &format!("{name}: {value}\r\n");
    }
    let mut stream = stream;
    stream.write_all(format!("{text}\r\n").as_bytes())?;
    if method != "HEAD" {
        stream.write_all(&answer.body[..answer.body.len().min(sent)])?;
    }
    stream.shutdown(Shutdown::Write)
}

fn route(repo: &Repo, path: &str, start: Option<usize>) -> Answer {
    let found = |revision: &str| {
        let revision = revision.replace("%2F", "/");
        repo.branches.get(&revision).cloned().or_else(|| repo.commits.contains_key(&revision).then_some(revision))
    };
    let (kind, folder) = if repo.is_dataset { ("datasets", "/datasets") } else { ("models", "") };
    let api = format!("/api/{kind}/{NAME}/revision/");
    let resolve = format!("{folder}/{NAME}/resolve/");
    if let Some(revision) = path.strip_prefix(&api) {
        let Some(commit) = found(revision) else { return Answer::error(404, "RevisionNotFound") };
        let names = repo.commits[&commit].keys().chain(&repo.listed);
        let siblings: Vec<_> = names.map(|name| serde_json::json!({ "rfilename": name })).collect();
        let body = serde_json::json!({ "id": NAME, "sha": commit, "siblings": siblings }).to_string();
        return Answer { status: 200, headers: Vec::new(), body: body.into_bytes() };
    }
    if let Some((revision, name)) = path.strip_prefix(&resolve).and_then(|rest| rest.split_once('/')) {
        let Some(commit) = found(revision) else { return Answer::error(404, "RevisionNotFound") };
        let Some(file) = repo.commits[&commit].get(name) else { return Answer::error(404, "EntryNotFound") };
        let mut headers = vec![("X-Repo-Commit", commit)];
        if file.is_large {
            headers.push(("X-Linked-Etag", format!("\"{}\"", file.etag)));
            headers.push(("X-Linked-Size", file.content.len().to_string()));
            headers.push(("Location", format!("/storage/{}", file.etag)));
            return Answer { status: 302, headers, body: b"Found".to_vec() };
        }
        headers.push(("ETag", format!("\"{}\"", file.etag)));
        return part(headers, &file.content, start);
    }
    if let Some(etag) = path.strip_prefix("/storage/") {
        let mut files = repo.commits.values().flat_map(BTreeMap::values);
        if let Some(file) = files.find(|file| file.etag == etag) {
            return part(vec![("ETag", "\"storage-1\"".to_owned())], &file.content, start);
        }
    }
    Answer::error(404, "RepoNotFound")
}

fn part(mut headers: Vec<(&'static str, String)>, content: &[u8], start: Option<usize>) -> Answer {
    let length = content.len();
    match start {
        None => Answer { status: 200, headers, body: content.to_owned() },
        Some(start) if start < length => {
            headers.push(("Content-Range", format!("bytes {start}-{}/{length}", length - 1)));
            Answer { status: 206, headers, body: content[start..].to_owned() }
        }
        Some(_) => {
            Answer { status: 416, headers: vec![("Content-Range", format!("bytes */{length}"))], body: Vec::new() }
        }
    }
}
