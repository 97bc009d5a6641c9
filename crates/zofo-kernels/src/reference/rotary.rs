//! Rotary position embedding.

use super::columns;
use crate::layout::RotaryAngles;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::TensorData;

/// See [`DecoderOps::rotary`](crate::DecoderOps::rotary).
pub fn rotary<B: Backend>(x: FloatTensor<B>, angles: &RotaryAngles) -> FloatTensor<B> {
    let [tokens, width] = x.shape().dims();
    let (half, head_dim) = (angles.half, angles.head_dim);
    let device = x.device();
    let table = |values: &[f32]| B::float_from_data(TensorData::new(values.to_vec(), [tokens, half]), &device);
    let (cos, sin) = (table(&angles.cos), table(&angles.sin));
    let mut parts = Vec::with_capacity(3 * width / head_dim);
    for start in (0..width).step_by(head_dim) {
        let first = columns::<B>(x.clone(), start..start + half);
        let second = columns::<B>(x.clone(), start + half..start + 2 * half);
        parts.push(B::float_sub(B::float_mul(first.clone(), cos.clone()), B::float_mul(second.clone(), sin.clone())));
        parts.push(B::float_add(B::float_mul(second, cos.clone()), B::float_mul(first, sin.clone())));
        if 2 * half < head_dim {
            parts.push(columns::<B>(x.clone(), start + 2 * half..start + head_dim));
        }
    }
    B::float_cat(parts, 1)
}
