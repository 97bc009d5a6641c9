//! Rebuilding a fine-tuned θ from its base model and its journal: no data, no forward pass.

use super::config::{Config, MethodName};
use super::error::RunError;
use super::method;
use crate::hf::ModelFiles;
use crate::model::Backbone;
use crate::zo::journal::{Journal, JournalHeader, OptimizerRecord, TensorFingerprint, UpdateScheme};
use crate::zo::optimizer::BackboneOptimizer;
use crate::zo::update::BackboneUpdater;
use burn::tensor::Device;
use std::path::Path;

/// What stands for the optimizer in journals of runs that move θ by exact gradients, and have no updates in them.
const EXACT: &str = "exact gradients";

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
    check_base(&records.header, &fingerprints(&backbone), journal, base)?;
    let mut updater = updater_of(&records.header, journal)?;
    let space = method::space_of(&records.header.updates, &backbone)?;
    let wanted = records.records.iter().take_while(|r| until.is_none_or(|until| r.step <= until)).count();
    let wanted = &records.records[..wanted];
    let mut done = 0;
    for step in wanted.chunk_by(|left, right| left.step == right.step) {
        updater.replay(&mut backbone, &space, step);
        done += step.len();
        progress(done, wanted.len());
    }
    backbone.write(&files, output)?;
    Ok(Replayed {
        updates: wanted.len(),
        last_step: wanted.last().map_or(0, |record| record.step),
        ignored_bytes: records.ignored_bytes,
    })
}

/// The header of a journal for updates of this backbone, which must be the untouched base model.
pub(super) fn header(backbone: &Backbone, config: &Config) -> JournalHeader {
    let optimizer = if config.method.name == MethodName::Full {
        OptimizerRecord::new(EXACT, &[])
    } else {
        BackboneUpdater::record(config.outer.optimizer)
    };
    JournalHeader::new(backbone.dtype(), optimizer, method::update_scheme(config), fingerprints(backbone))
}

/// What a journal keeps of the base model's tensors.
pub(super) fn fingerprints(backbone: &Backbone) -> Vec<TensorFingerprint> {
    let tensors = backbone.parameters().iter().zip(backbone.hashes());
    tensors.map(|(p, hash)| TensorFingerprint::new(p.name(), p.shape(), hash)).collect()
}

/// Checks that a journal has the header that this program would give to one of the run at hand.
pub(super) fn check_header(
    header: &JournalHeader,
    expected: &JournalHeader,
    journal: &Path,
    base: &Path,
) -> Result<(), RunError> {
    check_base(header, &expected.tensors, journal, base)?;
    if header == expected {
        return Ok(());
    }
    Err(RunError::ForeignJournal(format!(
        "the journal `{}` was written for weights stored as {} and the optimizer `{}`, or with other directions or constants \
         than this version has; this run has {} and `{}`: go on with the version and the settings that it was started with",
        journal.display(),
        header.storage,
        header.optimizer.name,
        expected.storage,
        expected.optimizer.name,
    )))
}

/// Checks that `found` are the tensors of the base model that a journal's updates were made for.
pub(super) fn check_base(
    header: &JournalHeader,
    found: &[TensorFingerprint],
    journal: &Path,
    base: &Path,
) -> Result<(), RunError> {
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
    if name == EXACT {
        return Err(RunError::ForeignJournal(format!(
            "the journal `{}` belongs to a run that moved the backbone by exact gradients, which cannot be replayed: the \
             result is in that run's backbone/",
            journal.display()
        )));
    }
    let kind = BackboneOptimizer::ALL.into_iter().find(|kind| kind.name() == name);
    let kind = kind.filter(|kind| BackboneUpdater::record(*kind) == header.optimizer);
    let UpdateScheme { momentum, weight_decay, .. } = header.updates;
    let kind = kind.filter(|kind| momentum.is_none() || *kind == BackboneOptimizer::Sgd);
    kind.map(|kind| method::updater_of(kind, momentum, weight_decay)).ok_or_else(|| {
        RunError::ForeignJournal(format!(
            "the journal `{}` was written with the optimizer `{name}`, whose name, constants or momentum this version does \
             not know",
            journal.display()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hf::WeightDtype;
    use crate::zo::momentum::Momentum;
    use std::num::NonZeroU32;

    #[test]
    fn a_journal_of_another_run_is_told_apart() {
        let header = |storage, optimizer, hash| {
            let tensors = vec![TensorFingerprint::new("w", &[2, 3], [hash; 32])];
            JournalHeader::new(storage, BackboneUpdater::record(optimizer), UpdateScheme::default(), tensors)
        };
        let expected = header(WeightDtype::F32, BackboneOptimizer::Rms, 1);
        let problem = |found: &JournalHeader| {
            let checked = check_header(found, &expected, Path::new("journal.zofo"), Path::new("model"));
            checked.err().map(|error| error.to_string())
        };
        assert_eq!(problem(&expected), None);
        for (found, words) in [
            (header(WeightDtype::F32, BackboneOptimizer::Rms, 2), "`model` is not the base model"),
            (header(WeightDtype::Bf16, BackboneOptimizer::Rms, 1), "stored as bf16"),
            (header(WeightDtype::F32, BackboneOptimizer::Sgd, 1), "the optimizer `sgd`"),
        ] {
            let problem = problem(&found).unwrap();
            assert!(problem.contains(words) && problem.contains("journal.zofo"), "{problem}");
        }
        let mut constants = expected.clone();
        constants.optimizer.constants.clear();
        assert!(problem(&constants).unwrap().contains("other directions or constants"));
    }

    #[test]
    fn a_journal_with_momentum_is_one_of_sgd() {
        let momentum = Some(Momentum { decay: 0.9, window: NonZeroU32::MIN });
        for optimizer in BackboneOptimizer::ALL {
            let updates = UpdateScheme { momentum, ..UpdateScheme::default() };
            let header = JournalHeader::new(WeightDtype::F32, BackboneUpdater::record(optimizer), updates, Vec::new());
            let known = updater_of(&header, Path::new("journal.zofo"));
            assert_eq!(known.is_ok(), optimizer == BackboneOptimizer::Sgd, "{optimizer:?}");
        }
    }
}
