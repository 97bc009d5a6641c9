//! Dot products with many rows of x in bf16: every row of x has a lane of a vector, and steps along the depth follow one
//! another.
//!
//! x is packed once, so that a vector holds the same two neighbours of 16 rows. Two neighbours in a row of the weight are read
//! where they lie and given to all lanes. A lane ends with what is asked for: where vectors lie along the depth, the lanes of
//! every product have to be added up, and most loads of a row straddle two cache lines.

use super::{Tile, by_tiles};
use crate::flex::weight::{Ahead, WeightMatrix};
use half::bf16;
use rayon::prelude::*;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

/// Rows of x in a vector.
const LANES: usize = 16;
/// Values along the depth in a lane.
const STEP: usize = 2;
/// Vectors of x in a register block, at most.
const VECTORS: usize = 3;
/// Steps after which something is loaded ahead. Often enough for the memory, and seldom enough for the loop between.
const STRETCH: usize = 32;

/// One step of 16 rows: for every lane its two values.
type Vector = __m512i;

/// Whether so many rows leave few enough lanes empty for this to be the faster way.
pub(super) fn are_filled_by(rows: usize) -> bool {
    6 * rows >= 5 * rows.next_multiple_of(LANES)
}

/// x·Wᵀ, both rounded to bf16.
///
/// # Safety
///
/// The CPU has `avx512f`, `avx512bw` and `avx512bf16`.
pub(super) unsafe fn product(x: &[f32], weight: &WeightMatrix) -> Vec<f32> {
    let (depth, signs) = (weight.columns, weight.signs());
    let (share, steps) = (x.len() / depth / signs, depth.div_ceil(STEP));
    let vectors = share.div_ceil(LANES);
    let count = signs * vectors * steps;
    let mut packed: Vec<Vector> = Vec::with_capacity(count);
    packed.spare_capacity_mut()[..count].par_chunks_mut(steps).enumerate().for_each(|(index, out)| {
        let (sign, vector) = (index / vectors, index % vectors);
        let first = sign * share + vector * LANES;
        let rows = LANES.min(share - vector * LANES);
        // SAFETY: the caller's promise.
        unsafe { pack(&x[first * depth..][..rows * depth], depth, out) };
    });
    // SAFETY: `pack` writes all that it is given.
    unsafe { packed.set_len(count) };
    let tiles = |tile: Tile<bf16>| {
        let x = &packed[tile.sign * vectors * steps..][..vectors * steps];
        // SAFETY: the caller's promise.
        unsafe { tile.run_in_lanes(x) };
    };
    // SAFETY: `run_in_lanes` writes all of the tile.
    unsafe { by_tiles(x.len(), weight, tiles) }
}

/// Rounds up to 16 rows and arranges them by their steps, into all of `out`. Lanes without a row, and the last step's second
/// value if the depth is odd, are zero.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn pack(x: &[f32], depth: usize, out: &mut [MaybeUninit<Vector>]) {
    const BLOCK: usize = LANES * STEP;
    for (block, out) in out.chunks_mut(LANES).enumerate() {
        let start = block * BLOCK;
        let valid = u32::MAX >> (BLOCK - BLOCK.min(depth - start));
        let mut rows = [_mm512_setzero_si512(); LANES];
        for (lane, row) in rows.iter_mut().zip(x.chunks_exact(depth)) {
            let row = row[start..].as_ptr();
            // SAFETY: the lanes of the masks are within the row.
            let [low, high] = unsafe {
                let (low, high) = (valid as u16, (valid >> LANES) as u16);
                [_mm512_maskz_loadu_ps(low, row), _mm512_maskz_loadu_ps(high, row.wrapping_add(LANES))]
            };
            let rounded = _mm512_cvtne2ps_pbh(high, low);
            // SAFETY: both are 512 bits without invalid values; the one's 32 bf16 are read as the other.
            *lane = unsafe { std::mem::transmute::<__m512bh, __m512i>(rounded) };
        }
        for (out, step) in out.iter_mut().zip(transpose(rows)) {
            out.write(step);
        }
    }
}

/// The transpose of a 16×16 matrix of 32-bit values.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(rows: [__m512i; 16]) -> [__m512i; 16] {
    let zero = _mm512_setzero_si512();
    let mut fours = [[zero; 4]; 4];
    for (rows, fours) in rows.as_chunks::<4>().0.iter().zip(&mut fours) {
        *fours = transpose_quarters(*rows);
    }
    // Quarter q of fours[g][k] is column 4q + k of rows 4g to 4g + 3: now the quarters are the matrix.
    let mut out = [zero; 16];
    for k in 0..4 {
        let (ab, cd) = ([fours[0][k], fours[1][k]], [fours[2][k], fours[3][k]]);
        let even = [ab, cd].map(|[a, b]| _mm512_shuffle_i32x4::<0b10_00_10_00>(a, b));
        let odd = [ab, cd].map(|[a, b]| _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b));
        out[k] = _mm512_shuffle_i32x4::<0b10_00_10_00>(even[0], even[1]);
        out[4 + k] = _mm512_shuffle_i32x4::<0b10_00_10_00>(odd[0], odd[1]);
        out[8 + k] = _mm512_shuffle_i32x4::<0b11_01_11_01>(even[0], even[1]);
        out[12 + k] = _mm512_shuffle_i32x4::<0b11_01_11_01>(odd[0], odd[1]);
    }
    out
}

/// In every quarter of 128 bits, the transpose of the 4×4 matrix of 32-bit values whose rows the four vectors hold.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose_quarters([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    let (ab_low, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let (cd_low, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    [
        _mm512_unpacklo_epi64(ab_low, cd_low),
        _mm512_unpackhi_epi64(ab_low, cd_low),
        _mm512_unpacklo_epi64(ab_high, cd_high),
        _mm512_unpackhi_epi64(ab_high, cd_high),
    ]
}

impl Tile<'_, bf16> {
    /// For every few vectors of x, which then stay in the second-level cache, all rows of the weight, which stay there, too.
    /// Meanwhile what is multiplied next is loaded.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn run_in_lanes(mut self, x: &[Vector]) {
        let vectors = self.rows.len().div_ceil(LANES);
        let groups = vectors.div_ceil(VECTORS);
        for group in 0..groups {
            // Groups of about equal size, none of them with a vector too many.
            let (start, end) = (group * vectors / groups, (group + 1) * vectors / groups);
            let lines = self.ahead.lines().div_ceil(groups - group);
            // As many columns as there are registers for their sums.
            match end - start {
                1 => self.columns_of::<1, 24>(x, start, lines),
                2 => self.columns_of::<2, 8>(x, start, lines),
                _ => self.columns_of::<VECTORS, 8>(x, start, lines),
            }
        }
    }

    /// All columns of `V` vectors of x, `C` at a time, while `lines` are loaded.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn columns_of<const V: usize, const C: usize>(&mut self, x: &[Vector], start: usize, lines: usize) {
        let (steps, width) = (self.depth.div_ceil(STEP), self.columns.len());
        let x = std::array::from_fn(|v| &x[(start + v) * steps..][..steps]);
        let lines = lines.div_ceil(width.div_ceil(C) * steps.div_ceil(STRETCH));
        for column in (0..width).step_by(C) {
            // At the edge a block repeats the last row; what it computes twice is not stored twice.
            let row = |c: usize| (column + c).min(width - 1) * self.depth;
            let w = std::array::from_fn(|c| &self.weights[row(c)..][..self.depth]);
            let sums = products::<V, C>(x, w, &mut self.ahead, lines);
            for (column, sums) in (column..width).step_by(8).zip(sums.as_chunks::<8>().0) {
                #[expect(clippy::needless_range_loop, reason = "v is the inner index of `sums`")]
                for v in 0..V {
                    let first = (start + v) * LANES;
                    let rows = [self.rows.start + first, LANES.min(self.rows.len() - first)];
                    let columns = [self.columns.start + column, 8.min(width - column)];
                    let values = rows_of_eight(std::array::from_fn(|c| sums[c][v]));
                    // SAFETY: the columns belong to this unit of work alone.
                    unsafe { self.out.write_rows(rows, columns, &values) };
                }
            }
        }
    }
}

/// 16 rows of the eight columns that the vectors hold.
#[inline]
#[target_feature(enable = "avx512f")]
fn rows_of_eight(columns: [__m512; 8]) -> [[f32; 8]; 16] {
    let quarters = |first: usize| transpose_quarters(std::array::from_fn(|c| _mm512_castps_si512(columns[first + c])));
    let (left, right) = (quarters(0), quarters(4));
    // Quarters of the left and the right half by turns.
    let low = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    let high = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    let mut rows = [[0.0; 8]; 16];
    for (k, (left, right)) in left.into_iter().zip(right).enumerate() {
        for (half, order) in [low, high].into_iter().enumerate() {
            let pair = _mm512_permutex2var_epi64(left, order, right);
            // SAFETY: both are 512 bits without invalid values.
            let pair = unsafe { std::mem::transmute::<__m512i, [[f32; 8]; 2]>(pair) };
            for (q, row) in pair.into_iter().enumerate() {
                rows[4 * (2 * half + q) + k] = row;
            }
        }
    }
    rows
}

/// The dot products of `V` vectors of rows with `C` rows of the weight, which have all one depth.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn products<const V: usize, const C: usize>(
    x: [&[Vector]; V],
    w: [&[bf16]; C],
    ahead: &mut Ahead,
    lines: usize,
) -> [[__m512; V]; C] {
    let depth = w[0].len();
    assert!(x.iter().all(|x| x.len() == depth.div_ceil(STEP)) && w.iter().all(|w| w.len() == depth), "one depth");
    let (x, w) = (x.map(<[Vector]>::as_ptr), w.map(<[bf16]>::as_ptr));
    let mut sums = [[_mm512_setzero_ps(); V]; C];
    let whole = depth / STEP;
    for stretch in (0..whole).step_by(STRETCH) {
        ahead.prefetch(lines);
        for step in stretch..whole.min(stretch + STRETCH) {
            // SAFETY: the step is one of x, and both its values are in every row of the weight.
            unsafe {
                add_step(&mut sums, x.map(|x| x.add(step)), |c| w[c].add(step * STEP).cast::<i32>().read_unaligned())
            };
        }
    }
    if whole * STEP < depth {
        // SAFETY: the step is the last of x; its first value is the last one of every row of the weight.
        unsafe {
            add_step(&mut sums, x.map(|x| x.add(whole)), |c| i32::from((*w[c].add(depth - 1)).to_bits()));
        }
    }
    sums
}

/// Adds the products of one step, given the two bf16 of every row of the weight.
///
/// # Safety
///
/// The vectors of x can be read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn add_step<const V: usize, const C: usize>(
    sums: &mut [[__m512; V]; C],
    x: [*const Vector; V],
    w: impl Fn(usize) -> i32,
) {
    // SAFETY: both are 512 bits without invalid values; the one is read as the other's 32 bf16.
    let as_bf16 = |bits: __m512i| unsafe { std::mem::transmute::<__m512i, __m512bh>(bits) };
    // SAFETY: the caller's promise.
    let x: [__m512bh; V] = std::array::from_fn(|v| as_bf16(unsafe { *x[v] }));
    for (c, sums) in sums.iter_mut().enumerate() {
        let w = as_bf16(_mm512_set1_epi32(w(c)));
        for (sum, x) in sums.iter_mut().zip(x) {
            *sum = _mm512_dpbf16_ps(*sum, x, w);
        }
    }
}
