//! `zofo bench`: what it reports, and what it refuses.

mod common;

use common::{MODEL, Workspace, assert_error, json_of, stderr, stdout};
use serde_json::Value;

#[test]
fn every_measurement_has_a_number() {
    let workspace = Workspace::new();
    for dtype in ["f32", "bf16"] {
        let command = format!("bench --model {MODEL} --dtype {dtype} --batch-size 3 --batches 2 --threads 2 --json");
        let assert = workspace.zofo(&command).success();
        // Progress is for terminals.
        assert_eq!(stderr(&assert), "");
        let report = json_of(&assert);
        let measured = [
            "inner_ms",
            "outer_ms",
            "mezo_ms",
            "forward_ms",
            "forward_pair_ms",
            "update_ms",
            "start_ms",
            "eval_examples_per_s",
            "generate_tokens_per_s",
            "gemm_gflops",
            "forward_gflops",
            "direction_ns_per_weight",
            "tokens",
        ];
        for key in measured {
            assert!(report[key].as_f64().is_some_and(|value| value > 0.0 && value.is_finite()), "{key}: {report}");
        }
        if cfg!(target_os = "linux") {
            assert!(report["peak_rss_mib"].as_f64().unwrap() > 1.0);
            assert!(report["other_peak_rss_mib"].as_f64().unwrap() > 1.0);
        }
        assert_eq!((&report["dtype"], &report["machine"]["threads"]), (&dtype.into(), &2.into()));
        let tokens: Vec<f64> =
            report["tokens_per_batch"].as_array().unwrap().iter().filter_map(Value::as_f64).collect();
        assert_eq!(tokens.len(), 2);
        assert_eq!(tokens.iter().sum::<f64>() / 2.0, report["tokens"].as_f64().unwrap());
    }
}

#[test]
fn the_table_names_machine_and_units() {
    let workspace = Workspace::new();
    let text =
        stdout(&workspace.zofo(&format!("bench --model {MODEL} --batch-size 2 --batches 1 --threads 1")).success());
    for words in [
        "in f32, task sst2: 1 batches of 2 rows",
        ", 1 threads",
        "\nMeZO step, q = 1, ms  ",
        ", GFLOP/s  ",
        ", tokens/s  ",
    ] {
        assert!(text.contains(words), "{words} in\n{text}");
    }
}

#[test]
fn rows_may_be_random() {
    let workspace = Workspace::new();
    let command = format!("bench --model {MODEL} --row-tokens 5 --batch-size 3 --batches 1 --directions 2 --json");
    let report = json_of(&workspace.zofo(&command).success());
    assert_eq!((&report["tokens"], &report["directions"]), (&15.0.into(), &2.into()));
    assert!(report["task"].is_null() && report["mezo_ms"].as_f64().unwrap() > 0.0);
    let refused = |arguments: &str| workspace.zofo(&format!("bench --model {MODEL} --row-tokens {arguments}"));
    assert_error(refused("5 --task sst2"), 2, &["--task"]);
    assert_error(refused("1000000"), 3, &["rows of 1000000 tokens do not fit", "take fewer"]);
    assert_error(refused(&format!("5 --batch-size {}", usize::MAX)), 3, &["random tokens", "take fewer"]);
}

#[test]
fn one_thing_may_be_measured_alone() {
    let workspace = Workspace::new();
    let command = format!("bench --model {MODEL} --row-tokens 5 --batch-size 2 --batches 1 --json --only");
    let measured = |only: &str| {
        let report = json_of(&workspace.zofo(&format!("{command} {only}")).success());
        let keys = ["inner_ms", "outer_ms", "mezo_ms", "start_ms", "forward_ms", "forward_gflops", "gemm_gflops"];
        keys.into_iter().filter(|key| report.get(key).is_some()).collect::<Vec<_>>()
    };
    assert_eq!(measured("outer,inner"), ["inner_ms", "outer_ms"]);
    assert_eq!(measured("mezo"), ["mezo_ms", "start_ms"]);
    assert_eq!(measured("forward"), ["forward_ms", "forward_gflops"]);
    assert_eq!(measured("machine"), ["gemm_gflops"]);
    assert_error(workspace.zofo(&format!("{command} speed")), 2, &["'speed'", "forward-pair"]);
}

#[test]
fn rows_that_are_too_few_are_counted() {
    let workspace = Workspace::new();
    let assert = workspace.zofo(&format!("bench --model {MODEL} --batch-size 20 --batches 2"));
    assert_error(assert, 3, &["\"sst2\" has 60 training rows", "take 80"]);
    // 64-bit overflow is no way around it.
    let assert = workspace.zofo(&format!("bench --model {MODEL} --batch-size {0} --batches {0}", usize::MAX));
    assert_error(assert, 3, &["has 60 training rows"]);
}
