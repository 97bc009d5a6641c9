//! Matrix products, biases and lookups.

use super::{per_sign, weights};
use crate::compute::Compute;
use crate::view::WeightView;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{FloatDType, TensorData};

/// See [`DecoderOps::project`](crate::DecoderOps::project).
pub fn project<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    view: &WeightView,
    compute: Compute,
) -> FloatTensor<B> {
    let (x, weights) = factors::<B>(x, weight, view, compute);
    per_sign::<B>(x, weights, |x, w| B::float_matmul(x, B::float_transpose(w)))
}

/// See [`DecoderOps::project_transposed`](crate::DecoderOps::project_transposed).
pub fn project_transposed<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    view: &WeightView,
    compute: Compute,
) -> FloatTensor<B> {
    let (x, weights) = factors::<B>(x, weight, view, compute);
    per_sign::<B>(x, weights, B::float_matmul)
}

/// What is multiplied: x, and the weights that the signs see, in the precision of products.
fn factors<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    view: &WeightView,
    compute: Compute,
) -> (FloatTensor<B>, Vec<FloatTensor<B>>) {
    let weights = weights::<B>(weight, view);
    match compute {
        Compute::F32 => (x, weights),
        Compute::Bf16 => (rounded::<B>(x), weights.into_iter().map(rounded::<B>).collect()),
    }
}

/// Rounded to bf16, as f32.
fn rounded<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    B::float_cast(B::float_cast(x, FloatDType::BF16), FloatDType::F32)
}

/// See [`DecoderOps::add_bias`](crate::DecoderOps::add_bias).
pub fn add_bias<B: Backend>(x: FloatTensor<B>, bias: FloatTensor<B>, view: &WeightView) -> FloatTensor<B> {
    per_sign::<B>(x, weights::<B>(bias, view), B::float_add)
}

/// See [`DecoderOps::embed`](crate::DecoderOps::embed).
pub fn embed<B: Backend>(weight: FloatTensor<B>, ids: &[u32], view: &WeightView) -> FloatTensor<B> {
    let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
    let count = ids.len();
    let ids = B::int_from_data(TensorData::new(ids, [count]), &weight.device());
    let gathered = weights::<B>(weight, view).into_iter().map(|w| B::float_select(w, 0, ids.clone()));
    B::float_cat(gathered.collect(), 0)
}
