//! The specification: every operation of [`DecoderOps`](crate::DecoderOps) in plain Burn operations.
//!
//! Slow, and deliberately obvious. A device without kernels of its own runs these; the kernels are
//! tested against them; and run on `Autodiff` they are the oracle for the hand-written gradients.

mod activation;
mod attention;
mod linear;
mod nll;
mod norm;
mod rotary;

pub use activation::{activate, activate_backward, gated, gated_backward};
pub use attention::{attend, attend_backward};
pub use linear::{add_bias, embed, project, project_transposed};
pub use nll::{token_nll, token_nll_backward};
pub use norm::{layer_norm, layer_norm_backward, rms_norm, rms_norm_backward};
pub use rotary::rotary;

use crate::direction::Descent;
use crate::view::{Noise, WeightView};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{DType, FloatDType, Slice, TensorData};
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
    let z = direction_tensor::<B>(noise, &exact);
    let perturbed = |scale: f32| B::float_add(exact.clone(), B::float_mul_scalar(z.clone(), scale.into()));
    scales.into_iter().map(perturbed).collect()
}

/// z over a weight in f32. Only a mask has to read the weight back.
fn direction_tensor<B: Backend>(noise: &Noise, weight: &FloatTensor<B>) -> FloatTensor<B> {
    let mut z = vec![0.0f32; weight.shape().num_elements()];
    match noise {
        Noise::Masked(..) => {
            let data = into_data::<B>(weight.clone());
            noise.fill_for(0, data.as_slice::<f32>().expect("the weight was cast to f32"), &mut z);
        }
        Noise::Generated(_) | Noise::LowRank(_) | Noise::Stored(_) => noise.fill(0, &mut z),
    }
    B::float_from_data(TensorData::new(z, weight.shape()), &weight.device())
}

fn into_data<B: Backend>(weight: FloatTensor<B>) -> TensorData {
    let read = burn::tensor::read_sync(B::float_into_data(weight));
    read.unwrap_or_else(|error| panic!("reading a weight back failed: {error:?}"))
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

/// c·tanh(x/c).
fn soft_capped<B: Backend>(x: FloatTensor<B>, cap: f32) -> FloatTensor<B> {
    B::float_mul_scalar(B::float_tanh(B::float_div_scalar(x, cap.into())), cap.into())
}

/// The derivative of c·tanh(x/c) in terms of its value y: 1 − (y/c)².
fn soft_cap_slope<B: Backend>(capped: FloatTensor<B>, cap: f32) -> FloatTensor<B> {
    let tanh = B::float_div_scalar(capped, cap.into());
    B::float_add_scalar(B::float_neg(B::float_mul(tanh.clone(), tanh)), 1.0f32.into())
}

/// See [`DecoderOps::descend`](crate::DecoderOps::descend). The host does the arithmetic, so that every
/// device gets the same bits.
pub fn descend<B: Backend>(weight: FloatTensor<B>, noise: &Noise, step: Descent) -> FloatTensor<B> {
    let (device, dtype) = (weight.device(), weight.dtype());
    let (mut bytes, shape, _) = into_data::<B>(weight).into_parts();
    descend_bytes(&mut bytes, dtype, noise, step);
    B::float_from_data(TensorData::from_bytes(bytes, shape, dtype), &device)
}

fn descend_bytes(bytes: &mut [u8], dtype: DType, noise: &Noise, step: Descent) {
    match dtype {
        DType::F32 => noise.update_f32(0, bytemuck::cast_slice_mut(bytes), step),
        DType::BF16 => noise.update_bf16(0, bytemuck::cast_slice_mut(bytes), step),
        other => unreachable!("weights are stored as f32 or bf16, not {other:?}"),
    }
}
