//! The beginning of a journal: what its updates belong to.

use std::num::NonZeroU32;
use std::path::Path;

use serde::{Deserialize, Serialize};
use zofo_kernels::direction::DIRECTION_SCHEME;

use super::error::JournalError;
use crate::hf::WeightDtype;
use crate::zo::momentum::Momentum;
use crate::zo::space::DirectionKind;

/// The newest version of the file format that this module writes and reads. It writes version 1 where that can say what
/// a run does: one gaussian direction over all weights a step, no weight decay and no momentum; and version 2 where there is
/// no momentum.
pub const FORMAT_VERSION: u32 = 3;

/// The first bytes of every journal.
const MAGIC: [u8; 8] = *b"ZOFOJRNL";

/// Bytes before the JSON: magic, version, length.
const PREAMBLE: usize = 16;

/// Bytes of the checksum after the JSON.
const CHECKSUM: usize = 4;

/// What the updates of a journal belong to: replay needs a base model with these tensors, stored
/// in this format, and directions of this scheme.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JournalHeader {
    /// [`DIRECTION_SCHEME`] of the program that wrote the journal.
    pub direction_scheme: u32,
    /// How the run stored θ: an update of `bf16` is rounded, one of `f32` is not.
    pub storage: WeightDtype,
    /// What made coefficients of slopes.
    pub optimizer: OptimizerRecord,
    /// What the records do not say of their updates. Absent in version 1.
    #[serde(default, skip_serializing_if = "UpdateScheme::is_plain")]
    pub updates: UpdateScheme,
    /// The tensors of the base model.
    pub tensors: Vec<TensorFingerprint>,
}

impl JournalHeader {
    /// The header of a run of this program.
    pub fn new(
        storage: WeightDtype,
        optimizer: OptimizerRecord,
        updates: UpdateScheme,
        tensors: Vec<TensorFingerprint>,
    ) -> Self {
        Self { direction_scheme: DIRECTION_SCHEME, storage, optimizer, updates, tensors }
    }

    /// The version of the format that says this.
    pub fn format_version(&self) -> u32 {
        match &self.updates {
            updates if updates.is_plain() => 1,
            UpdateScheme { momentum: None, .. } => 2,
            UpdateScheme { momentum: Some(_), .. } => FORMAT_VERSION,
        }
    }
}

/// What the records of a journal do not say of their updates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateScheme {
    /// What z is.
    pub directions: DirectionKind,
    /// Records of a step: one per direction.
    pub per_step: NonZeroU32,
    /// μ: every step first multiplies the weights that z covers by 1 − η·μ.
    #[serde(with = "decimal")]
    pub weight_decay: f64,
    /// Of `sgd`: what the steps before add to an update. Absent before version 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub momentum: Option<Momentum>,
}

impl Default for UpdateScheme {
    /// That of version 1.
    fn default() -> Self {
        Self { directions: DirectionKind::default(), per_step: NonZeroU32::MIN, weight_decay: 0.0, momentum: None }
    }
}

impl UpdateScheme {
    fn is_plain(&self) -> bool {
        *self == Self::default()
    }
}

/// The optimizer of θ.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerRecord {
    /// Its name in configurations.
    pub name: String,
    /// The numbers that are fixed in its rule.
    pub constants: Vec<Constant>,
}

impl OptimizerRecord {
    /// The record of an optimizer with these constants, for example
    /// [`ScalarRule::constants`](crate::zo::optimizer::ScalarRule::constants).
    pub fn new(name: &str, constants: &[(&str, f64)]) -> Self {
        let constants = constants.iter().map(|&(name, value)| Constant { name: name.into(), value });
        Self { name: name.into(), constants: constants.collect() }
    }
}

/// A number that is fixed in the rule of an optimizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Constant {
    /// Its name.
    pub name: String,
    /// Its value; in JSON a string, since parsers of numbers may lose the last bit.
    #[serde(with = "decimal")]
    pub value: f64,
}

/// A tensor of the base model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorFingerprint {
    /// The name written to `backbone/`, which is the one that directions depend on.
    pub name: String,
    /// Its shape as Hugging Face stores it.
    pub shape: Vec<u64>,
    /// The SHA-256 of its bytes as the run stored them (row-major, little endian), in hexadecimal.
    pub sha256: String,
}

impl TensorFingerprint {
    /// The fingerprint of a tensor whose bytes have this hash.
    pub fn new(name: &str, shape: &[usize], sha256: [u8; 32]) -> Self {
        Self {
            name: name.to_owned(),
            shape: shape.iter().map(|&size| size as u64).collect(),
            sha256: sha256.iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }
}

/// The bytes of a header with everything around the JSON.
pub(super) fn encode(path: &Path, header: &JournalHeader) -> Result<Vec<u8>, JournalError> {
    let json = serde_json::to_vec(header).map_err(|source| JournalError::Header { path: path.to_owned(), source })?;
    let length = u32::try_from(json.len())
        .map_err(|_| JournalError::HeaderTooLarge { path: path.to_owned(), bytes: json.len() })?;
    let mut bytes = Vec::with_capacity(PREAMBLE + json.len() + CHECKSUM);
    bytes.extend(MAGIC);
    bytes.extend(header.format_version().to_le_bytes());
    bytes.extend(length.to_le_bytes());
    bytes.extend(json);
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    Ok(bytes)
}

/// The header at the start of a journal's bytes, and where the records begin.
pub(super) fn decode(path: &Path, bytes: &[u8]) -> Result<(JournalHeader, usize), JournalError> {
    let truncated =
        |expected: u64| JournalError::TruncatedHeader { path: path.to_owned(), expected, found: bytes.len() as u64 };
    let start = &bytes[..bytes.len().min(MAGIC.len())];
    if start.is_empty() || !MAGIC.starts_with(start) {
        return Err(JournalError::NotAJournal { path: path.to_owned() });
    }
    let Some(&[.., v0, v1, v2, v3, l0, l1, l2, l3]) = bytes.first_chunk::<PREAMBLE>() else {
        return Err(truncated(PREAMBLE as u64));
    };
    let found = u32::from_le_bytes([v0, v1, v2, v3]);
    if !(1..=FORMAT_VERSION).contains(&found) {
        return Err(JournalError::FormatVersion { path: path.to_owned(), found });
    }
    let length = u32::from_le_bytes([l0, l1, l2, l3]);
    let rest = &bytes[PREAMBLE..];
    let split = usize::try_from(length).ok().and_then(|length| rest.split_at_checked(length));
    let Some((json, (stored, _))) = split.and_then(|(json, rest)| Some((json, rest.split_first_chunk::<CHECKSUM>()?)))
    else {
        return Err(truncated(PREAMBLE as u64 + u64::from(length) + CHECKSUM as u64));
    };
    let (stored, computed) = (u32::from_le_bytes(*stored), crc32fast::hash(&bytes[..PREAMBLE + json.len()]));
    if stored != computed {
        return Err(JournalError::CorruptHeader { path: path.to_owned(), stored, computed });
    }
    let header: JournalHeader =
        serde_json::from_slice(json).map_err(|source| JournalError::Header { path: path.to_owned(), source })?;
    if header.direction_scheme != DIRECTION_SCHEME {
        return Err(JournalError::DirectionScheme {
            path: path.to_owned(),
            found: header.direction_scheme,
            supported: DIRECTION_SCHEME,
        });
    }
    Ok((header, PREAMBLE + json.len() + CHECKSUM))
}

/// An `f64` as the shortest decimal that reads back as the same number.
pub(in crate::zo) mod decimal {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(in crate::zo) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        format!("{value:?}").serialize(serializer)
    }

    pub(in crate::zo) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|_| D::Error::custom(format!("expected a number, found \"{text}\"")))
    }
}
