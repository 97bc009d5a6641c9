//! The output matrix and cross-entropy.

use super::{project, project_transposed, soft_cap_slope, soft_capped};
use crate::compute::Compute;
use crate::view::WeightView;
use burn::backend::tensor::{Device, FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::TensorData;

/// h·Wᵀ, soft-capped if asked, `[labels, vocabulary]`.
fn logits<B: Backend>(
    hidden: FloatTensor<B>,
    weight: FloatTensor<B>,
    softcap: Option<f32>,
    view: &WeightView,
    compute: Compute,
) -> FloatTensor<B> {
    let logits = project::<B>(hidden, weight, view, compute);
    match softcap {
        Some(cap) => soft_capped::<B>(logits, cap),
        None => logits,
    }
}

/// Log-probabilities `[labels, vocabulary]` of the next token.
fn log_softmax<B: Backend>(logits: FloatTensor<B>) -> FloatTensor<B> {
    let shifted = B::float_sub(logits.clone(), B::float_max_dim(logits, 1));
    let log_sum = B::float_log(B::float_sum_dim(B::float_exp(shifted.clone()), 1));
    B::float_sub(shifted, log_sum)
}

/// `targets`, repeated for every sign, as a column of indices `[labels, 1]`.
fn target_column<B: Backend>(targets: &[u32], view: &WeightView, device: &Device<B>) -> IntTensor<B> {
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
    softcap: Option<f32>,
    view: &WeightView,
    compute: Compute,
) -> FloatTensor<B> {
    let target = target_column::<B>(targets, view, &hidden.device());
    let logits = logits::<B>(hidden, weight, softcap, view, compute);
    B::float_neg(B::float_gather(1, log_softmax::<B>(logits), target))
}

/// See [`DecoderOps::token_nll_backward`](crate::DecoderOps::token_nll_backward): (softmax −
/// one-hot)·grad through the soft cap and the output matrix.
pub fn token_nll_backward<B: Backend>(
    grad: FloatTensor<B>,
    hidden: FloatTensor<B>,
    weight: FloatTensor<B>,
    targets: &[u32],
    softcap: Option<f32>,
    view: &WeightView,
    compute: Compute,
) -> FloatTensor<B> {
    let device = hidden.device();
    let logits = logits::<B>(hidden, weight.clone(), softcap, view, compute);
    let shape = logits.shape();
    let probabilities = B::float_exp(log_softmax::<B>(logits.clone()));
    let mut one_hot = vec![0.0f32; shape.num_elements()];
    for row in 0..shape[0] {
        one_hot[row * shape[1] + targets[row % targets.len()] as usize] = 1.0;
    }
    let one_hot = B::float_from_data(TensorData::new(one_hot, shape), &device);
    let d_logits = B::float_mul(B::float_sub(probabilities, one_hot), grad);
    let d_logits = match softcap {
        Some(cap) => B::float_mul(d_logits, soft_cap_slope::<B>(logits, cap)),
        None => d_logits,
    };
    project_transposed::<B>(d_logits, weight, view, compute)
}
