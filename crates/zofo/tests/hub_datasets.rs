//! Data sets of a hub: which files are asked for, what the cache then has, and what is refused.

mod hub_server;

use std::{fs, ops::ControlFlow, path::Path, time::Duration};

use hub_server::{Fault, NAME, Repo, Server};
use tempfile::TempDir;
use zofo::hf::hub::{DatasetRequest, FetchedDataset, Hub, HubError, HubId, HubSettings, RetryPolicy};
use zofo::task::{DataSplit, Dataset, Location, Task};

const COMMIT: &str = "1111111111111111111111111111111111111111";
const LATER: &str = "2222222222222222222222222222222222222222";
const BRANCH: &str = "refs%2Fconvert%2Fparquet";

const ROWS: [&str; 3] = ["first", "second", "third"];

fn repo() -> Repo {
    let content = ROWS.map(str::as_bytes);
    Repo::dataset(
        COMMIT,
        &[
            ("small/train/0000.parquet", content[0]),
            ("small/train/0001.parquet", content[1]),
            ("small/test/0000.parquet", content[2]),
            ("large/train/0000.parquet", content[0]),
        ],
    )
}

struct Setup {
    server: Server,
    cache: TempDir,
}

impl Setup {
    fn new(repo: Repo) -> Self {
        Self { server: Server::start(repo), cache: tempfile::tempdir().unwrap() }
    }

    fn hub(&self, offline: bool) -> Hub {
        let pause = Duration::from_millis(1);
        Hub::new(HubSettings {
            cache: Some(self.cache.path().to_owned()),
            endpoint: self.server.endpoint(),
            token: None,
            offline,
            retry: RetryPolicy { tries: 2, first_pause: pause, longest_pause: pause },
        })
    }

    fn fetch(&self, id: &str, config: Option<&str>, splits: &[&str]) -> Result<FetchedDataset, HubError> {
        fetch(&self.hub(false), id, config, splits)
    }

    /// Fails unless fetching fails with a message that has all of `words`.
    #[track_caller]
    fn refused(&self, id: &str, config: Option<&str>, splits: &[&str], words: &[&str]) {
        let text = self.fetch(id, config, splits).unwrap_err().to_string();
        for word in words {
            assert!(text.contains(word), "expected \"{word}\" in: {text}");
        }
    }
}

fn fetch(hub: &Hub, id: &str, config: Option<&str>, splits: &[&str]) -> Result<FetchedDataset, HubError> {
    let id = HubId::dataset(id).unwrap();
    hub.fetch_dataset(&DatasetRequest { id: &id, config, splits }, &mut |_| ControlFlow::Continue(()))
}

fn contents(fetched: &FetchedDataset, split: &str) -> Vec<String> {
    fetched.files[split].iter().map(|file| fs::read_to_string(file).unwrap()).collect()
}

#[test]
fn the_files_of_a_split_come_into_the_cache_that_hugging_face_uses() {
    let setup = Setup::new(repo());
    let fetched = setup.fetch(NAME, Some("small"), &["train"]).unwrap();
    assert_eq!(contents(&fetched, "train"), ROWS[..2]);
    assert_eq!((fetched.id.commit(), fetched.config.as_str()), (Some(COMMIT), "small"));
    let folder = setup.cache.path().join("datasets--acme--tiny");
    assert_eq!(fetched.files["train"][1], folder.join("snapshots").join(COMMIT).join("small/train/0001.parquet"));
    assert_eq!(fs::read_to_string(folder.join("refs/refs/convert/parquet")).unwrap(), COMMIT);
    let requests = setup.server.requests();
    assert_eq!(requests[0], format!("GET /api/datasets/{NAME}/revision/{BRANCH}"));
    assert_eq!(requests[1], format!("HEAD /datasets/{NAME}/resolve/{COMMIT}/small/train/0000.parquet"));
    assert!(!requests.iter().any(|request| request.contains("large") || request.contains("test")), "{requests:?}");

    // What is there is not asked for again; for a commit nothing is.
    setup.fetch(NAME, Some("small"), &["train"]).unwrap();
    assert_eq!(setup.server.requests(), [format!("GET /api/datasets/{NAME}/revision/{BRANCH}")]);
    let pinned = format!("{NAME}@{COMMIT}");
    assert_eq!(setup.fetch(&pinned, Some("small"), &["train"]).unwrap(), fetched);
    assert_eq!(setup.server.requests(), [""; 0]);
    assert_eq!(contents(&setup.fetch(&pinned, Some("small"), &["test", "train"]).unwrap(), "test"), ROWS[2..]);

    // The branch moves; the commit stays.
    setup.server.change(|repo| repo.commit("refs/convert/parquet", LATER, &[("small/train/0000.parquet", b"new")]));
    assert_eq!(contents(&setup.fetch(NAME, None, &["train"]).unwrap(), "train"), ["new"]);
    assert_eq!(contents(&setup.fetch(&pinned, Some("small"), &["train"]).unwrap(), "train"), ROWS[..2]);
}

#[test]
fn offline_the_cache_must_have_whole_splits() {
    let setup = Setup::new(repo());
    let offline = |config, split: &str| fetch(&setup.hub(true), NAME, config, &[split]);
    let message = |config, split| offline(config, split).unwrap_err().to_string();
    assert!(message(None, "train").contains("HF_HUB_OFFLINE is set") && message(None, "train").contains("data set"));
    let fetched = setup.fetch(NAME, Some("small"), &["train"]).unwrap();
    assert_eq!(offline(None, "train").unwrap(), fetched);
    assert_eq!(offline(Some("small"), "train").unwrap(), fetched);
    assert!(message(None, "test").contains("has no small/test/0000.parquet of its commit 1111"));
    // A file that another program did not bring.
    fs::remove_file(&fetched.files["train"][1]).unwrap();
    assert!(message(None, "train").contains("has no small/train/0001.parquet"));
    setup.fetch(NAME, Some("large"), &["train"]).unwrap();
    assert!(message(None, "train").contains("several configurations"));

    // Without a network, but not told so.
    setup.fetch(NAME, Some("small"), &["train"]).unwrap();
    let hub = setup.hub(false);
    drop(setup.server);
    let text = fetch(&hub, NAME, Some("small"), &["train"]).unwrap_err().to_string();
    assert!(text.contains(COMMIT) && text.contains("HF_HUB_OFFLINE=1 uses that"), "{text}");
}

#[test]
fn what_the_hub_does_not_have() {
    let setup = Setup::new(repo());
    let words = ["several configurations: name one, as hf://datasets/acme/tiny/large", "it has large, small"];
    setup.refused(NAME, None, &["train"], &words);
    setup.refused(NAME, Some("smal"), &["train"], &["no configuration \"smal\"", "large, small"]);
    setup.refused(NAME, Some("small"), &["validation"], &["no split \"validation\"", "it has test, train"]);
    setup.refused("acme/other", None, &["train"], &["acme/other is no data set on http://127.0.0.1"]);
    setup.refused(&format!("{NAME}@nowhere"), None, &["train"], &["no branch, tag or commit \"nowhere\""]);
    setup.server.change(|repo| repo.branches.clear());
    setup.refused(NAME, None, &["train"], &["refs/convert/parquet", "name their folder or file"]);

    let setup = Setup::new(repo());
    setup.server.change(|repo| repo.listed.push("../x/train/0000.parquet".to_owned()));
    setup.refused(NAME, Some("small"), &["train"], &["../x/train/0000.parquet", "refused"]);
    let setup = Setup::new(repo());
    setup.server.fault("GET /storage/", 9, Fault::Body(b"firsT".to_vec()));
    setup.refused(NAME, Some("large"), &["train"], &["SHA-256", "is deleted"]);
}

#[test]
fn rows_of_a_task_that_names_its_data_set() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/rows");
    let [snappy, zstd] = ["snappy.parquet", "zstd.parquet"].map(|name| fs::read(golden.join(name)).unwrap());
    let files = [
        ("only/train/0000.parquet", &snappy[..]),
        ("only/train/0001.parquet", &zstd),
        ("only/dev/0000.parquet", &zstd),
    ];
    let setup = Setup::new(Repo::dataset(COMMIT, &files));
    let task = r#"
        name = "rows"
        description = "d"
        [source]
        hub = "acme/tiny"
        splits = { train = "train[5:9]+dev[:1]", validation = "dev[4:]" }
        [fields]
        id = "string"
        texts = { type = "strings", from = "answers.text" }
        [label]
        field = "label"
        [template.prompt]
        prompt = "{{ id }}"
        candidates = ["a", "b"]
    "#;
    let task = Task::parse(task, "test").unwrap();
    let mut location = Location::of(None, &task).unwrap();
    let splits = [DataSplit::Train, DataSplit::Validation];
    let files = location.files(&task, &splits, &setup.hub(false), &mut |_| ControlFlow::Continue(())).unwrap();
    let ids = |index: usize| -> Vec<String> {
        let data = Dataset::read(&files[index], &task, splits[index], 0).unwrap();
        data.examples.iter().map(|example| example.fields["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(0), ["row-5", "row-6", "row-0", "row-1", "row-0"]);
    assert_eq!(ids(1), ["row-4", "row-5", "row-6"]);
    let Location::Hub(data) = location else { panic!("not of the hub") };
    assert_eq!(data.to_string(), format!("hf://datasets/acme/tiny@{COMMIT}/only"));
}
