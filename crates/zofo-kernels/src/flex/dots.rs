//! x·Wᵀ as dot products of rows: both operands lie in memory as they are multiplied, so nothing is packed.
//!
//! A register block computes the products of a few rows of x with a few rows of W, with vectors along the depth. A weight that
//! needs no change is read where it is; a perturbed or bf16 one is formed once per unit of work in a buffer of the thread.
//! That makes it faster than packing, most so where it matters here: with few rows per weight.
//!
//! The work is cut into units by the shape alone, and every dot product runs over the whole depth in one fixed order, so
//! results do not depend on the number of threads.

use super::columns::SharedColumns;
use super::weight::WeightMatrix;
use crate::isa::{Isa, Set};
use rayon::prelude::*;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
use std::ops::Range;

/// Rows of the weight in one unit of work. A multiple of every block's columns.
const UNIT: usize = 96;
/// Bytes of x that are multiplied with a whole unit before the next: about half of a second-level cache.
const BLOCK_BYTES: usize = 256 << 10;

/// y = x·Wᵀ: x `[rows, in]`, W `[out, in]`, y `[rows, out]`. For a pair, the first half of the rows sees one sign.
pub(super) fn product(x: &[f32], weight: &WeightMatrix) -> Vec<f32> {
    let (depth, width, signs) = (weight.columns, weight.rows, weight.signs());
    let rows = x.len() / depth;
    let share = rows / signs;
    let isa = Isa::best();
    let block_rows = (BLOCK_BYTES / (4 * depth)).max(16).next_multiple_of(12);
    let mut y = vec![0.0f32; rows * width];
    let out = SharedColumns::new(&mut y, width);
    (0..width.div_ceil(UNIT)).into_par_iter().for_each_init(<[Vec<f32>; 2]>::default, |buffers, unit| {
        let columns = unit * UNIT..((unit + 1) * UNIT).min(width);
        let weights = unit_rows(weight, columns.clone(), buffers);
        for (sign, weights) in weights.iter().take(signs).enumerate() {
            for start in (0..share).step_by(block_rows) {
                let block = sign * share + start..sign * share + share.min(start + block_rows);
                let tile = Tile {
                    x: &x[block.start * depth..block.end * depth],
                    weights,
                    depth,
                    out: &out,
                    rows: block,
                    columns: columns.clone(),
                };
                tile.run(isa);
            }
        }
    });
    y
}

/// Rows of the weight as every sign sees them: where they are stored, or else formed in the buffers.
fn unit_rows<'a>(weight: &WeightMatrix<'a>, rows: Range<usize>, buffers: &'a mut [Vec<f32>; 2]) -> [&'a [f32]; 2] {
    let depth = weight.columns;
    if let Some(stored) = weight.borrow(rows.start, 0, rows.len() * depth) {
        return [stored, &[]];
    }
    let [first, second] = buffers;
    first.resize(rows.len() * depth, 0.0);
    if weight.signs() == 2 {
        second.resize(rows.len() * depth, 0.0);
        // Rows are contiguous, so a run of them is read like one long row.
        weight.read(rows.start, 0, [first, second]);
    } else {
        weight.read(rows.start, 0, [first, &mut []]);
    }
    [first, second]
}

/// Some rows of x with one unit of the weight.
struct Tile<'a> {
    x: &'a [f32],
    weights: &'a [f32],
    depth: usize,
    out: &'a SharedColumns<'a>,
    /// Rows of the result.
    rows: Range<usize>,
    /// Columns of the result.
    columns: Range<usize>,
}

impl Tile<'_> {
    fn run(&self, isa: Isa) {
        match isa.set() {
            Set::Portable => self.blocks(portable),
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => self.blocks(|x: [&[f32]; 3], w: [&[f32]; 4]| {
                // SAFETY: an `Isa` proves that the CPU has the features of its set; all rows have one length.
                unsafe { avx2(x, w) }
            }),
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => self.blocks(|x: [&[f32]; 6], w: [&[f32]; 4]| {
                // SAFETY: as above.
                unsafe { avx512(x, w) }
            }),
        }
    }

    /// For every few rows of the weight, which then stay in the first-level cache, all rows of x.
    fn blocks<const R: usize, const C: usize>(&self, products: impl Fn([&[f32]; R], [&[f32]; C]) -> [[f32; C]; R]) {
        let depth = self.depth;
        let (x_rows, w_rows) = (self.rows.len(), self.columns.len());
        // At the edges a block repeats the last row; what it computes twice is not stored twice.
        let row = |index: usize, count: usize| {
            let index = index.min(count - 1);
            index * depth..(index + 1) * depth
        };
        for j in (0..w_rows).step_by(C) {
            let w: [&[f32]; C] = std::array::from_fn(|c| &self.weights[row(j + c, w_rows)]);
            for i in (0..x_rows).step_by(R) {
                let x: [&[f32]; R] = std::array::from_fn(|r| &self.x[row(i + r, x_rows)]);
                let products = products(x, w);
                for (r, products) in products.iter().enumerate().take(x_rows - i) {
                    let width = C.min(w_rows - j);
                    // SAFETY: the columns belong to this unit of work alone, and this slice is dropped before the next.
                    let out = unsafe { self.out.row_part(self.rows.start + i + r, self.columns.start + j, width) };
                    out.copy_from_slice(&products[..width]);
                }
            }
        }
    }
}

/// The dot product of every x with every w, all of one length.
fn portable(x: [&[f32]; 4], w: [&[f32]; 1]) -> [[f32; 1]; 4] {
    x.map(|x| w.map(|w| super::simd::dot(x, w)))
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
fn sums_avx2([a, b, c, d]: [__m256; 4]) -> [f32; 4] {
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
fn sums_avx512(vectors: [__m512; 4]) -> [f32; 4] {
    vectors.map(|vector| _mm512_reduce_add_ps(vector))
}
