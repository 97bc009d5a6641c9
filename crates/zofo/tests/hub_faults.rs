//! Every way in which a download can go wrong: what is continued, tried again, deleted or refused.

mod hub_server;
mod hub_setup;

use std::{fs, ops::ControlFlow, time::Duration};

use hub_server::{Fault, NAME, Repo, Server};
use hub_setup::*;
use zofo::hf::hub::{Hub, HubError, HubProgress, HubSettings, Token};

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
