//! Round trips, resuming, and every kind of damage.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::hf::WeightDtype;
use crate::zo::momentum::Momentum;
use crate::zo::optimizer::ScalarRule;

fn header() -> JournalHeader {
    JournalHeader::new(
        WeightDtype::Bf16,
        OptimizerRecord::new("rms", ScalarRule::Rms.constants()),
        UpdateScheme::default(),
        vec![
            TensorFingerprint::new("model.embed_tokens.weight", &[49152, 576], [0xAB; 32]),
            TensorFingerprint::new("model.norm.weight", &[576], [0x01; 32]),
        ],
    )
}

fn record(step: u64) -> Record {
    let seed = step.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    Record { step, seed, slope: -1.25e3, learning_rate: 1e-6, coefficient: step as f32 * 1e-9 }
}

/// A folder with a journal of the given steps.
fn journal(steps: &[u64]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.zofo");
    let mut writer = JournalWriter::create(&path, &header()).unwrap();
    for &step in steps {
        writer.append(&record(step)).unwrap();
    }
    writer.sync().unwrap();
    (folder, path)
}

fn records(steps: &[u64]) -> Vec<Record> {
    steps.iter().map(|&step| record(step)).collect()
}

fn body(path: &Path) -> usize {
    header::encode(path, &header()).unwrap().len()
}

/// Rewrites a file with a change to its bytes.
fn damage(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// Changes the JSON of the header and makes length and checksum fit again.
fn rewrite_header(path: &Path, from: &str, to: &str) {
    let body = body(path);
    damage(path, |bytes| {
        let json = String::from_utf8(bytes[16..body - 4].to_vec()).unwrap();
        assert!(json.contains(from), "{json} has no {from}");
        let json = json.replace(from, to);
        let mut changed = bytes[..12].to_vec();
        changed.extend((json.len() as u32).to_le_bytes());
        changed.extend(json.as_bytes());
        changed.extend(crc32fast::hash(&changed).to_le_bytes());
        changed.extend(&bytes[body..]);
        *bytes = changed;
    });
}

#[test]
fn what_was_written_is_read() {
    let (_folder, path) = journal(&[0, 1, 5]);
    let journal = Journal::read(&path).unwrap();
    assert_eq!(journal.header, header());
    assert_eq!(journal.records, records(&[0, 1, 5]));
    assert_eq!(fs::metadata(&path).unwrap().len() as usize, body(&path) + 3 * 32);
}

#[test]
fn the_bytes_of_a_record_are_pinned() {
    let record =
        Record { step: 0x0102, seed: 0x1122_3344_5566_7788, slope: 1.0, learning_rate: -2.0, coefficient: 0.5 };
    let bytes = record.to_bytes();
    let expected = [
        2, 1, 0, 0, 0, 0, 0, 0, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0, 0, 0x80, 0x3F, 0, 0, 0, 0xC0, 0, 0,
        0, 0x3F,
    ];
    assert_eq!(bytes[..28], expected);
    assert_eq!(bytes[28..], crc32fast::hash(&expected).to_le_bytes());
}

#[test]
fn a_journal_is_never_overwritten() {
    let (_folder, path) = journal(&[3]);
    let error = JournalWriter::create(&path, &header()).unwrap_err();
    assert!(matches!(&error, JournalError::Exists { path: p } if *p == path), "{error}");
    assert_eq!(Journal::read(&path).unwrap().records, records(&[3]));
}

#[test]
fn a_missing_file_is_named() {
    let error = Journal::read(Path::new("/nonexistent/journal.zofo")).unwrap_err();
    assert_eq!(error.to_string(), "cannot read the journal /nonexistent/journal.zofo");
}

#[test]
fn other_files_are_not_journals() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.zofo");
    for content in [&b""[..], b"PK\x03\x04", b"ZOFOJRNX\x01\0\0\0\0\0\0\0"] {
        fs::write(&path, content).unwrap();
        let error = Journal::read(&path).unwrap_err();
        assert!(matches!(error, JournalError::NotAJournal { .. }), "{content:?}: {error}");
    }
}

#[test]
fn a_newer_format_is_named() {
    let (_folder, path) = journal(&[1]);
    damage(&path, |bytes| bytes[8] = 4);
    let error = Journal::read(&path).unwrap_err();
    assert!(matches!(error, JournalError::FormatVersion { found: 4, .. }), "{error}");
}

#[test]
fn another_scheme_is_named() {
    let (_folder, path) = journal(&[1]);
    rewrite_header(&path, "\"direction_scheme\":1", "\"direction_scheme\":7");
    let error = Journal::read(&path).unwrap_err();
    assert!(matches!(error, JournalError::DirectionScheme { found: 7, supported: 1, .. }), "{error}");
}

#[test]
fn a_header_that_says_something_else_is_an_error() {
    for (from, to) in [
        ("\"storage\":\"bf16\"", "\"storage\":\"f64\""),
        ("\"storage\"", "\"stowage\""),
        ("\"0.99\"", "\"0,99\""),
        ("\"0.99\"", "0.99"),
    ] {
        let (_folder, path) = journal(&[1]);
        rewrite_header(&path, from, to);
        let error = Journal::read(&path).unwrap_err();
        assert!(matches!(error, JournalError::Header { .. }), "{to}: {error}");
    }
}

#[test]
fn an_unfinished_record_is_reported_or_ignored() {
    let (_folder, path) = journal(&[1, 2]);
    damage(&path, |bytes| bytes.truncate(bytes.len() - 5));
    let error = Journal::read(&path).unwrap_err();
    assert!(matches!(error, JournalError::TruncatedRecord { record: 1, bytes: 27, .. }), "{error}");
    let journal = Journal::read_tolerant(&path).unwrap();
    assert_eq!((journal.records, journal.ignored_bytes), (records(&[1]), 27));
}

#[test]
fn a_resumed_journal_continues_after_the_checkpoint() {
    let (_folder, path) = journal(&[1, 2, 4, 7]);
    // Behind the checkpoint a crash may leave anything.
    damage(&path, |bytes| {
        let end = bytes.len();
        bytes[end - 40..].fill(0);
        bytes.extend([9; 11]);
    });
    let (mut writer, kept) = JournalWriter::resume(&path, 2).unwrap();
    assert_eq!(kept.records, records(&[1, 2]));
    assert_eq!(kept.header, header());
    assert_eq!(writer.records(), 2);
    assert_eq!(Journal::read(&path).unwrap(), kept);
    writer.append(&record(3)).unwrap();
    assert_eq!(Journal::read(&path).unwrap().records, records(&[1, 2, 3]));
}

#[test]
fn a_journal_shorter_than_its_checkpoint_is_an_error_and_stays() {
    let (_folder, path) = journal(&[1, 2]);
    let before = fs::read(&path).unwrap();
    let error = JournalWriter::resume(&path, 3).unwrap_err();
    assert!(matches!(error, JournalError::TooShort { expected: 3, found: 2, .. }), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn truncation_makes_room_for_other_records() {
    let (_folder, path) = journal(&[]);
    let mut writer = JournalWriter::resume(&path, 0).unwrap().0;
    for step in 0..5 {
        writer.append(&record(step)).unwrap();
    }
    writer.truncate_to(2).unwrap();
    assert!(matches!(writer.truncate_to(3), Err(JournalError::TooShort { found: 2, .. })));
    assert!(matches!(writer.append(&record(1)), Err(JournalError::StepOrder { previous: 1, .. })));
    writer.append(&record(9)).unwrap();
    assert_eq!(Journal::read(&path).unwrap().records, records(&[0, 1, 9]));
}

#[test]
fn the_writer_refuses_what_the_reader_would() {
    let (_folder, path) = journal(&[4]);
    let mut writer = JournalWriter::resume(&path, 1).unwrap().0;
    for step in [4, 3] {
        let error = writer.append(&record(step)).unwrap_err();
        assert!(matches!(error, JournalError::StepOrder { record: 1, previous: 4, .. }), "{error}");
    }
    let error = writer.append(&Record { coefficient: f32::NAN, ..record(5) }).unwrap_err();
    assert!(matches!(error, JournalError::NotFinite { field: "coefficient", .. }), "{error}");
    assert_eq!(Journal::read(&path).unwrap().records, records(&[4]));
}

#[test]
fn steps_that_do_not_increase_and_numbers_that_are_not_finite_are_found() {
    let (_folder, path) = journal(&[1, 2]);
    damage(&path, |bytes| bytes.extend(record(2).to_bytes()));
    let error = Journal::read(&path).unwrap_err();
    assert!(matches!(error, JournalError::StepOrder { record: 2, step: 2, previous: 2, .. }), "{error}");
    let (_folder, path) = journal(&[1]);
    let infinite = Record { slope: f32::INFINITY, ..record(2) };
    damage(&path, |bytes| bytes.extend(infinite.to_bytes()));
    let error = Journal::read(&path).unwrap_err();
    assert!(matches!(error, JournalError::NotFinite { record: 1, field: "slope", .. }), "{error}");
}

fn any_records() -> impl Strategy<Value = Vec<Record>> {
    let number = -f32::MAX..f32::MAX;
    let one = (1u64..1 << 40, any::<u64>(), number.clone(), number.clone(), number);
    prop::collection::vec(one, 0..20).prop_map(|parts| {
        let mut step = 0;
        let record = |(stride, seed, slope, learning_rate, coefficient)| {
            step += stride;
            Record { step, seed, slope, learning_rate, coefficient }
        };
        parts.into_iter().map(record).collect()
    })
}

#[test]
fn a_run_writes_the_oldest_version_that_can_say_what_it_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.zofo");
    JournalWriter::create(&path, &header()).unwrap();
    let bytes = fs::read(&path).unwrap();
    assert_eq!(bytes[8..12], 1u32.to_le_bytes());
    assert!(!String::from_utf8_lossy(&bytes).contains("updates"));
    fs::remove_file(&path).unwrap();
    let decaying = UpdateScheme { weight_decay: 0.1, ..UpdateScheme::default() };
    let momentum = Some(Momentum { decay: 0.1 + 0.2, window: NonZeroU32::new(7).unwrap() });
    let with_momentum = UpdateScheme { momentum, ..UpdateScheme::default() };
    for (updates, version) in [(decaying, 2u32), (with_momentum, 3)] {
        let header = JournalHeader { updates, ..header() };
        JournalWriter::create(&path, &header).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!(bytes[8..12], version.to_le_bytes());
        assert_eq!(String::from_utf8_lossy(&bytes).contains("momentum"), version == 3);
        assert_eq!(Journal::read(&path).unwrap().header, header);
        fs::remove_file(&path).unwrap();
    }
}

/// What every version has written for runs without momentum: they read each other's journals.
#[test]
fn the_updates_of_a_header_without_momentum_are_pinned() {
    let decaying = UpdateScheme { weight_decay: 0.1, per_step: NonZeroU32::new(2).unwrap(), ..UpdateScheme::default() };
    let bytes = header::encode(Path::new("journal"), &JournalHeader { updates: decaying, ..header() }).unwrap();
    let pinned = r#""updates":{"directions":{"distribution":"gaussian"},"per_step":2,"weight_decay":"0.1"},"tensors""#;
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.contains(pinned), "{text}");
}

/// A program that does not know momentum would replay another θ: the version is beyond its own.
#[test]
fn a_newer_version_with_momentum_is_refused_before_its_header_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.zofo");
    let momentum = Some(Momentum { decay: 0.9, window: NonZeroU32::new(10).unwrap() });
    let updates = UpdateScheme { momentum, ..UpdateScheme::default() };
    JournalWriter::create(&path, &JournalHeader { updates, ..header() }).unwrap();
    damage(&path, |bytes| bytes[8] += 1);
    let error = Journal::read_header(&path).unwrap_err();
    assert!(matches!(error, JournalError::FormatVersion { found: 4, .. }), "{error}");
    assert!(error.to_string().contains("has format version 4; this program reads versions 1 to 3"), "{error}");
}

#[test]
fn a_step_has_one_record_per_direction() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.zofo");
    let updates = UpdateScheme { per_step: NonZeroU32::new(2).unwrap(), ..UpdateScheme::default() };
    let mut writer = JournalWriter::create(&path, &JournalHeader { updates, ..header() }).unwrap();
    for step in [1, 1, 4] {
        writer.append(&record(step)).unwrap();
    }
    // Half a step is no update.
    let journal = Journal::read_tolerant(&path).unwrap();
    assert_eq!((journal.records, journal.ignored_bytes), (records(&[1, 1]), RECORD_BYTES));
    let error = writer.append(&record(5)).unwrap_err();
    assert!(error.to_string().contains("has step 5 and should have step 4: a step has 2 records"), "{error}");
    writer.append(&record(4)).unwrap();
    let error = writer.append(&record(4)).unwrap_err();
    assert!(matches!(error, JournalError::StepOrder { .. }), "{error}");
    drop(writer);
    let (mut writer, journal) = JournalWriter::resume(&path, 2).unwrap();
    assert_eq!(journal.records, records(&[1, 1]));
    writer.append(&record(2)).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_journal_survives_the_disk(
        records in any_records(),
        value in any::<f64>().prop_filter("equal to itself", |value| !value.is_nan()),
        name in ".{0,20}",
        shape in prop::collection::vec(0usize..1 << 40, 0..4),
        hash: [u8; 32],
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.zofo");
        let header = JournalHeader::new(
            WeightDtype::F32,
            OptimizerRecord::new(&name, &[(&name, value)]),
            UpdateScheme { weight_decay: value, ..UpdateScheme::default() },
            vec![TensorFingerprint::new(&name, &shape, hash)],
        );
        let mut writer = JournalWriter::create(&path, &header).unwrap();
        for record in &records {
            writer.append(record).unwrap();
        }
        let journal = Journal::read(&path).unwrap();
        prop_assert_eq!(journal, Journal { header, records, ignored_bytes: 0 });
    }

    #[test]
    fn any_flipped_bit_is_found(position: prop::sample::Index, bit in 0u8..8) {
        let (_folder, path) = journal(&[1, 2, 3]);
        let body = body(&path);
        let at = position.index(body + 3 * RECORD_BYTES);
        damage(&path, |bytes| bytes[at] ^= 1 << bit);
        let error = Journal::read(&path).unwrap_err();
        prop_assert!(error.to_string().contains("journal.zofo"));
        match error {
            JournalError::CorruptRecord { record, offset, .. } => {
                prop_assert_eq!(record as usize, (at - body) / RECORD_BYTES);
                prop_assert_eq!(offset as usize, at - (at - body) % RECORD_BYTES);
            }
            JournalError::NotAJournal { .. } => prop_assert!(at < 8),
            JournalError::FormatVersion { .. } => prop_assert!((8..12).contains(&at)),
            JournalError::TruncatedHeader { .. } => prop_assert!((12..16).contains(&at)),
            // Of another version that there is, the checksum is wrong.
            JournalError::CorruptHeader { .. } => prop_assert!((8..body).contains(&at)),
            other => prop_assert!(false, "byte {}: {}", at, other),
        }
    }

    #[test]
    fn any_cut_is_found_or_falls_between_records(length: prop::sample::Index) {
        let (_folder, path) = journal(&[1, 2, 3]);
        let body = body(&path);
        let length = length.index(body + 3 * RECORD_BYTES);
        damage(&path, |bytes| bytes.truncate(length));
        match Journal::read(&path) {
            Ok(journal) => prop_assert_eq!(body + journal.records.len() * RECORD_BYTES, length),
            Err(JournalError::NotAJournal { .. }) => prop_assert_eq!(length, 0),
            Err(JournalError::TruncatedHeader { found, .. }) => {
                prop_assert!(length < body && found as usize == length);
            }
            Err(JournalError::TruncatedRecord { record, bytes, .. }) => {
                prop_assert_eq!(body + record as usize * RECORD_BYTES + bytes, length);
            }
            Err(other) => prop_assert!(false, "{} bytes: {}", length, other),
        }
    }
}
