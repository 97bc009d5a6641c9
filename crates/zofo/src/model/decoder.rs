//! The forward pass: one decoder for every family.

mod checkpointing;

pub(crate) use checkpointing::{Operands, checkpointed_backward};

use super::backbone::Backbone;
use super::batch::Batch;
use super::config::{Attention, Layer, Linear, Mlp, Norm, NormKind, Qkv, SublayerNorms, UpProjection, WeightOrder};
use super::rows::{Part, Rows};
use crate::peft::Adapter;
use crate::zo::Perturbation;
use burn::tensor::{Int, Tensor, TensorData};
use std::sync::Arc;
use zofo_kernels::{AttentionLayout, RotaryAngles, WeightView, tensor as ops};

/// Keys and values of earlier tokens, virtual ones included: one pair `[tokens, kv_heads · head_dim]` per block.
#[derive(Clone, Default)]
pub struct KeyValueCache {
    layers: Vec<(Tensor<2>, Tensor<2>)>,
    /// Position of every token in its sequence.
    positions: Vec<u32>,
    /// The tokens but for the virtual ones.
    ids: Vec<u32>,
}

/// How a pass uses a cache.
enum Cache<'c> {
    /// There is none.
    Absent,
    /// Rows attend to what it holds.
    Read(&'c KeyValueCache),
    /// They do, and it is given theirs.
    Extend(&'c mut KeyValueCache),
}

/// Everything that the blocks of one pass have in common.
struct Pass<'a> {
    backbone: &'a Backbone,
    perturbation: &'a Perturbation,
    rows: &'a Rows<'a>,
    /// One per block; equal ones are shared.
    layouts: Vec<Arc<AttentionLayout>>,
    /// One per entry of the configuration's `ropes`.
    angles: Vec<RotaryAngles>,
}

impl Backbone {
    /// −log p(target) at every label of the parts, in order, in nats: `[labels, 1]`.
    ///
    /// All parts ride on one pass over the weights. The labels come once per [sign](Perturbation::signs): with a
    /// [`Perturbation::Pair`] twice, at θ + ε·z and then at θ − ε·z. With adapters whose tensors require gradients, the result carries their graph.
    pub fn token_nll(&self, parts: &[Part], perturbation: &Perturbation) -> Tensor<2> {
        self.nll(&Rows::new(parts, &[]), perturbation, Cache::Absent)
    }

    /// As [`token_nll`](Self::token_nll) of θ, for rows that follow what a cache holds, which stays as it is.
    pub fn token_nll_after(&self, cache: &KeyValueCache, part: Part) -> Tensor<2> {
        self.nll(&Rows::new(&[part], &cache.positions), &Perturbation::None, Cache::Read(cache))
    }

    fn nll(&self, rows: &Rows, perturbation: &Perturbation, cache: Cache) -> Tensor<2> {
        let stream = self.stream(rows, perturbation, cache, |_| ());
        self.nll_of_stream(rows, stream, perturbation)
    }

    /// The same from the residual stream after the last block.
    fn nll_of_stream(&self, rows: &Rows, stream: Tensor<2>, perturbation: &Perturbation) -> Tensor<2> {
        let labelled = rows.labelled();
        let share = rows.len();
        let of_sign = |sign: usize| labelled.iter().map(move |row| row + sign * share);
        let hidden = select_rows(stream, (0..perturbation.signs()).flat_map(of_sign));
        let hidden = self.output(hidden, perturbation);
        let output = &self.config().output;
        let (head, views) = self.read(&output.head, perturbation);
        let targets: Vec<u32> =
            rows.spans.iter().flat_map(|span| &span.batch.labels).map(|label| label.target).collect();
        let targets = for_every_sign(&targets, perturbation, &views);
        ops::token_nll(hidden, head, targets, output.softcap, &views, self.compute())
    }

    /// Logits `[tokens, vocabulary]` of every token of a batch.
    pub fn logits(&self, batch: &Batch, adapter: Option<&Adapter>) -> Tensor<2> {
        let rows = Rows::new(&[Part { batch, adapter }], &[]);
        let stream = self.stream(&rows, &Perturbation::None, Cache::Absent, |_| ());
        self.head(select_rows(stream, rows.spans[0].tokens()), &Perturbation::None)
    }

    /// Logits `[n, vocabulary]` at the virtual tokens of prompt tuning.
    pub fn prompt_logits(&self, adapter: &Adapter) -> Tensor<2> {
        let batch = Batch::default();
        let rows = Rows::new(&[Part { batch: &batch, adapter: Some(adapter) }], &[]);
        self.head(self.stream(&rows, &Perturbation::None, Cache::Absent, |_| ()), &Perturbation::None)
    }

    /// Logits `[1, vocabulary]` after the last of `ids`, which follow what the cache holds.
    ///
    /// Where LongRoPE turns to its divisors for long sequences, what the cache holds is computed again with them, as
    /// transformers does for Phi-3. Keys under dynamic scaling stay as they were rotated, as in transformers too.
    pub fn next_logits(&self, ids: &[u32], adapter: Option<&Adapter>, cache: &mut KeyValueCache) -> Tensor<2> {
        self.next_logits_under(&Perturbation::None, ids, adapter, cache)
    }

    /// As [`next_logits`](Self::next_logits) of what a perturbation of one sign makes of θ.
    pub fn next_logits_under(
        &self,
        perturbation: &Perturbation,
        ids: &[u32],
        adapter: Option<&Adapter>,
        cache: &mut KeyValueCache,
    ) -> Tensor<2> {
        let (past, length) = (cache.len(), cache.len() + ids.len());
        if past > 0 && self.config().ropes.iter().any(|rope| rope.invalidates_keys(past, length)) {
            let all = [&cache.ids, ids].concat();
            *cache = KeyValueCache::default();
            return self.next_logits_under(perturbation, &all, adapter, cache);
        }
        self.extend(perturbation, &Batch::continuation(ids, cache.len()), adapter, cache, &[ids.len() - 1])
    }

    /// Logits `[last, vocabulary]` after the tokens `last` of a batch, whose rows follow what the cache holds, of what a
    /// perturbation of one sign makes of θ.
    pub fn extend(
        &self,
        perturbation: &Perturbation,
        batch: &Batch,
        adapter: Option<&Adapter>,
        cache: &mut KeyValueCache,
        last: &[usize],
    ) -> Tensor<2> {
        let rows = Rows::new(&[Part { batch, adapter }], &cache.positions);
        let stream = self.stream(&rows, perturbation, Cache::Extend(cache), |_| ());
        let first = rows.spans[0].tokens().start;
        self.head(select_rows(stream, last.iter().map(|token| first + token)), perturbation)
    }

    /// The keys and values of the virtual tokens of an adapter and of `ids`, of what a perturbation of one sign makes of θ.
    pub fn prefill(&self, perturbation: &Perturbation, ids: &[u32], adapter: Option<&Adapter>) -> KeyValueCache {
        let mut cache = KeyValueCache::default();
        let batch = Batch::continuation(ids, 0);
        let rows = Rows::new(&[Part { batch: &batch, adapter }], &[]);
        self.stream(&rows, perturbation, Cache::Extend(&mut cache), |_| ());
        cache
    }

    /// The residual stream `[tokens, hidden]` before the first block and after every one, and, in place of that after the
    /// last block, what goes into the head.
    pub fn hidden_states(&self, batch: &Batch, adapter: Option<&Adapter>) -> Vec<Tensor<2>> {
        let rows = Rows::new(&[Part { batch, adapter }], &[]);
        let mut states = Vec::with_capacity(self.config().layers.len() + 1);
        let last = self.stream(&rows, &Perturbation::None, Cache::Absent, |stream| {
            states.push(select_rows(stream.clone(), rows.spans[0].tokens()));
        });
        states.push(self.output(select_rows(last, rows.spans[0].tokens()), &Perturbation::None));
        states
    }

    /// Keys and values `[ids, kv_heads · head_dim]` of a sequence, as attention sees them: one pair per block.
    pub fn keys_and_values(&self, ids: &[u32]) -> Vec<(Tensor<2>, Tensor<2>)> {
        self.prefill(&Perturbation::None, ids, None).layers
    }

    /// Embeddings `[ids, width]` of tokens, as a prompt's virtual tokens stand before them.
    pub fn embedding_rows(&self, ids: &[u32]) -> Tensor<2> {
        self.embed_words(ids, &Perturbation::None)
    }

    fn embed_words(&self, ids: &[u32], perturbation: &Perturbation) -> Tensor<2> {
        let embedding = &self.config().embedding;
        let (table, views) = self.read(&embedding.tokens, perturbation);
        let words = ops::embed(table, for_every_sign(ids, perturbation, &views), &views);
        match embedding.scale {
            Some(scale) => words * scale,
            None => words,
        }
    }

    /// From the residual stream to the head's input.
    fn output(&self, stream: Tensor<2>, perturbation: &Perturbation) -> Tensor<2> {
        let output = &self.config().output;
        let x = match &output.norm {
            Some(norm) => self.norm(norm, stream, perturbation),
            None => stream,
        };
        match &output.projection {
            Some(projection) => self.linear(projection, x, perturbation),
            None => x,
        }
    }

    /// Logits of rows of the residual stream.
    fn head(&self, stream: Tensor<2>, perturbation: &Perturbation) -> Tensor<2> {
        let output = &self.config().output;
        let (head, views) = self.read(&output.head, perturbation);
        let logits = ops::project(self.output(stream, perturbation), head, &views, self.compute());
        match output.softcap {
            Some(cap) => (logits / cap).tanh() * cap,
            None => logits,
        }
    }

    /// The residual stream `[rows · signs, hidden]` after the last block; `watch` is shown it before every block.
    fn stream(
        &self,
        rows: &Rows,
        perturbation: &Perturbation,
        mut cache: Cache,
        mut watch: impl FnMut(&Tensor<2>),
    ) -> Tensor<2> {
        let pass = Pass::new(self, rows, perturbation);
        let mut stream = pass.embed();
        for (index, layer) in self.config().layers.iter().enumerate() {
            watch(&stream);
            stream = pass.block(index, layer, stream, &mut cache);
        }
        if let Cache::Extend(cache) = cache {
            cache.positions.extend_from_slice(rows.new_key_positions(cache.len()));
            cache.ids.extend(rows.spans.iter().flat_map(|span| &span.batch.ids));
        }
        stream
    }

    fn norm(&self, norm: &Norm, x: Tensor<2>, perturbation: &Perturbation) -> Tensor<2> {
        let (weight, views) = self.read(&norm.weight, perturbation);
        match &norm.kind {
            NormKind::Rms => ops::rms_norm(x, weight, norm.eps, false, &views),
            NormKind::RmsUnitOffset => ops::rms_norm(x, weight, norm.eps, true, &views),
            NormKind::Layer { bias } => {
                let (bias, of_bias) = self.read(bias, perturbation);
                let views: Vec<_> = views.into_iter().zip(of_bias).collect();
                ops::layer_norm(x, weight, bias, norm.eps, &views)
            }
        }
    }

    /// x·Wᵀ + b.
    fn linear(&self, linear: &Linear, x: Tensor<2>, perturbation: &Perturbation) -> Tensor<2> {
        let (weight, views) = self.read(&linear.weight, perturbation);
        let y = match linear.order {
            WeightOrder::OutputMajor => ops::project(x, weight, &views, self.compute()),
            WeightOrder::InputMajor => ops::project_transposed(x, weight, &views, self.compute()),
        };
        match &linear.bias {
            Some(bias) => {
                let (bias, views) = self.read(bias, perturbation);
                ops::add_bias(y, bias, &views)
            }
            None => y,
        }
    }
}

impl<'a> Pass<'a> {
    fn new(backbone: &'a Backbone, rows: &'a Rows<'a>, perturbation: &'a Perturbation) -> Self {
        let config = backbone.config();
        let signs = perturbation.signs();
        let mut layouts: Vec<Arc<AttentionLayout>> = Vec::with_capacity(config.layers.len());
        for layer in &config.layers {
            let attention = &layer.attention;
            let is_same = |layout: &&Arc<AttentionLayout>| {
                (layout.sliding_window, layout.scale, layout.softcap)
                    == (attention.sliding_window, attention.scale, attention.softcap)
            };
            let layout = layouts.iter().find(is_same).cloned().unwrap_or_else(|| {
                let layout = rows.attention(config, attention);
                Arc::new(if signs > 1 { layout.repeated(signs) } else { layout })
            });
            layouts.push(layout);
        }
        let angles = config.ropes.iter().map(|rope| {
            let angles = rows.angles(rope, config.head_dim);
            if signs > 1 { angles.repeated(signs) } else { angles }
        });
        Self { backbone, perturbation, rows, layouts, angles: angles.collect() }
    }

    /// The residual stream before the first block.
    fn embed(&self) -> Tensor<2> {
        let Self { backbone, perturbation, rows, .. } = *self;
        let embedding = &backbone.config().embedding;
        let ids: Vec<u32> = rows.spans.iter().flat_map(|span| span.batch.ids.iter().copied()).collect();
        let mut words = backbone.embed_words(&ids, perturbation);
        if rows.spans.iter().any(|span| span.adapter.is_some_and(Adapter::is_tracked)) {
            words = words.autodiff();
        }
        let mut x = self.with_prompts(words, ids.len());
        if let Some(projection) = &embedding.projection {
            x = backbone.linear(projection, x, perturbation);
        }
        if let Some(table) = &embedding.positions {
            let positions: Vec<u32> = rows.positions.iter().map(|position| position + table.offset as u32).collect();
            let (weight, views) = backbone.read(&table.weight, perturbation);
            x = x + ops::embed(weight, for_every_sign(&positions, perturbation, &views), &views);
        }
        x
    }

    /// Puts virtual tokens before the words of their parts; there are `count` words, once per sign.
    fn with_prompts(&self, words: Tensor<2>, count: usize) -> Tensor<2> {
        if self.rows.spans.iter().all(|span| span.prompt == 0) {
            return words;
        }
        let mut pieces = Vec::new();
        for sign in 0..self.perturbation.signs() {
            let mut next = sign * count;
            for span in &self.rows.spans {
                pieces.extend(span.adapter.filter(|_| span.prompt > 0).and_then(Adapter::prompt));
                let own = next..next + span.batch.tokens();
                next = own.end;
                if !own.is_empty() {
                    pieces.push(words.clone().slice([own]));
                }
            }
        }
        Tensor::cat(pieces, 0)
    }

    fn block(&self, index: usize, layer: &Layer, stream: Tensor<2>, cache: &mut Cache) -> Tensor<2> {
        let stream =
            self.sublayer(&layer.attention_norms, stream, |x| self.attention(index, &layer.attention, x, cache));
        self.sublayer(&layer.mlp_norms, stream, |x| self.mlp(&layer.mlp, x))
    }

    /// h + f(h), with norms where the family has them.
    fn sublayer(&self, norms: &SublayerNorms, stream: Tensor<2>, f: impl FnOnce(Tensor<2>) -> Tensor<2>) -> Tensor<2> {
        let added = self.norm(&norms.output, f(self.norm(&norms.input, stream.clone())));
        self.norm(&norms.stream, stream + added)
    }

    fn attention(&self, index: usize, attention: &Attention, x: Tensor<2>, cache: &mut Cache) -> Tensor<2> {
        let config = self.backbone.config();
        let (q, k, v) = match &attention.qkv {
            Qkv::Separate { q, k, v } => (self.linear(q, x.clone()), self.linear(k, x.clone()), self.linear(v, x)),
            Qkv::Fused(qkv) => {
                let [q, k] = [config.heads * config.head_dim, config.kv_width()];
                let y = self.linear(qkv, x);
                let columns = |from, to| y.clone().narrow(1, from, to - from);
                (columns(0, q), columns(q, q + k), columns(q + k, q + 2 * k))
            }
        };
        let rotate = |x: Tensor<2>| match attention.rope {
            Some(rope) => ops::rotary(x, self.angles[rope].clone()),
            None => x,
        };
        let q = rotate(self.head_norm(&attention.q_norm, q));
        let k = rotate(self.head_norm(&attention.k_norm, k));

        let signs = self.perturbation.signs();
        let k = self.rows.with_prefixes(k, signs, |adapter| Some(adapter.prefix(index)?.0));
        let v = self.rows.with_prefixes(v, signs, |adapter| Some(adapter.prefix(index)?.1));
        let (k, v) = match cache {
            Cache::Absent => (k, v),
            Cache::Read(cache) => cache.with(index, k, v),
            Cache::Extend(cache) => {
                let both = cache.with(index, k, v);
                cache.set(index, both.clone());
                both
            }
        };
        self.linear(&attention.output, ops::attend(q, k, v, self.layouts[index].clone()))
    }

    fn mlp(&self, mlp: &Mlp, x: Tensor<2>) -> Tensor<2> {
        let inner = match &mlp.up {
            UpProjection::Plain(up) => ops::activate(self.linear(up, x), mlp.activation),
            UpProjection::Gated { gate, up } => {
                ops::gated(self.linear(gate, x.clone()), self.linear(up, x), mlp.activation)
            }
            UpProjection::FusedGated(both) => {
                let half = both.outputs / 2;
                let y = self.linear(both, x);
                ops::gated(y.clone().narrow(1, 0, half), y.narrow(1, half, half), mlp.activation)
            }
        };
        self.linear(&mlp.down, inner)
    }

    fn norm(&self, norm: &Option<Norm>, x: Tensor<2>) -> Tensor<2> {
        match norm {
            Some(norm) => self.backbone.norm(norm, x, self.perturbation),
            None => x,
        }
    }

    /// The norm of every head by itself.
    fn head_norm(&self, norm: &Option<Norm>, x: Tensor<2>) -> Tensor<2> {
        let Some(norm) = norm else { return x };
        let [rows, width] = x.dims();
        let heads = x.reshape([rows * width / norm.width, norm.width]);
        self.backbone.norm(norm, heads, self.perturbation).reshape([rows, width])
    }

    /// x·Wᵀ + b, plus for every span of rows what its adapter adds to this projection.
    fn linear(&self, linear: &Linear, x: Tensor<2>) -> Tensor<2> {
        let y = self.backbone.linear(linear, x.clone(), self.perturbation);
        let name = linear.weight.as_str();
        let spans = &self.rows.spans;
        if !spans.iter().any(|span| span.adapter.is_some_and(|adapter| adapter.adapts(name))) {
            return y;
        }
        // One part, and one sign: nothing is cut and put together again.
        if let [span] = &spans[..]
            && self.perturbation.signs() == 1
            && span.rows.len() == self.rows.len()
        {
            return match span.adapter.and_then(|adapter| adapter.delta(name, x)) {
                Some(delta) => y + delta,
                None => y,
            };
        }
        let device = y.device();
        let mut deltas = Vec::with_capacity(spans.len() * self.perturbation.signs());
        for sign in 0..self.perturbation.signs() {
            for span in spans.iter().filter(|span| !span.rows.is_empty()) {
                let rows = span.rows.start + sign * self.rows.len()..span.rows.end + sign * self.rows.len();
                let count = rows.len();
                let delta = span.adapter.and_then(|adapter| adapter.delta(name, x.clone().slice([rows])));
                deltas.push(delta.unwrap_or_else(|| Tensor::zeros([count, linear.outputs], &device)));
            }
        }
        y + Tensor::cat(deltas, 0)
    }
}

impl KeyValueCache {
    /// Number of tokens, virtual ones included.
    pub fn len(&self) -> usize {
        self.positions.len()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    /// A block's keys and values, followed by new ones.
    fn with(&self, layer: usize, k: Tensor<2>, v: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        match self.layers.get(layer) {
            Some((old_k, old_v)) => (Tensor::cat(vec![old_k.clone(), k], 0), Tensor::cat(vec![old_v.clone(), v], 0)),
            None => (k, v),
        }
    }

    /// Replaces a block's keys and values; of a new cache, blocks come in their order.
    fn set(&mut self, layer: usize, both: (Tensor<2>, Tensor<2>)) {
        match self.layers.get_mut(layer) {
            Some(entry) => *entry = both,
            None => self.layers.push(both),
        }
    }
}

/// Indices for an operation that repeats them itself for every view, and in a view for every sign that it has: a pair may
/// leave a weight as it is.
fn for_every_sign(indices: &[u32], perturbation: &Perturbation, views: &[WeightView]) -> Arc<[u32]> {
    let by_operation = views.iter().map(WeightView::signs).sum::<usize>();
    indices.repeat(perturbation.signs() / by_operation).into()
}

fn select_rows(x: Tensor<2>, rows: impl IntoIterator<Item = usize>) -> Tensor<2> {
    let rows: Vec<i64> = rows.into_iter().map(|row| row as i64).collect();
    let count = rows.len();
    let indices = Tensor::<1, Int>::from_data(TensorData::new(rows, [count]), &x.device());
    x.select(0, indices)
}
