//! How much memory a run takes at its peak, estimated before it starts.

use super::config::Config;
use super::inputs::Inputs;
use crate::hf::HfError;
use crate::model::config::{Layer, Linear, Qkv};
use crate::model::{Batch, DecoderConfig};
use crate::peft::Adapter;
use crate::task::EncodedExample;
use crate::zo::optimizer::BackboneOptimizer;

/// The program, the tokenizer and the encoded data.
const BASE: f64 = 30e6;

/// Tokens that an evaluation feeds at once.
const EVALUATION_TOKENS: f64 = 2048.0;

/// Times that a block's values are in memory all the time: p and s, two moments of each, and the best pair.
const HELD: usize = 8;

/// Times more while a checkpoint is written: all those as they come from the tensors, and as they go into the file. Only
/// of a block that is large, a prefix with a projection, it is more than a pass with gradients.
const IN_CHECKPOINT: usize = 18;

/// Estimated bytes: weights, and the pages of a file that they were converted from; the blocks with their optimizers; the
/// program itself; and what the largest of these needs: a pass with gradients, one without, and a checkpoint.
///
/// # Errors
///
/// That of [`ModelFiles::converted_bytes`](crate::hf::ModelFiles::converted_bytes).
pub(super) fn peak(config: &Config, inputs: &Inputs, adapter: &Adapter) -> Result<u64, HfError> {
    let (files, model) = (&inputs.files, inputs.files.config());
    let values: usize = files.parameters().map(|(_, shape)| shape.iter().product::<usize>()).sum();
    let adam = if config.outer.optimizer == BackboneOptimizer::Adam { 8 } else { 0 };
    let weights = values * (config.model.dtype.size() + adam) + files.converted_bytes(config.model.dtype)?;

    let block = 4.0 * adapter.len() as f64;

    let [inner, outer] = [&inputs.inner, &inputs.outer].map(|examples| Rows::of(examples));
    // The virtual tokens of a prompt are rows once per batch and block; those of a prefix are keys and values.
    let n = adapter.virtual_tokens() as f64;
    let (in_rows, in_cache) = if adapter.prompt().is_some() { (n, 0.0) } else { (0.0, n) };
    let batch = config.outer.batch_size;
    // Pairs of tokens and batches: an inner step, the gradient of a + λb, and a, b, c at both signs.
    let inner_step = (inner.in_batch(config.inner.batch_size), 1.0);
    let (f, p) = (outer.in_batch(batch), inner.in_batch(batch));
    let kept = |(tokens, batches): (f64, f64)| {
        (tokens + batches * in_rows) * kept_per_token(model, adapter) + batches * in_cache * kept_per_key(model)
    };
    let gradient = kept(inner_step).max(kept((f + p, 2.0))) + block;
    let evaluation = [&inputs.validation, &inputs.evaluation].map(|held_out| Rows::of(&held_out.examples).total());
    let evaluation = evaluation[0].max(evaluation[1]).min(EVALUATION_TOKENS) + in_rows;
    let forward = evaluation.max(2.0 * (f + 2.0 * p + 3.0 * in_rows)) * transient_per_token(model);
    let checkpoint = IN_CHECKPOINT as f64 * block;
    Ok((BASE + weights as f64 + HELD as f64 * block + gradient.max(forward).max(checkpoint)) as u64)
}

/// The lengths of right answers with their prompts.
struct Rows {
    count: f64,
    mean: f64,
    deviation: f64,
}

impl Rows {
    fn of(examples: &[EncodedExample]) -> Self {
        let lengths = examples.iter().map(|example| Batch::answers([example.gold_row()]).tokens() as f64);
        let count = examples.len() as f64;
        let mean = lengths.clone().sum::<f64>() / count;
        let variance = lengths.map(|length| (length - mean).powi(2)).sum::<f64>() / count;
        Self { count, mean, deviation: variance.sqrt() }
    }

    /// Tokens of a large batch: two standard deviations above the mean.
    fn in_batch(&self, size: usize) -> f64 {
        let size = size as f64;
        self.mean * size + 2.0 * self.deviation * size.sqrt()
    }

    fn total(&self) -> f64 {
        self.mean * self.count
    }
}

/// Bytes that back-propagation keeps per token: in every block the inputs of both norms, q, k and v, what goes into the
/// activation, and the inputs of layers that the adapter adds something to; and what one block needs while it runs.
fn kept_per_token(model: &DecoderConfig, adapter: &Adapter) -> f64 {
    let attention = model.heads * model.head_dim + 2 * model.kv_width();
    let of_block = |layer: &Layer| {
        2 * model.hidden + attention + layer.mlp.up.width() + adapted_inputs(layer, adapter).into_iter().sum::<usize>()
    };
    4.0 * model.layers.iter().map(of_block).sum::<usize>() as f64 + transient_per_token(model)
}

/// Widths of what goes into the layers of a block that `adapter` adds something to: layers beside each other share it.
fn adapted_inputs(layer: &Layer, adapter: &Adapter) -> [usize; 4] {
    let qkv = match &layer.attention.qkv {
        Qkv::Separate { q, k, v } => vec![q, k, v],
        Qkv::Fused(qkv) => vec![qkv],
    };
    let beside: [Vec<&Linear>; 4] = [qkv, vec![&layer.attention.output], layer.mlp.up.linears(), vec![&layer.mlp.down]];
    beside.map(|linears| {
        let adapted = linears.into_iter().find(|linear| adapter.adapts(&linear.weight));
        adapted.map_or(0, |linear| linear.inputs)
    })
}

/// Bytes that back-propagation keeps for one virtual token of a prefix: its keys and values in every block.
fn kept_per_key(model: &DecoderConfig) -> f64 {
    4.0 * (model.layers.len() * 2 * model.kv_width()) as f64
}

/// Bytes that one block needs per token while it runs.
fn transient_per_token(model: &DecoderConfig) -> f64 {
    let of_block = |layer: &Layer| 4 * model.hidden + 2 * layer.mlp.up.width();
    4.0 * model.layers.iter().map(of_block).max().unwrap_or_default() as f64
}
