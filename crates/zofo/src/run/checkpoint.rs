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
pub(super) const VERSION: u32 = 2;

/// Where the best evaluation was, and what it gave.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Best {
    pub(super) step: u64,
    /// How many updates of the journal lead to its θ.
    pub(super) journal_records: u64,
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
    pub(super) backbone_optimizer: UpdaterState,
    /// Steps of the optimizer of p.
    pub(super) adapter_steps: usize,
    /// Steps of the optimizer of s.
    pub(super) shadow_steps: usize,
    pub(super) best: Option<Best>,
    pub(super) snapshot: Option<SnapshotReference>,
}

/// The tensors of a checkpoint.
pub(super) struct Blocks {
    pub(super) adapter: Adapter,
    pub(super) shadow: Adapter,
    pub(super) adapter_optimizer: OptimizerState,
    pub(super) shadow_optimizer: OptimizerState,
    /// p and s of the best evaluation.
    pub(super) best: Option<(Adapter, Adapter)>,
}

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
    let (p, s) = (&blocks.adapter, &blocks.shadow);
    put("p", p, &values(p));
    put("p.first", p, &blocks.adapter_optimizer.first);
    put("p.second", p, &blocks.adapter_optimizer.second);
    put("s", s, &values(s));
    put("s.first", s, &blocks.shadow_optimizer.first);
    put("s.second", s, &blocks.shadow_optimizer.second);
    if let Some((best_p, best_s)) = &blocks.best {
        put("best.p", best_p, &values(best_p));
        put("best.s", best_s, &values(best_s));
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

/// Reads a checkpoint. `template` is any block of the run's configuration.
pub(super) fn load(path: &Path, template: &Adapter, device: &Device) -> Result<(State, Blocks), RunError> {
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
    let get = |prefix: &str| -> Result<Vec<Tensor<2>>, RunError> {
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
    let optimizer = |name: &str, steps: usize| -> Result<OptimizerState, RunError> {
        if tensors.names().iter().any(|key| key.starts_with(&format!("{name}.first."))) {
            let (first, second) = (get(&format!("{name}.first"))?, get(&format!("{name}.second"))?);
            Ok(OptimizerState { steps, first, second })
        } else {
            Ok(OptimizerState::default())
        }
    };
    let best = match state.best {
        Some(_) => Some((template.with_tensors(get("best.p")?), template.with_tensors(get("best.s")?))),
        None => None,
    };
    let blocks = Blocks {
        adapter: template.with_tensors(get("p")?),
        shadow: template.with_tensors(get("s")?),
        adapter_optimizer: optimizer("p", state.adapter_steps)?,
        shadow_optimizer: optimizer("s", state.shadow_steps)?,
        best,
    };
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
