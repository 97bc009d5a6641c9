//! Models of a hub: what is asked of it, what the cache then has, and every way in which a download can go wrong.

mod hub_server;

use std::{
    collections::BTreeSet,
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use hub_server::{Fault, NAME, Repo, Server};
use tempfile::TempDir;
use zofo::hf::{
    HfError,
    hub::{Fetched, Hub, HubError, HubId, HubProgress, HubSettings, RetryPolicy, Token, locate_model},
};

const COMMIT: &str = "1111111111111111111111111111111111111111";
const LATER: &str = "2222222222222222222222222222222222222222";
const WEIGHTS: &str = "model.safetensors";

/// A megabyte that is no two bytes alike where they are mixed up.
fn weights() -> Vec<u8> {
    (0..1_000_000u32).flat_map(|i| [i as u8 ^ (i >> 8) as u8]).collect()
}

fn small_files() -> [(&'static str, &'static [u8]); 4] {
    [
        ("config.json", b"{}"),
        ("tokenizer.json", b"{\"a\": 1}"),
        ("LICENSE", b"do what you like"),
        ("README.md", b"# Tiny"),
    ]
}

fn repo() -> Repo {
    let weights = weights();
    let mut files = small_files().to_vec();
    files.push((WEIGHTS, &weights));
    Repo::new(COMMIT, &files)
}

/// A server, and a cache for what comes from it.
struct Setup {
    server: Server,
    cache: TempDir,
}

impl Setup {
    fn new(repo: Repo) -> Self {
        Self { server: Server::start(repo), cache: tempfile::tempdir().unwrap() }
    }

    fn settings(&self) -> HubSettings {
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

    fn fetch(&self, id: &str) -> Result<Fetched, HubError> {
        fetch(self.settings(), id)
    }

    /// Fails unless fetching fails with a message that has all of `words`.
    #[track_caller]
    fn refused(&self, id: &str, words: &[&str]) -> HubError {
        let error = self.fetch(id).unwrap_err();
        let text = error.to_string();
        for word in words {
            assert!(text.contains(word), "expected \"{word}\" in: {text}");
        }
        error
    }

    /// The folder of the model in the cache.
    fn folder(&self) -> PathBuf {
        self.cache.path().join("models--acme--tiny")
    }

    /// Where the content of the weights is, and what is there while it comes.
    fn blob(&self) -> [PathBuf; 2] {
        use sha2::Digest;
        let etag: String = sha2::Sha256::digest(weights()).iter().map(|byte| format!("{byte:02x}")).collect();
        [self.folder().join("blobs").join(&etag), self.folder().join("blobs").join(format!("{etag}.incomplete"))]
    }

    /// The requests for the content of the weights since the last call of this or of `server.requests`.
    fn transfers(&self) -> Vec<String> {
        let requests = self.server.requests();
        let transfers = requests.iter().filter(|request| request.starts_with("GET /storage/"));
        transfers
            .map(|request| request.split_once(' ').unwrap().1.split_once(' ').map_or("whole", |r| r.1).to_owned())
            .collect()
    }
}

fn fetch(settings: HubSettings, id: &str) -> Result<Fetched, HubError> {
    Hub::new(settings).fetch(&id.parse().unwrap(), &mut |_| ControlFlow::Continue(()))
}

fn names(folder: &Path) -> BTreeSet<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_model_comes_into_the_cache_that_hugging_face_uses() {
    let setup = Setup::new(repo());
    let fetched = setup.fetch(NAME).unwrap();
    assert_eq!(fetched.path, setup.folder().join("snapshots").join(COMMIT));
    assert_eq!(fetched.id.to_string(), format!("{NAME}@{COMMIT}"));
    // The README is not needed.
    assert_eq!(names(&fetched.path), set(&["config.json", "tokenizer.json", "LICENSE", WEIGHTS]));
    assert_eq!(fs::read(fetched.path.join(WEIGHTS)).unwrap(), weights());
    assert_eq!(fs::read(fetched.path.join("tokenizer.json")).unwrap(), b"{\"a\": 1}");
    assert_eq!(fs::read_to_string(setup.folder().join("refs/main")).unwrap(), COMMIT);
    let [blob, incomplete] = setup.blob();
    assert!(blob.is_file() && !incomplete.exists());
    #[cfg(unix)]
    assert!(fs::read_link(fetched.path.join(WEIGHTS)).unwrap().starts_with("../../blobs"));
    assert!(setup.folder().join(".no_exist").join(COMMIT).join("vocab.json").is_file());
    assert!(!setup.folder().join(".no_exist").join(COMMIT).join("config.json").exists());
}

#[test]
fn a_warm_cache_asks_where_a_branch_is_and_nothing_for_a_commit() {
    let setup = Setup::new(repo());
    setup.fetch(NAME).unwrap();
    setup.server.requests();
    setup.fetch(NAME).unwrap();
    assert_eq!(setup.server.requests(), [format!("GET /api/models/{NAME}/revision/main")]);
    let pinned = format!("{NAME}@{COMMIT}");
    assert_eq!(setup.fetch(&pinned).unwrap().path, setup.fetch(NAME).unwrap().path);
    setup.server.requests();
    setup.fetch(&pinned).unwrap();
    assert_eq!(setup.server.requests(), [""; 0]);

    // Another program that fetched the weights alone leaves a snapshot without a tokenizer, and does not know of that.
    fs::remove_file(setup.fetch(&pinned).unwrap().path.join("tokenizer.json")).unwrap();
    let fetched = setup.fetch(&pinned).unwrap();
    assert!(fetched.path.join("tokenizer.json").exists());
    assert_eq!(setup.transfers(), [""; 0]);
}

#[test]
fn a_branch_that_moved_is_followed_and_a_commit_stays() {
    let setup = Setup::new(repo());
    setup.fetch(NAME).unwrap();
    setup.server.change(|repo| {
        let mut files = small_files().to_vec();
        files[0].1 = b"{\"new\": 1}";
        let weights = weights();
        files.push((WEIGHTS, &weights));
        repo.commit("main", LATER, &files);
        repo.commit("refs/pr/1", LATER, &files);
    });
    setup.server.requests();
    let moved = setup.fetch(NAME).unwrap();
    assert_eq!(moved.id.revision(), LATER);
    assert_eq!(fs::read(moved.path.join("config.json")).unwrap(), b"{\"new\": 1}");
    // The weights are the same content.
    assert_eq!(setup.transfers(), [""; 0]);
    assert_eq!(fs::read(moved.path.join(WEIGHTS)).unwrap(), weights());
    let first = setup.fetch(&format!("{NAME}@{COMMIT}")).unwrap();
    assert_eq!(fs::read(first.path.join("config.json")).unwrap(), b"{}");
    // A revision with a slash.
    assert_eq!(setup.fetch(&format!("{NAME}@refs/pr/1")).unwrap().path, moved.path);
    assert_eq!(fs::read_to_string(setup.folder().join("refs/refs/pr/1")).unwrap(), LATER);
}

#[test]
fn offline_only_the_cache_is_used() {
    let setup = Setup::new(repo());
    let offline = |id: &str| fetch(HubSettings { offline: true, ..setup.settings() }, id);
    let text = offline(NAME).unwrap_err().to_string();
    assert!(
        text.contains(NAME) && text.contains("HF_HUB_OFFLINE is set") && text.contains("does not have it"),
        "{text}"
    );
    let online = setup.fetch(NAME).unwrap();
    setup.server.requests();
    assert_eq!(offline(NAME).unwrap(), online);
    assert_eq!(offline(&online.id.to_string()).unwrap(), online);
    // What is optional may be missing; the weights may not.
    fs::remove_file(online.path.join("tokenizer.json")).unwrap();
    offline(NAME).unwrap();
    fs::remove_file(online.path.join(WEIGHTS)).unwrap();
    let text = offline(NAME).unwrap_err().to_string();
    assert!(text.contains("model.safetensors") && text.contains(COMMIT), "{text}");
    assert!(offline(&format!("{NAME}@v2")).is_err());
    assert_eq!(setup.server.requests(), [""; 0]);
}

#[test]
fn shards_and_pytorch_weights() {
    let index =
        br#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#;
    let shards: [(&str, &[u8]); 5] = [
        ("config.json", b"{}"),
        ("model.safetensors.index.json", index),
        ("model-00001-of-00002.safetensors", b"one"),
        ("model-00002-of-00002.safetensors", b"two"),
        ("pytorch_model.bin", b"not this"),
    ];
    let setup = Setup::new(Repo::new(COMMIT, &shards));
    let fetched = setup.fetch(NAME).unwrap();
    assert_eq!(names(&fetched.path), shards[..4].iter().map(|(name, _)| (*name).to_owned()).collect());
    assert_eq!(fs::read(fetched.path.join(shards[3].0)).unwrap(), b"two");
    // A shard that is not there makes the snapshot incomplete.
    fs::remove_file(fetched.path.join(shards[2].0)).unwrap();
    setup.server.requests();
    setup.fetch(&fetched.id.to_string()).unwrap();
    assert!(setup.server.requests().iter().any(|request| request.contains(shards[2].0)));
    assert_eq!(fs::read(fetched.path.join(shards[2].0)).unwrap(), b"one");

    let setup = Setup::new(Repo::new(COMMIT, &shards[..3]));
    let error = setup.refused(NAME, &["model.safetensors.index.json", "model-00002-of-00002.safetensors"]);
    assert!(matches!(error, HubError::Index { .. }));

    let setup = Setup::new(Repo::new(COMMIT, &[("config.json", b"{}"), ("pytorch_model.bin", b"weights")]));
    let fetched = setup.fetch(NAME).unwrap();
    assert_eq!(fs::read(fetched.path.join("pytorch_model.bin")).unwrap(), b"weights");
}

#[test]
fn gguf_files_are_named_in_their_repository() {
    let files: [(&str, &[u8]); 3] = [("a.Q4_0.gguf", b"four"), ("sub/a.Q8_0.gguf", b"eight"), ("README.md", b"")];
    let setup = Setup::new(Repo::new(COMMIT, &files));
    let error = setup.refused(NAME, &["no config.json", "a.Q4_0.gguf, sub/a.Q8_0.gguf", "org/name/file.gguf"]);
    assert!(matches!(error, HubError::NoModel { .. }));
    let fetched = setup.fetch(&format!("{NAME}/sub/a.Q8_0.gguf@main")).unwrap();
    assert_eq!(fs::read(&fetched.path).unwrap(), b"eight");
    assert_eq!(fetched.id.to_string(), format!("{NAME}/sub/a.Q8_0.gguf@{COMMIT}"));
    setup.server.requests();
    assert_eq!(setup.fetch(&fetched.id.to_string()).unwrap(), fetched);
    assert_eq!(setup.server.requests(), [""; 0]);
    let error = setup.refused(&format!("{NAME}/b.gguf"), &["no file b.gguf", "a.Q4_0.gguf"]);
    assert!(matches!(error, HubError::NoFile { .. }));
}

#[test]
fn a_dropped_connection_is_continued() {
    let setup = Setup::new(repo());
    setup.server.fault("GET /storage/", 2, Fault::DropAfter(300_000));
    let mut last = 0;
    let mut seen = Vec::new();
    let fetched = Hub::new(setup.settings()).fetch(&NAME.parse().unwrap(), &mut |progress| {
        match progress {
            HubProgress::Downloading { file: WEIGHTS, bytes, total } => {
                assert!(bytes >= last && total == 1_000_000);
                last = bytes;
            }
            HubProgress::Downloading { .. } => {}
            HubProgress::Waiting { reason } => seen.push(reason.to_owned()),
        }
        ControlFlow::Continue(())
    });
    assert_eq!(fs::read(fetched.unwrap().path.join(WEIGHTS)).unwrap(), weights());
    assert_eq!(setup.transfers(), ["whole", "range=bytes=300000-", "range=bytes=600000-"]);
    assert_eq!(last, 1_000_000);
    assert!(seen.iter().all(|reason| reason.contains("trying again")) && seen.len() >= 2, "{seen:?}");
}

#[test]
fn retries_are_bounded_and_the_next_process_continues() {
    let setup = Setup::new(repo());
    // Each of these ends without a new byte, but the first.
    setup.server.fault("GET /storage/", 1, Fault::DropAfter(400_000));
    setup.server.fault("GET /storage/", 3, Fault::DropAfter(0));
    let error = setup.refused(NAME, &["cannot read ", "HF_HUB_OFFLINE=1 uses alone"]);
    assert!(matches!(error, HubError::Network { .. }));
    let [blob, incomplete] = setup.blob();
    assert_eq!(fs::metadata(&incomplete).unwrap().len(), 400_000);
    assert!(!blob.exists() && !setup.folder().join("refs/main").exists());
    assert_eq!(setup.transfers().len(), 3);
    setup.server.requests();
    let left = setup.fetch(NAME);
    assert_eq!(left.unwrap().path.join(WEIGHTS).metadata().unwrap().len(), 1_000_000);
    // One fault was left.
    assert_eq!(setup.transfers(), ["range=bytes=400000-"; 2]);
}

#[test]
fn a_server_that_does_not_continue_is_read_from_the_start() {
    let setup = Setup::new(repo());
    setup.server.fault("GET /storage/", 1, Fault::DropAfter(400_000));
    setup.server.fault("GET /storage/", 1, Fault::IgnoreRange);
    let fetched = setup.fetch(NAME).unwrap();
    assert_eq!(fs::read(fetched.path.join(WEIGHTS)).unwrap(), weights());

    // One that besides never comes further than before is given up.
    let setup = Setup::new(repo());
    setup.server.fault("GET /storage/", 9, Fault::IgnoreRangeAndDrop(400_000));
    setup.refused(NAME, &["cannot read "]);
    assert_eq!(setup.transfers().len(), 3);
}

#[test]
fn what_was_left_by_a_crash_is_checked() {
    let setup = Setup::new(repo());
    let [blob, incomplete] = setup.blob();
    fs::create_dir_all(incomplete.parent().unwrap()).unwrap();
    // Whole, but not renamed.
    fs::write(&incomplete, weights()).unwrap();
    setup.fetch(NAME).unwrap();
    assert_eq!(setup.transfers(), [""; 0]);
    assert_eq!(fs::read(&blob).unwrap(), weights());

    // Longer than the file.
    let setup = Setup::new(repo());
    let [blob, incomplete] = setup.blob();
    fs::create_dir_all(incomplete.parent().unwrap()).unwrap();
    fs::write(&incomplete, [weights(), vec![0]].concat()).unwrap();
    setup.fetch(NAME).unwrap();
    assert_eq!(setup.transfers(), ["whole"]);
    assert_eq!(fs::read(&blob).unwrap(), weights());

    // Damaged: the content of a file that was not synced.
    let setup = Setup::new(repo());
    let [blob, incomplete] = setup.blob();
    fs::create_dir_all(incomplete.parent().unwrap()).unwrap();
    fs::write(&incomplete, vec![0; 500_000]).unwrap();
    let error = setup.refused(NAME, &["SHA-256", "deleted"]);
    assert!(matches!(error, HubError::WrongChecksum { .. }));
    assert!(!incomplete.exists() && !blob.exists());
    setup.fetch(NAME).unwrap();
    assert_eq!(fs::read(&blob).unwrap(), weights());

    // A content that is cut short is no content.
    fs::write(&blob, b"short").unwrap();
    fs::remove_dir_all(setup.folder().join("snapshots")).unwrap();
    setup.fetch(NAME).unwrap();
    assert_eq!(fs::read(&blob).unwrap(), weights());
}

#[test]
fn wrong_contents_are_deleted() {
    let mut wrong = weights();
    wrong[123_456] ^= 1;
    let [short, long] = [wrong[..999_999].to_vec(), [wrong.clone(), vec![0]].concat()];
    let sha256 = ["expected the SHA-256 ", "deleted"];
    for (fault, words) in [
        (Fault::Body(wrong), &sha256[..]),
        (Fault::Body(short), &["expected 1000000 bytes, found 999999", "deleted"]),
        (Fault::Body(long.clone()), &["expected 1000000 bytes, found 1000001", "deleted"]),
        (Fault::UnmeasuredBody(long), &["expected 1000000 bytes, found 1000001", "deleted"]),
    ] {
        let setup = Setup::new(repo());
        setup.server.fault("GET /storage/", 1, fault);
        setup.refused(NAME, words);
        let [blob, incomplete] = setup.blob();
        assert!(!blob.exists() && !incomplete.exists(), "{words:?}");
        assert!(!setup.folder().join("refs/main").exists());
        // Nothing of it is left in the way.
        assert_eq!(fs::read(setup.fetch(NAME).unwrap().path.join(WEIGHTS)).unwrap(), weights());
    }
    // Small files are named by git's hash.
    let setup = Setup::new(repo());
    setup.server.fault(&format!("GET /{NAME}/resolve/{COMMIT}/config.json"), 1, Fault::Body(b"[]".to_vec()));
    setup.refused(NAME, &["config.json", "git hash"]);
    setup.fetch(NAME).unwrap();
}

#[test]
fn what_is_missing_is_named() {
    let setup = Setup::new(repo());
    let error = setup.refused("acme/other", &["acme/other is neither a file or folder here nor a model on http://"]);
    assert!(matches!(error, HubError::NoRepository { with_token: false, .. }));
    let error = setup.refused(&format!("{NAME}@v9"), &["no branch, tag or commit \"v9\" of acme/tiny"]);
    assert!(matches!(error, HubError::NoRevision { .. }));
    let head = format!("HEAD /{NAME}/resolve/{COMMIT}/tokenizer.json");
    setup.server.fault(&head, 1, Fault::Status(404, vec![("X-Error-Code", "EntryNotFound".to_owned())]));
    let error = setup.refused(NAME, &["no file tokenizer.json"]);
    assert!(matches!(error, HubError::NoFile { .. }));
    // None of them is tried again.
    let count = setup.server.requests().iter().filter(|request| request.starts_with(&head)).count();
    assert_eq!(count, 1);

    // Mirrors that do not say what is missing.
    let plain = || Fault::Status(404, Vec::new());
    setup.server.fault("GET /api/", 1, plain());
    assert!(matches!(setup.refused(NAME, &[]), HubError::NoRepository { .. }));
    setup.server.fault("GET /api/", 1, plain());
    assert!(matches!(setup.refused(&format!("{NAME}@v9"), &[]), HubError::NoRevision { .. }));
    setup.server.fault("HEAD /", 1, plain());
    assert!(matches!(setup.refused(NAME, &[]), HubError::NoFile { .. }));

    let setup = Setup::new(Repo::new(COMMIT, &[("config.json", b"{}"), ("README.md", b"")]));
    let error = setup.refused(NAME, &["no model.safetensors in it"]);
    assert!(matches!(error, HubError::NoModel { .. }));
}

#[test]
fn refusals_say_what_to_do() {
    let setup = Setup::new(repo());
    let headers = vec![("X-Error-Message", "Invalid username or password.".to_owned())];
    setup.server.fault("GET /api/", 1, Fault::Status(401, headers));
    let error =
        setup.refused(NAME, &["401: Invalid username", "set HF_TOKEN to an access token", "terms to accept", NAME]);
    assert!(matches!(error, HubError::Refused { with_token: false, .. }));

    let gated = Fault::Status(403, vec![("X-Error-Code", "GatedRepo".to_owned())]);
    setup.server.fault("HEAD /", 1, gated);
    let settings = HubSettings { token: Some(Token::new("hf_secret")), ..setup.settings() };
    let error = fetch(settings.clone(), NAME).unwrap_err();
    assert!(error.to_string().contains("a token that may read it"), "{error}");
    assert!(!format!("{error:?}").contains("hf_secret"));

    // The hub learns the token.
    setup.server.requests();
    fetch(settings, NAME).unwrap();
    assert!(setup.server.requests().iter().all(|request| request.ends_with("token=hf_secret")));
}

#[test]
fn the_storage_on_another_host_does_not_learn_the_token() {
    let storage = Server::start(repo());
    let setup = Setup::new(repo());
    let [blob, _] = setup.blob();
    let place = format!("{}/storage/{}", storage.endpoint(), blob.file_name().unwrap().to_str().unwrap());
    let elsewhere = Fault::Status(302, vec![("Location", place)]);
    setup.server.fault(&format!("GET /{NAME}/resolve/{COMMIT}/{WEIGHTS}"), 1, elsewhere);
    let fetched = fetch(HubSettings { token: Some(Token::new("hf_secret")), ..setup.settings() }, NAME).unwrap();
    assert_eq!(fs::read(fetched.path.join(WEIGHTS)).unwrap(), weights());
    let requests = storage.requests();
    assert!(requests.len() == 1 && !requests[0].contains("token"), "{requests:?}");
}

#[test]
fn a_link_to_the_storage_that_ran_out_is_made_anew() {
    let storage = Server::start(repo());
    let setup = Setup::new(repo());
    let place = format!("{}/storage/expired", storage.endpoint());
    storage.fault("GET /storage/expired", 9, Fault::Status(403, Vec::new()));
    let request = format!("GET /{NAME}/resolve/{COMMIT}/{WEIGHTS}");
    setup.server.fault(&request, 1, Fault::Status(302, vec![("Location", place.clone())]));
    setup.fetch(NAME).unwrap();
    assert_eq!(storage.requests().len(), 1);

    let setup = Setup::new(repo());
    setup.server.fault(&request, 9, Fault::Status(302, vec![("Location", place)]));
    let error = setup.refused(NAME, &["/storage/expired: the hub answers 403"]);
    assert!(matches!(error, HubError::Status { .. }));
    assert_eq!(storage.requests().len(), 3);
}

#[test]
fn a_renamed_repository_is_followed() {
    let setup = Setup::new(repo());
    let moved = |to: String| Fault::Status(307, vec![("Location", to)]);
    setup.server.fault("GET /api/models/old/name/", 1, moved(format!("/api/models/{NAME}/revision/main")));
    for name in ["config.json", "tokenizer.json", "LICENSE", WEIGHTS] {
        for method in ["HEAD", "GET"] {
            let request = format!("{method} /old/name/resolve/{COMMIT}/{name}");
            setup.server.fault(&request, 1, moved(format!("/{NAME}/resolve/{COMMIT}/{name}")));
        }
    }
    let fetched = setup.fetch("old/name").unwrap();
    assert_eq!(fs::read(fetched.path.join(WEIGHTS)).unwrap(), weights());
    assert!(fetched.path.starts_with(setup.cache.path().join("models--old--name")));

    setup.server.fault("GET /api/", 20, moved(format!("/api/models/{NAME}/revision/main")));
    setup.refused(NAME, &["redirections"]);
}

#[test]
fn too_many_requests_are_waited_for_within_bounds() {
    let setup = Setup::new(repo());
    let busy = |seconds: &str| Fault::Status(429, vec![("Retry-After", seconds.to_owned())]);
    setup.server.fault("GET /api/", 1, busy("1"));
    let start = std::time::Instant::now();
    setup.fetch(NAME).unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());

    // Longer than anyone waits.
    setup.server.requests();
    setup.server.fault("GET /api/", 1, busy("3600"));
    let error = setup.refused(NAME, &["429 Too Many Requests", "wait 3600 s", "HF_TOKEN"]);
    assert!(matches!(error, HubError::TooManyRequests { seconds: Some(3600), .. }));
    assert_eq!(setup.server.requests().len(), 1);
    // Again and again.
    setup.server.fault("GET /api/", 3, busy("0"));
    setup.refused(NAME, &["429 Too Many Requests"]);
    assert_eq!(setup.server.requests().len(), 3);
}

#[test]
fn errors_of_the_server_are_passing() {
    let setup = Setup::new(repo());
    for request in ["GET /api/", "HEAD /", "GET /storage/"] {
        setup.server.fault(request, 2, Fault::Status(503, Vec::new()));
    }
    setup.fetch(NAME).unwrap();

    let setup = Setup::new(repo());
    setup.server.fault("GET /storage/", 9, Fault::Status(500, vec![("X-Error-Message", "on fire".to_owned())]));
    let error = setup.refused(NAME, &["the hub answers 500: on fire"]);
    assert!(matches!(error, HubError::Status { .. }));
    assert_eq!(setup.transfers().len(), 3);
    // Others are not.
    setup.server.fault("GET /api/", 9, Fault::Status(418, Vec::new()));
    setup.server.requests();
    setup.refused(NAME, &["418"]);
    assert_eq!(setup.server.requests().len(), 1);
}

#[test]
fn without_a_network_the_cache_is_named() {
    let setup = Setup::new(repo());
    let settings = HubSettings { endpoint: "http://127.0.0.1:1".to_owned(), ..setup.settings() };
    let error = fetch(settings.clone(), NAME).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("cannot read http://127.0.0.1:1/") && text.contains("uses alone, does not have it"),
        "{text}"
    );
    assert!(std::error::Error::source(&error).unwrap().to_string().to_lowercase().contains("refused"));

    setup.fetch(NAME).unwrap();
    let text = fetch(settings.clone(), NAME).unwrap_err().to_string();
    assert!(text.contains(COMMIT) && text.contains("HF_HUB_OFFLINE=1 uses that"), "{text}");
    // A commit needs none.
    fetch(settings, &format!("{NAME}@{COMMIT}")).unwrap();
}

#[test]
fn answers_that_no_hub_gives() {
    let setup = Setup::new(repo());
    let protocol = |request: &str, fault: Fault, words: &[&str]| {
        setup.server.fault(request, 1, fault);
        let error = setup.refused(NAME, words);
        assert!(matches!(error, HubError::Protocol { .. }), "{error}");
    };
    protocol("GET /api/", Fault::Body(b"<html>".to_vec()), &["list of files", "HF_ENDPOINT"]);
    protocol("GET /api/", Fault::Body(br#"{"sha": "../../x", "siblings": []}"#.to_vec()), &["../../x"]);
    protocol("HEAD /", Fault::Without("ETag"), &["etag", "none"]);
    protocol("HEAD /", Fault::With("X-Linked-Etag", "\"../x\"".to_owned()), &["../x"]);
    protocol("HEAD /", Fault::Status(200, vec![("X-Repo-Commit", LATER.to_owned())]), &[COMMIT, LATER]);
    protocol("HEAD /", Fault::Status(302, vec![("Location", "nowhere".to_owned())]), &["nowhere"]);
    setup.server.fault("GET /storage/", 1, Fault::DropAfter(1000));
    let other = vec![("Content-Range", "bytes 7-999999/1000000".to_owned())];
    protocol("GET /storage/", Fault::Status(206, other), &["from byte 1000 on", "bytes 7-"]);
    setup.fetch(NAME).unwrap();
}

#[test]
fn names_that_lead_out_of_the_cache_are_refused() {
    for name in ["../config.json", "/etc/passwd", "a/../../b", "..\\x"] {
        let mut repo = repo();
        repo.listed.push(name.to_owned());
        let setup = Setup::new(repo);
        let error = setup.refused(NAME, &["outside of the cache"]);
        assert!(matches!(error, HubError::UnsafeName { name: found, .. } if found == name));
        assert!(!setup.folder().exists());
    }
    let index = br#"{"weight_map": {"a": "../../../x.safetensors"}}"#;
    let setup = Setup::new(Repo::new(COMMIT, &[("config.json", b"{}"), ("model.safetensors.index.json", index)]));
    let error = setup.refused(NAME, &["model.safetensors.index.json", "../../../x.safetensors"]);
    assert!(matches!(error, HubError::Index { .. }));
}

#[test]
fn two_downloads_at_once_fetch_once() {
    let setup = Setup::new(repo());
    setup.server.fault("GET /storage/", 2, Fault::Slow(Duration::from_millis(500)));
    let waited = thread::scope(|scope| {
        let fetches: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut waited = false;
                    let fetched = Hub::new(setup.settings()).fetch(&NAME.parse().unwrap(), &mut |progress| {
                        waited |=
                            matches!(progress, HubProgress::Waiting { reason } if reason.contains("another process"));
                        ControlFlow::Continue(())
                    });
                    assert_eq!(fs::read(fetched.unwrap().path.join(WEIGHTS)).unwrap(), weights());
                    waited
                })
            })
            .collect();
        fetches.into_iter().map(|fetch| fetch.join().unwrap()).filter(|&waited| waited).count()
    });
    assert_eq!(setup.transfers(), ["whole"]);
    assert!(waited >= 1);
}

#[test]
fn a_download_that_is_stopped_is_continued() {
    let setup = Setup::new(repo());
    let stopped = Hub::new(setup.settings()).fetch(&NAME.parse().unwrap(), &mut |progress| match progress {
        HubProgress::Downloading { file: WEIGHTS, bytes: 1.., .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    assert!(matches!(stopped, Err(HubError::Interrupted)));
    let begun = fs::metadata(&setup.blob()[1]).unwrap().len();
    assert!((1..1_000_000).contains(&begun));
    setup.server.requests();
    setup.fetch(NAME).unwrap();
    assert_eq!(setup.transfers(), [format!("range=bytes={begun}-")]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_cannot_be_written_is_named() {
    let setup = Setup::new(repo());
    let [blob, incomplete] = setup.blob();
    fs::create_dir_all(incomplete.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/dev/full", &incomplete).unwrap();
    let error = setup.refused(NAME, &["cannot write ", ".incomplete"]);
    assert!(matches!(&error, HubError::File(file) if file.kind() == std::io::ErrorKind::StorageFull));
    assert!(!blob.exists());

    let settings = HubSettings { cache: Some("/dev/null/cache".into()), ..setup.settings() };
    let error = fetch(settings, NAME).unwrap_err().to_string();
    assert!(error.contains("/dev/null/cache"), "{error}");
    let error = fetch(HubSettings { cache: None, ..setup.settings() }, NAME).unwrap_err().to_string();
    assert!(error.starts_with("HF_HOME is not set"), "{error}");
}

#[test]
fn a_path_that_exists_wins() {
    let setup = Setup::new(repo());
    let hub = Hub::new(setup.settings());
    let locate = |name: &Path| locate_model(name, &hub, &mut |_| ControlFlow::Continue(()));
    let folder = setup.cache.path().join("here");
    fs::create_dir(&folder).unwrap();
    let location = locate(&folder).unwrap();
    assert_eq!((location.path, location.id), (folder.clone(), None));
    assert!(matches!(locate(&folder.join("absent")), Err(HfError::NoSuchModel { .. })));
    assert!(matches!(locate(Path::new("absent")), Err(HfError::NoSuchModel { .. })));
    assert_eq!(setup.server.requests(), [""; 0]);
    // Tests run in the package's folder, where `src/hf` has the form of a hub id.
    assert!("src/hf".parse::<HubId>().is_ok());
    assert_eq!(locate(Path::new("src/hf")).unwrap().id, None);
    assert_eq!(setup.server.requests(), [""; 0]);
    let location = locate(Path::new(NAME)).unwrap();
    assert_eq!(location.id.unwrap().to_string(), format!("{NAME}@{COMMIT}"));
    assert_eq!(location.path, setup.fetch(NAME).unwrap().path);
}
