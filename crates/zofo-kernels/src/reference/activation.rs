//! Elementwise functions of feed-forward layers.

use crate::activation::Activation;
use burn::backend::Backend;
use burn::backend::tensor::FloatTensor;
use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

/// a·x + b.
fn affine<B: Backend>(a: f32, x: FloatTensor<B>, b: f32) -> FloatTensor<B> {
    B::float_add_scalar(B::float_mul_scalar(x, a.into()), b.into())
}

/// σ(x) = 1/(1 + e⁻ˣ).
fn sigmoid<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    B::float_recip(affine::<B>(1.0, B::float_exp(B::float_neg(x)), 1.0))
}

/// tanh(√(2/π)·(x + 0.044715·x³)), and the derivative of its argument.
fn gelu_tanh<B: Backend>(x: FloatTensor<B>) -> (FloatTensor<B>, FloatTensor<B>) {
    let [scale, cubic] = Activation::GELU_TANH;
    let square = B::float_mul(x.clone(), x.clone());
    let argument = B::float_mul(x, affine::<B>(scale * cubic, square.clone(), scale));
    (B::float_tanh(argument), affine::<B>(3.0 * scale * cubic, square, scale))
}

/// Φ(x) = ½(1 + erf(x/√2)).
fn normal_cdf<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    affine::<B>(0.5, B::float_erf(B::float_mul_scalar(x, FRAC_1_SQRT_2.into())), 0.5)
}

/// φ(x) = e^(−x²/2)/√(2π).
fn normal_density<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let exponent = B::float_mul_scalar(B::float_mul(x.clone(), x), (-0.5f32).into());
    B::float_mul_scalar(B::float_exp(exponent), (0.5 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2).into())
}

/// See [`DecoderOps::activate`](crate::DecoderOps::activate).
pub fn activate<B: Backend>(x: FloatTensor<B>, activation: Activation) -> FloatTensor<B> {
    match activation {
        Activation::Silu => B::float_mul(x.clone(), sigmoid::<B>(x)),
        Activation::GeluTanh => {
            let (tanh, _) = gelu_tanh::<B>(x.clone());
            B::float_mul(x, affine::<B>(0.5, tanh, 0.5))
        }
        Activation::Gelu => B::float_mul(x.clone(), normal_cdf::<B>(x)),
        Activation::Relu => B::relu(x),
    }
}

/// The derivative of an activation.
fn slope<B: Backend>(x: FloatTensor<B>, activation: Activation) -> FloatTensor<B> {
    match activation {
        // σ·(1 + x·(1 − σ))
        Activation::Silu => {
            let s = sigmoid::<B>(x.clone());
            let complement = affine::<B>(-1.0, s.clone(), 1.0);
            B::float_mul(s, affine::<B>(1.0, B::float_mul(x, complement), 1.0))
        }
        // ½(1 + t) + ½x·(1 − t²)·u′ with t = tanh(u)
        Activation::GeluTanh => {
            let (tanh, inner) = gelu_tanh::<B>(x.clone());
            let outer = affine::<B>(-0.5, B::float_mul(tanh.clone(), tanh.clone()), 0.5);
            B::float_add(affine::<B>(0.5, tanh, 0.5), B::float_mul(x, B::float_mul(outer, inner)))
        }
        // Φ(x) + x·φ(x)
        Activation::Gelu => B::float_add(normal_cdf::<B>(x.clone()), B::float_mul(x.clone(), normal_density::<B>(x))),
        Activation::Relu => B::float_sign(B::relu(x)),
    }
}

/// See [`DecoderOps::activate_backward`](crate::DecoderOps::activate_backward).
pub fn activate_backward<B: Backend>(
    grad: FloatTensor<B>,
    x: FloatTensor<B>,
    activation: Activation,
) -> FloatTensor<B> {
    B::float_mul(grad, slope::<B>(x, activation))
}

/// See [`DecoderOps::gated`](crate::DecoderOps::gated).
pub fn gated<B: Backend>(gate: FloatTensor<B>, up: FloatTensor<B>, activation: Activation) -> FloatTensor<B> {
    B::float_mul(activate::<B>(gate, activation), up)
}

/// See [`DecoderOps::gated_backward`](crate::DecoderOps::gated_backward).
pub fn gated_backward<B: Backend>(
    grad: FloatTensor<B>,
    gate: FloatTensor<B>,
    up: FloatTensor<B>,
    activation: Activation,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let d_up = B::float_mul(grad.clone(), activate::<B>(gate.clone(), activation));
    (activate_backward::<B>(B::float_mul(grad, up), gate, activation), d_up)
}
