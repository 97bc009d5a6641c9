//! The forward pass: one decoder for every family.

use super::backbone::Backbone;
use super::batch::Batch;
use super::config::{DecoderConfig, LayerNames};
use crate::peft::Adapter;
use crate::zo::Perturbation;
use burn::tensor::{Int, Tensor, TensorData};
use std::ops::Range;
use std::sync::Arc;
use zofo_kernels::{AttentionLayout, RotaryAngles, Segment, tensor as ops};

/// Rows of one pass that share an adapter.
#[derive(Clone, Copy)]
pub struct Part<'a> {
    /// The rows.
    pub batch: &'a Batch,
    /// The adapter that they see, if any.
    pub adapter: Option<&'a Adapter>,
}

/// Keys and values of earlier tokens, one pair `[tokens, kv_heads · head_dim]` per block.
#[derive(Clone, Default)]
pub struct KeyValueCache {
    layers: Vec<(Tensor<2>, Tensor<2>)>,
    tokens: usize,
}

/// Everything that the blocks of one pass have in common.
struct Pass<'a> {
    backbone: &'a Backbone,
    perturbation: &'a Perturbation,
    layout: Arc<AttentionLayout>,
    angles: RotaryAngles,
    /// Rows of the activations by adapter, in order, covering all.
    spans: Vec<(Range<usize>, Option<&'a Adapter>)>,
}

impl Backbone {
    /// −log p(target) at every label of the parts, in order, in nats: `[labels, 1]`.
    ///
    /// All parts ride on one pass over the weights. With a [`Perturbation::Pair`] the labels come twice, at θ + ε·z and
    /// then at θ − ε·z. With adapters whose tensors require gradients, the result carries their graph.
    pub fn token_nll(&self, parts: &[Part], perturbation: &Perturbation) -> Tensor<2> {
        let batch = Batch::concatenate(parts.iter().map(|part| part.batch));
        let hidden = self.hidden(&batch, parts, perturbation, None);
        let tokens = batch.tokens();
        let rows: Vec<i64> = (0..perturbation.signs())
            .flat_map(|sign| batch.labels.iter().map(move |label| (sign * tokens + label.row) as i64))
            .collect();
        let hidden = select_rows(hidden, rows);
        let (head, view) = self.read(&self.config().names.head, perturbation);
        ops::token_nll(hidden, head, batch.targets(), view)
    }

    /// Logits `[tokens, vocabulary]` of every token of a batch.
    pub fn logits(&self, batch: &Batch, adapter: Option<&Adapter>) -> Tensor<2> {
        let parts = [Part { batch, adapter }];
        let hidden = self.hidden(batch, &parts, &Perturbation::None, None);
        self.head(hidden)
    }

    /// Logits `[1, vocabulary]` after the last of `ids`, which follow what the cache holds.
    pub fn next_logits(&self, ids: &[u32], adapter: Option<&Adapter>, cache: &mut KeyValueCache) -> Tensor<2> {
        let batch = Batch::continuation(ids, cache.tokens);
        let parts = [Part { batch: &batch, adapter }];
        let hidden = self.hidden(&batch, &parts, &Perturbation::None, Some(cache));
        self.head(select_rows(hidden, vec![batch.tokens() as i64 - 1]))
    }

    /// Keys (as the cache holds them, with their rotation) and values of every token of `ids`, one pair
    /// `[tokens, kv_heads · head_dim]` per block.
    pub fn keys_and_values(&self, ids: &[u32]) -> Vec<(Tensor<2>, Tensor<2>)> {
        let batch = Batch::continuation(ids, 0);
        let parts = [Part { batch: &batch, adapter: None }];
        let mut cache = KeyValueCache::default();
        self.hidden(&batch, &parts, &Perturbation::None, Some(&mut cache));
        cache.layers
    }

    /// Rows of the embedding matrix, `[ids, embedding width]`, in f32.
    pub fn embedding_rows(&self, ids: &[u32]) -> Tensor<2> {
        let (table, view) = self.read(&self.config().names.embedding, &Perturbation::None);
        ops::embed(table, ids.into(), view)
    }

    fn head(&self, hidden: Tensor<2>) -> Tensor<2> {
        let (head, view) = self.read(&self.config().names.head, &Perturbation::None);
        ops::project(hidden, head, view)
    }

    /// The residual stream after the final norm, `[tokens · signs, hidden]`. `batch` is the parts' concatenation.
    fn hidden(
        &self,
        batch: &Batch,
        parts: &[Part],
        perturbation: &Perturbation,
        mut cache: Option<&mut KeyValueCache>,
    ) -> Tensor<2> {
        let past = cache.as_ref().map_or(0, |cache| cache.tokens);
        let pass = Pass::new(self, batch, parts, perturbation, past);
        let (table, view) = self.read(&self.config().names.embedding, perturbation);
        let mut hidden = ops::embed(table, batch.ids.as_slice().into(), view);
        if pass.spans.iter().any(|(_, adapter)| adapter.is_some_and(Adapter::is_tracked)) {
            hidden = hidden.autodiff();
        }
        for (index, layer) in self.config().names.layers.iter().enumerate() {
            hidden = pass.block(index, layer, hidden, cache.as_deref_mut());
        }
        if let Some(cache) = cache {
            cache.tokens += batch.tokens();
        }
        pass.norm(&self.config().names.final_norm, hidden)
    }
}

impl<'a> Pass<'a> {
    fn new(
        backbone: &'a Backbone,
        batch: &Batch,
        parts: &[Part<'a>],
        perturbation: &'a Perturbation,
        past: usize,
    ) -> Self {
        let config = backbone.config();
        let layout = attention_layout(config, batch, past);
        let angles = rotary_angles(config, &batch.positions);
        let mut spans = Vec::new();
        let mut start = 0;
        for part in parts {
            spans.push((start..start + part.batch.tokens(), part.adapter));
            start += part.batch.tokens();
        }
        let (layout, angles) = if perturbation.signs() == 2 {
            let second =
                spans.clone().into_iter().map(|(rows, adapter)| (rows.start + start..rows.end + start, adapter));
            spans.extend(second);
            (layout.doubled(), twice(&angles))
        } else {
            (layout, angles)
        };
        Self { backbone, perturbation, layout: Arc::new(layout), angles, spans }
    }

    /// One block: h + attention(norm(h)), then h + MLP(norm(h)).
    fn block(
        &self,
        index: usize,
        names: &LayerNames,
        hidden: Tensor<2>,
        cache: Option<&mut KeyValueCache>,
    ) -> Tensor<2> {
        let x = self.norm(&names.attention_norm, hidden.clone());
        let q = ops::rotary(self.project(&names.q, x.clone()), self.angles.clone());
        let k = ops::rotary(self.project(&names.k, x.clone()), self.angles.clone());
        let v = self.project(&names.v, x);
        let (k, v) = match cache {
            Some(cache) => cache.append(index, k, v),
            None => (k, v),
        };
        let attended = ops::attend(q, k, v, self.layout.clone());
        let hidden = hidden + self.project(&names.o, attended);

        let x = self.norm(&names.mlp_norm, hidden.clone());
        let gate = self.project(&names.gate, x.clone());
        let up = self.project(&names.up, x);
        hidden + self.project(&names.down, ops::silu_mul(gate, up))
    }

    fn norm(&self, name: &str, x: Tensor<2>) -> Tensor<2> {
        let (weight, view) = self.backbone.read(name, self.perturbation);
        ops::rms_norm(x, weight, self.backbone.config().norm_eps, view)
    }

    /// x·Wᵀ, plus for every span of rows what its adapter adds to this projection.
    fn project(&self, name: &str, x: Tensor<2>) -> Tensor<2> {
        let (weight, view) = self.backbone.read(name, self.perturbation);
        let width = weight.dims()[0];
        let y = ops::project(x.clone(), weight, view);
        let adapted = |adapter: &Option<&Adapter>| adapter.is_some_and(|a| a.adapts(name));
        if !self.spans.iter().any(|(_, adapter)| adapted(adapter)) {
            return y;
        }
        let device = y.device();
        let deltas = self.spans.iter().filter(|(rows, _)| !rows.is_empty()).map(|(rows, adapter)| {
            let x = x.clone().slice([rows.clone()]);
            let delta = adapter.and_then(|adapter| adapter.delta(name, x));
            delta.unwrap_or_else(|| Tensor::zeros([rows.len(), width], &device))
        });
        let deltas = Tensor::cat(deltas.collect(), 0);
        y + deltas
    }
}

impl KeyValueCache {
    /// Appends a block's new keys and values and returns all of them.
    fn append(&mut self, layer: usize, k: Tensor<2>, v: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        match self.layers.get_mut(layer) {
            Some(entry) => {
                let (old_k, old_v) = entry.clone();
                *entry = (Tensor::cat(vec![old_k, k], 0), Tensor::cat(vec![old_v, v], 0));
            }
            None => self.layers.push((k, v)),
        }
        self.layers[layer].clone()
    }
}

/// The layout of a batch whose rows may also see `past` cached tokens, which come first in the key/value tensor.
fn attention_layout(config: &DecoderConfig, batch: &Batch, past: usize) -> AttentionLayout {
    let shift = |range: &Range<usize>| range.start + past..range.end + past;
    let segment = |segment: &Segment| Segment {
        queries: segment.queries.clone(),
        keys: (past > 0).then_some(0..past).into_iter().chain(segment.keys.iter().map(shift)).collect(),
    };
    AttentionLayout {
        segments: batch.segments.iter().map(segment).collect(),
        query_positions: batch.positions.clone(),
        key_positions: (0..past as u32).chain(batch.positions.iter().copied()).collect(),
        heads: config.heads,
        kv_heads: config.kv_heads,
        head_dim: config.head_dim,
        sliding_window: None,
    }
}

fn rotary_angles(config: &DecoderConfig, positions: &[u32]) -> RotaryAngles {
    let frequencies = config.rope.frequencies(config.head_dim);
    let angles: Vec<f32> =
        positions.iter().flat_map(|&position| frequencies.iter().map(move |f| position as f32 * f)).collect();
    RotaryAngles {
        cos: angles.iter().map(|angle| angle.cos()).collect(),
        sin: angles.iter().map(|angle| angle.sin()).collect(),
        half: frequencies.len(),
    }
}

fn twice(angles: &RotaryAngles) -> RotaryAngles {
    let double = |x: &[f32]| [x, x].concat().into();
    RotaryAngles { cos: double(&angles.cos), sin: double(&angles.sin), half: angles.half }
}

fn select_rows(x: Tensor<2>, rows: Vec<i64>) -> Tensor<2> {
    let count = rows.len();
    let indices = Tensor::<1, Int>::from_data(TensorData::new(rows, [count]), &x.device());
    x.select(0, indices)
}
