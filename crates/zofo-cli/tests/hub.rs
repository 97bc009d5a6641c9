//! Models of a hub through the program: what arguments and configurations name is downloaded, and a run keeps its commit.

mod common;
#[path = "../../zofo/tests/hub_server/mod.rs"]
mod hub_server;

use assert_cmd::Command;
use assert_cmd::assert::Assert;
use common::{ADAPTER, MODEL, Workspace, assert_error, content, json_of, stderr};
use hub_server::{Fault, NAME, Repo, Server};
use std::fs;
use std::path::Path;

const COMMIT: &str = "1111111111111111111111111111111111111111";
const LATER: &str = "2222222222222222222222222222222222222222";

/// The program, with an environment in which `server` is the hub and nothing of the user's is seen.
struct Programs<'a> {
    workspace: &'a Workspace,
    endpoint: String,
}

impl Programs<'_> {
    fn zofo(&self, arguments: &str, environment: &[(&str, &str)]) -> Assert {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zofo"));
        for variable in ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]
        {
            command.env_remove(variable);
        }
        command.env("HF_HOME", self.workspace.path("hf")).env("HF_ENDPOINT", &self.endpoint);
        command.envs(environment.iter().copied());
        command.current_dir(self.workspace.path("")).args(arguments.split_whitespace()).assert()
    }
}

fn setup(workspace: &Workspace) -> (Server, Programs<'_>) {
    let server = Server::start(Repo::of_folder(COMMIT, Path::new(MODEL)));
    let endpoint = server.endpoint();
    (server, Programs { workspace, endpoint })
}

#[test]
fn a_run_keeps_the_commit_that_it_started_from() {
    let workspace = Workspace::new();
    let (server, programs) = setup(&workspace);
    programs.zofo(&format!("train config.toml --set model.path={NAME}@main"), &[]).success();
    let run = workspace.path("run");
    let stored = || fs::read_to_string(run.join("config.toml")).unwrap();
    let pinned = format!("path = \"{NAME}@{COMMIT}\"");
    assert!(stored().contains(&pinned), "{}", stored());

    // A run that was killed in its first moments is resumed with its model named anew.
    let forget = || ["checkpoint.safetensors", "journal.zofo"].map(|name| fs::remove_file(run.join(name)).unwrap());
    forget();
    programs.zofo(&format!("train --resume run --set model.path={NAME}"), &[]).success();
    assert!(stored().contains(&pinned), "{}", stored());

    // The branch moves to a model that is none, and then the hub is gone.
    server.change(|repo| repo.commit("main", LATER, &[("config.json", b"{}"), ("model.safetensors", b"")]));
    assert_error(programs.zofo(&format!("generate --model {NAME} --prompt film"), &[]), 3, &[LATER, "config.json"]);
    drop(server);
    forget();
    programs.zofo("train --resume run", &[]).success();
    assert!(stored().contains(&pinned), "{}", stored());
    for (base, output) in [(format!("{NAME}@{COMMIT}"), "rebuilt"), (MODEL.to_owned(), "elsewhere")] {
        programs.zofo(&format!("replay --base {base} --journal run/journal.zofo -o {output}"), &[]).success();
    }
    assert!(content(&workspace.path("rebuilt")) == content(&workspace.path("elsewhere")));
    // Without a network nobody knows where the branch is.
    let words = ["cannot read http://127.0.0.1", LATER, "HF_HUB_OFFLINE=1 uses that", "refused"];
    assert_error(programs.zofo(&format!("plan config.toml --set model.path={NAME}"), &[]), 1, &words);
}

#[test]
fn arguments_name_models_of_the_hub() {
    let workspace = Workspace::new();
    let (server, programs) = setup(&workspace);
    let arguments = |model: &str| format!("generate --model {model} --prompt film --max-new-tokens 4 --json");
    let assert = programs.zofo(&arguments(NAME), &[("HF_TOKEN", "hf_secret")]);
    assert_eq!(json_of(&assert)["text"], json_of(&programs.zofo(&arguments(MODEL), &[]))["text"]);
    // Not a terminal: what takes a moment is not told.
    assert_eq!(stderr(&assert), "");
    assert!(server.requests().iter().all(|request| request.ends_with("token=hf_secret")));
    assert!(workspace.path("hf/hub/models--acme--tiny/refs/main").is_file());

    programs.zofo(&format!("eval --model {NAME} --task sst2 --limit 2"), &[]).success();
    programs.zofo(&format!("tasks show sst2 --data data --model {NAME}"), &[]).success();
    programs.zofo(&arguments(NAME), &[("HF_HUB_OFFLINE", "1")]).success();
    // A folder of that name wins.
    fs::create_dir_all(workspace.path(NAME)).unwrap();
    assert_error(programs.zofo(&arguments(NAME), &[]), 3, &["acme/tiny: config.json is missing"]);
}

#[test]
fn arguments_name_adapters_of_the_hub() {
    let workspace = Workspace::new();
    let mut repo = Repo::of_folder(COMMIT, Path::new(ADAPTER));
    repo.listed = ["README.md", "optimizer.pt", "checkpoint-500/adapter_model.safetensors"].map(str::to_owned).into();
    let server = Server::start(repo);
    let programs = Programs { workspace: &workspace, endpoint: server.endpoint() };
    let generate = |adapter: &str, environment: &[(&str, &str)]| {
        let rest = "--prompt film --max-new-tokens 4 --json";
        programs.zofo(&format!("generate --model {MODEL} --adapter {adapter} {rest}"), environment)
    };
    let local = json_of(&generate(ADAPTER, &[]))["text"].clone();
    assert_eq!(server.requests(), [""; 0]);
    assert_eq!(json_of(&generate(NAME, &[("HF_TOKEN", "hf_secret")]))["text"], local);
    let requests = server.requests();
    assert!(requests.iter().filter(|request| !request.contains("/storage/")).all(|it| it.ends_with("token=hf_secret")));
    // What training left beside the adapter is not needed.
    let asked = |name: &str| requests.iter().any(|request| request.contains(name));
    assert!(asked("/adapter_config.json") && asked("/adapter_model.safetensors"));
    assert!(!asked("README") && !asked("optimizer") && !asked("checkpoint"), "{requests:?}");
    let snapshot = workspace.path("hf/hub/models--acme--tiny/snapshots").join(COMMIT);
    assert!(snapshot.join("adapter_config.json").is_file());

    // A commit that is there is not asked for, and offline the branch is where it was.
    let pinned = format!("{NAME}@{COMMIT}");
    assert_eq!(json_of(&generate(&pinned, &[]))["text"], local);
    assert_eq!(server.requests(), [""; 0]);
    assert_eq!(json_of(&generate(NAME, &[("HF_HUB_OFFLINE", "1")]))["text"], local);
    for (adapter, merged) in [(NAME, "from-hub"), (ADAPTER, "from-folder")] {
        programs.zofo(&format!("merge --model {MODEL} --adapter {adapter} -o {merged}"), &[]).success();
        programs
            .zofo(&format!("export --model {MODEL} --adapter {adapter} --gguf {merged}.gguf --name x"), &[])
            .success();
    }
    assert!(content(&workspace.path("from-hub")) == content(&workspace.path("from-folder")));
    let file = |name: &str| fs::read(workspace.path(name)).unwrap();
    assert!(file("from-hub.gguf") == file("from-folder.gguf"));

    // What is no adapter, or none that can be had.
    let refused = |adapter: &str, environment: &[(&str, &str)], words: &[&str]| {
        assert_error(generate(adapter, environment), 3, words);
    };
    refused("no-adapter", &[], &["cannot open no-adapter", "No such file", "hint: ", "org/name[@revision]"]);
    refused("acme/other", &[], &["acme/other is neither a folder here nor an adapter on", "HF_TOKEN"]);
    refused("acme/other", &[("HF_HUB_OFFLINE", "1")], &["HF_HUB_OFFLINE is set", "download the adapter"]);
    refused("acme/tiny@v9", &[], &["\"v9\""]);
    server.change(|repo| repo.commit("main", LATER, &[("config.json", b"{}"), ("model.safetensors", b"")]));
    refused(NAME, &[], &["no adapter_config.json", "is it a model?"]);
    // A folder of that name wins.
    fs::create_dir_all(workspace.path(NAME)).unwrap();
    refused(NAME, &[], &["acme/tiny: adapter_config.json is missing"]);
}

#[test]
fn what_cannot_be_had_is_told() {
    let workspace = Workspace::new();
    let (server, programs) = setup(&workspace);
    let refused = |model: &str, environment: &[(&str, &str)], code, words: &[&str]| {
        let assert = programs.zofo(&format!("generate --model {model} --prompt film"), environment);
        assert_error(assert, code, words);
    };
    refused("no-model", &[], 3, &["cannot open no-model", "No such file", "hint: ", "org/name[@revision]"]);
    refused("acme/other", &[], 3, &["neither a file or folder here nor a model on", "HF_TOKEN"]);
    refused("acme/tiny@v9", &[], 3, &["\"v9\""]);
    refused("acme/tiny/x.gguf", &[], 3, &["no file x.gguf"]);
    refused(NAME, &[("HF_HUB_OFFLINE", "1")], 3, &["HF_HUB_OFFLINE is set"]);
    refused(NAME, &[("HF_ENDPOINT", "127.0.0.1")], 2, &["HF_ENDPOINT is"]);
    refused(NAME, &[("HF_HOME", "/dev/null/x")], 1, &["cannot create /dev/null/x"]);
    server.fault("GET /api/", 1, Fault::Status(401, Vec::new()));
    refused(NAME, &[], 3, &["401", "set HF_TOKEN"]);
    server.fault("GET /api/", 1, Fault::Status(429, vec![("Retry-After", "3600".to_owned())]));
    refused(NAME, &[], 1, &["429", "3600 s"]);
}

/// Rows of `sst2` in a Parquet file.
fn parquet(rows: usize, first: usize) -> Vec<u8> {
    use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
    use parquet::file::writer::SerializedFileWriter;
    let schema = "message rows { required binary sentence (UTF8); required int64 label; }";
    let schema = std::sync::Arc::new(parquet::schema::parser::parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Default::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let texts: Vec<ByteArray> =
        (first..first + rows).map(|row| ByteArray::from(format!("film number {row}").as_str())).collect();
    let labels: Vec<i64> = (first..first + rows).map(|row| (row % 2) as i64).collect();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<ByteArrayType>().write_batch(&texts, None, None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<Int64Type>().write_batch(&labels, None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.into_inner().unwrap()
}

#[test]
fn a_run_keeps_the_commit_of_its_data() {
    let workspace = Workspace::new();
    let (train, validation) = (parquet(80, 0), parquet(10, 100));
    let files = [("sst2/train/0000.parquet", &train[..]), ("sst2/validation/0000.parquet", &validation[..])];
    let server = Server::start(Repo::dataset(COMMIT, &files));
    let programs = Programs { workspace: &workspace, endpoint: server.endpoint() };
    let place = format!("hf://datasets/{NAME}");
    programs.zofo(&format!("train config.toml --set data.dir={place} --set data.hub_train=train[5:]"), &[]).success();
    let stored = fs::read_to_string(workspace.path("run/config.toml")).unwrap();
    for line in [
        format!("dir = \"{place}@{COMMIT}/sst2\""),
        "hub_train = \"train[5:]\"".to_owned(),
        "hub_validation = \"validation\"".to_owned(),
    ] {
        assert!(stored.contains(&line), "expected {line} in {stored}");
    }
    // The branch moves, and the run does not care; neither does it need the hub any more.
    server.change(|repo| repo.commit("refs/convert/parquet", LATER, &[("other/train/0000.parquet", b"")]));
    fs::remove_file(workspace.path("run/checkpoint.safetensors")).unwrap();
    fs::remove_file(workspace.path("run/journal.zofo")).unwrap();
    programs.zofo("train --resume run", &[]).success();
    drop(server);
    let pinned = format!("eval --model {MODEL} --task sst2 --data {place}@{COMMIT}/sst2 --json");
    assert_eq!(json_of(&programs.zofo(&pinned, &[]))["tasks"][0]["examples"], 10);
}
