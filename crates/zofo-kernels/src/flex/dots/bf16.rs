//! Dot products with weights in bf16.
//!
//! Where the CPU multiplies bf16 and products are to be those of bf16, both operands are that. Elsewhere x is held in f32 and
//! the weight is widened in registers: of two neighbours in a 32-bit lane, a shift gives the one and a mask the other. For
//! that, x is arranged in blocks of two vectors, its even elements first.

use super::run;
use crate::flex::round;
use crate::flex::simd;
use crate::flex::weight::WeightMatrix;
use crate::isa::{Isa, Set};
use half::bf16;
use rayon::prelude::*;
#[cfg(target_arch = "x86_64")]
use {
    super::f32::{sums_avx2, sums_avx512},
    crate::direction::Weight,
    std::arch::x86_64::*,
};

/// x·Wᵀ, both rounded to bf16, on a CPU that multiplies that.
#[cfg(target_arch = "x86_64")]
pub(super) fn product(x: &[f32], weight: &WeightMatrix) -> Vec<f32> {
    let mut rounded = vec![bf16::ZERO; x.len()];
    round::to_bf16(x, &mut rounded);
    // SAFETY: the caller's instruction set is the one with these features; all rows have one length.
    run(&rounded, weight, |x: [&[bf16]; 6], w: [&[bf16]; 4]| unsafe { avx512_bf16(x, w) })
}

/// x·Wᵀ with x in f32 and a weight that is read as the bf16 that it is.
pub(super) fn product_widened(isa: Isa, x: &[f32], weight: &WeightMatrix) -> Vec<f32> {
    match isa.set() {
        Set::Portable => run(x, weight, portable),
        #[cfg(target_arch = "x86_64")]
        Set::Avx2 => {
            let x = even_first::<8>(x, weight.columns);
            // SAFETY: an `Isa` proves that the CPU has the features of its set; all rows have one length.
            run(&x, weight, |x: [&[f32]; 3], w: [&[bf16]; 4]| unsafe { avx2(x, w) })
        }
        #[cfg(target_arch = "x86_64")]
        Set::Avx512 | Set::Avx512Bf16 => {
            let x = even_first::<16>(x, weight.columns);
            // SAFETY: as above.
            run(&x, weight, |x: [&[f32]; 6], w: [&[bf16]; 4]| unsafe { avx512(x, w) })
        }
    }
}

/// The dot product of every x with every w, all of one length.
fn portable(x: [&[f32]; 4], w: [&[bf16]; 1]) -> [[f32; 1]; 4] {
    x.map(|x| w.map(|w| simd::dot_widened(x, w)))
}

/// Rows of x with every block of 2·`LANES` elements arranged as its even elements, then its odd ones. What is left at the end
/// of a row stays as it is.
#[cfg(target_arch = "x86_64")]
fn even_first<const LANES: usize>(x: &[f32], depth: usize) -> Vec<f32> {
    let mut out = x.to_vec();
    out.par_chunks_exact_mut(depth).zip(x.par_chunks_exact(depth)).for_each(|(out, x)| {
        for (out, x) in out.chunks_exact_mut(2 * LANES).zip(x.chunks_exact(2 * LANES)) {
            for (lane, pair) in x.as_chunks::<2>().0.iter().enumerate() {
                [out[lane], out[LANES + lane]] = *pair;
            }
        }
    });
    out
}

/// A micro-kernel that widens the weight: x is arranged by [`even_first`].
macro_rules! widening_kernel {
    ($name:ident, $feature:literal, rows $rows:literal, lanes $lanes:literal, $vector:ident, $zero:ident, $load:ident, $fma:ident,
     $sums:ident, $load_pairs:ident, $shift:expr, $mask:expr, $cast:ident) => {
        /// The dot product of every x with every w. All partial sums stay in registers.
        ///
        /// # Safety
        ///
        /// All slices have one length.
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = $feature)]
        unsafe fn $name(x: [&[f32]; $rows], w: [&[bf16]; 4]) -> [[f32; 4]; $rows] {
            const BLOCK: usize = 2 * $lanes;
            let depth = x[0].len();
            let (x, w) = (x.map(<[f32]>::as_ptr), w.map(<[bf16]>::as_ptr));
            let mut partial: [[$vector; 4]; $rows] = [[$zero(); 4]; $rows];
            let whole = depth / BLOCK * BLOCK;
            let mut k = 0;
            while k < whole {
                // SAFETY: k + 2 · lanes ≤ depth, the length of every slice.
                let even: [$vector; $rows] = std::array::from_fn(|r| unsafe { $load(x[r].add(k)) });
                for c in 0..4 {
                    // SAFETY: as above.
                    let pairs = unsafe { $load_pairs(w[c].add(k).cast()) };
                    let w = $cast($shift(pairs));
                    for r in 0..$rows {
                        partial[r][c] = $fma(even[r], w, partial[r][c]);
                    }
                }
                // SAFETY: as above.
                let odd: [$vector; $rows] = std::array::from_fn(|r| unsafe { $load(x[r].add(k + $lanes)) });
                for c in 0..4 {
                    // SAFETY: as above.
                    let pairs = unsafe { $load_pairs(w[c].add(k).cast()) };
                    let w = $cast($mask(pairs));
                    for r in 0..$rows {
                        partial[r][c] = $fma(odd[r], w, partial[r][c]);
                    }
                }
                k += BLOCK;
            }
            let mut out = partial.map(|partial| $sums(partial));
            for k in whole..depth {
                for r in 0..$rows {
                    for c in 0..4 {
                        // SAFETY: k < depth.
                        let (x, w) = unsafe { (*x[r].add(k), *w[c].add(k)) };
                        out[r][c] = x.mul_add(w.widen(), out[r][c]);
                    }
                }
            }
            out
        }
    };
}

/// The upper half of a 32-bit lane.
#[cfg(target_arch = "x86_64")]
const UPPER: i32 = 0xFFFF_0000u32 as i32;

widening_kernel!(
    avx2, "avx2,fma", rows 3, lanes 8, __m256, _mm256_setzero_ps, _mm256_loadu_ps, _mm256_fmadd_ps, sums_avx2,
    _mm256_loadu_si256, |pairs| _mm256_slli_epi32::<16>(pairs),
    |pairs| _mm256_and_si256(pairs, _mm256_set1_epi32(UPPER)), _mm256_castsi256_ps
);
widening_kernel!(
    avx512, "avx512f", rows 6, lanes 16, __m512, _mm512_setzero_ps, _mm512_loadu_ps, _mm512_fmadd_ps, sums_avx512,
    _mm512_loadu_si512, |pairs| _mm512_slli_epi32::<16>(pairs),
    |pairs| _mm512_and_si512(pairs, _mm512_set1_epi32(UPPER)), _mm512_castsi512_ps
);

/// The dot product of every x with every w, by instructions that multiply pairs of bf16 and add in f32.
///
/// # Safety
///
/// All slices have one length.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn avx512_bf16(x: [&[bf16]; 6], w: [&[bf16]; 4]) -> [[f32; 4]; 6] {
    const BLOCK: usize = 32;
    let depth = x[0].len();
    let (x, w) = (x.map(|x| x.as_ptr().cast::<i16>()), w.map(|w| w.as_ptr().cast::<i16>()));
    let mut partial = [[_mm512_setzero_ps(); 4]; 6];
    let mut k = 0;
    while k < depth {
        // The last block may be a part of one: lanes beyond it are not read, and are zero.
        let lanes = u32::MAX >> (BLOCK - BLOCK.min(depth - k));
        // SAFETY: lanes of the mask lie before `depth`, the length of every slice.
        let load = |row: *const i16| unsafe { _mm512_maskz_loadu_epi16(lanes, row.add(k)) };
        // SAFETY: both are 512 bits without invalid values; the one is read as the other's 32 bf16.
        let load = |row: *const i16| unsafe { std::mem::transmute::<__m512i, __m512bh>(load(row)) };
        let x = x.map(load);
        for c in 0..4 {
            let w = load(w[c]);
            for r in 0..6 {
                partial[r][c] = _mm512_dpbf16_ps(partial[r][c], x[r], w);
            }
        }
        k += BLOCK;
    }
    partial.map(|partial| sums_avx512(partial))
}
