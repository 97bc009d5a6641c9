//! The end of a run: θ of the kept step rebuilt from the journal, everything evaluated and written.

use super::checkpoint::{self, Stage};
use super::config::{Config, KeepAdapter, MethodName};
use super::error::{Place, RunError};
use super::folder::RunFolder;
use super::inputs::Inputs;
use super::judge::Judged;
use super::method;
use super::metrics::Metrics;
use super::progress::{Observer, Score};
use super::replay;
use super::snapshot::{self, SnapshotReference};
use crate::hf::atomic::write_file_atomically;
use crate::model::Backbone;
use crate::peft::Adapter;
use crate::zo::journal::Journal;
use serde::Serialize;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a finished training hands over.
pub(super) struct Kept {
    /// The step that is kept.
    pub(super) step: u64,
    /// The updates that lead to its θ.
    pub(super) journal_records: u64,
    /// Where its θ comes from.
    pub(super) theta: KeptBackbone,
    /// Its p and its s, as far as the method has them.
    pub(super) blocks: Vec<Adapter>,
    pub(super) metrics: Metrics,
    /// All steps.
    pub(super) steps: u64,
    /// Steps in which θ was not moved.
    pub(super) skipped: u64,
    pub(super) training_seconds: f64,
    /// Why training could not go on, if it could not.
    pub(super) diverged: Option<String>,
}

/// What brings back θ of the step that is kept.
pub(super) enum KeptBackbone {
    /// The journal, from the base model or from a snapshot on the way.
    Replayed {
        /// The snapshot.
        from: Option<SnapshotReference>,
    },
    /// A snapshot of that step.
    Snapshot(SnapshotReference),
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
    /// The method.
    pub method: MethodName,
    /// Untouched model; then, as far as they differ, θ₀ with p, θ or θ with p, θ with s.
    pub scores: Vec<FinalScore>,
    /// Which block is in `adapter`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept_adapter: Option<KeepAdapter>,
    /// PEFT adapter folder, if a block was trained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<PathBuf>,
    /// Hugging Face model folder, if θ was trained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backbone: Option<PathBuf>,
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
    let mut backbone = inputs.backbone(config, Some(folder.path()))?;
    let examples = &inputs.evaluation;
    let mut scores = Vec::new();
    let step = kept.step;
    // False if it was interrupted.
    let mut score = |name: &'static str, backbone: &Backbone, adapter: Option<&Adapter>| -> Result<bool, RunError> {
        let (place, output) = (Place::Results(step), folder.path());
        let judged = Judged { what: name, loss: name, place, output, interrupted };
        let score = inputs.judge.score(backbone, adapter, examples, judged, observer)?;
        scores.extend(score.map(|score| FinalScore { name, score, examples: examples.len() }));
        Ok(score.is_some())
    };
    let (p, s) = (kept.blocks.first(), kept.blocks.get(1));
    let moves_backbone = config.method.moves_backbone();
    let untouched = score("untouched model", &backbone, None)?;
    if !untouched || p.is_some() && !score("(θ₀, p)", &backbone, p)? {
        return Ok(None);
    }
    if moves_backbone {
        if !bring_back(&mut backbone, &kept, folder, config, interrupted)? {
            return Ok(None);
        }
        let with_p = score(if p.is_some() { "(θ, p)" } else { "θ" }, &backbone, p)?;
        if !with_p || s.is_some() && !score("(θ, s)", &backbone, s)? {
            return Ok(None);
        }
    }

    let mut written = (None, None);
    if moves_backbone {
        backbone.write(&inputs.files, &folder.backbone())?;
        written.0 = Some(folder.backbone());
    }
    let adapter = match config.method.keep {
        KeepAdapter::S if s.is_some() => s.map(|s| (KeepAdapter::S, s)),
        _ => p.map(|p| (KeepAdapter::P, p)),
    };
    if let Some((_, adapter)) = adapter {
        let base = if moves_backbone { folder.backbone() } else { inputs.files.source_path().to_owned() };
        adapter.write(&base, &folder.adapter())?;
        written.1 = Some(folder.adapter());
    }
    let summary = Summary {
        steps: kept.steps,
        skipped_steps: kept.skipped,
        kept_step: kept.step,
        training_seconds: kept.training_seconds,
        diverged: kept.diverged,
        method: config.method.name,
        scores,
        kept_adapter: adapter.map(|(kept, _)| kept),
        adapter: written.1,
        backbone: written.0,
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
        snapshot::remove_others(folder, [None, None])?;
    }
    Ok(Some(summary))
}

/// Makes θ of the kept step of the base model. False if it was interrupted.
fn bring_back(
    backbone: &mut Backbone,
    kept: &Kept,
    folder: &RunFolder,
    config: &Config,
    interrupted: &AtomicBool,
) -> Result<bool, RunError> {
    let journal = Journal::read_tolerant(&folder.journal())?;
    let base = replay::fingerprints(backbone);
    replay::check_base(&journal.header, &base, &folder.journal(), &config.model.path)?;
    let from = match kept.theta {
        KeptBackbone::Snapshot(snapshot) => {
            snapshot::read(folder, snapshot, |reader| {
                backbone.read_weights(reader)?;
                // One of the last step has the optimizer's state too.
                io::copy(reader, &mut io::sink()).map(drop)
            })?;
            return Ok(true);
        }
        KeptBackbone::Replayed { from } => from,
    };
    let space = method::space_of(&journal.header.updates, backbone)?;
    let mut updater = method::updater(&config.outer);
    let mut done = 0;
    if let Some(reference) = from {
        snapshot::read(folder, reference, |reader| {
            backbone.read_weights(reader)?;
            updater.read_moments(backbone, reader)
        })?;
        done = reference.updates as usize;
    }
    let (before, records) = journal.records.split_at(done.min(journal.records.len()));
    updater.remember(&space, before);
    let records = records.get(..kept.journal_records as usize - before.len()).unwrap_or_default();
    for step in records.chunk_by(|left, right| left.step == right.step) {
        if interrupted.load(Ordering::SeqCst) {
            return Ok(false);
        }
        updater.replay(backbone, &space, step);
    }
    Ok(true)
}
