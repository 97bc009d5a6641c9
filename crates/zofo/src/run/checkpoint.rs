//! `checkpoint.safetensors`: everything of a run but θ, in one file that is replaced atomically.
//!
//! θ is not in it: replaying the journal's first `journal_records` updates on the base model gives θ, bit by bit.

use super::error::RunError;
use super::inputs::Cursors;
use super::progress::Score;
use super::snapshot::SnapshotReference;
use crate::hf::atomic::write_file_atomically;
use crate::peft::{Adapter, OptimizerState};
use crate::zo::update::UpdaterState;
use burn::tensor::{Device, Tensor, TensorData};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::Path;

/// Key of the state in the file's metadata.
const STATE: &str = "zofo";
/// Version of the file's content.
pub(super) const VERSION: u32 = 4;

/// Where the best evaluation was, and what it gave.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Best {
    pub(super) step: u64,
    /// How many updates of the journal lead to its θ.
    pub(super) journal_records: u64,
    /// θ of it, where the journal does not lead there.
    pub(super) snapshot: Option<SnapshotReference>,
    /// The task's measure, of the block that `method.keep` names.
    pub(super) value: f64,
    pub(super) loss: f64,
}

impl Best {
    /// Whether a score beats this one: a better value, or the same with a lower loss.
    pub(super) fn is_beaten_by(&self, score: &Score) -> bool {
        let Score { metric, value, loss } = *score;
        metric.is_better(value, self.value) || value == self.value && loss < self.loss
    }
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stage {
    /// Steps are to be taken.
    Training,
    /// The last step was taken and evaluated; results are to be written.
    Trained,
    /// All is written.
    Finished,
}

/// The part of a checkpoint that is not tensors.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    /// [`VERSION`].
    pub(super) version: u32,
    /// Of the configuration: see `Config::fingerprint`.
    pub(super) fingerprint: String,
    pub(super) stage: Stage,
    /// Inner steps of the warm start.
    pub(super) warm_steps: usize,
    /// Outer steps.
    pub(super) step: u64,
    /// The last step after which there was an evaluation.
    pub(super) evaluated: Option<u64>,
    pub(super) journal_records: u64,
    pub(super) metrics_bytes: u64,
    pub(super) training_seconds: f64,
    pub(super) cursors: Cursors,
    /// What turns slopes into steps, if the method has slopes.
    pub(super) rule: Option<UpdaterState>,
    /// Steps of the optimizers of p and of s.
    pub(super) block_steps: Vec<usize>,
    pub(super) best: Option<Best>,
    /// Evaluations since the best one.
    pub(super) since_best: usize,
    pub(super) snapshot: Option<SnapshotReference>,
}

/// The tensors of a checkpoint, of p and of s, as far as the method has them.
#[derive(Default)]
pub(super) struct Blocks {
    pub(super) values: Vec<Adapter>,
    pub(super) optimizers: Vec<OptimizerState>,
    /// Those of the best evaluation.
    pub(super) best: Option<Vec<Adapter>>,
}

/// The names of the blocks, in their order.
const BLOCKS: [&str; 2] = ["p", "s"];

/// Writes a checkpoint in the place of the last one.
pub(super) fn save(path: &Path, state: &State, blocks: &Blocks) -> Result<(), RunError> {
    let broken = |problem: String| RunError::Checkpoint { path: path.to_owned(), problem };
    let json = serde_json::to_string(state).map_err(|error| broken(error.to_string()))?;

    let mut tensors: Vec<(String, TensorData)> = Vec::new();
    let mut put = |prefix: &str, names: &Adapter, values: &[Tensor<2>]| {
        for ((name, _), value) in names.tensors().into_iter().zip(values) {
            tensors.push((format!("{prefix}.{name}"), value.clone().into_data()));
        }
    };
    let values =
        |adapter: &Adapter| -> Vec<Tensor<2>> { adapter.tensors().into_iter().map(|(_, tensor)| tensor).collect() };
    for ((name, block), optimizer) in BLOCKS.iter().zip(&blocks.values).zip(&blocks.optimizers) {
        put(name, block, &values(block));
        put(&format!("{name}.first"), block, &optimizer.first);
        put(&format!("{name}.second"), block, &optimizer.second);
    }
    for (name, block) in BLOCKS.iter().zip(blocks.best.iter().flatten()) {
        put(&format!("best.{name}"), block, &values(block));
    }
    let mut views = Vec::with_capacity(tensors.len());
    for (name, data) in &tensors {
        let view = TensorView::new(Dtype::F32, data.shape().to_vec(), data.as_bytes());
        views.push((name.as_str(), view.map_err(|error| broken(error.to_string()))?));
    }
    let metadata = HashMap::from([(STATE.to_owned(), json)]);
    let bytes = safetensors::serialize(views, Some(metadata));
    let bytes = bytes.map_err(|error| broken(error.to_string()))?;
    Ok(write_file_atomically(path, |writer| writer.write_all(&bytes))?)
}

/// Reads a checkpoint. `templates` are blocks like those of the run, one for each that it has.
pub(super) fn load(path: &Path, templates: &[Adapter], device: &Device) -> Result<(State, Blocks), RunError> {
    let broken = |problem: String| RunError::Checkpoint { path: path.to_owned(), problem };
    let unreadable = |error: safetensors::SafeTensorError| {
        broken(format!("is no checkpoint ({error}); it may be damaged: restore it from a copy"))
    };
    let bytes = std::fs::read(path).map_err(RunError::io(path))?;
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(unreadable)?;
    let json = metadata.metadata().as_ref().and_then(|map| map.get(STATE));
    let json = json.ok_or_else(|| broken(format!("has no `{STATE}` entry in its metadata")))?;
    let version = serde_json::from_str::<VersionOnly>(json).map(|state| state.version);
    if version.as_ref().is_ok_and(|&version| version != VERSION) {
        let found = version.unwrap_or_default();
        return Err(broken(format!("has version {found}, this program reads version {VERSION}")));
    }
    let state: State =
        serde_json::from_str(json).map_err(|error| broken(format!("has a state that cannot be read: {error}")))?;

    let tensors = SafeTensors::deserialize(&bytes).map_err(unreadable)?;
    let get = |template: &Adapter, prefix: &str| -> Result<Vec<Tensor<2>>, RunError> {
        let one = |(name, like): (String, Tensor<2>)| {
            let key = format!("{prefix}.{name}");
            let view = tensors.tensor(&key).map_err(|_| broken(format!("lacks the tensor `{key}`")))?;
            let expected: Vec<usize> = like.dims().into();
            if view.dtype() != Dtype::F32 || view.shape() != expected {
                let found = (view.dtype(), view.shape());
                return Err(broken(format!("`{key}`: expected F32 {expected:?}, found {found:?}")));
            }
            let values: Vec<f32> =
                view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            Ok(Tensor::from_data(TensorData::new(values, like.dims()), device))
        };
        template.tensors().into_iter().map(one).collect()
    };
    let optimizer = |template: &Adapter, name: &str, steps: usize| -> Result<OptimizerState, RunError> {
        if tensors.names().iter().any(|key| key.starts_with(&format!("{name}.first."))) {
            let moments = |kind| get(template, &format!("{name}.{kind}"));
            Ok(OptimizerState { steps, first: moments("first")?, second: moments("second")? })
        } else {
            Ok(OptimizerState::default())
        }
    };
    if state.block_steps.len() != templates.len() {
        let (found, expected) = (state.block_steps.len(), templates.len());
        return Err(broken(format!("has {found} blocks, and the run has {expected}: it belongs to another method")));
    }
    let mut blocks = Blocks { best: state.best.map(|_| Vec::new()), ..Blocks::default() };
    for ((name, template), &steps) in BLOCKS.iter().zip(templates).zip(&state.block_steps) {
        blocks.values.push(template.with_tensors(get(template, name)?));
        blocks.optimizers.push(optimizer(template, name, steps)?);
        if let Some(best) = &mut blocks.best {
            best.push(template.with_tensors(get(template, &format!("best.{name}"))?));
        }
    }
    Ok((state, blocks))
}

/// Notes that a checkpoint's run has reached a stage.
pub(super) fn set_stage(path: &Path, stage: Stage) -> Result<(), RunError> {
    let broken = |problem: String| RunError::Checkpoint { path: path.to_owned(), problem };
    let bytes = std::fs::read(path).map_err(RunError::io(path))?;
    let read = || -> Result<Vec<u8>, Box<dyn std::error::Error>> {
        let (_, metadata) = SafeTensors::read_metadata(&bytes)?;
        let json = metadata.metadata().as_ref().and_then(|map| map.get(STATE)).ok_or("no state")?;
        let state = State { stage, ..serde_json::from_str(json)? };
        let tensors = SafeTensors::deserialize(&bytes)?;
        let metadata = HashMap::from([(STATE.to_owned(), serde_json::to_string(&state)?)]);
        Ok(safetensors::serialize(tensors.tensors(), Some(metadata))?)
    };
    let bytes = read().map_err(|error| broken(format!("cannot be read again: {error}")))?;
    Ok(write_file_atomically(path, |writer| writer.write_all(&bytes))?)
}

/// The stage that a checkpoint has reached.
pub(super) fn stage(path: &Path) -> Result<Stage, RunError> {
    #[derive(Deserialize)]
    struct StageOnly {
        stage: Stage,
    }
    let bytes = std::fs::read(path).map_err(RunError::io(path))?;
    let json = SafeTensors::read_metadata(&bytes)
        .ok()
        .and_then(|(_, metadata)| metadata.metadata().as_ref().and_then(|map| map.get(STATE).cloned()));
    let state = json.and_then(|json| serde_json::from_str::<StageOnly>(&json).ok());
    state.map(|state| state.stage).ok_or_else(|| RunError::Checkpoint {
        path: path.to_owned(),
        problem: "is no checkpoint of this program; it may be damaged: restore it from a copy".to_owned(),
    })
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}
