//! A copy of θ on disk, for runs whose journal takes long to replay.

use super::error::RunError;
use super::folder::RunFolder;
use crate::hf::atomic::write_file_atomically;
use crate::train::{Method, Moments};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::PathBuf;

/// A snapshot that a checkpoint relies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SnapshotReference {
    /// What it is for.
    kind: SnapshotKind,
    /// Updates of θ that are in it: records of the journal, or, where θ is moved by exact gradients, steps.
    pub(super) updates: u64,
    /// CRC-32 of the file.
    checksum: u32,
}

/// What a snapshot is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum SnapshotKind {
    /// To go on from: with the moments of an optimizer that has any.
    Latest,
    /// To be kept in the end: θ alone.
    Best,
}

impl SnapshotReference {
    fn path(&self, folder: &RunFolder) -> PathBuf {
        let name = match self.kind {
            SnapshotKind::Latest => "snapshot",
            SnapshotKind::Best => "snapshot-best",
        };
        folder.path().join(format!("{name}-{}.bin", self.updates))
    }
}

/// Writes θ (and what optimizers keep per weight) after this many updates.
pub(super) fn write(
    folder: &RunFolder,
    kind: SnapshotKind,
    updates: u64,
    method: &Method,
) -> Result<SnapshotReference, RunError> {
    let mut reference = SnapshotReference { kind, updates, checksum: 0 };
    let mut hasher = crc32fast::Hasher::new();
    write_file_atomically(&reference.path(folder), |writer| {
        let mut put = |bytes: &[u8]| {
            hasher.update(bytes);
            writer.write_all(bytes)
        };
        for parameter in method.backbone().parameters() {
            parameter.with_bytes(&mut put)?;
        }
        match kind {
            SnapshotKind::Latest => method.write_moments(&mut put),
            SnapshotKind::Best => Ok(()),
        }
    })?;
    reference.checksum = hasher.finalize();
    Ok(reference)
}

/// Removes every snapshot, also unfinished ones, but those that the last checkpoint relies on.
pub(super) fn remove_others(folder: &RunFolder, keep: [Option<SnapshotReference>; 2]) -> Result<(), RunError> {
    let keep = keep.map(|reference| reference.map(|reference| reference.path(folder)));
    for entry in std::fs::read_dir(folder.path()).map_err(RunError::io(folder.path()))? {
        let path = entry.map_err(RunError::io(folder.path()))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_snapshot = name.starts_with("snapshot-") || name.starts_with(".snapshot-");
        if is_snapshot && !keep.iter().flatten().any(|kept| *kept == path) {
            std::fs::remove_file(&path).map_err(RunError::io(&path))?;
        }
    }
    Ok(())
}

/// Hands the content of a snapshot to `read`, which has to read all of it: θ, then what optimizers keep per weight.
pub(super) fn read(
    folder: &RunFolder,
    reference: SnapshotReference,
    read: impl FnOnce(&mut dyn Read) -> io::Result<()>,
) -> Result<(), RunError> {
    let path = reference.path(folder);
    let file = File::open(&path).map_err(RunError::io(&path))?;
    let mut reader = Checked { inner: BufReader::with_capacity(1 << 20, file), hasher: crc32fast::Hasher::new() };
    read(&mut reader).map_err(RunError::io(&path))?;
    let rest = io::copy(&mut reader, &mut io::sink()).map_err(RunError::io(&path))?;
    if rest != 0 || reader.hasher.finalize() != reference.checksum {
        let problem = "does not have the content that the checkpoint expects: it is damaged".to_owned();
        return Err(RunError::Checkpoint { path, problem });
    }
    Ok(())
}

/// Computes the checksum of what is read through it.
struct Checked<R> {
    inner: R,
    hasher: crc32fast::Hasher,
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}
