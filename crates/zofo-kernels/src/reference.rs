//! The specification: every operation of [`DecoderOps`](crate::DecoderOps) in plain Burn operations.
//!
//! Slow, and deliberately obvious. A device without kernels of its own runs these; the kernels are
//! tested against them; and run on `Autodiff` they are the oracle for the hand-written gradients.

use crate::layout::{AttentionLayout, RotaryAngles};
use crate::view::{Noise, WeightView};
use burn::backend::tensor::{Device, FloatTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{DType, FloatDType, Shape, Slice, TensorData};
use std::ops::Range;

/// `w + scale·z` in f32, for the one or two signs of `view`. z is made on the host and uploaded.
fn weights<B: Backend>(weight: FloatTensor<B>, view: &WeightView) -> Vec<FloatTensor<B>> {
    let exact = match weight.dtype() {
        DType::F32 => weight,
        _ => B::float_cast(weight, FloatDType::F32),
    };
    let (noise, scales) = match view {
        WeightView::Exact => return vec![exact],
        WeightView::One { noise, scale } => (noise, vec![*scale]),
        WeightView::Pair { noise, eps } => (noise, vec![*eps, -*eps]),
    };
    let z = direction_tensor::<B>(noise, exact.shape(), &exact.device());
    let perturbed = |scale: f32| B::float_add(exact.clone(), B::float_mul_scalar(z.clone(), scale.into()));
    scales.into_iter().map(perturbed).collect()
}

fn direction_tensor<B: Backend>(noise: &Noise, shape: Shape, device: &Device<B>) -> FloatTensor<B> {
    let mut z = vec![0.0f32; shape.num_elements()];
    noise.fill(0, &mut z);
    B::float_from_data(TensorData::new(z, shape), device)
}

/// Rows `range` of a matrix.
fn rows<B: Backend>(x: FloatTensor<B>, range: Range<usize>) -> FloatTensor<B> {
    let width = x.shape()[1];
    B::float_slice(x, &[Slice::from(range), Slice::from(0..width)])
}

/// Columns `range` of a matrix.
fn columns<B: Backend>(x: FloatTensor<B>, range: Range<usize>) -> FloatTensor<B> {
    let height = x.shape()[0];
    B::float_slice(x, &[Slice::from(0..height), Slice::from(range)])
}

/// Applies `f` to the rows of x that each of the `weights` belongs to, in order.
fn per_sign<B: Backend>(
    x: FloatTensor<B>,
    weights: Vec<FloatTensor<B>>,
    f: impl Fn(FloatTensor<B>, FloatTensor<B>) -> FloatTensor<B>,
) -> FloatTensor<B> {
    let share = x.shape()[0] / weights.len();
    let parts = weights
        .into_iter()
        .enumerate()
        .map(|(sign, weight)| f(rows::<B>(x.clone(), sign * share..(sign + 1) * share), weight));
    B::float_cat(parts.collect(), 0)
}

/// See [`DecoderOps::project`](crate::DecoderOps::project).
pub fn project<B: Backend>(x: FloatTensor<B>, weight: FloatTensor<B>, view: &WeightView) -> FloatTensor<B> {
    per_sign::<B>(x, weights::<B>(weight, view), |x, w| B::float_matmul(x, B::float_transpose(w)))
}

/// See [`DecoderOps::project_backward`](crate::DecoderOps::project_backward).
pub fn project_backward<B: Backend>(grad: FloatTensor<B>, weight: FloatTensor<B>, view: &WeightView) -> FloatTensor<B> {
    per_sign::<B>(grad, weights::<B>(weight, view), B::float_matmul)
}

/// See [`DecoderOps::embed`](crate::DecoderOps::embed).
pub fn embed<B: Backend>(weight: FloatTensor<B>, ids: &[u32], view: &WeightView) -> FloatTensor<B> {
    let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
    let count = ids.len();
    let ids = B::int_from_data(TensorData::new(ids, [count]), &weight.device());
    let gathered = weights::<B>(weight, view).into_iter().map(|w| B::float_select(w, 0, ids.clone()));
    B::float_cat(gathered.collect(), 0)
}

/// 1/√(mean(x²) + eps) of every row, `[rows, 1]`.
fn inverse_rms<B: Backend>(x: FloatTensor<B>, eps: f32) -> FloatTensor<B> {
    let mean_square = B::float_mean_dim(B::float_mul(x.clone(), x), 1);
    B::float_recip(B::float_sqrt(B::float_add_scalar(mean_square, eps.into())))
}

/// See [`DecoderOps::rms_norm`](crate::DecoderOps::rms_norm).
pub fn rms_norm<B: Backend>(x: FloatTensor<B>, weight: FloatTensor<B>, eps: f32, view: &WeightView) -> FloatTensor<B> {
    per_sign::<B>(x, weights::<B>(weight, view), |x, w| {
        let normalised = B::float_mul(x.clone(), inverse_rms::<B>(x, eps));
        B::float_mul(normalised, w)
    })
}

/// See [`DecoderOps::rms_norm_backward`](crate::DecoderOps::rms_norm_backward): with r = 1/rms and
/// u = grad·w, dx = r·u − x·r³·mean(u·x).
pub fn rms_norm_backward<B: Backend>(
    grad: FloatTensor<B>,
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    eps: f32,
    view: &WeightView,
) -> FloatTensor<B> {
    let u = per_sign::<B>(grad, weights::<B>(weight, view), B::float_mul);
    let r = inverse_rms::<B>(x.clone(), eps);
    let cube = B::float_mul(r.clone(), B::float_mul(r.clone(), r.clone()));
    let mean = B::float_mean_dim(B::float_mul(u.clone(), x.clone()), 1);
    B::float_sub(B::float_mul(u, r), B::float_mul(x, B::float_mul(cube, mean)))
}

/// See [`DecoderOps::rotary`](crate::DecoderOps::rotary).
pub fn rotary<B: Backend>(x: FloatTensor<B>, angles: &RotaryAngles) -> FloatTensor<B> {
    let (tokens, half) = (x.shape()[0], angles.half);
    let device = x.device();
    let table = |values: &[f32]| B::float_from_data(TensorData::new(values.to_vec(), [tokens, half]), &device);
    let (cos, sin) = (table(&angles.cos), table(&angles.sin));
    let heads = x.shape()[1] / (2 * half);
    let mut parts = Vec::with_capacity(2 * heads);
    for head in 0..heads {
        let start = head * 2 * half;
        let first = columns::<B>(x.clone(), start..start + half);
        let second = columns::<B>(x.clone(), start + half..start + 2 * half);
        parts.push(B::float_sub(B::float_mul(first.clone(), cos.clone()), B::float_mul(second.clone(), sin.clone())));
        parts.push(B::float_add(B::float_mul(second, cos.clone()), B::float_mul(first, sin.clone())));
    }
    B::float_cat(parts, 1)
}

/// One row of the batch and one query head: the parts of its attention.
struct HeadAttention<B: Backend> {
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    /// softmax(q·kᵀ/√d), `[queries, keys]`.
    probabilities: FloatTensor<B>,
}

fn head_attention<B: Backend>(
    (q, k, v): (&FloatTensor<B>, &FloatTensor<B>, &FloatTensor<B>),
    layout: &AttentionLayout,
    segment: usize,
    head: usize,
) -> HeadAttention<B> {
    let segment = &layout.segments[segment];
    let d = layout.head_dim;
    let kv = head / (layout.heads / layout.kv_heads);
    let keys: Vec<usize> = segment.keys.iter().cloned().flatten().collect();
    let gather = |x: &FloatTensor<B>| {
        let parts = segment.keys.iter().map(|range| rows::<B>(x.clone(), range.clone()));
        columns::<B>(B::float_cat(parts.collect(), 0), kv * d..(kv + 1) * d)
    };
    let q = columns::<B>(rows::<B>(q.clone(), segment.queries.clone()), head * d..(head + 1) * d);
    let (k, v) = (gather(k), gather(v));

    let scores = B::float_matmul(q.clone(), B::float_transpose(k.clone()));
    let scores = B::float_mul_scalar(scores, layout.scale().into());
    let hidden: Vec<bool> =
        segment.queries.clone().flat_map(|query| keys.iter().map(move |&key| !layout.visible(query, key))).collect();
    let mask = TensorData::new(hidden, [segment.queries.len(), keys.len()]);
    let mask = B::bool_from_data(mask, &q.device());
    let scores = B::float_mask_fill(scores, mask, f32::NEG_INFINITY.into());
    let shifted = B::float_sub(scores.clone(), B::float_max_dim(scores, 1));
    let exp = B::float_exp(shifted);
    let probabilities = B::float_div(exp.clone(), B::float_sum_dim(exp, 1));
    HeadAttention { q, k, v, probabilities }
}

/// See [`DecoderOps::attend`](crate::DecoderOps::attend).
pub fn attend<B: Backend>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    layout: &AttentionLayout,
) -> FloatTensor<B> {
    let out = (0..layout.segments.len()).map(|segment| {
        let heads = (0..layout.heads).map(|head| {
            let part = head_attention::<B>((&q, &k, &v), layout, segment, head);
            B::float_matmul(part.probabilities, part.v)
        });
        B::float_cat(heads.collect(), 1)
    });
    // Segments need not be in the order of their queries; the result is.
    let mut order: Vec<usize> = (0..layout.segments.len()).collect();
    order.sort_by_key(|&segment| layout.segments[segment].queries.start);
    let parts: Vec<_> = out.collect();
    B::float_cat(order.into_iter().map(|segment| parts[segment].clone()).collect(), 0)
}

/// See [`DecoderOps::attend_backward`](crate::DecoderOps::attend_backward).
pub fn attend_backward<B: Backend>(
    grad: FloatTensor<B>,
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    layout: &AttentionLayout,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let device = q.device();
    let zeros = |x: &FloatTensor<B>| B::float_zeros(x.shape(), &device, FloatDType::F32);
    let (mut dq, mut dk, mut dv) = (zeros(&q), zeros(&k), zeros(&v));
    let d = layout.head_dim;
    let add = |total: FloatTensor<B>, at: [Range<usize>; 2], part: FloatTensor<B>| {
        let at = at.map(Slice::from);
        let sum = B::float_add(B::float_slice(total.clone(), &at), part);
        B::float_slice_assign(total, &at, sum)
    };
    for (index, segment) in layout.segments.iter().enumerate() {
        for head in 0..layout.heads {
            let kv = head / (layout.heads / layout.kv_heads);
            let HeadAttention { q, k, v, probabilities: p } = head_attention::<B>((&q, &k, &v), layout, index, head);
            let own = [segment.queries.clone(), head * d..(head + 1) * d];
            let g = B::float_slice(grad.clone(), &own.clone().map(Slice::from));
            // dS = P ∘ (G·Vᵀ − rowsum(P ∘ G·Vᵀ)) / √d
            let gv = B::float_matmul(g.clone(), B::float_transpose(v));
            let mean = B::float_sum_dim(B::float_mul(p.clone(), gv.clone()), 1);
            let ds = B::float_mul(p.clone(), B::float_sub(gv, mean));
            let ds = B::float_mul_scalar(ds, layout.scale().into());
            dq = add(dq, own, B::float_matmul(ds.clone(), k));
            let part_k = B::float_matmul(B::float_transpose(ds), q);
            let part_v = B::float_matmul(B::float_transpose(p), g);
            let mut taken = 0;
            for range in &segment.keys {
                let at = [range.clone(), kv * d..(kv + 1) * d];
                let part = taken..taken + range.len();
                dk = add(dk, at.clone(), rows::<B>(part_k.clone(), part.clone()));
                dv = add(dv, at, rows::<B>(part_v.clone(), part));
                taken += range.len();
            }
        }
    }
    (dq, dk, dv)
}

/// 1 / (1 + exp(−x)).
fn sigmoid<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    B::float_recip(B::float_add_scalar(B::float_exp(B::float_neg(x)), 1.0f32.into()))
}

/// See [`DecoderOps::silu_mul`](crate::DecoderOps::silu_mul).
pub fn silu_mul<B: Backend>(gate: FloatTensor<B>, up: FloatTensor<B>) -> FloatTensor<B> {
    B::float_mul(B::float_mul(gate.clone(), sigmoid::<B>(gate)), up)
}

/// See [`DecoderOps::silu_mul_backward`](crate::DecoderOps::silu_mul_backward): SiLU′(x) =
/// σ(x)·(1 + x·(1 − σ(x))).
pub fn silu_mul_backward<B: Backend>(
    grad: FloatTensor<B>,
    gate: FloatTensor<B>,
    up: FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let s = sigmoid::<B>(gate.clone());
    let complement = B::float_add_scalar(B::float_neg(s.clone()), 1.0f32.into());
    let slope = B::float_add_scalar(B::float_mul(gate.clone(), complement), 1.0f32.into());
    let d_gate = B::float_mul(B::float_mul(grad.clone(), up), B::float_mul(s.clone(), slope));
    let d_up = B::float_mul(grad, B::float_mul(gate, s));
    (d_gate, d_up)
}

/// Log-probabilities `[labels, vocabulary]` of the next token.
fn log_softmax<B: Backend>(logits: FloatTensor<B>) -> FloatTensor<B> {
    let shifted = B::float_sub(logits.clone(), B::float_max_dim(logits, 1));
    let log_sum = B::float_log(B::float_sum_dim(B::float_exp(shifted.clone()), 1));
    B::float_sub(shifted, log_sum)
}

/// `targets`, repeated for every sign, as a column of indices `[labels, 1]`.
fn target_column<B: Backend>(
    targets: &[u32],
    view: &WeightView,
    device: &Device<B>,
) -> burn::backend::tensor::IntTensor<B> {
    let ids: Vec<i64> = targets.iter().map(|&id| i64::from(id)).collect();
    let ids = ids.repeat(view.signs());
    let count = ids.len();
    B::int_from_data(TensorData::new(ids, [count, 1]), device)
}

/// See [`DecoderOps::token_nll`](crate::DecoderOps::token_nll).
pub fn token_nll<B: Backend>(
    hidden: FloatTensor<B>,
    weight: FloatTensor<B>,
    targets: &[u32],
    view: &WeightView,
) -> FloatTensor<B> {
    let target = target_column::<B>(targets, view, &hidden.device());
    let logits = project::<B>(hidden, weight, view);
    B::float_neg(B::float_gather(1, log_softmax::<B>(logits), target))
}

/// See [`DecoderOps::token_nll_backward`](crate::DecoderOps::token_nll_backward): (softmax −
/// one-hot)·grad through the output matrix.
pub fn token_nll_backward<B: Backend>(
    grad: FloatTensor<B>,
    hidden: FloatTensor<B>,
    weight: FloatTensor<B>,
    targets: &[u32],
    view: &WeightView,
) -> FloatTensor<B> {
    let device = hidden.device();
    let logits = project::<B>(hidden, weight.clone(), view);
    let shape = logits.shape();
    let probabilities = B::float_exp(log_softmax::<B>(logits));
    let mut one_hot = vec![0.0f32; shape.num_elements()];
    for row in 0..shape[0] {
        one_hot[row * shape[1] + targets[row % targets.len()] as usize] = 1.0;
    }
    let one_hot = B::float_from_data(TensorData::new(one_hot, shape), &device);
    let d_logits = B::float_mul(B::float_sub(probabilities, one_hot), grad);
    project_backward::<B>(d_logits, weight, view)
}

/// See [`DecoderOps::descend`](crate::DecoderOps::descend). The host does the arithmetic, so that every
/// device gets the same bits.
pub fn descend<B: Backend>(weight: FloatTensor<B>, noise: &Noise, coefficient: f32) -> FloatTensor<B> {
    let (device, dtype) = (weight.device(), weight.dtype());
    let read = burn::tensor::read_sync(B::float_into_data(weight));
    let data = read.unwrap_or_else(|error| panic!("reading a weight back failed: {error:?}"));
    let (mut bytes, shape, _) = data.into_parts();
    descend_bytes(&mut bytes, dtype, noise, coefficient);
    B::float_from_data(TensorData::from_bytes(bytes, shape, dtype), &device)
}

fn descend_bytes(bytes: &mut [u8], dtype: DType, noise: &Noise, coefficient: f32) {
    match dtype {
        DType::F32 => noise.update_f32(0, bytemuck::cast_slice_mut(bytes), coefficient),
        DType::BF16 => noise.update_bf16(0, bytemuck::cast_slice_mut(bytes), coefficient),
        other => unreachable!("weights are stored as f32 or bf16, not {other:?}"),
    }
}
