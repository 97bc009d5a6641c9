//! The commands besides `train`: what they print, and what they write.

mod common;

use common::{ADAPTER, MODEL, Workspace, assert_error, content, json_of, stderr, stdout};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use tokenizers::Tokenizer;

#[test]
fn eval_prints_one_result_per_task() {
    let workspace = Workspace::new();
    fs::create_dir(workspace.path("data/movie-reviews")).unwrap();
    let rows = "{\"text\": \"warm and wise\", \"label\": 1}\n{\"text\": \"cold and dull\", \"label\": 0}\n";
    fs::write(workspace.path("data/movie-reviews/validation.jsonl"), rows).unwrap();
    let command = format!("eval --model {MODEL} --task sst2 --task movie-reviews");
    let result = json_of(&workspace.zofo(&format!("{command} --json --limit 5")).success());
    let tasks = result["tasks"].as_array().unwrap();
    assert_eq!((&tasks[0]["task"], &tasks[0]["examples"]), (&"sst2".into(), &5.into()));
    assert_eq!((&tasks[1]["task"], &tasks[1]["examples"]), (&"movie-reviews".into(), &2.into()));
    for task in tasks {
        assert_eq!((&task["template"], &task["truncated"]), (&"prompt".into(), &0.into()));
        assert!((0.0..=1.0).contains(&task["accuracy"].as_f64().unwrap()));
        for number in ["loss", "seconds", "examples_per_second"] {
            assert!(task[number].as_f64().unwrap() > 0.0, "{number}");
        }
        assert!(task["tokens"].as_u64().unwrap() > 10);
    }
    let text = stdout(&workspace.zofo(&command).success());
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[0].starts_with("task ") && lines[1].starts_with("sst2 "), "{text}");
}

#[test]
fn eval_writes_measures_classes_and_predictions() {
    let workspace = Workspace::new();
    let command = format!("eval --model {MODEL} --task sst2 --predictions out.jsonl --per-class");
    let report = json_of(&workspace.zofo(&format!("{command} --json")).success());
    let task = &report["tasks"][0];
    assert_eq!((&task["metric"], &task["score"], &task["shots"]), (&"accuracy".into(), &"mean".into(), &0.into()));
    for measure in ["accuracy", "macro-f1", "calibration-error"] {
        let measure = &task["measures"][measure];
        let [low, value, high] = ["low", "value", "high"].map(|key| measure[key].as_f64().unwrap());
        assert!(0.0 <= low && low <= value && value <= high && high <= 1.0, "{measure}");
    }
    assert_eq!(task["measures"]["accuracy"]["value"], task["accuracy"]);
    let support = |class: usize| task["per_class"][class]["support"].as_u64().unwrap();
    assert_eq!((task["per_class"][0]["class"].as_str(), support(0), support(1)), (Some("negative"), 6, 6));

    let rows: Vec<Value> = fs::read_to_string(workspace.path("out.jsonl"))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(rows.len(), 12);
    let right = rows.iter().filter(|row| row["gold"][0] == row["prediction"]).count();
    assert_eq!(right as f64 / 12.0, task["accuracy"].as_f64().unwrap());
    for (index, row) in rows.iter().enumerate() {
        assert_eq!((&row["task"], row["line"].as_u64()), (&"sst2".into(), Some(index as u64 + 1)));
        assert_eq!(row["texts"], serde_json::json!(["terrible", "great"]));
        let scores: Vec<f64> = serde_json::from_value(row["scores"].clone()).unwrap();
        assert_eq!(scores[1] > scores[0], row["prediction"] == 1, "{row}");
    }
    let text = stdout(&workspace.zofo(&command).success());
    assert!(text.contains("sst2      precision  recall") && text.lines().any(|line| line.starts_with("positive ")));
}

#[test]
fn eval_compares_candidates_as_it_is_told() {
    let workspace = Workspace::new();
    let scores = |more: &str| {
        let command = format!("eval --model {MODEL} --task sst2 --limit 3 --predictions out.jsonl {more}");
        workspace.zofo(&command).success();
        let text = fs::read_to_string(workspace.path("out.jsonl")).unwrap();
        let row: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        let scores: Vec<f64> = serde_json::from_value(row["scores"].clone()).unwrap();
        scores
    };
    let (mean, sum, bytes) = (scores(""), scores("--score sum"), scores("--score bytes"));
    // "terrible" has eight bytes, "great" five.
    for (index, length) in [8.0, 5.0].into_iter().enumerate() {
        assert!((sum[index] / length - bytes[index]).abs() < 1e-12);
        assert!(sum[index] < mean[index]);
    }
    let sfc = scores("--score sfc");
    // The null prompt is the same for every row.
    let shift = [sum[0] - sfc[0], sum[1] - sfc[1]];
    assert!(shift[0] < 0.0 && shift[1] < 0.0 && shift[0] != shift[1]);
    let shots = scores("--shots 1 --score sum");
    assert_ne!(shots, sum);
    assert_ne!(shots, scores("--shots 1 --shots-seed 1 --score sum"));
    assert_ne!(scores("--shots 1 --score icl-sfc"), scores("--shots 1 --score sfc"));
    assert_error(workspace.zofo(&format!("eval --model {MODEL} --task sst2 --score icl-sfc")), 2, &["add --shots"]);
    let own = format!("eval --model {MODEL} --task sst2 --shots 1 --split train");
    assert_error(workspace.zofo(&own), 2, &["--split train evaluates"]);
    let many = format!("eval --model {MODEL} --task sst2 --shots 61");
    assert_error(workspace.zofo(&many), 2, &["61 demonstrations", "has 60 rows"]);
    let nowhere = format!("eval --model {MODEL} --task sst2 --predictions no/where.jsonl");
    assert_error(workspace.zofo(&nowhere), 2, &["no folder no"]);
}

#[test]
fn eval_of_all_tasks_takes_those_that_have_a_folder_and_writes_answers() {
    let workspace = Workspace::new();
    fs::create_dir(workspace.path("data/squad")).unwrap();
    let row = |question: &str, answer: &str| {
        let answers = serde_json::json!({ "text": [answer, "some other answer"] });
        format!("{}\n", serde_json::json!({ "context": "It was.", "question": question, "answers": answers }))
    };
    let rows = row("When?", "in 1066") + &row("Who was it?", "Ann");
    fs::write(workspace.path("data/squad/validation.jsonl"), rows).unwrap();
    fs::write(workspace.path("data/squad/train.jsonl"), row("Why?", "no")).unwrap();
    let command = format!("eval --model {MODEL} --task all");
    let report = json_of(&workspace.zofo(&format!("{command} --json --predictions out.jsonl")).success());
    let [squad, sst2] = [0, 1].map(|task| &report["tasks"][task]);
    assert_eq!((&squad["task"], &sst2["task"]), (&"squad".into(), &"sst2".into()));
    assert!(sst2.get("decoding").is_none());
    assert_eq!((&squad["metric"], &squad["examples"]), (&"f1".into(), &2.into()));
    assert!(squad.get("loss").is_none() && squad.get("score").is_none() && squad.get("accuracy").is_none());
    assert!(squad["measures"]["em"]["value"].is_number());
    assert!(squad["tokens"].as_u64().unwrap() > 40);
    let text = fs::read_to_string(workspace.path("out.jsonl")).unwrap();
    let first: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(first["gold"], serde_json::json!(["in 1066", "some other answer"]));
    assert!(first["prediction"].is_string() && first["f1"].is_number(), "{first}");
    assert!(!first["prediction"].as_str().unwrap().contains('\n'));
    // One demonstration more, or none that could be calibrated.
    workspace.zofo(&format!("{command} --shots 1 --limit 1")).success();
    let assert = workspace.zofo(&format!("{command} --score sfc")).success();
    assert!(stderr(&assert).contains("squad: left out"), "{}", stderr(&assert));
    assert_eq!(stdout(&assert).lines().count(), 2);
    let squad = format!("eval --model {MODEL} --task squad --score sfc");
    assert_error(workspace.zofo(&squad), 2, &["task \"squad\" is of kind \"generation\"", "could be calibrated"]);
    let nothing = format!("eval --model {MODEL} --task all --data run");
    assert_error(workspace.zofo(&nothing), 2, &["run has no folder"]);
}

#[test]
fn eval_depends_on_adapter_template_and_split_but_not_on_threads() {
    let workspace = Workspace::new();
    let loss = |more: &str| {
        let result = json_of(&workspace.zofo(&format!("eval --model {MODEL} --task sst2 --json {more}")).success());
        result["tasks"][0]["loss"].as_f64().unwrap()
    };
    let plain = loss("--threads 1");
    assert_eq!(loss("--threads 2"), plain);
    let others =
        [loss(&format!("--adapter {ADAPTER}")), loss("--template none"), loss("--split train"), loss("--dtype bf16")];
    assert!(others.iter().all(|other| *other != plain), "{plain} {others:?}");
    // bf16 keeps eight bits of every weight.
    assert!((others[3] - plain).abs() < 0.05, "{plain} {others:?}");
}

#[test]
fn eval_says_what_was_cut() {
    let workspace = Workspace::new();
    let long = format!("{{\"sentence\": \"{}\", \"label\": 1}}\n", "a long film ".repeat(40));
    fs::write(workspace.path("data/sst2/validation.jsonl"), long).unwrap();
    let assert = workspace.zofo(&format!("eval --model {MODEL} --task sst2 --json")).success();
    assert_eq!(json_of(&assert)["tasks"][0]["truncated"], 1);
    assert!(
        stderr(&assert).contains("sst2: 1 of 1 examples do not fit into the context of 128 tokens"),
        "{}",
        stderr(&assert)
    );
}

#[test]
fn eval_agrees_with_the_run_that_made_the_model() {
    let workspace = Workspace::new();
    let summary = json_of(&workspace.zofo("train config.toml --json --set run.keep=last").success());
    let eval = |more: &str| {
        let assert = workspace.zofo(&format!("eval --task sst2 --json {more}")).success();
        json_of(&assert)["tasks"][0]["loss"].clone()
    };
    let scores = &summary["scores"];
    assert_eq!(eval(&format!("--model {MODEL}")), scores[0]["loss"]);
    assert_eq!(eval(&format!("--model {MODEL} --adapter run/adapter")), scores[1]["loss"]);
    assert_eq!(eval("--model run/backbone --adapter run/adapter"), scores[2]["loss"]);
}

/// Greedy decoding as transformers does it: see the README of the golden cases.
#[test]
fn golden_greedy_generation() {
    let workspace = Workspace::new();
    let expected = fs::read_to_string(Path::new(MODEL).join("../expected.json")).unwrap();
    let expected: Value = serde_json::from_str(&expected).unwrap();
    let ids = |key: &str| -> Vec<u32> {
        expected["greedy"][key].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
    };
    let tokenizer = Tokenizer::from_file(Path::new(MODEL).join("tokenizer.json")).unwrap();
    let (prompt_ids, new_ids) = (ids("prompt_ids"), ids("new_ids"));
    let prompt = tokenizer.decode(&prompt_ids, false).unwrap();
    assert_eq!(tokenizer.encode(prompt.as_str(), true).unwrap().get_ids(), prompt_ids, "the test needs these tokens");
    let whole = tokenizer.decode(&[prompt_ids, new_ids.clone()].concat(), true).unwrap();
    let text = whole.strip_prefix(&prompt).unwrap();

    let tokens = new_ids.len().to_string();
    let generate = ["generate", "--model", MODEL, "--prompt", &prompt, "--max-new-tokens", &tokens];
    let assert = workspace.zofo_with(generate.into_iter().chain(["--json"])).success();
    let report = json_of(&assert);
    assert_eq!(report["text"], text);
    assert_eq!((&report["new_tokens"], &report["stopped"]), (&new_ids.len().into(), &"max_new_tokens".into()));
    let assert = workspace.zofo_with(generate).success();
    assert_eq!(stdout(&assert), format!("{text}\n"));
    assert!(stderr(&assert).contains("tokens/s"));
}

#[test]
fn generation_stops_where_the_model_ends_the_text() {
    let workspace = Workspace::new();
    let model = workspace.copy_of_model();
    let greedy = |model: &str| {
        let command = ["generate", "--model", model, "--prompt", "The keeper", "--max-new-tokens", "8", "--json"];
        json_of(&workspace.zofo_with(command).success())
    };
    assert_eq!(greedy(MODEL)["new_tokens"], 8);
    // Every token ends a text.
    let all: Vec<u32> = (0..280).collect();
    let config = serde_json::json!({ "eos_token_id": all });
    fs::write(model.join("generation_config.json"), config.to_string()).unwrap();
    let report = greedy("model");
    assert_eq!(
        (&report["new_tokens"], &report["stopped"], &report["text"]),
        (&0.into(), &"end_of_text".into(), &"".into())
    );
}

#[test]
fn samples_depend_on_the_seed_and_on_the_adapter() {
    let workspace = Workspace::new();
    let text = |more: &str| {
        let command = format!("generate --model {MODEL} --prompt harbour --max-new-tokens 24 --json {more}");
        json_of(&workspace.zofo(&command).success())["text"].clone()
    };
    let drawn = |seed: u32| text(&format!("--temperature 1 --seed {seed}"));
    assert_eq!(drawn(1), drawn(1));
    assert_ne!(drawn(1), drawn(2));
    // A nucleus of next to nothing is the likeliest token.
    assert_eq!(text("--temperature 1 --top-p 1e-9"), text(""));
    assert_ne!(text(&format!("--adapter {ADAPTER}")), text(""));
}

#[test]
fn a_prompt_comes_from_stdin_or_is_refused() {
    let workspace = Workspace::new();
    let command = format!("generate --model {MODEL} --max-new-tokens 6 --json --prompt");
    let given = json_of(&workspace.zofo(&format!("{command} harbour")).success());
    let from_stdin = |bytes: &[u8]| {
        assert_cmd::Command::new(env!("CARGO_BIN_EXE_zofo"))
            .args(command.split_whitespace())
            .arg("-")
            .write_stdin(bytes)
            .assert()
    };
    let read = json_of(&from_stdin(b"harbour").success());
    assert_eq!((&read["prompt"], &read["text"]), (&given["prompt"], &given["text"]));
    assert_error(from_stdin(b"harb\xff"), 3, &["UTF-8", "offset 4"]);
    assert_error(from_stdin(b""), 2, &["no tokens"]);
    let long = "a b ".repeat(100);
    assert_error(from_stdin(long.as_bytes()), 2, &["context is 128 tokens", "shorten the prompt"]);
    let words = ["prompt has ", "--max-new-tokens"];
    assert_error(workspace.zofo(&format!("generate --model {MODEL} --prompt x --max-new-tokens 200")), 2, &words);
}

#[test]
fn generate_answers_in_a_chat() {
    let workspace = Workspace::new();
    let model = workspace.copy_of_model();
    let model = model.to_str().unwrap();
    let generate = |more: &[&str]| {
        let command = ["generate", "--model", model, "--prompt", "how <late>?", "--max-new-tokens", "3", "--json"];
        workspace.zofo_with(command.into_iter().chain(more.iter().copied()))
    };
    assert_error(generate(&["--chat"]), 2, &["has no chat template", "--chat"]);
    assert_error(generate(&["--system", "Be brief."]), 2, &["--chat"]);

    let template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
        {% if messages|length > 2 %}{{ raise_exception('too long') }}{% endif %}\
        {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    fs::write(Path::new(model).join("chat_template.jinja"), template).unwrap();
    let chat = json_of(&generate(&["--chat", "--system", "Be brief."]).success());
    let expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhow <late>?<|im_end|>\n\
        <|im_start|>assistant\n";
    assert_eq!(chat["prompt"], expected);
    let tokenizer = Tokenizer::from_file(Path::new(model).join("tokenizer.json")).unwrap();
    let tokens = tokenizer.encode(expected, false).unwrap();
    let special = tokens.get_tokens().iter().filter(|token| token.starts_with("<|im_")).count();
    assert_eq!((&chat["prompt_tokens"], special), (&tokens.len().into(), 5));
    assert_eq!(json_of(&generate(&[]).success())["prompt"], "how <late>?");

    fs::write(Path::new(model).join("chat_template.jinja"), "\n{{ raise_exception('no users') }}").unwrap();
    assert_error(generate(&["--chat"]), 3, &["chat_template.jinja", "line 2", "no users"]);
}

#[test]
fn replay_gives_the_bytes_of_the_run() {
    for settings in ["", "--set model.dtype=bf16 --set outer.lr=1e-3", "--set outer.optimizer=adam"] {
        let workspace = Workspace::new();
        workspace.zofo(&format!("train config.toml --set run.keep=last {settings}")).success();
        let replay = |more: &str| workspace.zofo(&format!("replay --base {MODEL} --journal run/journal.zofo {more}"));
        let text = stdout(&replay("-o rebuilt").success());
        assert_eq!(text, "rebuilt: 4 updates, up to step 4\n");
        assert_eq!(content(&workspace.path("rebuilt")), content(&workspace.path("run/backbone")), "{settings}");

        // A shorter replay takes its place.
        let report = json_of(&replay("-o rebuilt --until 2 --json").success());
        assert_eq!((&report["updates"], &report["last_step"]), (&2.into(), &2.into()));
        let (half, whole) = (content(&workspace.path("rebuilt")), content(&workspace.path("run/backbone")));
        assert_ne!(half["model.safetensors"], whole["model.safetensors"]);
        let other = Workspace::new();
        other.zofo(&format!("train config.toml --set run.keep=last --set run.max_steps=2 {settings}")).success();
        assert_eq!(half, content(&other.path("run/backbone")), "{settings}");
    }
}

#[test]
fn replay_ignores_an_unfinished_record_and_says_so() {
    let workspace = Workspace::new();
    workspace.zofo("train config.toml").success();
    let mut bytes = fs::read(workspace.path("run/journal.zofo")).unwrap();
    bytes.truncate(bytes.len() - 12);
    fs::write(workspace.path("cut.zofo"), bytes).unwrap();
    let assert = workspace.zofo(&format!("replay --base {MODEL} --journal cut.zofo -o rebuilt")).success();
    assert!(stdout(&assert).contains("3 updates, up to step 3"));
    assert!(stderr(&assert).contains("the last 20 bytes are an unfinished record"), "{}", stderr(&assert));
}

#[test]
fn replay_replaces_nothing_but_models_and_never_the_base() {
    let workspace = Workspace::new();
    workspace.zofo("train config.toml").success();
    let model = workspace.copy_of_model();
    let before = content(&model);
    let replay = |output: &str| workspace.zofo(&format!("replay --base model --journal run/journal.zofo -o {output}"));
    assert_error(replay("data/../model"), 2, &["is the base model", "choose another"]);
    assert_eq!(content(&model), before);
    assert_error(replay("data"), 2, &["data", "\"sst2\"", "choose another folder"]);
    assert!(workspace.path("data/sst2/train.jsonl").exists());
}

#[test]
fn journal_tells_what_is_in_it() {
    let workspace = Workspace::new();
    workspace.zofo("train config.toml --set run.lr_schedule=linear").success();
    let report = json_of(&workspace.zofo("journal run/journal.zofo --json").success());
    assert_eq!((&report["storage"], &report["optimizer"]["name"]), (&"f32".into(), &"rms".into()));
    assert_eq!((&report["records"], &report["weights"]), (&4.into(), &34_528.into()));
    let updates = &report["updates"];
    assert_eq!((&updates["first_step"], &updates["last_step"]), (&1.into(), &4.into()));
    // A quarter of outer.lr = 1e-4 is left for the last of four steps.
    assert!((updates["last_learning_rate"].as_f64().unwrap() - 2.5e-5).abs() < 1e-11, "{updates}");
    let slope =
        workspace.events("run").iter().rfind(|event| event["event"] == "step").unwrap()["slope"].as_f64().unwrap();
    assert_eq!(updates["last_slope"].as_f64().unwrap() as f32, slope as f32);
    let text = stdout(&workspace.zofo("journal run/journal.zofo").success());
    assert!(text.contains("optimizer   rms, decay 0.99") && text.contains("updates     4, 128 bytes"), "{text}");
}

#[test]
fn tasks_are_listed_and_shown() {
    let workspace = Workspace::new();
    let list = stdout(&workspace.zofo("tasks").success());
    let names: Vec<&str> = list.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    assert!(names.is_sorted() && names.contains(&"copa") && names.contains(&"tweeteval-stance-hillary"), "{list}");
    assert!(list.contains("  classification        2  accuracy    Choice of"), "{list}");
    let listed = json_of(&workspace.zofo("tasks --json").success());
    let squad = listed["tasks"].as_array().unwrap().iter().find(|task| task["task"] == "squad").unwrap();
    assert_eq!((&squad["kind"], &squad["metric"]), (&"generation".into(), &"f1".into()));

    let text = stdout(&workspace.zofo("tasks show copa").success());
    assert!(text.contains("question (string, one of cause, effect)"), "{text}");
    let text = stdout(&workspace.zofo("tasks show boolq").success());
    for part in ["0 yes, 1 no", "none, prompt, upstream, v2", "hub dataset google/boolq: trains on train, evaluates"] {
        assert!(text.contains(part), "{text}");
    }

    let command = format!("tasks show sst2 --data data --model {MODEL}");
    let text = stdout(&workspace.zofo(&command).success());
    assert!(text.contains("prompt \"a dull and dull film , number 0 . It was\""), "{text}");
    assert!(text.contains(" before the answer)\n  0 right   \" terrible\"\n            | "), "{text}");
    let report = json_of(&workspace.zofo(&format!("{command} --json")).success());
    let examples = report["examples"].as_array().unwrap();
    assert_eq!(examples.len(), 3);
    for example in examples {
        for candidate in example["candidates"].as_array().unwrap() {
            let joined = |part: &str| -> String {
                candidate["tokens"][part].as_array().unwrap().iter().map(|token| token.as_str().unwrap()).collect()
            };
            // The tokenizer writes a blank as Ġ.
            assert_eq!(joined("context").replace('Ġ', " "), example["prompt"].as_str().unwrap());
            let whole = joined("context") + &joined("scored");
            assert_eq!(whole.replace('Ġ', " "), candidate["text"].as_str().unwrap());
        }
    }
    let text = stdout(&workspace.zofo(&format!("{command} --template none")).success());
    assert!(
        text.contains("prompt \"a dull and dull film , number 0 .\"") && text.contains("1         \" great\""),
        "{text}"
    );
    assert_error(workspace.zofo(&format!("{command} --template v2")), 2, &["no template \"v2\"", "none, prompt"]);
    workspace.zofo(&format!("tasks show sst2 --model {MODEL}")).code(2);
}

#[test]
fn a_generation_task_is_shown_with_all_its_answers() {
    let workspace = Workspace::new();
    fs::create_dir(workspace.path("data/drop")).unwrap();
    let row = r#"{"passage": "Two goals.", "question": "How many? ", "answers_spans": {"spans": ["2", "two"]}}"#;
    for split in ["train", "validation"] {
        fs::write(workspace.path(&format!("data/drop/{split}.jsonl")), row).unwrap();
    }
    let text = stdout(&workspace.zofo("tasks show drop --data data").success());
    for part in ["Question: How many?\\nAnswer:\"", "0 right   \" 2\\n\"", "also    \"two\""] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let refused = workspace.zofo("train config.toml --set data.template=v2");
    assert_error(refused, 2, &["has no template \"v2\"; it has: none, prompt"]);
}

#[test]
fn a_task_of_ones_own() {
    let workspace = Workspace::new();
    let task = r#"
        name = "mood"
        description = "Is it good?"
        metric = "accuracy"
        [fields]
        text = { type = "string" }
        [label]
        field = "gold"
        [template.none]
        prompt = "{{ text }}"
        candidates = [" bad", " so-so", " good"]
    "#;
    fs::write(workspace.path("mood.toml"), task).unwrap();
    fs::create_dir(workspace.path("data/mood")).unwrap();
    fs::write(workspace.path("data/mood/validation.jsonl"), "{\"text\": \"a film\", \"gold\": 2}\n").unwrap();
    let eval = format!("eval --model {MODEL} --task mood.toml --json");
    let result = json_of(&workspace.zofo(&format!("{eval} --template none")).success());
    assert_eq!(result["tasks"][0]["task"], "mood");
    assert_error(workspace.zofo(&eval), 2, &["\"mood\" has no template \"prompt\"", "it has: none"]);
}

#[test]
fn a_tilde_is_the_home_folder() {
    let workspace = Workspace::new();
    workspace.copy_of_model();
    let home = workspace.path("");
    let eval = |home: Option<&Path>| {
        let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_zofo"));
        command.args(["eval", "--model", "~/model", "--data", "~/data", "--task", "sst2"]);
        match home {
            Some(home) => command.env("HOME", home),
            None => command.env_remove("HOME"),
        }
        .assert()
    };
    eval(Some(&home)).success();
    let refused = eval(None).code(2);
    assert!(stderr(&refused).contains("HOME is not set"), "{}", stderr(&refused));
}

#[test]
fn version_and_help() {
    let workspace = Workspace::new();
    assert_eq!(stdout(&workspace.zofo("--version").success()), concat!("zofo ", env!("CARGO_PKG_VERSION"), "\n"));
    for command in ["train", "plan", "eval", "generate", "replay", "journal", "tasks"] {
        let help = stdout(&workspace.zofo(&format!("{command} --help")).success());
        assert!(help.contains("Example"), "{help}");
    }
}

#[test]
fn a_reader_who_leaves_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_zofo"))
        .args(["generate", "--model", MODEL, "--prompt", "harbour", "--max-new-tokens", "100"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_behind_stdout_is_named() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_zofo")).arg("tasks").stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(5));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.starts_with("error: cannot write to standard output\n  caused by: No space left"), "{text}");
}

#[test]
fn logging_is_set_by_the_environment() {
    let with = |value: &str| {
        assert_cmd::Command::new(env!("CARGO_BIN_EXE_zofo"))
            .args(["generate", "--model", MODEL, "--prompt", "x", "--max-new-tokens", "1", "--threads", "1"])
            .env("ZOFO_LOG", value)
            .assert()
    };
    let assert = with("debug").success();
    assert!(stderr(&assert).contains("thread pool started threads=1"), "{}", stderr(&assert));
    assert_error(with("zofo=loud"), 2, &["ZOFO_LOG=zofo=loud"]);
}

#[test]
fn merge_puts_a_lora_block_into_the_weights() {
    let workspace = Workspace::new();
    let report =
        json_of(&workspace.zofo(&format!("merge --model {MODEL} --adapter {ADAPTER} -o merged --json")).success());
    // Queries and values of three blocks.
    assert_eq!((&report["merged"], &report["output"]), (&6.into(), &"merged".into()));
    let loss = |model: &str| {
        let result = json_of(&workspace.zofo(&format!("eval --task sst2 --json --model {model}")).success());
        result["tasks"][0]["loss"].as_f64().unwrap()
    };
    let (merged, beside) = (loss("merged"), loss(&format!("{MODEL} --adapter {ADAPTER}")));
    assert!((merged - beside).abs() < 1e-5, "{merged} {beside}");
    assert!((merged - loss(MODEL)).abs() > 1e-3);

    // Stored as the model is, if nothing else is asked for.
    let dtype = |arguments: &str| {
        let merge = format!("merge --model {arguments} --adapter {ADAPTER} --json");
        let report = json_of(&workspace.zofo(&merge).success());
        let config = workspace.path(report["output"].as_str().unwrap()).join("config.json");
        let config: Value = serde_json::from_slice(&fs::read(config).unwrap()).unwrap();
        let stored = config.get("dtype").unwrap_or(&config["torch_dtype"]).as_str().unwrap().to_owned();
        (report["dtype"].as_str().unwrap().to_owned(), stored)
    };
    let pair = |name: &str, stored: &str| (name.to_owned(), stored.to_owned());
    let [f32, bf16] = [pair("f32", "float32"), pair("bf16", "bfloat16")];
    assert_eq!(dtype(&format!("{MODEL} -o again")), f32);
    assert_eq!(dtype(&format!("{MODEL} -o narrow --dtype bf16")), bf16);
    assert_eq!(dtype("narrow -o narrow-again"), bf16);
    assert_eq!(dtype("narrow -o wide --dtype f32"), f32);

    let prefix = ADAPTER.replace("peft-lora", "peft-prefix");
    let refused = workspace.zofo(&format!("merge --model {MODEL} --adapter {prefix} -o other"));
    assert_error(refused, 2, &["a prefix cannot be merged"]);
    assert!(!workspace.path("other").exists());
    let itself = workspace.zofo(&format!("merge --model {MODEL} --adapter {ADAPTER} -o {MODEL}"));
    assert_error(itself, 2, &["is the model itself"]);
}

#[test]
fn tasks_show_a_conversation_and_which_of_its_tokens_count() {
    let workspace = Workspace::new();
    let text = stdout(&workspace.zofo("tasks show chat").success());
    for words in ["kind        chat\n", "metric      perplexity\n", "templates   prompt, last, alpaca\n"] {
        assert!(text.contains(words), "expected \"{words}\" in\n{text}");
    }
    let row = serde_json::json!({ "instruction": "Add.", "input": "", "output": "3" });
    fs::write(workspace.path("alpaca.jsonl"), format!("{row}\n")).unwrap();
    let show = "tasks show chat --data alpaca.jsonl";
    let text = stdout(&workspace.zofo(show).success());
    assert!(text.contains("line 1\n  user       \"Add.\"\n  assistant  \"3\"\n"), "{text}");
    let report = json_of(&workspace.zofo(&format!("{show} --model {MODEL} --json")).success());
    let conversation = &report["conversations"][0];
    let [read, scored] = [0, 1].map(|piece| &conversation["tokens"][piece]);
    assert_eq!((&read["scored"], &scored["scored"]), (&false.into(), &true.into()));
    // The answer, and the model's end of text.
    assert_eq!(scored["tokens"], serde_json::json!(["3", "<|im_end|>"]));
    assert!(read["tokens"].as_array().unwrap().len() > 20);
    let text = stdout(&workspace.zofo(&format!("{show} --model {MODEL}")).success());
    assert!(text.contains("  scored     3 <|im_end|> (2)\n"), "{text}");
}

#[test]
fn written_answers_are_drawn_or_searched_for_if_that_is_asked() {
    let workspace = Workspace::new();
    fs::create_dir(workspace.path("data/squad")).unwrap();
    let row = |question: &str| {
        let answers = serde_json::json!({ "text": ["in 1066"] });
        format!("{}\n", serde_json::json!({ "context": "It was.", "question": question, "answers": answers }))
    };
    fs::write(workspace.path("data/squad/validation.jsonl"), row("When?") + &row("Who was it?")).unwrap();
    let written = |how: &str| {
        let eval = format!("eval --model {MODEL} --task squad --predictions out.jsonl {how}");
        workspace.zofo(&eval).success();
        fs::read_to_string(workspace.path("out.jsonl")).unwrap()
    };
    let greedy = written("");
    assert_eq!(written("--beams 1"), greedy);
    assert_ne!(written("--beams 3"), greedy);
    let drawn = written("--temperature 1.5 --top-p 0.9 --seed 1");
    assert_eq!(written("--temperature 1.5 --top-p 0.9 --seed 1"), drawn);
    assert_ne!(written("--temperature 1.5 --top-p 0.9 --seed 2"), drawn);
    let told = |how: &str| {
        let report = json_of(&workspace.zofo(&format!("eval --model {MODEL} --task squad --json {how}")).success());
        report["tasks"][0]["decoding"].clone()
    };
    assert_eq!(told(""), serde_json::json!({ "by": "greedy" }));
    assert_eq!(told("--beams 2"), serde_json::json!({ "by": "beams", "beams": 2 }));
    let nucleus = serde_json::json!({ "by": "nucleus", "temperature": 1.5, "top_p": 1.0, "seed": 3 });
    assert_eq!(told("--temperature 1.5 --seed 3"), nucleus);
    let both = workspace.zofo(&format!("eval --model {MODEL} --task squad --beams 2 --temperature 1"));
    assert_error(both, 2, &["--beams", "--temperature"]);

    let generate = |how: &str| {
        let generate = format!("generate --model {MODEL} --prompt keeper --max-new-tokens 12 --json {how}");
        json_of(&workspace.zofo(&generate).success())
    };
    assert_eq!(generate("--beams 1")["text"], generate("")["text"]);
    assert_ne!(generate("--beams 4")["text"], generate("")["text"]);
    let text = stdout(
        &workspace.zofo(&format!("generate --model {MODEL} --prompt keeper --max-new-tokens 12 --beams 4")).success(),
    );
    assert_eq!(text.trim_end_matches('\n'), generate("--beams 4")["text"].as_str().unwrap().trim_end_matches('\n'));
}
