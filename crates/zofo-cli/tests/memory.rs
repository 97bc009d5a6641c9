//! What `zofo plan` says of memory, against the peak of a run on a real model.
//!
//! It runs where the variable ZOFO_SMOLLM2_GGUF names SmolLM2-135M as a GGUF file; `scripts/fetch_demo.py` fetches it.

#![cfg(target_os = "linux")]

mod common;

use common::{Workspace, json_of};
use std::fs;
use std::process::Child;
use std::thread;
use std::time::Duration;

/// What is set for a run with each block, and for one of each method that trains, beside the workspace's configuration.
const CASES: [&[&str]; 12] = [
    &["peft.kind=lora", "peft.rank=8"],
    &["peft.kind=prefix"],
    &["peft.kind=prompt", "peft.virtual_tokens=100"],
    &["method.name=mezo"],
    &["method.name=mezo", "method.on=peft"],
    &["method.name=first-order"],
    &["method.name=two-stage", "method.first_stage_steps=1"],
    &["method.name=full"],
    &["method.name=first-order", "inner.batch_size=40"],
    &["method.name=first-order", "inner.batch_size=40", "inner.gradient_checkpointing=true"],
    &["peft.kind=prefix", "outer.batch_size=12", "inner.gradient_checkpointing=true"],
    &["method.name=mezo", "outer.batch_size=20", "outer.directions=8", "outer.directions_at_once=8"],
];

#[test]
fn the_planned_peak_is_within_a_tenth_of_the_measured_one() {
    let Some(model) = std::env::var_os("ZOFO_SMOLLM2_GGUF") else {
        return;
    };
    let model = format!("model.path={}", model.to_str().unwrap());
    for case in CASES {
        let workspace = Workspace::new();
        let mut arguments = "config.toml --threads 2".to_owned();
        let common = ["method.inner_steps=1", "method.warm_start=0", "run.max_steps=1", "data.validation_examples=2"];
        for setting in common.iter().chain(case).chain([&model.as_str()]) {
            arguments += &format!(" --set {setting}");
        }
        let plan = json_of(&workspace.zofo(&format!("plan {arguments} --json")).success());
        let planned = plan["peak_memory"].as_f64().unwrap();
        let mut run = workspace.process(&format!("train {arguments}")).spawn().unwrap();
        let measured = peak_of_a_step(&workspace, &mut run);
        assert!((planned / measured - 1.0).abs() < 0.1, "{case:?}: planned {planned}, measured {measured} bytes");
    }
}

/// The most memory in bytes that `run` has had when its first step is done, which ends it.
fn peak_of_a_step(workspace: &Workspace, run: &mut Child) -> f64 {
    let (metrics, status) = (workspace.path("run/metrics.jsonl"), format!("/proc/{}/status", run.id()));
    loop {
        assert_eq!(run.try_wait().unwrap(), None, "the run ended before its first step");
        let is_done = fs::read_to_string(&metrics).is_ok_and(|text| text.contains("\"event\":\"step\""));
        let peak = fs::read_to_string(&status).unwrap();
        if is_done {
            run.kill().unwrap();
            run.wait().unwrap();
            let line = peak.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
            let kibibytes: f64 = line.trim().trim_end_matches("kB").trim().parse().unwrap();
            return kibibytes * 1024.0;
        }
        thread::sleep(Duration::from_millis(20));
    }
}
