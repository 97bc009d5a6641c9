//! [`DecoderOps`] on Burn's tensors: the device of the tensors decides what runs.
//!
//! Where an operation reads a weight under several views, each sees an equal share of the rows, in order. It runs once per
//! view, one after the other, so that a weight that fits into a cache, or has to come from a file, is fetched once for all.

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
pub fn project(x: Matrix, weight: Matrix, views: &[WeightView], compute: Compute) -> Matrix {
    let weight = weight.into_dispatch();
    by_view(x, views, |x, view| {
        Tensor::from_dispatch(Dispatch::project(x.into_dispatch(), weight.clone(), view.clone(), compute))
    })
}

/// See [`DecoderOps::project_transposed`].
pub fn project_transposed(x: Matrix, weight: Matrix, views: &[WeightView], compute: Compute) -> Matrix {
    let weight = weight.into_dispatch();
    by_view(x, views, |x, view| {
        Tensor::from_dispatch(Dispatch::project_transposed(x.into_dispatch(), weight.clone(), view.clone(), compute))
    })
}

/// See [`DecoderOps::add_bias`].
pub fn add_bias(x: Matrix, bias: Matrix, views: &[WeightView]) -> Matrix {
    let bias = bias.into_dispatch();
    by_view(x, views, |x, view| {
        Tensor::from_dispatch(Dispatch::add_bias(x.into_dispatch(), bias.clone(), view.clone()))
    })
}

/// See [`DecoderOps::embed`]. Every view gets all ids.
pub fn embed(weight: Matrix, ids: Arc<[u32]>, views: &[WeightView]) -> Matrix {
    let weight = weight.into_dispatch();
    let of_view = |view: &WeightView| Tensor::from_dispatch(Dispatch::embed(weight.clone(), ids.clone(), view.clone()));
    match views {
        [view] => of_view(view),
        _ => Tensor::cat(views.iter().map(of_view).collect(), 0),
    }
}

/// See [`DecoderOps::layer_norm`]. A view of the weight comes with one of the bias.
pub fn layer_norm(x: Matrix, weight: Matrix, bias: Matrix, eps: f32, views: &[(WeightView, WeightView)]) -> Matrix {
    let [weight, bias] = [weight, bias].map(Tensor::into_dispatch);
    by_view(x, views, |x, (of_weight, of_bias)| {
        let (x, weight, bias) = (x.into_dispatch(), weight.clone(), bias.clone());
        Tensor::from_dispatch(Dispatch::layer_norm(x, weight, bias, eps, of_weight.clone(), of_bias.clone()))
    })
}

/// See [`DecoderOps::rms_norm`].
pub fn rms_norm(x: Matrix, weight: Matrix, eps: f32, unit_offset: bool, views: &[WeightView]) -> Matrix {
    let weight = weight.into_dispatch();
    by_view(x, views, |x, view| {
        Tensor::from_dispatch(Dispatch::rms_norm(x.into_dispatch(), weight.clone(), eps, unit_offset, view.clone()))
    })
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

/// See [`DecoderOps::token_nll`]. Every view gets all targets.
pub fn token_nll(
    hidden: Matrix,
    weight: Matrix,
    targets: Arc<[u32]>,
    softcap: Option<f32>,
    views: &[WeightView],
    compute: Compute,
) -> Matrix {
    let weight = weight.into_dispatch();
    by_view(hidden, views, |hidden, view| {
        let (hidden, weight, targets, view) = (hidden.into_dispatch(), weight.clone(), targets.clone(), view.clone());
        Tensor::from_dispatch(Dispatch::token_nll(hidden, weight, targets, softcap, view, compute))
    })
}

/// See [`DecoderOps::descend`].
pub fn descend(weight: Matrix, noise: Noise, step: Descent) -> Matrix {
    Tensor::from_dispatch(Dispatch::descend(weight.into_dispatch(), noise, step))
}

/// What `f` makes of the rows of each view, in order.
fn by_view<V>(x: Matrix, views: &[V], f: impl Fn(Matrix, &V) -> Matrix) -> Matrix {
    if let [view] = views {
        return f(x, view);
    }
    let share = x.dims()[0] / views.len();
    let rows = |place: usize| x.clone().narrow(0, place * share, share);
    Tensor::cat(views.iter().enumerate().map(|(place, view)| f(rows(place), view)).collect(), 0)
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
