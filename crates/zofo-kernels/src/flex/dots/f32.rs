//! Dot products of f32 with f32.

use super::run;
use crate::flex::simd;
use crate::flex::weight::WeightMatrix;
use crate::isa::{Isa, Set};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// x·Wᵀ.
pub(super) fn product(isa: Isa, x: &[f32], weight: &WeightMatrix) -> Vec<f32> {
    match isa.set() {
        Set::Portable => run(x, weight, portable),
        // SAFETY: an `Isa` proves that the CPU has the features of its set; all rows have one length.
        #[cfg(target_arch = "x86_64")]
        Set::Avx2 => run(x, weight, |x: [&[f32]; 3], w: [&[f32]; 4]| unsafe { avx2(x, w) }),
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Set::Avx512 | Set::Avx512Bf16 => run(x, weight, |x: [&[f32]; 6], w: [&[f32]; 4]| unsafe { avx512(x, w) }),
    }
}

/// The dot product of every x with every w, all of one length.
fn portable(x: [&[f32]; 4], w: [&[f32]; 1]) -> [[f32; 1]; 4] {
    x.map(|x| w.map(|w| simd::dot(x, w)))
}

/// A micro-kernel: the vectors of an instruction set, and how four of them become four sums.
macro_rules! dot_kernel {
    ($name:ident, $feature:literal, rows $rows:literal, lanes $lanes:literal,
     $vector:ident, $zero:ident, $load:ident, $fma:ident, $sums:ident) => {
        /// The dot product of every x with every w. All partial sums stay in registers.
        ///
        /// # Safety
        ///
        /// All slices have one length.
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = $feature)]
        unsafe fn $name(x: [&[f32]; $rows], w: [&[f32]; 4]) -> [[f32; 4]; $rows] {
            let depth = x[0].len();
            let (x, w) = (x.map(<[f32]>::as_ptr), w.map(<[f32]>::as_ptr));
            let mut partial: [[$vector; 4]; $rows] = [[$zero(); 4]; $rows];
            let whole = depth / $lanes * $lanes;
            let mut k = 0;
            while k < whole {
                // SAFETY: k + lanes ≤ depth, the length of every slice.
                let x: [$vector; $rows] = std::array::from_fn(|r| unsafe { $load(x[r].add(k)) });
                for c in 0..4 {
                    // SAFETY: as above.
                    let w = unsafe { $load(w[c].add(k)) };
                    for r in 0..$rows {
                        partial[r][c] = $fma(x[r], w, partial[r][c]);
                    }
                }
                k += $lanes;
            }
            let mut out = partial.map(|partial| $sums(partial));
            for k in whole..depth {
                for r in 0..$rows {
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
    avx2, "avx2,fma", rows 3, lanes 8,
    __m256, _mm256_setzero_ps, _mm256_loadu_ps, _mm256_fmadd_ps, sums_avx2
);
dot_kernel!(
    avx512, "avx512f", rows 6, lanes 16,
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
pub(super) fn sums_avx512(vectors: [__m512; 4]) -> [f32; 4] {
    vectors.map(|vector| _mm512_reduce_add_ps(vector))
}
