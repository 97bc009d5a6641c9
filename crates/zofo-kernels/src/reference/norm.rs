//! Norms over the last dimension.

use super::{per_sign, weights};
use crate::view::WeightView;
use burn::backend::Backend;
use burn::backend::tensor::FloatTensor;

/// 1/√(mean(x²) + eps) of every row, `[rows, 1]`.
fn inverse_rms<B: Backend>(x: FloatTensor<B>, eps: f32) -> FloatTensor<B> {
    let mean_square = B::float_mean_dim(B::float_mul(x.clone(), x), 1);
    B::float_recip(B::float_sqrt(B::float_add_scalar(mean_square, eps.into())))
}

/// The factors of an RMS norm as every sign sees them: w, or 1 + w.
fn rms_factors<B: Backend>(weight: FloatTensor<B>, unit_offset: bool, view: &WeightView) -> Vec<FloatTensor<B>> {
    let offset = |w| if unit_offset { B::float_add_scalar(w, 1.0f32.into()) } else { w };
    weights::<B>(weight, view).into_iter().map(offset).collect()
}

/// See [`DecoderOps::rms_norm`](crate::DecoderOps::rms_norm).
pub fn rms_norm<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    eps: f32,
    unit_offset: bool,
    view: &WeightView,
) -> FloatTensor<B> {
    let normalised = B::float_mul(x.clone(), inverse_rms::<B>(x, eps));
    per_sign::<B>(normalised, rms_factors::<B>(weight, unit_offset, view), B::float_mul)
}

/// See [`DecoderOps::rms_norm_backward`](crate::DecoderOps::rms_norm_backward): with r = 1/rms, n = r·x and
/// u = grad·w, dx = r·(u − n·mean(u·n)).
pub fn rms_norm_backward<B: Backend>(
    grad: FloatTensor<B>,
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    eps: f32,
    unit_offset: bool,
    view: &WeightView,
) -> FloatTensor<B> {
    let u = per_sign::<B>(grad, rms_factors::<B>(weight, unit_offset, view), B::float_mul);
    let r = inverse_rms::<B>(x.clone(), eps);
    let n = B::float_mul(x, r.clone());
    let along = B::float_mul(n.clone(), B::float_mean_dim(B::float_mul(u.clone(), n), 1));
    B::float_mul(B::float_sub(u, along), r)
}

/// x less its mean, `[rows, width]`: its root mean square is the standard deviation of x.
fn centred<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let mean = B::float_mean_dim(x.clone(), 1);
    B::float_sub(x, mean)
}

/// See [`DecoderOps::layer_norm`](crate::DecoderOps::layer_norm).
pub fn layer_norm<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: FloatTensor<B>,
    eps: f32,
    weight_view: &WeightView,
    bias_view: &WeightView,
) -> FloatTensor<B> {
    let scaled = rms_norm::<B>(centred::<B>(x), weight, eps, false, weight_view);
    per_sign::<B>(scaled, weights::<B>(bias, bias_view), B::float_add)
}

/// See [`DecoderOps::layer_norm_backward`](crate::DecoderOps::layer_norm_backward): through the scaling as in
/// [`rms_norm_backward`], then through the centring, whose transpose is itself.
pub fn layer_norm_backward<B: Backend>(
    grad: FloatTensor<B>,
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    eps: f32,
    weight_view: &WeightView,
) -> FloatTensor<B> {
    centred::<B>(rms_norm_backward::<B>(grad, centred::<B>(x), weight, eps, false, weight_view))
}
