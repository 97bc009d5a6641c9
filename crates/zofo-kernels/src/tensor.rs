//! [`DecoderOps`] on Burn's tensors: the device of the tensors decides what runs.

use crate::activation::Activation;
use crate::compute::Compute;
use crate::direction::Descent;
use crate::layout::{AttentionLayout, RotaryAngles};
use crate::ops::DecoderOps;
use crate::view::{Noise, WeightView};
use burn::backend::{Dispatch, Flex};
use burn::tensor::{Tensor, TensorData};
use burn_flex::FlexTensor;
use std::ops::Deref;
use std::sync::Arc;

type Matrix = Tensor<2>;

/// See [`DecoderOps::project`].
pub fn project(x: Matrix, weight: Matrix, view: WeightView, compute: Compute) -> Matrix {
    Tensor::from_dispatch(Dispatch::project(x.into_dispatch(), weight.into_dispatch(), view, compute))
}

/// See [`DecoderOps::project_transposed`].
pub fn project_transposed(x: Matrix, weight: Matrix, view: WeightView, compute: Compute) -> Matrix {
    Tensor::from_dispatch(Dispatch::project_transposed(x.into_dispatch(), weight.into_dispatch(), view, compute))
}

/// See [`DecoderOps::add_bias`].
pub fn add_bias(x: Matrix, bias: Matrix, view: WeightView) -> Matrix {
    Tensor::from_dispatch(Dispatch::add_bias(x.into_dispatch(), bias.into_dispatch(), view))
}

/// See [`DecoderOps::embed`].
pub fn embed(weight: Matrix, ids: Arc<[u32]>, view: WeightView) -> Matrix {
    Tensor::from_dispatch(Dispatch::embed(weight.into_dispatch(), ids, view))
}

/// See [`DecoderOps::layer_norm`].
pub fn layer_norm(
    x: Matrix,
    weight: Matrix,
    bias: Matrix,
    eps: f32,
    weight_view: WeightView,
    bias_view: WeightView,
) -> Matrix {
    let [x, weight, bias] = [x, weight, bias].map(Tensor::into_dispatch);
    Tensor::from_dispatch(Dispatch::layer_norm(x, weight, bias, eps, weight_view, bias_view))
}

/// See [`DecoderOps::rms_norm`].
pub fn rms_norm(x: Matrix, weight: Matrix, eps: f32, unit_offset: bool, view: WeightView) -> Matrix {
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(Dispatch::rms_norm(x, weight, eps, unit_offset, view))
}

/// See [`DecoderOps::rotary`].
pub fn rotary(x: Matrix, angles: RotaryAngles) -> Matrix {
    Tensor::from_dispatch(Dispatch::rotary(x.into_dispatch(), angles))
}

/// See [`DecoderOps::attend`].
pub fn attend(q: Matrix, k: Matrix, v: Matrix, layout: Arc<AttentionLayout>) -> Matrix {
    let [q, k, v] = [q, k, v].map(Tensor::into_dispatch);
    Tensor::from_dispatch(Dispatch::attend(q, k, v, layout))
}

/// See [`DecoderOps::activate`].
pub fn activate(x: Matrix, activation: Activation) -> Matrix {
    Tensor::from_dispatch(Dispatch::activate(x.into_dispatch(), activation))
}

/// See [`DecoderOps::gated`].
pub fn gated(gate: Matrix, up: Matrix, activation: Activation) -> Matrix {
    Tensor::from_dispatch(Dispatch::gated(gate.into_dispatch(), up.into_dispatch(), activation))
}

/// See [`DecoderOps::token_nll`].
pub fn token_nll(
    hidden: Matrix,
    weight: Matrix,
    targets: Arc<[u32]>,
    softcap: Option<f32>,
    view: WeightView,
    compute: Compute,
) -> Matrix {
    let (hidden, weight) = (hidden.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(Dispatch::token_nll(hidden, weight, targets, softcap, view, compute))
}

/// See [`DecoderOps::descend`].
pub fn descend(weight: Matrix, noise: Noise, step: Descent) -> Matrix {
    Tensor::from_dispatch(Dispatch::descend(weight.into_dispatch(), noise, step))
}

/// The stored bytes of a tensor.
pub struct StoredBytes(Stored);

enum Stored {
    /// Those of the tensor itself.
    Shared(FlexTensor),
    /// A copy from another device.
    Copied(TensorData),
}

impl Deref for StoredBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Stored::Shared(tensor) => tensor.bytes(),
            Stored::Copied(data) => data.as_bytes(),
        }
    }
}

/// The stored bytes of a tensor, row-major and little endian. On the CPU without a copy.
pub fn stored_bytes(x: Matrix) -> StoredBytes {
    StoredBytes(match x.clone().try_into_primitive::<Flex>() {
        Ok(primitive) => Stored::Shared(primitive.to_contiguous()),
        Err(_) => Stored::Copied(x.to_data()),
    })
}
