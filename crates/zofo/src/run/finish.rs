//! The end of a run: θ of the kept step rebuilt from the journal, everything evaluated and written.

use super::checkpoint::{self, Stage};
use super::config::{Config, KeepAdapter};
use super::error::{Place, RunError};
use super::folder::RunFolder;
use super::inputs::Inputs;
use super::judge::Judged;
use super::metrics::Metrics;
use super::progress::{Observer, Score};
use super::replay;
use super::snapshot::{self, SnapshotReference};
use crate::hf::atomic::write_file_atomically;
use crate::model::Backbone;
use crate::peft::Adapter;
use crate::zo::journal::Journal;
use crate::zo::update::BackboneUpdater;
use serde::Serialize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a finished training hands over.
pub(super) struct Kept {
    /// The step that is kept.
    pub(super) step: u64,
    /// The updates that lead to its θ.
    pub(super) journal_records: u64,
    /// A snapshot of θ on the way there.
    pub(super) snapshot: Option<SnapshotReference>,
    /// Its p.
    pub(super) adapter: Adapter,
    /// Its s.
    pub(super) shadow: Adapter,
    pub(super) metrics: Metrics,
    /// All steps.
    pub(super) steps: u64,
    /// Steps in which θ was not moved.
    pub(super) skipped: u64,
    pub(super) training_seconds: f64,
    /// Why training could not go on, if it could not.
    pub(super) diverged: Option<String>,
}

/// One of the combinations that are compared at the end.
#[derive(Clone, Debug, Serialize)]
pub struct FinalScore {
    /// Which backbone and adapter.
    pub name: &'static str,
    /// On the held-out examples.
    #[serde(flatten)]
    pub score: Score,
    /// How many examples.
    pub examples: usize,
}

/// What a run leaves.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Steps taken.
    pub steps: u64,
    /// Steps in which θ was not moved.
    pub skipped_steps: u64,
    /// The step that was kept.
    pub kept_step: u64,
    /// Training without evaluation.
    pub training_seconds: f64,
    /// Why training could not go on, if it could not; the kept step is then the best one before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diverged: Option<String>,
    /// Untouched model; then θ₀ with p, θ with p, θ with s.
    pub scores: Vec<FinalScore>,
    /// Which block is in `adapter`.
    pub kept_adapter: KeepAdapter,
    /// PEFT adapter folder.
    pub adapter: PathBuf,
    /// Hugging Face model folder.
    pub backbone: PathBuf,
    /// The updates of θ.
    pub journal: PathBuf,
    /// One object per step and evaluation.
    pub metrics: PathBuf,
}

/// Rebuilds θ of the kept step by forward replay, compares what was trained with what there was, and writes the results.
/// `None` if it was interrupted: all of it can be done again.
///
/// # Errors
///
/// [`RunError::Diverged`] if a loss is not finite, and nothing is written then; what reading and writing files gives.
pub(super) fn finish(
    folder: &RunFolder,
    config: &Config,
    inputs: &Inputs,
    mut kept: Kept,
    observer: &mut dyn Observer,
    interrupted: &AtomicBool,
) -> Result<Option<Summary>, RunError> {
    let mut backbone = inputs.backbone(config)?;
    let examples = &inputs.evaluation;
    let mut scores = Vec::new();
    let step = kept.step;
    let mut score = |name: &'static str, backbone: &Backbone, adapter: Option<&Adapter>| -> Result<(), RunError> {
        let judged = Judged { what: name, loss: name, place: Place::Results(step), output: folder.path() };
        let score = inputs.judge.score(backbone, adapter, examples, judged, observer)?;
        scores.push(FinalScore { name, score, examples: examples.len() });
        Ok(())
    };
    let stop = || interrupted.load(Ordering::SeqCst);
    let (p, s) = (Some(&kept.adapter), Some(&kept.shadow));
    score("untouched model", &backbone, None)?;
    if stop() {
        return Ok(None);
    }
    score("(θ₀, p)", &backbone, p)?;
    let journal = Journal::read_tolerant(&folder.journal())?;
    let base = replay::fingerprints(&backbone);
    replay::check_base(&journal.header, &base, &folder.journal(), &config.model.path)?;
    let mut updater = BackboneUpdater::new(config.outer.optimizer);
    let mut done = 0;
    if let Some(reference) = kept.snapshot {
        snapshot::read(folder, reference, &mut backbone, &mut updater)?;
        done = reference.journal_records;
    }
    for record in journal.records.iter().take(kept.journal_records as usize).skip(done as usize) {
        if stop() {
            return Ok(None);
        }
        updater.replay(&mut backbone, record);
    }
    drop(updater);
    score("(θ, p)", &backbone, p)?;
    if stop() {
        return Ok(None);
    }
    // After this one, writing takes less time than doing all of it again.
    score("(θ, s)", &backbone, s)?;

    let adapter = match config.method.keep {
        KeepAdapter::P => &kept.adapter,
        KeepAdapter::S => &kept.shadow,
    };
    backbone.write(&inputs.files, &folder.backbone())?;
    adapter.write(&folder.backbone(), &folder.adapter())?;
    let summary = Summary {
        steps: kept.steps,
        skipped_steps: kept.skipped,
        kept_step: kept.step,
        training_seconds: kept.training_seconds,
        diverged: kept.diverged,
        scores,
        kept_adapter: config.method.keep,
        adapter: folder.adapter(),
        backbone: folder.backbone(),
        journal: folder.journal(),
        metrics: folder.metrics(),
    };
    kept.metrics.write("summary", &summary)?;
    kept.metrics.sync()?;
    let json = serde_json::to_vec_pretty(&summary);
    let json = json.map_err(|error| RunError::io(&folder.summary())(error.into()))?;
    write_file_atomically(&folder.summary(), |writer| writer.write_all(&json))?;
    if summary.diverged.is_none() {
        checkpoint::set_stage(&folder.checkpoint(), Stage::Finished)?;
        snapshot::remove_others(folder, None)?;
    }
    Ok(Some(summary))
}
