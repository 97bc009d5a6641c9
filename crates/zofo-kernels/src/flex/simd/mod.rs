//! Elementwise loops, compiled for the instruction sets of the CPU and chosen at run time.
//!
//! No fused multiply-add is used here, so all instruction sets give the same bits.

mod activation;
mod norm;

pub(super) use activation::{activate, activate_backward, gated, gated_backward};
pub(super) use norm::{layer_norm, layer_norm_backward, rms_norm, rms_norm_backward};

use crate::direction::Weight;
use half::bf16;
use multiversion::multiversion;

/// Width of the partial sums of a reduction: fixed, so that the order of summation is.
const LANES: usize = 16;

/// Σ a·b.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    dot_inline(a, b)
}

/// Σ a·b with b widened.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
pub(super) fn dot_widened(a: &[f32], b: &[bf16]) -> f32 {
    dot_inline(a, b)
}

#[inline(always)]
fn dot_inline<W: Weight>(a: &[f32], b: &[W]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane].widen();
        }
    }
    for ((sum, a), b) in sums.iter_mut().zip(a_rest).zip(b_rest) {
        *sum += a * b.widen();
    }
    total(&sums)
}

#[inline(always)]
fn total(sums: &[f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    let mut sums = *sums;
    while half > 0 {
        for lane in 0..half {
            sums[lane] += sums[lane + half];
        }
        half /= 2;
    }
    sums[0]
}

/// out += scale·x.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
pub(super) fn axpy(scale: f32, x: &[f32], out: &mut [f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out += scale * x;
    }
}

/// x ← factor·x.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
pub(super) fn scale(x: &mut [f32], factor: f32) {
    for x in x {
        *x *= factor;
    }
}

/// Scores of keys at these positions become −∞ where the query at `position` does not see them: keys after it, and those
/// that lie `window` or more before it.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
pub(super) fn mask(scores: &mut [f32], keys: &[u32], position: u32, window: usize) {
    let farthest = u32::try_from(window.saturating_sub(1)).unwrap_or(u32::MAX);
    for (score, key) in scores.iter_mut().zip(keys) {
        // Of a key after the query, the distance wraps to a large number.
        let is_visible = (*key <= position) & (position.wrapping_sub(*key) <= farthest);
        *score = if is_visible { *score } else { f32::NEG_INFINITY };
    }
}

/// As [`mask`], of one key at `position` and queries at these positions.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
pub(super) fn mask_queries(scores: &mut [f32], queries: &[u32], position: u32, window: usize) {
    let farthest = u32::try_from(window.saturating_sub(1)).unwrap_or(u32::MAX);
    for (score, query) in scores.iter_mut().zip(queries) {
        let is_visible = (position <= *query) & (query.wrapping_sub(position) <= farthest);
        *score = if is_visible { *score } else { f32::NEG_INFINITY };
    }
}

/// The largest value; −∞ for none.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
pub(super) fn max(x: &[f32]) -> f32 {
    let mut best = [f32::NEG_INFINITY; LANES];
    let (blocks, rest) = x.as_chunks::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            best[lane] = if block[lane] > best[lane] { block[lane] } else { best[lane] };
        }
    }
    best.iter().chain(rest).fold(f32::NEG_INFINITY, |a, &b| a.max(b))
}

/// (eʳ − 1, 2ⁿ) with x = n·ln 2 + r: eʳ − 1 by its Taylor polynomial of degree 7 (|r| ≤ ln 2 / 2), and n into the exponent.
/// x must lie between −87 and 88.
#[inline(always)]
fn exp_parts(x: f32) -> (f32, f32) {
    // Adding 1.5·2²³ rounds to an integer, which the lower bits of the sum then hold.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    let mut p = 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    let power = f32::from_bits((shifted.to_bits().wrapping_add(127)) << 23);
    (p * (r * r) + r, power)
}

/// eˣ to about one unit in the last place. Below −87 the result is 0, above 88 it is clamped to e⁸⁸.
#[inline(always)]
fn exp(x: f32) -> f32 {
    let (below_one, power) = exp_parts(x.clamp(-87.0, 88.0));
    if x < -87.0 { 0.0 } else { (below_one + 1.0) * power }
}

/// tanh(x) to about two units in the last place, near zero too: with e = exp(2|x|) − 1, tanh|x| = e/(e + 2).
#[inline(always)]
fn tanh(x: f32) -> f32 {
    // From 10 on, tanh is 1 in f32.
    let (below_one, power) = exp_parts(2.0 * x.abs().clamp(0.0, 10.0));
    let e = below_one * power + (power - 1.0);
    (e / (e + 2.0)).copysign(x)
}

/// c·tanh(x/c).
#[inline(always)]
pub(super) fn soft_capped(x: f32, cap: f32) -> f32 {
    cap * tanh(x / cap)
}

/// x ← c·tanh(x/c).
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
pub(super) fn soft_cap(x: &mut [f32], cap: f32) {
    for x in x {
        *x = soft_capped(*x, cap);
    }
}

/// The derivative of c·tanh(x/c) in terms of its value y: 1 − (y/c)².
#[inline(always)]
pub(super) fn soft_cap_slope(capped: f32, cap: f32) -> f32 {
    let tanh = capped / cap;
    1.0 - tanh * tanh
}

/// x ← exp(x − shift); returns the sum.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
pub(super) fn exp_in_place(x: &mut [f32], shift: f32) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (blocks, rest) = x.as_chunks_mut::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            block[lane] = exp(block[lane] - shift);
            sums[lane] += block[lane];
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest) {
        *x = exp(*x - shift);
        *sum += *x;
    }
    total(&sums)
}

/// Rotates the rotary part of one head: pairs (x\[i\], x\[i + half\]) by the angles' cosines and sines.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
pub(super) fn rotate(x: &[f32], cos: &[f32], sin: &[f32], out: &mut [f32]) {
    let half = cos.len();
    let (first, second) = x.split_at(half);
    let (out_first, out_second) = out.split_at_mut(half);
    for i in 0..half {
        out_first[i] = first[i] * cos[i] - second[i] * sin[i];
        out_second[i] = second[i] * cos[i] + first[i] * sin[i];
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn exp_is_accurate_to_two_units_in_the_last_place() {
        let mut worst = 0.0f64;
        for step in 0..2_000_000 {
            let x = -87.0 + step as f32 * (175.0 / 2_000_000.0);
            let exact = f64::from(x).exp();
            let error = (f64::from(super::exp(x)) - exact).abs() / exact;
            worst = worst.max(error);
        }
        assert!(worst < 2.0 * f64::from(f32::EPSILON), "relative error {worst:e}");
        assert_eq!(super::exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(super::exp(0.0), 1.0);
        assert!(super::exp(f32::NAN).is_nan());
    }

    #[test]
    fn tanh_is_accurate_to_two_units_in_the_last_place() {
        let mut worst = 0.0f64;
        for step in 1..1_000_000 {
            // Small and large arguments alike: 1e-6 … 20.
            let x = (20.0 * (f64::from(step) / 1e6).powi(3)).max(1e-6) as f32;
            let exact = f64::from(x).tanh();
            worst = worst.max((f64::from(super::tanh(x)) - exact).abs() / exact);
            assert_eq!(super::tanh(-x), -super::tanh(x));
        }
        assert!(worst < 2.5 * f64::from(f32::EPSILON), "relative error {worst:e}");
        assert_eq!(super::tanh(f32::INFINITY), 1.0);
        assert_eq!(super::tanh(0.0), 0.0);
        assert!(super::tanh(f32::NAN).is_nan());
    }

    #[test]
    fn reductions_handle_every_length() {
        for len in 0..70 {
            let a: Vec<f32> = (0..len).map(|i| i as f32 - 20.0).collect();
            let plain: f32 = a.iter().map(|x| x * x).sum();
            assert_eq!(super::dot(&a, &a), plain);
            let largest = a.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(super::max(&a), largest);
            let mut e = a.clone();
            let sum = super::exp_in_place(&mut e, largest.max(0.0));
            assert!((sum - e.iter().sum::<f32>()).abs() <= 1e-5 * sum.max(1.0));
        }
    }
}
