//! One update of θ in 32 bytes.

use std::num::NonZeroU32;
use std::path::Path;

use super::error::JournalError;

/// Bytes of a record.
pub const RECORD_BYTES: usize = 32;

/// Bytes that the checksum covers.
const COVERED: usize = RECORD_BYTES - 4;

/// One update: θ ← θ − `coefficient`·z, z the direction of `seed`; of `adam`, θ ← θ − `coefficient`·u with
/// Adam's quotient u of the moments after `slope`·z.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Record {
    /// The outer step.
    pub step: u64,
    /// The seed of the direction.
    pub seed: u64,
    /// The projected gradient g, per unit of z. With directions on a sphere, times the scale of z.
    pub slope: f32,
    /// The learning rate of the step.
    pub learning_rate: f32,
    /// What multiplied z as the generator gives it: the scale of a sphere is in it. Of `adam`, the learning rate.
    pub coefficient: f32,
}

impl Record {
    /// The record as it stands in the file.
    pub(super) fn to_bytes(self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[..8].copy_from_slice(&self.step.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.seed.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.slope.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.learning_rate.to_le_bytes());
        bytes[24..COVERED].copy_from_slice(&self.coefficient.to_le_bytes());
        let checksum = crc32fast::hash(&bytes[..COVERED]);
        bytes[COVERED..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The record and the checksum in these bytes.
    fn from_bytes(bytes: &[u8; RECORD_BYTES]) -> (Self, u32) {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let record = Self {
            step: long(0),
            seed: long(8),
            slope: f32::from_bits(word(16)),
            learning_rate: f32::from_bits(word(20)),
            coefficient: f32::from_bits(word(24)),
        };
        (record, word(COVERED))
    }
}

/// Whether `record` may stand at place `index` of a journal with `per_step` records a step, after a record of step
/// `previous`.
pub(super) fn check(
    path: &Path,
    index: u64,
    per_step: NonZeroU32,
    previous: Option<u64>,
    record: &Record,
) -> Result<(), JournalError> {
    let begins_step = index.is_multiple_of(u64::from(per_step.get()));
    if let Some(expected) = previous.filter(|&previous| !begins_step && previous != record.step) {
        let (path, step, per_step) = (path.to_owned(), record.step, per_step.get());
        return Err(JournalError::StepSize { path, record: index, step, expected, per_step });
    }
    if begins_step && let Some(previous) = previous.filter(|&previous| previous >= record.step) {
        return Err(JournalError::StepOrder { path: path.to_owned(), record: index, step: record.step, previous });
    }
    let numbers =
        [("slope", record.slope), ("learning rate", record.learning_rate), ("coefficient", record.coefficient)];
    match numbers.into_iter().find(|(_, value)| !value.is_finite()) {
        Some((field, value)) => Err(JournalError::NotFinite { path: path.to_owned(), record: index, field, value }),
        None => Ok(()),
    }
}

/// The records in `chunks`, which begin at byte `body` of the file.
pub(super) fn decode_all(
    path: &Path,
    body: usize,
    per_step: NonZeroU32,
    chunks: &[[u8; RECORD_BYTES]],
) -> Result<Vec<Record>, JournalError> {
    let mut records: Vec<Record> = Vec::with_capacity(chunks.len());
    for (index, bytes) in chunks.iter().enumerate() {
        let (record, stored) = Record::from_bytes(bytes);
        let computed = crc32fast::hash(&bytes[..COVERED]);
        if stored != computed {
            return Err(JournalError::CorruptRecord {
                path: path.to_owned(),
                record: index as u64,
                offset: (body + index * RECORD_BYTES) as u64,
                stored,
                computed,
            });
        }
        check(path, index as u64, per_step, records.last().map(|record| record.step), &record)?;
        records.push(record);
    }
    Ok(records)
}
