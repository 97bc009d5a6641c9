//! How much memory a run takes at its peak, estimated before it starts.

use super::config::{Config, MethodName, Storage};
use super::inputs::Inputs;
use crate::hf::HfError;
use crate::model::config::{Layer, Linear, Qkv};
use crate::model::{Batch, DecoderConfig};
use crate::peft::Adapter;
use crate::task::EncodedExample;
use crate::train::Method;

/// The program, the tokenizer and the encoded data.
const BASE: f64 = 30e6;

/// Tokens that an evaluation feeds at once.
const EVALUATION_TOKENS: f64 = 2048.0;

/// Bytes per weight of `full` besides the weight: its gradient, which the value that replaces it takes the place of, and
/// two moments.
pub(super) const STATES_OF_FULL: usize = 12;

/// Bytes per weight that Adam on zeroth-order estimates keeps: two moments.
const STATES_OF_ADAM: usize = 8;

/// Estimated bytes: weights, and the pages of a file that they were converted from; the blocks with their optimizers; the
/// program itself; and what the largest of these needs: a pass with gradients, one without, and a checkpoint.
///
/// # Errors
///
/// That of [`ModelFiles::converted_bytes`](crate::hf::ModelFiles::converted_bytes).
pub(super) fn peak(config: &Config, inputs: &Inputs, method: &Method) -> Result<u64, HfError> {
    let (files, model) = (&inputs.files, inputs.files.config());
    let states = match config.method.name {
        MethodName::Full => STATES_OF_FULL,
        _ if method.has_moments() => STATES_OF_ADAM,
        _ => 0,
    };
    let lengths = || files.parameters().map(|(_, shape)| shape.iter().product::<usize>());
    // Those optimizers make an update of one weight at a time, in f32.
    let update = if states > 0 { 4 * lengths().max().unwrap_or(0) } else { 0 };
    // Pages that the system can write to the disk, or read again, when it needs memory, count only if they are in memory.
    let (stored, converted) = match config.model.storage {
        Storage::Memory => (config.model.dtype.size(), files.converted_bytes(config.model.dtype)?),
        Storage::Disk => (0, 0),
    };
    let weights = lengths().sum::<usize>() * (stored + states) + update + converted;

    // Of every block its values, two moments, and the values of the best step, all the time. While a checkpoint is written
    // those are there twice more, as they come from the tensors and as they go into the file; only of a block that is
    // large, a prefix with a projection, that is more than a pass with gradients.
    let blocks = method.blocks();
    let adapter = blocks.first().map(|block| &block.values);
    let block = 4.0 * adapter.map_or(0.0, |adapter| adapter.len() as f64);
    let held = (4 * blocks.len()) as f64 * block;
    let checkpoint = 2.25 * held;

    let passes = Passes::new(config, inputs, model, adapter);
    let gradient = passes.with_gradients(config) + block;
    let forward = passes.without_gradients(config);
    Ok((BASE + weights as f64 + held + gradient.max(forward).max(checkpoint)) as u64)
}

/// What passes keep in memory.
struct Passes<'a> {
    model: &'a DecoderConfig,
    adapter: Option<&'a Adapter>,
    /// Virtual tokens of a block that are rows of every batch, and those that are keys and values.
    virtual_tokens: [f64; 2],
    /// Tokens of a large batch: of an inner step, B_f and B_p.
    inner: f64,
    f: f64,
    p: f64,
    /// Tokens of a pass of an evaluation.
    evaluation: f64,
}

impl<'a> Passes<'a> {
    fn new(config: &Config, inputs: &Inputs, model: &'a DecoderConfig, adapter: Option<&'a Adapter>) -> Self {
        let [inner, outer] = [&inputs.inner, &inputs.outer].map(|examples| Rows::of(examples));
        let n = adapter.map_or(0.0, |adapter| adapter.virtual_tokens() as f64);
        let is_prompt = adapter.is_some_and(|adapter| adapter.prompt().is_some());
        let batch = config.outer.batch_size;
        let held_out = [&inputs.validation, &inputs.evaluation].map(|part| Rows::of(&part.examples).total());
        Self {
            model,
            adapter,
            virtual_tokens: if is_prompt { [n, 0.0] } else { [0.0, n] },
            inner: inner.in_batch(config.inner.batch_size),
            f: outer.in_batch(batch),
            p: inner.in_batch(batch),
            evaluation: held_out[0].max(held_out[1]).min(EVALUATION_TOKENS),
        }
    }

    /// Bytes of the largest pass with gradients: an inner step, or that of a + λb.
    fn with_gradients(&self, config: &Config) -> f64 {
        let [rows, keys] = self.virtual_tokens;
        let checkpointing = config.inner.gradient_checkpointing;
        let kept = |tokens: f64, batches: f64| {
            (tokens + batches * rows) * kept_per_token(self.model, self.adapter, checkpointing)
                + batches * keys * kept_per_key(self.model, checkpointing)
        };
        match config.method.name {
            MethodName::Bilevel => kept(self.inner, 1.0).max(kept(self.f + self.p, 2.0)),
            _ if config.method.has_gradients() => kept(self.inner, 1.0),
            _ => 0.0,
        }
    }

    /// Bytes of the largest pass without: an evaluation, or the losses of a step on all sides that ride on one pass.
    fn without_gradients(&self, config: &Config) -> f64 {
        let rows = self.virtual_tokens[0];
        let (_, sides) = config.outer.sides_of_step();
        let sides = sides as f64;
        let losses = match config.method.name {
            MethodName::Bilevel => sides * (self.f + 2.0 * self.p + 3.0 * rows),
            _ if config.method.has_estimates() => sides * (self.f + rows),
            _ => 0.0,
        };
        losses.max(self.evaluation + rows) * transient_per_token(self.model)
    }
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
/// activation, and the inputs of layers that the adapter adds something to; and what one block needs while it runs. With
/// checkpointing that is kept of one block at a time, and of the others their input.
fn kept_per_token(model: &DecoderConfig, adapter: Option<&Adapter>, checkpointing: bool) -> f64 {
    let attention = model.heads * model.head_dim + 2 * model.kv_width();
    let of_block = |layer: &Layer| {
        2 * model.hidden + attention + layer.mlp.up.width() + adapted_inputs(layer, adapter).into_iter().sum::<usize>()
    };
    let of_blocks = model.layers.iter().map(of_block);
    let kept = match checkpointing {
        true => model.layers.len() * model.hidden + of_blocks.max().unwrap_or_default(),
        false => of_blocks.sum(),
    };
    4.0 * kept as f64 + transient_per_token(model)
}

/// Widths of what goes into the layers of a block that `adapter` adds something to: layers beside each other share it.
fn adapted_inputs(layer: &Layer, adapter: Option<&Adapter>) -> [usize; 4] {
    let qkv = match &layer.attention.qkv {
        Qkv::Separate { q, k, v } => vec![q, k, v],
        Qkv::Fused(qkv) => vec![qkv],
    };
    let beside: [Vec<&Linear>; 4] = [qkv, vec![&layer.attention.output], layer.mlp.up.linears(), vec![&layer.mlp.down]];
    beside.map(|linears| {
        let adapted = linears.into_iter().find(|linear| adapter.is_some_and(|adapter| adapter.adapts(&linear.weight)));
        adapted.map_or(0, |linear| linear.inputs)
    })
}

/// Bytes that back-propagation keeps for one virtual token of a prefix: its keys and values in every block, or with
/// checkpointing in one.
fn kept_per_key(model: &DecoderConfig, checkpointing: bool) -> f64 {
    let blocks = if checkpointing { 1 } else { model.layers.len() };
    4.0 * (blocks * 2 * model.kv_width()) as f64
}

/// Bytes that one block needs per token while it runs.
fn transient_per_token(model: &DecoderConfig) -> f64 {
    let of_block = |layer: &Layer| 4 * model.hidden + 2 * layer.mlp.up.width();
    4.0 * model.layers.iter().map(of_block).max().unwrap_or_default() as f64
}
