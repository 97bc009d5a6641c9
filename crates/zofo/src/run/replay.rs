//! Rebuilding a fine-tuned θ from its base model and its journal: no data, no forward pass.

use super::error::RunError;
use crate::hf::ModelFiles;
use crate::model::Backbone;
use crate::zo::journal::{Journal, JournalHeader, OptimizerRecord, TensorFingerprint};
use crate::zo::optimizer::BackboneOptimizer;
use crate::zo::update::BackboneUpdater;
use burn::tensor::Device;
use std::path::Path;

/// What a replay did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// Updates that were applied.
    pub updates: usize,
    /// The step of the last of them; 0 if there was none.
    pub last_step: u64,
    /// Bytes of an unfinished record at the journal's end, ignored.
    pub ignored_bytes: usize,
}

/// Rebuilds θ from the base model at `base` by the updates of `journal` up to and including step `until` (all, if not
/// given), and writes it to `output` as a Hugging Face model folder.
///
/// # Errors
///
/// A journal that cannot be read or belongs to another base model; what reading and writing models gives.
pub fn replay(
    base: &Path,
    journal: &Path,
    until: Option<u64>,
    output: &Path,
    mut progress: impl FnMut(usize, usize),
) -> Result<Replayed, RunError> {
    let files = ModelFiles::open(base)?;
    let records = Journal::read_tolerant(journal)?;
    let mut backbone = Backbone::load(&files, records.header.storage, &Device::flex())?;
    check_base(&records.header, &backbone, journal, base)?;
    let mut updater = updater_of(&records.header, journal)?;
    let wanted = records.records.iter().take_while(|r| until.is_none_or(|until| r.step <= until));
    let wanted: Vec<_> = wanted.collect();
    for (done, record) in wanted.iter().enumerate() {
        updater.replay(&mut backbone, record);
        progress(done + 1, wanted.len());
    }
    backbone.write(&files, output)?;
    Ok(Replayed {
        updates: wanted.len(),
        last_step: wanted.last().map_or(0, |record| record.step),
        ignored_bytes: records.ignored_bytes,
    })
}

/// The header of a journal for updates of this backbone, which must be the untouched base model.
pub(super) fn header(backbone: &Backbone, optimizer: BackboneOptimizer) -> JournalHeader {
    let tensors = backbone.parameters().iter().zip(backbone.hashes());
    let tensors = tensors.map(|(p, hash)| TensorFingerprint::new(p.name(), p.shape(), hash));
    JournalHeader::new(backbone.dtype(), BackboneUpdater::record(optimizer), tensors.collect())
}

/// Checks that `backbone` is the base model that a journal's updates were made for.
pub(super) fn check_base(
    header: &JournalHeader,
    backbone: &Backbone,
    journal: &Path,
    base: &Path,
) -> Result<(), RunError> {
    let hashes = backbone.hashes();
    let found = backbone.parameters().iter().zip(hashes);
    let found: Vec<_> = found.map(|(p, hash)| TensorFingerprint::new(p.name(), p.shape(), hash)).collect();
    let different = header.tensors.iter().find(|expected| !found.contains(expected));
    if different.is_none() && header.tensors.len() == found.len() {
        return Ok(());
    }
    let what = match different {
        Some(tensor) => {
            format!("its tensor `{}`, of shape {:?}, has another content or is missing", tensor.name, tensor.shape)
        }
        None => format!("it has {} tensors, the journal's had {}", found.len(), header.tensors.len()),
    };
    Err(RunError::ForeignJournal(format!(
        "`{}` is not the base model of the journal `{}`: {what}. Give the model that the run started from",
        base.display(),
        journal.display(),
    )))
}

/// A fresh optimizer of the kind that a journal names, if its constants are those of this program.
fn updater_of(header: &JournalHeader, journal: &Path) -> Result<BackboneUpdater, RunError> {
    let OptimizerRecord { name, .. } = &header.optimizer;
    let kind = BackboneOptimizer::ALL.into_iter().find(|kind| kind.name() == name);
    let kind = kind.filter(|kind| BackboneUpdater::record(*kind) == header.optimizer);
    kind.map(BackboneUpdater::new).ok_or_else(|| {
        RunError::ForeignJournal(format!(
            "the journal `{}` was written with the optimizer `{name}`, whose name or constants this version does not know",
            journal.display()
        ))
    })
}
