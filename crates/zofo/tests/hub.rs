//! Models of a hub: what is asked of it, and what the cache then has.

mod hub_server;
mod hub_setup;

use std::{fs, ops::ControlFlow, path::Path, thread, time::Duration};

use hub_server::{Fault, NAME, Repo};
use hub_setup::*;
use zofo::hf::{
    HfError,
    hub::{Hub, HubError, HubId, HubProgress, HubSettings, Token, locate_model},
};

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
