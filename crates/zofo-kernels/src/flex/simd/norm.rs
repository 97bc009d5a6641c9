//! Norms of one row.

use super::{LANES, dot_inline, total};
use multiversion::multiversion;

/// Root-mean-square norm of one row: x·r·w with r = 1/√(mean(x²) + eps).
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
pub(in crate::flex) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let r = 1.0 / (dot_inline(x, x) / x.len() as f32 + eps).sqrt();
    for ((out, &x), &w) in out.iter_mut().zip(x).zip(weight) {
        *out = x * r * w;
    }
}

/// Gradient of [`rms_norm`] of one row with respect to x.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
pub(in crate::flex) fn rms_norm_backward(grad: &[f32], x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let width = x.len() as f32;
    let r = 1.0 / (dot_inline(x, x) / width + eps).sqrt();
    for ((out, &grad), &w) in out.iter_mut().zip(grad).zip(weight) {
        *out = grad * w;
    }
    let inner = dot_inline(out, x) / width * r * r * r;
    for (out, &x) in out.iter_mut().zip(x) {
        *out = *out * r - x * inner;
    }
}

/// Σ x.
#[inline(always)]
fn sum_inline(x: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (blocks, rest) = x.as_chunks::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            sums[lane] += block[lane];
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest) {
        *sum += x;
    }
    total(&sums)
}

/// Writes x − mean(x) into `out` and returns 1/√(variance + eps). The squares are those of the centred values: the
/// difference of two large means would lose what a small variance has.
#[inline(always)]
fn centre(x: &[f32], eps: f32, out: &mut [f32]) -> f32 {
    let mean = sum_inline(x) / x.len() as f32;
    for (out, &x) in out.iter_mut().zip(x) {
        *out = x - mean;
    }
    1.0 / (dot_inline(out, out) / x.len() as f32 + eps).sqrt()
}

/// Layer norm of one row: (x − mean)·r·w + b with r = 1/√(variance + eps).
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
pub(in crate::flex) fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    let r = centre(x, eps, out);
    for ((out, &w), &b) in out.iter_mut().zip(weight).zip(bias) {
        *out = *out * r * w + b;
    }
}

/// Σ a·b and Σ a·b·c.
#[inline(always)]
fn two_sums_inline(a: &[f32], b: &[f32], c: &[f32]) -> [f32; 2] {
    let (mut first, mut second) = ([0.0f32; LANES], [0.0f32; LANES]);
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    let (c_blocks, c_rest) = c.as_chunks::<LANES>();
    for ((a, b), c) in a_blocks.iter().zip(b_blocks).zip(c_blocks) {
        for lane in 0..LANES {
            let product = a[lane] * b[lane];
            first[lane] += product;
            second[lane] += product * c[lane];
        }
    }
    for (lane, ((a, b), c)) in a_rest.iter().zip(b_rest).zip(c_rest).enumerate() {
        first[lane] += a * b;
        second[lane] += a * b * c;
    }
    [total(&first), total(&second)]
}

/// Gradient of [`layer_norm`] of one row with respect to x: with u = grad·w and n = (x − mean)·r,
/// r·(u − mean(u) − n·mean(u·n)).
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
pub(in crate::flex) fn layer_norm_backward(grad: &[f32], x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let width = x.len() as f32;
    let r = centre(x, eps, out);
    let [mean, inner] = two_sums_inline(grad, weight, out).map(|sum| sum / width);
    let inner = inner * r * r;
    for ((out, &grad), &w) in out.iter_mut().zip(grad).zip(weight) {
        *out = (grad * w - mean - *out * inner) * r;
    }
}
