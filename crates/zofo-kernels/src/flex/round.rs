//! Rounding to bf16: to nearest, ties to even.

use half::bf16;
use multiversion::multiversion;

/// The bits of the nearest bf16. NaNs stay NaNs: they become quiet, as their other bits may be cut off.
#[inline(always)]
pub(super) fn nearest_bits(x: f32) -> u16 {
    let bits = x.to_bits();
    let is_nan = bits & 0x7FFF_FFFF > 0x7F80_0000;
    // Half a unit in the last place, less one if the last bit that stays is even: a tie then carries only if it is odd.
    let rounded = bits.wrapping_add(0x7FFF + (bits >> 16 & 1));
    ((if is_nan { bits | 0x0040_0000 } else { rounded }) >> 16) as u16
}

/// The nearest bf16 as an f32.
#[inline(always)]
pub(super) fn nearest(x: f32) -> f32 {
    f32::from_bits(u32::from(nearest_bits(x)) << 16)
}

/// Rounds every value of `x` to bf16.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
pub(super) fn to_bf16(x: &[f32], out: &mut [bf16]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = bf16::from_bits(nearest_bits(*x));
    }
}

/// Rounds every value to what bf16 can hold.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
pub(super) fn in_place(x: &mut [f32]) {
    for x in x {
        *x = nearest(*x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the `half` crate: every bf16, the ties between neighbours, and what lies just beside those.
    #[test]
    fn rounding_is_to_nearest_even() {
        let mut values = Vec::new();
        for upper in 0..=u16::MAX {
            let lower = [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF];
            values.extend(lower.map(|lower| f32::from_bits(u32::from(upper) << 16 | lower)));
        }
        let mut rounded = vec![bf16::ZERO; values.len()];
        to_bf16(&values, &mut rounded);
        for (x, rounded) in values.iter().zip(&rounded) {
            assert_eq!(rounded.to_bits(), bf16::from_f32(*x).to_bits(), "{:x}", x.to_bits());
        }
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let widened: Vec<f32> = rounded.iter().map(|x| f32::from_bits(u32::from(x.to_bits()) << 16)).collect();
        in_place(&mut values);
        assert_eq!(bits(&values), bits(&widened));
    }
}
