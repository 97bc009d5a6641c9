//! Elementwise functions of feed-forward layers, and their derivatives.

use super::exp;
use crate::activation::Activation;
use multiversion::multiversion;
use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

#[inline(always)]
fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// SiLU and its derivative σ·(1 + x·(1 − σ)).
#[inline(always)]
fn silu_and_slope(x: f32) -> [f32; 2] {
    let sigmoid = 1.0 / (1.0 + exp(-x));
    [x * sigmoid, sigmoid * (1.0 + x * (1.0 - sigmoid))]
}

/// −2u, where GELU's approximation is ½x·(1 + tanh(u)) = x·σ(2u).
#[inline(always)]
fn gelu_tanh_exponent(x: f32) -> f32 {
    let [scale, cubic] = Activation::GELU_TANH;
    -2.0 * scale * (x + cubic * (x * x * x))
}

#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    x / (1.0 + exp(gelu_tanh_exponent(x)))
}

/// The approximation of GELU and its derivative σ + x·σ·(1 − σ)·2u′ with σ = σ(2u).
#[inline(always)]
fn gelu_tanh_and_slope(x: f32) -> [f32; 2] {
    let [scale, cubic] = Activation::GELU_TANH;
    let sigmoid = 1.0 / (1.0 + exp(gelu_tanh_exponent(x)));
    // Beyond ±16 the derivative is 0 or 1; the polynomial must not overflow on the way there.
    let near = x.clamp(-16.0, 16.0);
    let inner = 2.0 * scale * (1.0 + 3.0 * cubic * (near * near));
    [x * sigmoid, sigmoid + near * (sigmoid * (1.0 - sigmoid)) * inner]
}

/// Φ(x), the cumulative normal distribution, and e^(−x²/2).
///
/// Φ(−|x|) = e^(−x²/2)·s·P(s) with s = 1/(1 + |x|/4): the form of Abramowitz and Stegun's 7.1.26. P is the Chebyshev fit of
/// degree 9 to Φ(−t)·e^(t²/2)/s for t in 0 … 14, to 2.4e-9; beyond, the exponential is zero. Rounding leaves an
/// error of about four units in the last place of Φ, relative to Φ itself for moderate x of either sign.
#[inline(always)]
fn normal_cdf(x: f32) -> [f32; 2] {
    const P: [f32; 10] = [
        0.015_383_603,
        -0.056_345_463,
        0.036_615_256,
        0.048_318_084,
        -0.003_677_959_3,
        0.095_375_57,
        0.069_011_636,
        0.096_150_87,
        0.099_416_62,
        0.099_751_79,
    ];
    let bell = exp(-0.5 * (x * x));
    let s = 1.0 / (1.0 + 0.25 * x.abs());
    let mut p = P[0];
    for coefficient in &P[1..] {
        p = p * s + coefficient;
    }
    let tail = bell * (s * p);
    [if x < 0.0 { tail } else { 1.0 - tail }, bell]
}

#[inline(always)]
fn gelu(x: f32) -> f32 {
    x * normal_cdf(x)[0]
}

/// GELU and its derivative Φ(x) + x·φ(x).
#[inline(always)]
fn gelu_and_slope(x: f32) -> [f32; 2] {
    const DENSITY: f32 = 0.5 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2;
    let [cdf, bell] = normal_cdf(x);
    [x * cdf, cdf + x * (DENSITY * bell)]
}

#[inline(always)]
fn relu(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

/// ReLU and its derivative, which is 0 at 0.
#[inline(always)]
fn relu_and_slope(x: f32) -> [f32; 2] {
    [relu(x), if x > 0.0 { 1.0 } else { 0.0 }]
}

/// out = f(x).
#[inline(always)]
fn map(x: &[f32], out: &mut [f32], f: impl Fn(f32) -> f32) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out = f(x);
    }
}

/// out = f(x)·y.
#[inline(always)]
fn map_times(x: &[f32], y: &[f32], out: &mut [f32], f: impl Fn(f32) -> f32) {
    for ((out, &x), &y) in out.iter_mut().zip(x).zip(y) {
        *out = f(x) * y;
    }
}

/// The gradients of f(gate)·up.
#[inline(always)]
fn map_times_backward(
    grad: &[f32],
    gate: &[f32],
    up: &[f32],
    d_gate: &mut [f32],
    d_up: &mut [f32],
    f: impl Fn(f32) -> [f32; 2],
) {
    let inputs = grad.iter().zip(gate).zip(up);
    for (((&grad, &gate), &up), (d_gate, d_up)) in inputs.zip(d_gate.iter_mut().zip(d_up)) {
        let [value, slope] = f(gate);
        *d_up = grad * value;
        *d_gate = grad * up * slope;
    }
}

// Every activation has a loop of its own, in which its function is inlined and vectorised.

/// act(x).
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
pub(in crate::flex) fn activate(x: &[f32], activation: Activation, out: &mut [f32]) {
    match activation {
        Activation::Silu => map(x, out, silu),
        Activation::GeluTanh => map(x, out, gelu_tanh),
        Activation::Gelu => map(x, out, gelu),
        Activation::Relu => map(x, out, relu),
    }
}

/// The gradient of act(x).
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
pub(in crate::flex) fn activate_backward(grad: &[f32], x: &[f32], activation: Activation, out: &mut [f32]) {
    match activation {
        Activation::Silu => map_times(x, grad, out, |x| silu_and_slope(x)[1]),
        Activation::GeluTanh => map_times(x, grad, out, |x| gelu_tanh_and_slope(x)[1]),
        Activation::Gelu => map_times(x, grad, out, |x| gelu_and_slope(x)[1]),
        Activation::Relu => map_times(x, grad, out, |x| relu_and_slope(x)[1]),
    }
}

/// act(gate)·up.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
pub(in crate::flex) fn gated(gate: &[f32], up: &[f32], activation: Activation, out: &mut [f32]) {
    match activation {
        Activation::Silu => map_times(gate, up, out, silu),
        Activation::GeluTanh => map_times(gate, up, out, gelu_tanh),
        Activation::Gelu => map_times(gate, up, out, gelu),
        Activation::Relu => map_times(gate, up, out, relu),
    }
}

/// The gradients of act(gate)·up.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
pub(in crate::flex) fn gated_backward(
    grad: &[f32],
    gate: &[f32],
    up: &[f32],
    activation: Activation,
    d_gate: &mut [f32],
    d_up: &mut [f32],
) {
    match activation {
        Activation::Silu => map_times_backward(grad, gate, up, d_gate, d_up, silu_and_slope),
        Activation::GeluTanh => map_times_backward(grad, gate, up, d_gate, d_up, gelu_tanh_and_slope),
        Activation::Gelu => map_times_backward(grad, gate, up, d_gate, d_up, gelu_and_slope),
        Activation::Relu => map_times_backward(grad, gate, up, d_gate, d_up, relu_and_slope),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Φ in f64 from its continued fraction and series, independent of the polynomial above.
    fn exact_cdf(x: f64) -> f64 {
        let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
        if x.abs() < 3.0 {
            // Φ(x) = ½ + φ(x)·(x + x³/3 + x⁵/(3·5) + …)
            let mut term = x;
            let mut sum = x;
            for k in 1..200 {
                term *= x * x / f64::from(2 * k + 1);
                sum += term;
            }
            return 0.5 + density * sum;
        }
        // Φ(−t) = φ(t)/(t + 1/(t + 2/(t + 3/(t + …))))
        let t = x.abs();
        let fraction = (1..200).rev().fold(t, |rest, k| t + f64::from(k) / rest);
        let tail = density / fraction;
        if x < 0.0 { tail } else { 1.0 - tail }
    }

    #[test]
    fn gelu_is_accurate_to_a_few_units_in_the_last_place() {
        let mut worst = [0.0f64; 2];
        for step in 0..400_000 {
            let x = -4.0 + step as f32 * 2e-5;
            let exact = f64::from(x) * exact_cdf(x.into());
            let error = (f64::from(gelu(x)) - exact).abs();
            worst[0] = worst[0].max(error / exact.abs().max(1e-30));
        }
        for step in 0..1_000_000 {
            let x = -50.0 + step as f32 * 1e-4;
            worst[1] = worst[1]
                .max((f64::from(gelu(x)) - f64::from(x) * exact_cdf(x.into())).abs() / f64::from(x.abs().max(1.0)));
        }
        let ulp = f64::from(f32::EPSILON);
        assert!(worst[0] < 8.0 * ulp, "relative error {:e}", worst[0]);
        assert!(worst[1] < 1.5 * ulp, "error {:e} of max(|x|, 1)", worst[1]);
        assert_eq!(normal_cdf(0.0)[0], 0.5);
        assert_eq!((normal_cdf(40.0)[0], normal_cdf(-40.0)[0]), (1.0, 0.0));
        assert!(gelu(f32::NAN).is_nan());
    }

    #[test]
    fn slopes_are_the_derivatives() {
        type Function = (fn(f32) -> f32, fn(f32) -> [f32; 2]);
        let functions: [Function; 4] =
            [(silu, silu_and_slope), (gelu_tanh, gelu_tanh_and_slope), (gelu, gelu_and_slope), (relu, relu_and_slope)];
        for (value, and_slope) in functions {
            for step in -600..600 {
                // Never at the corner of ReLU.
                let x = step as f32 * 0.01 + 0.005;
                let h = 0.004;
                let [same, slope] = and_slope(x);
                assert!((same - value(x)).abs() <= 2e-7 * x.abs().max(1.0), "value at {x}");
                let quotient = (value(x + h) - value(x - h)) / (2.0 * h);
                assert!((slope - quotient).abs() < 2e-4, "at {x}: {slope} for {quotient}");
            }
            // Far out, nothing overflows.
            let [left, right] = [-1e20, 1e20].map(|x| and_slope(x)[1]);
            assert!(left.abs() < 1e-6 && right == 1.0, "slopes {left} and {right}");
        }
        assert_eq!(relu_and_slope(0.0), [0.0, 0.0]);
    }

    /// These functions called one by one are compiled for the portable instruction set.
    #[test]
    fn vectorised_loops_give_the_bits_of_the_portable_functions() {
        let x: Vec<f32> = (-3000..3001).map(|step| step as f32 * 0.007).collect();
        let functions = [
            (Activation::Silu, silu_and_slope as fn(f32) -> [f32; 2], silu as fn(f32) -> f32),
            (Activation::GeluTanh, gelu_tanh_and_slope, gelu_tanh),
            (Activation::Gelu, gelu_and_slope, gelu),
            (Activation::Relu, relu_and_slope, relu),
        ];
        let (ones, mut out) = (vec![1.0; x.len()], vec![0.0; x.len()]);
        for (activation, and_slope, value) in functions {
            activate(&x, activation, &mut out);
            assert_eq!(out, x.iter().map(|&x| value(x)).collect::<Vec<f32>>(), "{activation:?}");
            activate_backward(&ones, &x, activation, &mut out);
            assert_eq!(out, x.iter().map(|&x| and_slope(x)[1]).collect::<Vec<f32>>(), "{activation:?}");
        }
        out.copy_from_slice(&x);
        super::super::soft_cap(&mut out, 3.0);
        assert_eq!(out, x.iter().map(|&x| super::super::soft_capped(x, 3.0)).collect::<Vec<f32>>());
    }
}
