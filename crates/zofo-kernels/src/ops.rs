//! The operations of a decoder, as a Burn backend extension.

use crate::layout::{AttentionLayout, RotaryAngles};
use crate::reference;
use crate::view::{Noise, WeightView};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, backend_extension};
use std::sync::Arc;

/// Operations over ragged activations `[tokens, width]` (f32) and backbone weights (f32 or bf16),
/// each weight read through a [`WeightView`].
///
/// Weights are constants: no operation has a gradient with respect to one. The `…_backward`
/// operations are what `Autodiff` calls; they have no gradient themselves.
#[backend_extension(Flex, Autodiff)]
pub trait DecoderOps: Backend {
    /// x·Wᵀ: `[tokens, in]` × `[out, in]` → `[tokens, out]`.
    fn project(x: FloatTensor<Self>, weight: FloatTensor<Self>, view: WeightView) -> FloatTensor<Self> {
        reference::project::<Self>(x, weight, &view)
    }

    /// Gradient of [`project`](Self::project) with respect to x: grad·W, `[tokens, in]`.
    fn project_backward(grad: FloatTensor<Self>, weight: FloatTensor<Self>, view: WeightView) -> FloatTensor<Self> {
        reference::project_backward::<Self>(grad, weight, &view)
    }

    /// Rows `ids` of the table `weight` `[vocabulary, width]` → `[ids, width]`. For a
    /// [`WeightView::Pair`] the result has the ids twice: at w + ε·z, then at w − ε·z.
    fn embed(weight: FloatTensor<Self>, ids: Arc<[u32]>, view: WeightView) -> FloatTensor<Self> {
        reference::embed::<Self>(weight, &ids, &view)
    }

    /// Root-mean-square norm x / √(mean(x²) + eps) · w over the last dimension, w `[1, width]`
    /// (Zhang and Sennrich, 2019).
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f32, view: WeightView) -> FloatTensor<Self> {
        reference::rms_norm::<Self>(x, weight, eps, &view)
    }

    /// Gradient of [`rms_norm`](Self::rms_norm) with respect to x.
    fn rms_norm_backward(
        grad: FloatTensor<Self>,
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f32,
        view: WeightView,
    ) -> FloatTensor<Self> {
        reference::rms_norm_backward::<Self>(grad, x, weight, eps, &view)
    }

    /// Rotary position embedding of every head of x `[tokens, heads · head_dim]`, pairing element i
    /// with element i + head_dim/2 as Hugging Face's `rotate_half` does (Su et al., 2021).
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

    /// SiLU(gate) · up, elementwise: the gated unit of Llama (Shazeer, 2020).
    fn silu_mul(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        reference::silu_mul::<Self>(gate, up)
    }

    /// Gradients of [`silu_mul`](Self::silu_mul) with respect to gate and up.
    fn silu_mul_backward(
        grad: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        reference::silu_mul_backward::<Self>(grad, gate, up)
    }

    /// −log softmax(h·Wᵀ)\[target\] for every row of h `[labels, width]`, W `[vocabulary, width]` →
    /// `[labels, 1]`, in nats. For a [`WeightView::Pair`] h has the labels twice and `targets` once.
    fn token_nll(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: Arc<[u32]>,
        view: WeightView,
    ) -> FloatTensor<Self> {
        reference::token_nll::<Self>(hidden, weight, &targets, &view)
    }

    /// Gradient of [`token_nll`](Self::token_nll) with respect to h; `grad` is `[labels, 1]`.
    fn token_nll_backward(
        grad: FloatTensor<Self>,
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: Arc<[u32]>,
        view: WeightView,
    ) -> FloatTensor<Self> {
        reference::token_nll_backward::<Self>(grad, hidden, weight, &targets, &view)
    }

    /// θ ← θ − coefficient·z. Takes the weight by value; a back end that can update in place does, and
    /// then requires that nothing else holds the weight. bf16 weights are rounded stochastically.
    fn descend(weight: FloatTensor<Self>, noise: Noise, coefficient: f32) -> FloatTensor<Self> {
        reference::descend::<Self>(weight, &noise, coefficient)
    }
}
