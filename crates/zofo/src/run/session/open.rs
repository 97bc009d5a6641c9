//! The state of a run at its start: fresh, or as its last checkpoint has it.

use super::Session;
use crate::peft::Adapter;
use crate::run::checkpoint::{self, Blocks, Stage, State};
use crate::run::config::Config;
use crate::run::error::RunError;
use crate::run::folder::RunFolder;
use crate::run::inputs::{Inputs, RunBatches};
use crate::run::metrics::Metrics;
use crate::run::progress::Observer;
use crate::run::tensorboard::Progress;
use crate::run::{method, replay, snapshot};
use crate::train::Moments;
use crate::zo::journal::{Journal, JournalError, JournalHeader, JournalWriter, Record};
use burn::tensor::Device;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

impl<'a> Session<'a> {
    /// The state of a run. `None` if it was interrupted; the checkpoint is then as it was.
    ///
    /// # Errors
    ///
    /// A checkpoint or journal that is missing, damaged, or of other settings or weights. It is found before anything in
    /// the folder is changed.
    pub(super) fn open(
        folder: &'a RunFolder,
        config: &'a Config,
        inputs: &'a Inputs,
        observer: &mut dyn Observer,
        interrupted: &AtomicBool,
    ) -> Result<Option<Self>, RunError> {
        let device = Device::flex();
        let backbone = inputs.backbone(config, Some(folder.path()))?;
        let fingerprint = config.fingerprint()?;
        let header = replay::header(&backbone, config);
        let space = method::space(config, &backbone)?;
        let method = method::new(config, inputs, backbone)?;
        let (checkpoint, journal) = (folder.checkpoint(), folder.journal());
        let templates: Vec<Adapter> = method.blocks().into_iter().map(|block| block.values.clone()).collect();
        let saved = if checkpoint.exists() { Some(checkpoint::load(&checkpoint, &templates, &device)?) } else { None };

        let (journal, history) = match &saved {
            Some((state, _)) => {
                check_fingerprint(state, &fingerprint, &checkpoint)?;
                replay::check_header(&Journal::read_header(&journal)?, &header, &journal, &config.model.path)?;
                folder.accept_changes()?;
                let (writer, journal) = JournalWriter::resume(&journal, state.journal_records)?;
                (writer, journal.records)
            }
            None => {
                let journal = fresh_journal(&journal, &header, &checkpoint)?;
                folder.accept_changes()?;
                (journal, Vec::new())
            }
        };
        let metrics_bytes = saved.as_ref().map_or(0, |(state, _)| state.metrics_bytes);
        let (mut metrics, missing) = Metrics::open(&folder.metrics(), metrics_bytes)?;
        if missing > 0 {
            let path = folder.metrics();
            observer.note(&format!("`{}` lacks {missing} bytes that were written before", path.display()));
        }
        if config.run.tensorboard && config.method.trains() {
            let (step, warm_steps) = saved.as_ref().map_or((0, 0), |(state, _)| (state.step, state.warm_steps));
            let progress = Progress { step, warm_steps, warm_start: config.method.warm_start_steps() };
            metrics.write_tensorboard(&folder.tensorboard(), progress)?;
        }

        let mut session = Self {
            folder,
            config,
            inputs,
            fingerprint,
            method,
            space,
            batches: RunBatches::new(inputs, config)?,
            journal,
            metrics,
            stage: Stage::Training,
            warm_steps: 0,
            step: 0,
            evaluated: None,
            training: Duration::ZERO,
            best: None,
            since_best: 0,
            snapshot: None,
            replay: Duration::ZERO,
            saved: Instant::now(),
        };
        let is_ready = match saved {
            Some((state, blocks)) => session.restore(state, blocks, &history, interrupted)?,
            None => true,
        };
        Ok(is_ready.then_some(session))
    }

    /// Goes to where a checkpoint was written. False if it was interrupted.
    fn restore(
        &mut self,
        state: State,
        blocks: Blocks,
        history: &[Record],
        interrupted: &AtomicBool,
    ) -> Result<bool, RunError> {
        let mut done = 0;
        if let Some(reference) = state.snapshot {
            let method = &mut self.method;
            snapshot::read(self.folder, reference, |reader| {
                method.backbone_mut().read_weights(reader)?;
                method.read_moments(reader)
            })?;
            done = reference.updates as usize;
        }
        let start = Instant::now();
        if let Some((backbone, updater)) = self.method.updater_mut() {
            let (before, history) = history.split_at(done.min(history.len()));
            updater.remember(&self.space, before);
            for step in history.chunk_by(|left, right| left.step == right.step) {
                if interrupted.load(Ordering::SeqCst) {
                    return Ok(false);
                }
                updater.replay(backbone, &self.space, step);
            }
        }
        self.replay = start.elapsed();
        let saved = blocks.values.into_iter().zip(blocks.optimizers);
        for (block, (values, optimizer)) in self.method.blocks_mut().into_iter().zip(saved) {
            block.values = values;
            block.optimizer.restore(optimizer);
        }
        self.restore_rule(state.rule)?;
        self.batches.seek(state.cursors)?;
        self.stage = state.stage;
        self.warm_steps = state.warm_steps;
        self.step = state.step;
        self.evaluated = state.evaluated;
        self.training = Duration::try_from_secs_f64(state.training_seconds).map_err(|error| RunError::Checkpoint {
            path: self.folder.checkpoint(),
            problem: format!("has {} seconds of training: {error}", state.training_seconds),
        })?;
        self.best = state.best.zip(blocks.best);
        self.since_best = state.since_best;
        self.snapshot = state.snapshot;
        Ok(true)
    }
}

fn check_fingerprint(state: &State, fingerprint: &str, checkpoint: &Path) -> Result<(), RunError> {
    if state.fingerprint == fingerprint {
        return Ok(());
    }
    Err(RunError::Checkpoint {
        path: checkpoint.to_owned(),
        problem:
            "belongs to other settings than those of the folder's config.toml with what `--set` changes: only limits, \
                  places and threads can be changed in a run. Undo the rest, or start a new run"
                .to_owned(),
    })
}

/// The journal of a run without a checkpoint. A kill in the first moments leaves one without updates, or half a header;
/// updates are only made after the first checkpoint, so a journal that has some has lost it.
fn fresh_journal(path: &Path, header: &JournalHeader, checkpoint: &Path) -> Result<JournalWriter, RunError> {
    if path.exists() {
        match Journal::read_tolerant(path) {
            Ok(journal) if journal.records.is_empty() => {}
            Ok(journal) => {
                return Err(RunError::Checkpoint {
                    path: checkpoint.to_owned(),
                    problem: format!(
                        "is missing, but the journal `{}` holds {} updates of the backbone. Restore the checkpoint from a \
                         copy to go on; `zofo replay` with that journal rebuilds the backbone",
                        path.display(),
                        journal.records.len()
                    ),
                });
            }
            Err(JournalError::TruncatedHeader { .. }) => {}
            // The file was made, and its first bytes were not yet written.
            Err(JournalError::NotAJournal { .. }) if std::fs::metadata(path).is_ok_and(|file| file.len() == 0) => {}
            Err(error) => return Err(error.into()),
        }
        std::fs::remove_file(path).map_err(RunError::io(path))?;
    }
    Ok(JournalWriter::create(path, header)?)
}
