//! The operations of a decoder, as a Burn backend extension.

use crate::activation::Activation;
use crate::compute::Compute;
use crate::direction::Descent;
use crate::layout::{AttentionLayout, RotaryAngles};
use crate::reference;
use crate::view::{Noise, WeightView};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, backend_extension};
use std::sync::Arc;

/// Operations over ragged activations `[tokens, width]` (f32) and backbone weights (f32 or bf16),
/// each weight read through a [`WeightView`].
///
/// Weights are constants: no operation has a gradient with respect to one that does not require it. The `…_backward`
/// operations are what `Autodiff` calls; they have no gradient themselves.
#[backend_extension(Flex, Autodiff)]
pub trait DecoderOps: Backend {
    /// x·Wᵀ: `[tokens, in]` × `[out, in]` → `[tokens, out]`. Its gradient with respect to x is
    /// [`project_transposed`](Self::project_transposed).
    fn project(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        view: WeightView,
        compute: Compute,
    ) -> FloatTensor<Self> {
        reference::project::<Self>(x, weight, &view, compute)
    }

    /// x·W: `[tokens, rows]` × `[rows, columns]` → `[tokens, columns]`, for weights that are stored
    /// `[in, out]` (GPT-2's `Conv1D`). Its gradient with respect to x is [`project`](Self::project).
    fn project_transposed(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        view: WeightView,
        compute: Compute,
    ) -> FloatTensor<Self> {
        reference::project_transposed::<Self>(x, weight, &view, compute)
    }

    /// x + b for every row of x `[tokens, width]`, b `[1, width]`.
    fn add_bias(x: FloatTensor<Self>, bias: FloatTensor<Self>, view: WeightView) -> FloatTensor<Self> {
        reference::add_bias::<Self>(x, bias, &view)
    }

    /// Rows `ids` of the table `weight` `[vocabulary, width]` → `[ids, width]`. For a
    /// [`WeightView::Pair`] the result has the ids twice: at w + ε·z, then at w − ε·z.
    fn embed(weight: FloatTensor<Self>, ids: Arc<[u32]>, view: WeightView) -> FloatTensor<Self> {
        reference::embed::<Self>(weight, &ids, &view)
    }

    /// Layer norm (x − mean)/√(variance + eps) · w + b over the last dimension, w and b `[1, width]`,
    /// with the biased variance (Ba et al., 2016).
    fn layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        eps: f32,
        weight_view: WeightView,
        bias_view: WeightView,
    ) -> FloatTensor<Self> {
        reference::layer_norm::<Self>(x, weight, bias, eps, &weight_view, &bias_view)
    }

    /// Gradient of [`layer_norm`](Self::layer_norm) with respect to x.
    fn layer_norm_backward(
        grad: FloatTensor<Self>,
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f32,
        weight_view: WeightView,
    ) -> FloatTensor<Self> {
        reference::layer_norm_backward::<Self>(grad, x, weight, eps, &weight_view)
    }

    /// Root-mean-square norm x/√(mean(x²) + eps) · w over the last dimension, w `[1, width]`
    /// (Zhang and Sennrich, 2019). With `unit_offset` the factor is 1 + w, which is how Gemma stores
    /// it; a perturbation is one of the stored w either way.
    fn rms_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f32,
        unit_offset: bool,
        view: WeightView,
    ) -> FloatTensor<Self> {
        reference::rms_norm::<Self>(x, weight, eps, unit_offset, &view)
    }

    /// Gradient of [`rms_norm`](Self::rms_norm) with respect to x.
    fn rms_norm_backward(
        grad: FloatTensor<Self>,
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f32,
        unit_offset: bool,
        view: WeightView,
    ) -> FloatTensor<Self> {
        reference::rms_norm_backward::<Self>(grad, x, weight, eps, unit_offset, &view)
    }

    /// Rotary position embedding of every head of x `[tokens, heads · head_dim]`, pairing element i
    /// with element i + half as Hugging Face's `rotate_half` does (Su et al., 2021). Elements of a head
    /// from 2·half on pass unchanged. Its gradient is the rotation by [`RotaryAngles::inverse`].
    fn rotary(x: FloatTensor<Self>, angles: RotaryAngles) -> FloatTensor<Self> {
        reference::rotary::<Self>(x, &angles)
    }

    /// Causal softmax attention by position over the ranges of `layout`: queries
    /// `[queries, heads · head_dim]`, keys and values `[keys, kv_heads · head_dim]` →
    /// `[queries, heads · head_dim]`.
    fn attend(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        layout: Arc<AttentionLayout>,
    ) -> FloatTensor<Self> {
        reference::attend::<Self>(q, k, v, &layout)
    }

    /// Gradients of [`attend`](Self::attend) with respect to q, k and v.
    fn attend_backward(
        grad: FloatTensor<Self>,
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        layout: Arc<AttentionLayout>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        reference::attend_backward::<Self>(grad, q, k, v, &layout)
    }

    /// act(x), elementwise.
    fn activate(x: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        reference::activate::<Self>(x, activation)
    }

    /// Gradient of [`activate`](Self::activate).
    fn activate_backward(grad: FloatTensor<Self>, x: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        reference::activate_backward::<Self>(grad, x, activation)
    }

    /// act(gate) · up, elementwise: the gated linear units of Shazeer (2020).
    fn gated(gate: FloatTensor<Self>, up: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        reference::gated::<Self>(gate, up, activation)
    }

    /// Gradients of [`gated`](Self::gated) with respect to gate and up.
    fn gated_backward(
        grad: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        activation: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        reference::gated_backward::<Self>(grad, gate, up, activation)
    }

    /// −log softmax(ℓ)\[target\] for every row of h `[labels, width]`, W `[vocabulary, width]` →
    /// `[labels, 1]`, in nats. The logits are ℓ = h·Wᵀ, or with a `softcap` c, ℓ = c·tanh(h·Wᵀ/c)
    /// (Gemma 2). For a [`WeightView::Pair`] h has the labels twice and `targets` once.
    fn token_nll(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: Arc<[u32]>,
        softcap: Option<f32>,
        view: WeightView,
        compute: Compute,
    ) -> FloatTensor<Self> {
        reference::token_nll::<Self>(hidden, weight, &targets, softcap, &view, compute)
    }

    /// Gradient of [`token_nll`](Self::token_nll) with respect to h; `grad` is `[labels, 1]`.
    fn token_nll_backward(
        grad: FloatTensor<Self>,
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: Arc<[u32]>,
        softcap: Option<f32>,
        view: WeightView,
        compute: Compute,
    ) -> FloatTensor<Self> {
        reference::token_nll_backward::<Self>(grad, hidden, weight, &targets, softcap, &view, compute)
    }

    /// θ ← keep·θ − coefficient·z. Takes the weight by value; a back end that can update in place does, and
    /// then requires that nothing else holds the weight. bf16 weights are rounded stochastically.
    fn descend(weight: FloatTensor<Self>, noise: Noise, step: Descent) -> FloatTensor<Self> {
        reference::descend::<Self>(weight, &noise, step)
    }
}
