//! A copy of θ on disk, for runs whose journal takes long to replay.

use super::error::RunError;
use super::folder::RunFolder;
use crate::hf::atomic::write_file_atomically;
use crate::model::Backbone;
use crate::zo::update::BackboneUpdater;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::PathBuf;

/// A snapshot that a checkpoint relies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SnapshotReference {
    /// Updates of the journal that are in it.
    pub(super) journal_records: u64,
    /// CRC-32 of the file.
    checksum: u32,
}

impl SnapshotReference {
    fn path(&self, folder: &RunFolder) -> PathBuf {
        folder.path().join(format!("snapshot-{}.bin", self.journal_records))
    }
}

/// Writes θ (and the moments of Adam) after `journal_records` updates.
pub(super) fn write(
    folder: &RunFolder,
    journal_records: u64,
    backbone: &Backbone,
    optimizer: &BackboneUpdater,
) -> Result<SnapshotReference, RunError> {
    let mut reference = SnapshotReference { journal_records, checksum: 0 };
    let mut hasher = crc32fast::Hasher::new();
    write_file_atomically(&reference.path(folder), |writer| {
        let mut put = |bytes: &[u8]| {
            hasher.update(bytes);
            writer.write_all(bytes)
        };
        for parameter in backbone.parameters() {
            parameter.with_bytes(&mut put)?;
        }
        optimizer.write_moments(backbone, &mut put)
    })?;
    reference.checksum = hasher.finalize();
    Ok(reference)
}

/// Removes every snapshot, also unfinished ones, but the one that the last checkpoint relies on.
pub(super) fn remove_others(folder: &RunFolder, keep: Option<SnapshotReference>) -> Result<(), RunError> {
    let keep = keep.map(|reference| reference.path(folder));
    for entry in std::fs::read_dir(folder.path()).map_err(RunError::io(folder.path()))? {
        let path = entry.map_err(RunError::io(folder.path()))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_snapshot = name.starts_with("snapshot-") || name.starts_with(".snapshot-");
        if is_snapshot && Some(&path) != keep.as_ref() {
            std::fs::remove_file(&path).map_err(RunError::io(&path))?;
        }
    }
    Ok(())
}

/// Puts a snapshot into a backbone that was loaded from the base model.
pub(super) fn read(
    folder: &RunFolder,
    reference: SnapshotReference,
    backbone: &mut Backbone,
    optimizer: &mut BackboneUpdater,
) -> Result<(), RunError> {
    let path = reference.path(folder);
    let file = File::open(&path).map_err(RunError::io(&path))?;
    let mut reader = Checked { inner: BufReader::with_capacity(1 << 20, file), hasher: crc32fast::Hasher::new() };
    backbone.read_weights(&mut reader).map_err(RunError::io(&path))?;
    optimizer.read_moments(backbone, &mut reader).map_err(RunError::io(&path))?;
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
