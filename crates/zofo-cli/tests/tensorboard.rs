//! Event files for TensorBoard, read back by a reader that shares nothing with the writer: it knows the framing, the
//! checksums and protobuf's encoding, and forgets what TensorBoard forgets when a session starts again.

mod common;

use common::Workspace;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What a message has: numbers of fields and their contents.
type Fields<'a> = Vec<(u64, Field<'a>)>;

enum Field<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Bytes(&'a [u8]),
    Fixed32([u8; 4]),
}

#[derive(Debug)]
enum What {
    Version(String),
    Start,
    Scalars(Vec<(String, f32)>),
}

#[derive(Debug)]
struct Event {
    wall_time: f64,
    step: i64,
    what: What,
}

/// CRC-32C, a bit at a time, masked as TFRecord has it.
fn masked_checksum(data: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for &byte in data {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 * (crc & 1));
        }
    }
    (!crc).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

/// The next record; none at the end, or where a kill has cut it.
fn record<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
    let length = take(bytes, 8)?;
    assert_eq!(number(take(bytes, 4)?), masked_checksum(length));
    let data = take(bytes, u64::from_le_bytes(length.try_into().unwrap()) as usize)?;
    assert_eq!(number(take(bytes, 4)?), masked_checksum(data));
    Some(data)
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let byte = take(bytes, 1).unwrap()[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    value
}

fn fields(mut bytes: &[u8]) -> Fields<'_> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let field = match key & 7 {
            0 => Field::Varint(varint(&mut bytes)),
            1 => Field::Fixed64(take(&mut bytes, 8).unwrap().try_into().unwrap()),
            2 => {
                let length = varint(&mut bytes) as usize;
                Field::Bytes(take(&mut bytes, length).unwrap())
            }
            5 => Field::Fixed32(take(&mut bytes, 4).unwrap().try_into().unwrap()),
            other => panic!("wire type {other}"),
        };
        fields.push((key >> 3, field));
    }
    fields
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn scalar(bytes: &[u8]) -> (String, f32) {
    match fields(bytes).as_slice() {
        [(1, Field::Bytes(tag)), (2, Field::Fixed32(value))] => (text(tag), f32::from_le_bytes(*value)),
        _ => panic!("no scalar"),
    }
}

fn event(bytes: &[u8]) -> Event {
    let (mut wall_time, mut step, mut what) = (0.0, 0, None);
    for field in fields(bytes) {
        match field {
            (1, Field::Fixed64(time)) => wall_time = f64::from_le_bytes(time),
            (2, Field::Varint(number)) => step = number as i64,
            (3, Field::Bytes(version)) => what = Some(What::Version(text(version))),
            (5, Field::Bytes(summary)) => {
                let values = fields(summary).into_iter().map(|value| match value {
                    (1, Field::Bytes(value)) => scalar(value),
                    _ => panic!("no value"),
                });
                what = Some(What::Scalars(values.collect()));
            }
            (7, Field::Bytes(log)) => {
                assert!(matches!(fields(log).as_slice(), [(1, Field::Varint(1))]));
                what = Some(What::Start);
            }
            (number, _) => panic!("field {number}"),
        }
    }
    Event { wall_time, step, what: what.unwrap() }
}

/// The event files of a run, in the order in which TensorBoard reads them.
fn files(run: &Path) -> Vec<PathBuf> {
    let folder = fs::read_dir(run.join("tensorboard")).unwrap();
    let mut files: Vec<PathBuf> = folder.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn read(file: &Path) -> Vec<Event> {
    let bytes = fs::read(file).unwrap();
    let mut rest = bytes.as_slice();
    std::iter::from_fn(|| record(&mut rest).map(event)).collect()
}

/// Steps and values of every tag, as TensorBoard shows them.
fn shown(run: &Path) -> BTreeMap<String, Vec<(i64, f32)>> {
    let mut shown: BTreeMap<String, Vec<(i64, f32)>> = BTreeMap::new();
    let mut last = 0.0;
    for file in files(run) {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        let seconds = name.strip_prefix("events.out.tfevents.").and_then(|name| name.split('.').next()).unwrap();
        assert!(seconds.len() == 10 && seconds.bytes().all(|byte| byte.is_ascii_digit()), "{name}");
        for (index, Event { wall_time, step, what }) in read(&file).into_iter().enumerate() {
            assert!(wall_time >= last, "{wall_time} after {last}");
            last = wall_time;
            match what {
                What::Version(version) => assert_eq!((index, version.as_str()), (0, "brain.Event:2")),
                What::Start => {
                    assert_eq!(index, 1);
                    shown.values_mut().for_each(|points| points.retain(|&(at, _)| at < step));
                }
                What::Scalars(values) => {
                    for (tag, value) in values {
                        shown.entry(tag).or_default().push((step, value));
                    }
                }
            }
        }
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((now - 600.0..=now).contains(&last), "{last}, but it is {now}");
    shown
}

/// Inner steps of the warm start in the workspace's configuration.
const WARM_START: i64 = 2;

/// What should be shown, by the lines of `metrics.jsonl`.
fn expected(workspace: &Workspace) -> BTreeMap<String, Vec<(i64, f32)>> {
    let mut expected: BTreeMap<String, Vec<(i64, f32)>> = BTreeMap::new();
    for event in workspace.events("run") {
        let mut put = |tag: String, step: i64, value: &Value| {
            // A step that is skipped has no coefficient.
            expected.entry(tag).or_default().extend(value.as_f64().map(|value| (step, value as f32)));
        };
        match event["event"].as_str().unwrap() {
            "warm_start" => {
                let before = event["inner_step"].as_i64().unwrap() - 1 - WARM_START;
                put("warm_start/loss".to_owned(), before, &event["loss"]);
            }
            "step" => {
                let step = event["step"].as_i64().unwrap();
                for name in STEP {
                    put(format!("train/{name}"), step, &event[name]);
                }
                for (index, name) in ["s", "p", "backbone"].into_iter().enumerate() {
                    put(format!("learning_rate/{name}"), step, &event["learning_rates"][index]);
                }
                let speed = event["tokens"].as_f64().unwrap() / event["seconds"].as_f64().unwrap();
                put("train/tokens_per_second".to_owned(), step, &speed.into());
            }
            "evaluation" => {
                let step = event["step"].as_i64().unwrap();
                for name in ["loss_noise", "noise_floor", "seconds"] {
                    put(format!("validation/{name}"), step, &event[name]);
                }
                for block in ["p", "s"] {
                    for measure in ["accuracy", "loss"] {
                        put(format!("validation/{measure}_{block}"), step, &event[block][measure]);
                    }
                }
            }
            "summary" => {
                let step = event["steps"].as_i64().unwrap();
                let names = ["untouched", "untouched_p", "p", "s"];
                for (name, score) in names.into_iter().zip(event["scores"].as_array().unwrap()) {
                    for measure in ["accuracy", "loss"] {
                        put(format!("test/{measure}_{name}"), step, &score[measure]);
                    }
                }
            }
            other => panic!("{other}"),
        }
    }
    expected
}

/// The numbers of a step of the bilevel method.
const STEP: [&str; 14] = [
    "loss",
    "a",
    "b",
    "c",
    "gap",
    "inner_loss",
    "inner_cosine",
    "objective_plus",
    "objective_minus",
    "slope",
    "coefficient",
    "tokens",
    "seconds",
    "training_seconds",
];

#[test]
fn every_number_is_shown() {
    let workspace = Workspace::new();
    workspace.zofo("train config.toml --set run.tensorboard=true").success();
    let shown = shown(&workspace.path("run"));
    assert_eq!(shown, expected(&workspace));
    assert_eq!(shown["train/loss"].iter().map(|point| point.0).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(shown["warm_start/loss"].iter().map(|point| point.0).collect::<Vec<_>>(), [-2, -1]);
    assert_eq!(shown["validation/accuracy_p"].iter().map(|point| point.0).collect::<Vec<_>>(), [0, 2, 4]);
    let groups: BTreeSet<&str> = shown.keys().filter_map(|tag| tag.split('/').next()).collect();
    assert_eq!(groups, BTreeSet::from(["learning_rate", "test", "train", "validation", "warm_start"]));
}

#[test]
fn without_the_key_and_without_training_there_is_none() {
    let workspace = Workspace::new();
    workspace.zofo("train config.toml").success();
    assert!(!workspace.path("run/tensorboard").exists());
    let zero_shot = "train config.toml --set method.name=zero-shot --set run.tensorboard=true --set run.output=other";
    let text = common::stderr(&workspace.zofo(zero_shot).success());
    assert!(text.contains("run.tensorboard"), "{text}");
    assert!(!workspace.path("other/tensorboard").exists());
}

/// Starts a run that would take long, and kills it once `is_reached`.
fn kill(workspace: &Workspace, settings: &str, is_reached: impl Fn() -> bool) {
    let arguments = format!("train config.toml --set run.max_steps=100000 {settings}");
    let mut child = workspace.process(&arguments).spawn().unwrap();
    let start = Instant::now();
    while !is_reached() {
        assert!(start.elapsed() < Duration::from_secs(300) && child.try_wait().unwrap().is_none());
        sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// How many steps `metrics.jsonl` has, the last line perhaps cut.
fn steps(workspace: &Workspace) -> usize {
    let text = fs::read_to_string(workspace.path("run/metrics.jsonl")).unwrap_or_default();
    text.lines().filter(|line| line.contains("\"event\":\"step\"")).count()
}

/// Steps of the scalars in a file.
fn steps_in(file: &Path) -> BTreeSet<i64> {
    let events = read(file).into_iter();
    events.filter(|event| matches!(event.what, What::Scalars(_))).map(|event| event.step).collect()
}

#[test]
fn what_a_kill_made_void_is_forgotten() {
    let workspace = Workspace::new();
    // Some steps after the checkpoint of step 60 a buffer is full and is written; the next checkpoint is far away.
    let is_reached = || {
        let file = workspace.path("run/tensorboard").exists().then(|| files(&workspace.path("run")).pop()).flatten();
        file.is_some_and(|file| steps_in(&file).last() > Some(&65))
    };
    kill(&workspace, "--set run.tensorboard=true --set run.eval_every=60", is_reached);
    let text = common::stderr(&workspace.zofo("train --resume run --set run.max_steps=100").success());
    let resumed = text.split("resumed after step ").nth(1).and_then(|text| text.lines().next()).unwrap();
    let resumed: i64 = resumed.parse().unwrap();
    let files = files(&workspace.path("run"));
    let [first, second] = files.as_slice() else { panic!("{files:?}") };
    assert!(steps_in(first).last() > Some(&resumed), "nothing is void in {:?}", steps_in(first));
    assert_eq!(steps_in(second), (resumed..=100).collect());
    let shown = shown(&workspace.path("run"));
    assert_eq!(shown["train/loss"].iter().map(|point| point.0).collect::<Vec<_>>(), (1..=100).collect::<Vec<_>>());
    assert_eq!(shown, expected(&workspace));
}

#[test]
fn a_run_that_is_resumed_with_the_key_shows_all_of_itself() {
    let workspace = Workspace::new();
    kill(&workspace, "--set run.eval_every=3", || steps(&workspace) > 3);
    assert!(!workspace.path("run/tensorboard").exists());
    workspace.zofo("train --resume run --set run.max_steps=8 --set run.tensorboard=true").success();
    assert_eq!(files(&workspace.path("run")).len(), 1);
    let shown = shown(&workspace.path("run"));
    assert_eq!(shown["train/loss"].len(), 8);
    assert_eq!(shown, expected(&workspace));
}
