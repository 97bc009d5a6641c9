//! Two random words into two standard normals (Box and Muller, 1958), in operations that IEEE 754
//! rounds correctly.
//!
//! Only `+ − × ÷ √`, integer arithmetic and bit operations occur, in the order written here. Rust
//! neither reorders nor fuses floating-point operations, so the result has the same bits on every
//! CPU. `mul_add`, `ln`, `sin` and `cos` have no place in this file outside its tests.
//!
//! **Radius.** From a word v: u = fl(fl(v) + ½) · 2⁻³², which lies in [2⁻³³, 1], and r = √(−2 ln u)
//! ≤ 6.77. With u = 2ᵏ·m, m in [√½, √2), and s = (m − 1)/(m + 1): −2 ln u = −2k ln 2 − 4 artanh s.
//!
//! **Angle.** From a word v: y = π/4 · 2⁻³¹ · (the low 30 bits of v, times 4, as a signed integer),
//! which lies in [−π/4, π/4). Bit 31 mirrors the point (cos y, sin y) in the vertical axis, then
//! bit 30 mirrors it in the diagonal: four quarter circles that together are the whole one.
//!
//! **Accuracy.** Against these formulas in exact arithmetic, given u and the angle, a normal is off
//! by less than 2.5e-7 · r.

/// Bits of √½ as `f32`: the lower end of the interval to which a mantissa is reduced.
const SQRT_HALF_BITS: u32 = 0x3F35_04F3;

/// What is added to the bits of a float so that its exponent steps at √½ instead of at 1.
const EXPONENT_SHIFT: u32 = 0x3F80_0000 - SQRT_HALF_BITS;

/// The exponent bias of `f32`, and the 32 binary places by which a word is larger than its u.
const EXPONENT_OFFSET: i32 = 127 + 32;

/// −2 ln 2.
const MINUS_TWO_LN_2: f32 = -1.386_294_4;

/// (4 artanh s − 4 s)/s³ as a polynomial in s², interpolated at the Chebyshev nodes of [0, (3 −
/// 2√2)²]; relative error of 4 artanh s below 3e-9.
const ARTANH: [f32; 3] = [1.333_333_7, 0.799_775_6, 0.591_599];

/// π/4 · 2⁻³¹: radians of one unit of a signed 32-bit fraction of an eighth of a turn.
const RADIANS: f32 = 3.657_295_3e-10;

/// (sin y − y)/y³ as a polynomial in y², interpolated at the Chebyshev nodes of [0, (π/4)²];
/// relative error of sin y below 2e-8.
const SIN: [f32; 3] = [-0.166_666_64, 8.332_748e-3, -1.958_789e-4];

/// (cos y − 1 + y²/2)/y⁴ as a polynomial in y², interpolated likewise; absolute error of cos y
/// below 1e-9.
const COS: [f32; 3] = [0.041_666_664, -1.388_830_3e-3, 2.454_794_2e-5];

/// The pair of normals of two words: r times the abscissa and r times the ordinate of a point of
/// the unit circle.
#[inline(always)]
pub(super) fn box_muller(radius_word: u32, angle_word: u32) -> (f32, f32) {
    let r = radius(radius_word);
    let (x, y) = unit_vector(angle_word);
    (r * x, r * y)
}

/// √(−2 ln u) of the u of a word; see the module's description.
#[inline(always)]
fn radius(word: u32) -> f32 {
    let bits = (word as f32 + 0.5).to_bits() + EXPONENT_SHIFT;
    let k = ((bits >> 23) as i32 - EXPONENT_OFFSET) as f32;
    let m = f32::from_bits((bits & 0x007F_FFFF) + SQRT_HALF_BITS);
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let four_artanh = s * (4.0 + z * (ARTANH[0] + z * (ARTANH[1] + z * ARTANH[2])));
    (k * MINUS_TWO_LN_2 - four_artanh).sqrt()
}

/// A point of the unit circle, uniformly distributed if the word is; see the module's description.
#[inline(always)]
fn unit_vector(word: u32) -> (f32, f32) {
    let y = (word << 2) as i32 as f32 * RADIANS;
    let z = y * y;
    let sin = y + y * (z * (SIN[0] + z * (SIN[1] + z * SIN[2])));
    let cos = 1.0 + z * (-0.5 + z * (COS[0] + z * (COS[1] + z * COS[2])));
    let cos = f32::from_bits(cos.to_bits() ^ (word & 0x8000_0000));
    if word & 0x4000_0000 == 0 { (cos, sin) } else { (sin, cos) }
}

#[cfg(test)]
mod tests {
    use std::f64::consts::{FRAC_PI_2, FRAC_PI_4, PI};

    use super::*;

    /// The module's formulas in `f64` with the standard library's functions: the radius and the two
    /// normals.
    fn exact(radius_word: u32, angle_word: u32) -> (f64, f64, f64) {
        let u = f64::from(radius_word as f32 + 0.5) / 2f64.powi(32);
        let r = (-2.0 * u.ln()).sqrt();
        let y = f64::from((angle_word << 2) as i32) / 2f64.powi(31) * FRAC_PI_4;
        let mirrored = if angle_word >> 31 == 0 { y } else { PI - y };
        let angle = if angle_word >> 30 & 1 == 0 { mirrored } else { FRAC_PI_2 - mirrored };
        (r, r * angle.cos(), r * angle.sin())
    }

    /// Words that are spread over all sizes, so that both tails and the centre are visited: odd
    /// multiples of a large constant, shifted right by 0 to 31.
    fn words(count: u32) -> impl Iterator<Item = u32> {
        (0..count).map(|i| i.wrapping_mul(0x9E37_79B9) >> (i % 32))
    }

    #[test]
    fn a_normal_is_off_by_less_than_the_stated_bound() {
        for (radius_word, angle_word) in words(3_000_000).zip((0u32..).map(|i| i.wrapping_mul(0x85EB_CA6B))) {
            for radius_word in [radius_word, !radius_word] {
                let (r, x, y) = exact(radius_word, angle_word);
                let (a, b) = box_muller(radius_word, angle_word);
                let error = (f64::from(a) - x).abs().max((f64::from(b) - y).abs());
                assert!(error <= 2.5e-7 * r, "words {radius_word:x}, {angle_word:x}: ({a}, {b}) for ({x}, {y})");
            }
        }
    }

    #[test]
    fn the_ends_of_the_radius_are_finite() {
        assert_eq!(radius(u32::MAX), 0.0);
        let farthest = radius(0);
        assert!((f64::from(farthest) - (66.0 * 2f64.ln()).sqrt()).abs() < 1e-6, "{farthest}");
    }

    #[test]
    fn the_unit_vector_visits_each_quarter_of_the_circle_equally() {
        let mut counts = [0; 8];
        for i in 0..8u32 << 12 {
            let (x, y) = unit_vector((i << 17) | 0x1_0000);
            let octant = (f64::from(y).atan2(f64::from(x)) / FRAC_PI_4).rem_euclid(8.0) as usize;
            counts[octant] += 1;
        }
        assert_eq!(counts, [1 << 12; 8]);
    }
}
