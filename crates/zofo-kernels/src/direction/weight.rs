//! The formats in which weights are stored.

use half::bf16;

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::bf16 {}
}

/// A format in which weights are stored, `f32` or `bf16`. The trait is sealed.
pub trait Weight: sealed::Sealed + Copy {
    /// The same number as `f32`; exact.
    fn widen(self) -> f32;
}

impl Weight for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

impl Weight for bf16 {
    // `bf16::to_f32` quiets NaNs; without that branch the loop is a shift.
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

/// Bits of the largest finite `bf16`, as an `f32`.
const LARGEST_FINITE: u32 = 0x7F7F_0000;

/// Bits of infinity.
const INFINITY: u32 = 0x7F80_0000;

/// The bit that makes a NaN quiet; it survives the cut to `bf16`, which the others may not.
const QUIET: u32 = 0x0040_0000;

/// Rounds to one of the two neighbours in `bf16`, up in magnitude with the probability with which
/// `x` lies between them, so that the expected result is `x`.
///
/// The upper 16 bits of `word` decide. A finite `x` beyond the largest finite `bf16` gives that
/// one; infinities and NaNs stay what they are.
#[inline(always)]
pub(super) fn round_stochastically(x: f32, word: u32) -> bf16 {
    let bits = x.to_bits();
    let magnitude = bits & 0x7FFF_FFFF;
    // Floats of one sign are ordered like their bits, and evenly spaced between neighbours in
    // `bf16`: what is cut off is the distance in 2⁻¹⁶ of theirs, and adding a uniform 16-bit number
    // carries with just that probability.
    let carry = if magnitude < LARGEST_FINITE { word >> 16 } else { 0 };
    let quiet = if magnitude > INFINITY { QUIET } else { 0 };
    bf16::from_bits((((bits + carry) | quiet) >> 16) as u16)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The mean of the rounded values over all 2¹⁶ words, exactly: a sum of integers, in units in
    /// the last place.
    fn expected_bits(x: f32) -> (u64, u64) {
        let sum = (0..=0xFFFFu32).map(|r| u64::from(round_stochastically(x, r << 16).to_bits()) << 16).sum::<u64>();
        (sum >> 16, sum & 0xFFFF)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_expected_result_is_the_number(x in -LARGEST..LARGEST) {
            prop_assert_eq!(expected_bits(x), (u64::from(x.to_bits()), 0));
        }

        #[test]
        fn only_the_two_neighbours_occur(bits in 0..LARGEST_FINITE, sign: bool, word: u32) {
            let x = f32::from_bits(bits | u32::from(sign) << 31);
            let low = (x.to_bits() >> 16) as u16;
            let rounded = round_stochastically(x, word).to_bits();
            prop_assert!(rounded == low || (rounded == low + 1 && bits & 0xFFFF != 0));
        }

        #[test]
        fn what_bf16_can_hold_is_kept(bits: u16, word: u32) {
            let x = bf16::from_bits(bits);
            prop_assume!(!x.is_nan());
            prop_assert_eq!(round_stochastically(x.widen(), word).to_bits(), bits);
            prop_assert_eq!(x.widen(), x.to_f32());
        }

        #[test]
        fn nan_stays_nan(payload in 1u32..0x0080_0000, sign: bool, word: u32) {
            let x = f32::from_bits(INFINITY | payload | u32::from(sign) << 31);
            prop_assert!(round_stochastically(x, word).is_nan());
        }

        #[test]
        fn finite_stays_finite(bits in 0..INFINITY, sign: bool, word: u32) {
            let x = f32::from_bits(bits | u32::from(sign) << 31);
            prop_assert!(round_stochastically(x, word).is_finite());
        }
    }

    const LARGEST: f32 = f32::from_bits(LARGEST_FINITE);

    #[test]
    fn infinities_stay() {
        for word in [0, u32::MAX] {
            assert_eq!(round_stochastically(f32::INFINITY, word), bf16::INFINITY);
            assert_eq!(round_stochastically(f32::NEG_INFINITY, word), bf16::NEG_INFINITY);
            assert_eq!(round_stochastically(f32::MAX, word), bf16::MAX);
        }
    }
}
