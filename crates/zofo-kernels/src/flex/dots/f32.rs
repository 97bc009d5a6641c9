//! Dot products of f32 with f32.

use super::{Micro, run};
use crate::flex::simd;
use crate::flex::weight::WeightMatrix;
use crate::isa::{Isa, Set};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// x·Wᵀ.
pub(super) fn product(isa: Isa, x: &[f32], weight: &WeightMatrix) -> Vec<f32> {
    match isa.set() {
        Set::Portable => run(x, weight, &Portable),
        #[cfg(target_arch = "x86_64")]
        Set::Avx2 => run(x, weight, &Avx2),
        #[cfg(target_arch = "x86_64")]
        Set::Avx512 | Set::Avx512Bf16 => run(x, weight, &Avx512),
    }
}

struct Portable;

impl Micro<f32, f32> for Portable {
    const ROWS: usize = 4;

    fn products<const R: usize>(&self, x: [&[f32]; R], w: [&[f32]; 4]) -> [[f32; 4]; R] {
        x.map(|x| w.map(|w| simd::dot(x, w)))
    }
}

#[cfg(target_arch = "x86_64")]
micro!(Avx2: f32, f32, rows 3, avx2);
#[cfg(target_arch = "x86_64")]
micro!(Avx512: f32, f32, rows 6, avx512);

/// A micro-kernel: the vectors of an instruction set, and how four of them become four sums.
macro_rules! dot_kernel {
    ($name:ident, $feature:literal, lanes $lanes:literal,
     $vector:ident, $zero:ident, $load:ident, $fma:ident, $sums:ident) => {
        /// The dot product of every x with every w. All partial sums stay in registers.
        ///
        /// # Safety
        ///
        /// All slices have one length.
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = $feature)]
        unsafe fn $name<const R: usize>(x: [&[f32]; R], w: [&[f32]; 4]) -> [[f32; 4]; R] {
            let depth = x[0].len();
            let (x, w) = (x.map(<[f32]>::as_ptr), w.map(<[f32]>::as_ptr));
            let mut partial: [[$vector; 4]; R] = [[$zero(); 4]; R];
            let whole = depth / $lanes * $lanes;
            let mut k = 0;
            while k < whole {
                // SAFETY: k + lanes ≤ depth, the length of every slice.
                let x: [$vector; R] = std::array::from_fn(|r| unsafe { $load(x[r].add(k)) });
                for c in 0..4 {
                    // SAFETY: as above.
                    let w = unsafe { $load(w[c].add(k)) };
                    for r in 0..R {
                        partial[r][c] = $fma(x[r], w, partial[r][c]);
                    }
                }
                k += $lanes;
            }
            // A closure in `map` would not be compiled for the feature, and would have the sums in memory.
            let mut out = [[0.0; 4]; R];
            for r in 0..R {
                out[r] = $sums(partial[r]);
            }
            for k in whole..depth {
                for r in 0..R {
                    for c in 0..4 {
                        // SAFETY: k < depth.
                        let (x, w) = unsafe { (*x[r].add(k), *w[c].add(k)) };
                        out[r][c] = x.mul_add(w, out[r][c]);
                    }
                }
            }
            out
        }
    };
}

dot_kernel!(
    avx2, "avx2,fma", lanes 8,
    __m256, _mm256_setzero_ps, _mm256_loadu_ps, _mm256_fmadd_ps, sums_avx2
);
dot_kernel!(
    avx512, "avx512f", lanes 16,
    __m512, _mm512_setzero_ps, _mm512_loadu_ps, _mm512_fmadd_ps, sums_avx512
);

/// The sum of the lanes of each of four vectors.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
pub(super) fn sums_avx2([a, b, c, d]: [__m256; 4]) -> [f32; 4] {
    let pairs = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    let sums = _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps::<1>(pairs));
    let mut out = [0.0; 4];
    // SAFETY: the array holds the vector.
    unsafe { _mm_storeu_ps(out.as_mut_ptr(), sums) };
    out
}

/// The sum of the lanes of each of four vectors.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
pub(super) fn sums_avx512([a, b, c, d]: [__m512; 4]) -> [f32; 4] {
    // In every quarter of 128 bits first: two sums of a next to two of b, then one sum of each of the four.
    let ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    let cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    let quarters =
        _mm512_add_ps(_mm512_shuffle_ps::<0b01_00_01_00>(ab, cd), _mm512_shuffle_ps::<0b11_10_11_10>(ab, cd));
    let first = _mm_add_ps(_mm512_extractf32x4_ps::<0>(quarters), _mm512_extractf32x4_ps::<1>(quarters));
    let second = _mm_add_ps(_mm512_extractf32x4_ps::<2>(quarters), _mm512_extractf32x4_ps::<3>(quarters));
    let sums = _mm_add_ps(first, second);
    let mut out = [0.0; 4];
    // SAFETY: the array holds the vector.
    unsafe { _mm_storeu_ps(out.as_mut_ptr(), sums) };
    out
}
