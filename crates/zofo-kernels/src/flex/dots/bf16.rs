//! Dot products with weights in bf16.
//!
//! Where the CPU multiplies bf16 and products are to be those of bf16, both operands are that. Elsewhere x is held in f32 and
//! the weight is widened in registers: of two neighbours in a 32-bit lane, a shift gives the one and a mask the other. For
//! that, x is arranged in blocks of two vectors, its even elements first.

use super::{Micro, run};
use crate::flex::simd;
use crate::flex::weight::WeightMatrix;
use crate::isa::{Isa, Set};
use half::bf16;
use rayon::prelude::*;
#[cfg(target_arch = "x86_64")]
use {
    super::f32::{sums_avx2, sums_avx512},
    super::lanes,
    crate::direction::Weight,
    crate::flex::{new_values, round},
    std::arch::x86_64::*,
};

/// Elements that a thread rounds at once.
#[cfg(target_arch = "x86_64")]
const PIECE: usize = 1 << 14;

/// x·Wᵀ, both rounded to bf16, on a CPU that multiplies that.
#[cfg(target_arch = "x86_64")]
pub(super) fn product(x: &[f32], weight: &WeightMatrix) -> Vec<f32> {
    if lanes::are_filled_by(x.len() / weight.columns / weight.signs()) {
        // SAFETY: this CPU has the features.
        return unsafe { lanes::product(x, weight) };
    }
    let rounded = new_values(
        x.len(),
        PIECE,
        || (),
        |(), piece, rounded| {
            round::to_bf16(&x[piece * PIECE..][..rounded.len()], rounded);
        },
    );
    run(&rounded, weight, &Avx512Bf16)
}

/// x·Wᵀ with x in f32 and a weight that is read as the bf16 that it is.
pub(super) fn product_widened(isa: Isa, x: &[f32], weight: &WeightMatrix) -> Vec<f32> {
    match isa.set() {
        Set::Portable => run(x, weight, &Portable),
        #[cfg(target_arch = "x86_64")]
        Set::Avx2 => run(&even_first::<8>(x, weight.columns), weight, &Avx2),
        #[cfg(target_arch = "x86_64")]
        Set::Avx512 | Set::Avx512Bf16 => run(&even_first::<16>(x, weight.columns), weight, &Avx512),
    }
}

struct Portable;

impl Micro<f32, bf16> for Portable {
    const ROWS: usize = 4;

    fn products<const R: usize>(&self, x: [&[f32]; R], w: [&[bf16]; 4]) -> [[f32; 4]; R] {
        x.map(|x| w.map(|w| simd::dot_widened(x, w)))
    }
}

// These widen the weight.
#[cfg(target_arch = "x86_64")]
micro!(Avx2: f32, bf16, rows 3, avx2);
#[cfg(target_arch = "x86_64")]
micro!(Avx512: f32, bf16, rows 6, avx512);
// This one multiplies bf16.
#[cfg(target_arch = "x86_64")]
micro!(Avx512Bf16: bf16, bf16, rows 6, avx512_bf16);

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
    ($name:ident, $feature:literal, lanes $lanes:literal, $vector:ident, $zero:ident, $load:ident, $fma:ident,
     $sums:ident, $load_pairs:ident, $shift:expr, $mask:expr, $cast:ident) => {
        /// The dot product of every x with every w. All partial sums stay in registers.
        ///
        /// # Safety
        ///
        /// All slices have one length.
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = $feature)]
        unsafe fn $name<const R: usize>(x: [&[f32]; R], w: [&[bf16]; 4]) -> [[f32; 4]; R] {
            const BLOCK: usize = 2 * $lanes;
            let depth = x[0].len();
            let (x, w) = (x.map(<[f32]>::as_ptr), w.map(<[bf16]>::as_ptr));
            let mut partial: [[$vector; 4]; R] = [[$zero(); 4]; R];
            let whole = depth / BLOCK * BLOCK;
            let mut k = 0;
            while k < whole {
                // SAFETY: k + 2 · lanes ≤ depth, the length of every slice.
                let even: [$vector; R] = std::array::from_fn(|r| unsafe { $load(x[r].add(k)) });
                for c in 0..4 {
                    // SAFETY: as above.
                    let pairs = unsafe { $load_pairs(w[c].add(k).cast()) };
                    let w = $cast($shift(pairs));
                    for r in 0..R {
                        partial[r][c] = $fma(even[r], w, partial[r][c]);
                    }
                }
                // SAFETY: as above.
                let odd: [$vector; R] = std::array::from_fn(|r| unsafe { $load(x[r].add(k + $lanes)) });
                for c in 0..4 {
                    // SAFETY: as above.
                    let pairs = unsafe { $load_pairs(w[c].add(k).cast()) };
                    let w = $cast($mask(pairs));
                    for r in 0..R {
                        partial[r][c] = $fma(odd[r], w, partial[r][c]);
                    }
                }
                k += BLOCK;
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
    avx2, "avx2,fma", lanes 8, __m256, _mm256_setzero_ps, _mm256_loadu_ps, _mm256_fmadd_ps, sums_avx2,
    _mm256_loadu_si256, |pairs| _mm256_slli_epi32::<16>(pairs),
    |pairs| _mm256_and_si256(pairs, _mm256_set1_epi32(UPPER)), _mm256_castsi256_ps
);
widening_kernel!(
    avx512, "avx512f", lanes 16, __m512, _mm512_setzero_ps, _mm512_loadu_ps, _mm512_fmadd_ps, sums_avx512,
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
unsafe fn avx512_bf16<const R: usize>(x: [&[bf16]; R], w: [&[bf16]; 4]) -> [[f32; 4]; R] {
    let depth = x[0].len();
    let (x, w) = (x.map(|x| x.as_ptr().cast::<i16>()), w.map(|w| w.as_ptr().cast::<i16>()));
    let mut partial = [[_mm512_setzero_ps(); 4]; R];
    let whole = depth / PAIRS * PAIRS;
    for k in (0..whole).step_by(PAIRS) {
        // SAFETY: k + 32 ≤ depth, the length of every slice.
        unsafe { add_products(&mut partial, x.map(|x| x.add(k)), w.map(|w| w.add(k)), u32::MAX) };
    }
    if whole < depth {
        // SAFETY: the lanes of the mask lie before `depth`, and so does `whole`.
        unsafe {
            let lanes = u32::MAX >> (PAIRS - (depth - whole));
            add_products(&mut partial, x.map(|x| x.add(whole)), w.map(|w| w.add(whole)), lanes);
        }
    }
    let mut out = [[0.0; 4]; R];
    for r in 0..R {
        out[r] = sums_avx512(partial[r]);
    }
    out
}

/// bf16 in a vector.
#[cfg(target_arch = "x86_64")]
const PAIRS: usize = 32;

/// Adds the products of the next 32 elements, or of those that `lanes` has, to the partial sums. The others are not read.
///
/// # Safety
///
/// The elements that `lanes` has can be read.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn add_products<const R: usize>(
    partial: &mut [[__m512; 4]; R],
    x: [*const i16; R],
    w: [*const i16; 4],
    lanes: u32,
) {
    let load = |row: *const i16| {
        // SAFETY: the caller's promise.
        let vector = unsafe { _mm512_maskz_loadu_epi16(lanes, row) };
        // SAFETY: both are 512 bits without invalid values; the one is read as the other's 32 bf16.
        unsafe { std::mem::transmute::<__m512i, __m512bh>(vector) }
    };
    let x: [__m512bh; R] = std::array::from_fn(|r| load(x[r]));
    for c in 0..4 {
        let w = load(w[c]);
        for r in 0..R {
            partial[r][c] = _mm512_dpbf16_ps(partial[r][c], x[r], w);
        }
    }
}
