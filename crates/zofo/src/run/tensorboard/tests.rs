use super::*;
use prost::Message;
use serde_json::{Value, json};

/// Compared with the bytes of TensorBoard's own writer, which `tests/golden/tensorboard_cases.py` runs.
#[test]
fn events_are_framed_as_tensorboard_frames_them() {
    let summary = |time, step, values: &[(&str, f64)]| {
        let values = values.iter().map(|&(tag, value)| (tag.to_owned(), value)).collect();
        Event::summary(1.7e9 + time, Scalars { step, values })
    };
    let eighths: Vec<(String, f64)> = (0..9).map(|n| (format!("test/accuracy_{n}"), f64::from(n) / 8.0)).collect();
    let eighths: Vec<(&str, f64)> = eighths.iter().map(|(tag, value)| (tag.as_str(), *value)).collect();
    let events = [
        Event::file_version(1.7e9 + 0.25),
        Event::start(1.7e9 + 0.5, -2),
        summary(1.0, -2, &[("warm_start/loss", 2.5)]),
        summary(2.0, 0, &[("validation/accuracy_p", 0.0), ("validation/loss_p", 0.1)]),
        summary(3.0, 300, &[("train/loss", 1.75), ("train/slope", -1e9), ("learning_rate/s", 1e-30)]),
        summary(4.0, 1 << 40, &eighths),
        summary(5.0, 301, &[]),
    ];
    let expected = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/tensorboard/events.bin");
    let written: Vec<u8> = events.iter().flat_map(record::framed).collect();
    assert_eq!(written, fs::read(expected).unwrap());
}

#[test]
fn all_numbers_of_a_record_are_scalars() {
    let scalars = |record: Value| {
        Scalars::of(record.as_object().unwrap(), 5).map(|Scalars { step, values }| {
            let values: Vec<String> = values.iter().map(|(tag, value)| format!("{tag} {value}")).collect();
            (step, values.join(", "))
        })
    };
    let (step, values) = scalars(json!({
        "event": "step", "step": 7, "loss": 0.5, "gap": -0.25, "slopes": [3, -4.5], "skipped": "not finite",
        "learning_rates": [0.1, 0.2, 0.3], "tokens": 30, "seconds": 2.0, "inner_loss": null,
    }))
    .unwrap();
    assert_eq!(step, 7);
    let mut values: Vec<&str> = values.split(", ").collect();
    values.sort_unstable();
    let expected = [
        "learning_rate/backbone 0.3",
        "learning_rate/p 0.2",
        "learning_rate/s 0.1",
        "train/gap -0.25",
        "train/loss 0.5",
        "train/seconds 2",
        "train/slopes_0 3",
        "train/slopes_1 -4.5",
        "train/tokens 30",
        "train/tokens_per_second 15",
    ];
    assert_eq!(values, expected);

    let evaluation = scalars(json!({
        "event": "evaluation", "step": 0, "p": { "accuracy": 0.75, "loss": 1 }, "noise_floor": 4, "best": true,
    }));
    let expected = "validation/accuracy_p 0.75, validation/loss_p 1, validation/noise_floor 4";
    assert_eq!(evaluation, Some((0, expected.to_owned())));

    let first = scalars(json!({ "event": "warm_start", "inner_step": 1, "loss": 2.5 }));
    assert_eq!(first, Some((-5, "warm_start/loss 2.5".to_owned())));

    let score = |name, value| json!({ "name": name, "f1": value, "loss": 3, "examples": 9 });
    let summary = scalars(json!({
        "event": "summary", "steps": 40, "kept_step": 30, "training_seconds": 6,
        "scores": [score("untouched model", 0.25), score("(θ₀, p)", 0.5), score("(θ, s)", 0.75)],
    }));
    let expected = "test/f1_untouched 0.25, test/loss_untouched 3, test/f1_untouched_p 0.5, test/loss_untouched_p 3, \
                    test/f1_s 0.75, test/loss_s 3";
    assert_eq!(summary, Some((40, expected.to_owned())));

    for other in [json!({ "event": "note", "step": 1 }), json!({ "step": 1 }), json!({ "event": "step", "loss": 1 })] {
        assert_eq!(scalars(other.clone()), None, "{other}");
    }
}

/// The steps of the events of a file, without the first, which says the version.
fn steps(path: &Path) -> Vec<i64> {
    let bytes = fs::read(path).unwrap();
    let (mut rest, mut steps) = (bytes.as_slice(), Vec::new());
    while let Some((length, after)) = rest.split_first_chunk::<8>() {
        let length = u64::from_le_bytes(*length) as usize;
        steps.push(Event::decode(&after[4..4 + length]).unwrap().step);
        rest = &after[4 + length + 4..];
    }
    steps.split_off(1)
}

#[test]
fn a_later_file_has_what_the_first_lacks() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("tensorboard");
    let write = |step, warm_steps| {
        let mut events = EventFile::create(&folder, Progress { step, warm_steps, warm_start: 2 }).unwrap();
        for line in [
            "{\"event\":\"warm_start\",\"inner_step\":1,\"loss\":1}\n",
            "{\"event\":\"warm_start\",\"inner_step\":2,\"loss\":1}\n",
            "{\"event\":\"evaluation\",\"step\":0}",
            "{\"event\":\"step\",\"step\":1,\"loss\":1}",
            "{\"event\":\"step\",\"step\":2,\"loss\":1}",
            "{\"event\":\"evaluation\",\"step\":2}",
            "",
            "{\"event\":\"st",
        ] {
            events.write(line.as_bytes()).unwrap();
        }
        events.sync().unwrap();
        let steps = steps(&events.path);
        (events.path, steps)
    };
    let all = [
        // The first one has all, however far the run is.
        write(2, 2),
        write(2, 2),
        write(0, 2),
        write(0, 1),
        write(0, 0),
    ];
    let starts_and_steps = all.iter().map(|(_, steps)| steps.as_slice());
    let expected: [&[i64]; 5] =
        [&[-2, -2, -1, 0, 1, 2, 2], &[2, 2, 2], &[0, 0, 1, 2, 2], &[-1, -1, 0, 1, 2, 2], &[-2, -2, -1, 0, 1, 2, 2]];
    assert_eq!(starts_and_steps.collect::<Vec<_>>(), expected);
    // They came within a second or two, and their names tell their order all the same.
    assert!(all.is_sorted_by(|(left, _), (right, _)| left < right), "{all:?}");
}

#[test]
fn a_file_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tensorboard");
    fs::write(&path, "in the way").unwrap();
    let error = EventFile::create(&path, Progress { step: 0, warm_steps: 0, warm_start: 0 }).err().unwrap();
    assert!(error.to_string().starts_with(&format!("`{}`: ", path.display())), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error_that_names_the_file() {
    let path = PathBuf::from("/dev/full");
    let writer = BufWriter::new(OpenOptions::new().write(true).open(&path).unwrap());
    let mut events = EventFile { writer, path, warm_start: 0, from: 0 };
    events.write(b"{\"event\":\"step\",\"step\":1,\"loss\":1}").unwrap();
    let error = events.sync().unwrap_err();
    assert!(matches!(&error, RunError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull));
    assert!(error.to_string().starts_with("`/dev/full`: "), "{error}");
}
