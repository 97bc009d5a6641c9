//! [`DecoderOps`] on Burn's tensors: the device of the tensors decides what runs.

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
pub fn project(x: Matrix, weight: Matrix, view: WeightView) -> Matrix {
    Tensor::from_dispatch(Dispatch::project(x.into_dispatch(), weight.into_dispatch(), view))
}

/// See [`DecoderOps::embed`].
pub fn embed(weight: Matrix, ids: Arc<[u32]>, view: WeightView) -> Matrix {
    Tensor::from_dispatch(Dispatch::embed(weight.into_dispatch(), ids, view))
}

/// See [`DecoderOps::rms_norm`].
pub fn rms_norm(x: Matrix, weight: Matrix, eps: f32, view: WeightView) -> Matrix {
    Tensor::from_dispatch(Dispatch::rms_norm(x.into_dispatch(), weight.into_dispatch(), eps, view))
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

/// See [`DecoderOps::silu_mul`].
pub fn silu_mul(gate: Matrix, up: Matrix) -> Matrix {
    Tensor::from_dispatch(Dispatch::silu_mul(gate.into_dispatch(), up.into_dispatch()))
}

/// See [`DecoderOps::token_nll`].
pub fn token_nll(hidden: Matrix, weight: Matrix, targets: Arc<[u32]>, view: WeightView) -> Matrix {
    let (hidden, weight) = (hidden.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(Dispatch::token_nll(hidden, weight, targets, view))
}

/// See [`DecoderOps::descend`].
pub fn descend(weight: Matrix, noise: Noise, coefficient: f32) -> Matrix {
    Tensor::from_dispatch(Dispatch::descend(weight.into_dispatch(), noise, coefficient))
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
