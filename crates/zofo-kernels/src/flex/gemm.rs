//! x·W, with the weight packed tile by tile.
//!
//! The classical blocked product (Goto and van de Geijn, 2008): x is packed once into panels of a few rows, every thread
//! packs its own tile of the weight into panels of a few columns and runs a register-blocked micro-kernel over both. Packing
//! touches every element of the weight anyway, so that is where bf16 is widened and w ± ε·z is formed: a perturbed weight
//! exists only as one tile in a thread's cache.
//!
//! The work is cut into units by the shape alone, and a unit is computed by one thread in a fixed order, so results do
//! not depend on the number of threads.

use super::columns::SharedColumns;
use super::weight::WeightMatrix;
use crate::isa::{Isa, Set};
use rayon::prelude::*;
use std::ops::Range;

/// Columns of the result in one unit of work. A multiple of every micro-kernel's width.
const UNIT: usize = 96;
/// Depth of a packed block: a panel pair of this depth stays in the first-level cache.
const DEPTH: usize = 512;

/// y = x·W: x `[rows, out]`, W `[out, in]`, y `[rows, in]`. For a pair, the first half of the rows sees one sign.
pub(super) fn product(x: &[f32], weight: &WeightMatrix) -> Vec<f32> {
    match Isa::best().set() {
        Set::Portable => Kernel::<4, 8>(portable).product(x, weight),
        // SAFETY: an `Isa` proves that the CPU has the features of its set.
        #[cfg(target_arch = "x86_64")]
        Set::Avx2 => Kernel::<6, 16>(|x, w| unsafe { avx2(x, w) }).product(x, weight),
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Set::Avx512 => Kernel::<12, 32>(|x, w| unsafe { avx512(x, w) }).product(x, weight),
    }
}

/// A micro-kernel: Σₖ x\[k\]ᵀ·w\[k\] of an `[depth][R]` and a `[depth][C]` panel.
struct Kernel<const R: usize, const C: usize>(fn(&[f32], &[f32]) -> [[f32; C]; R]);

fn portable(x: &[f32], weight: &[f32]) -> [[f32; 8]; 4] {
    multiply::<4, 8, false>(x, weight)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2(x: &[f32], weight: &[f32]) -> [[f32; 16]; 6] {
    multiply::<6, 16, true>(x, weight)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn avx512(x: &[f32], weight: &[f32]) -> [[f32; 32]; 12] {
    multiply::<12, 32, true>(x, weight)
}

/// The body of every micro-kernel. The compiler unrolls it fully and keeps the sums in vector registers.
#[inline(always)]
fn multiply<const R: usize, const C: usize, const FMA: bool>(x: &[f32], weight: &[f32]) -> [[f32; C]; R] {
    let mut sum = [[0.0f32; C]; R];
    let (x, _) = x.as_chunks::<R>();
    let (weight, _) = weight.as_chunks::<C>();
    for (x, weight) in x.iter().zip(weight) {
        for i in 0..R {
            for j in 0..C {
                sum[i][j] = if FMA { x[i].mul_add(weight[j], sum[i][j]) } else { sum[i][j] + x[i] * weight[j] };
            }
        }
    }
    sum
}

impl<const R: usize, const C: usize> Kernel<R, C> {
    fn product(&self, x: &[f32], weight: &WeightMatrix) -> Vec<f32> {
        let (depth, width, signs) = (weight.rows, weight.columns, weight.signs());
        let rows = x.len() / depth;
        let share = rows / signs;
        let x: Vec<Vec<f32>> = x.chunks_exact(share * depth).map(|x| pack_rows::<R>(x, share, depth)).collect();

        let mut y = vec![0.0f32; rows * width];
        let out = SharedColumns::new(&mut y, width);
        (0..width.div_ceil(UNIT)).into_par_iter().for_each_init(Scratch::default, |scratch, unit| {
            let columns = unit * UNIT..((unit + 1) * UNIT).min(width);
            for block in blocks(depth) {
                scratch.pack::<C>(weight, columns.clone(), block.clone());
                for (sign, x) in x.iter().enumerate() {
                    let target = Target {
                        out: &out,
                        rows: sign * share..(sign + 1) * share,
                        columns: columns.clone(),
                        first: block.start == 0,
                    };
                    self.run(x, &scratch.panels[sign], depth, block.clone(), &target);
                }
            }
        });
        y
    }

    /// All register blocks of one unit: for every panel of the weight, all panels of x.
    fn run(&self, x: &[f32], weight: &[f32], depth: usize, block: Range<usize>, target: &Target) {
        for (j, weight) in weight.chunks_exact(C * block.len()).enumerate() {
            for (i, x) in x.chunks_exact(R * depth).enumerate() {
                let sum = self.0(&x[R * block.start..R * block.end], weight);
                target.add(i * R, j * C, &sum);
            }
        }
    }
}

/// Cuts the reduction into blocks of at most [`DEPTH`].
fn blocks(depth: usize) -> impl Iterator<Item = Range<usize>> {
    let size = depth.div_ceil(depth.div_ceil(DEPTH).max(1)).max(1);
    (0..depth.div_ceil(size)).map(move |i| i * size..((i + 1) * size).min(depth))
}

/// Packs rows into panels of `R` rows: `[panel][depth][R]`, padded with zeros.
fn pack_rows<const R: usize>(x: &[f32], rows: usize, depth: usize) -> Vec<f32> {
    let mut packed = vec![0.0f32; rows.div_ceil(R) * R * depth];
    packed.par_chunks_mut(R * depth).enumerate().for_each(|(panel, out)| {
        let start = panel * R;
        for (lane, row) in (start..rows.min(start + R)).enumerate() {
            let source = &x[row * depth..(row + 1) * depth];
            for (value, slot) in source.iter().zip(out[lane..].iter_mut().step_by(R)) {
                *slot = *value;
            }
        }
    });
    packed
}

/// Buffers that a thread keeps from one unit of work to the next.
#[derive(Default)]
struct Scratch {
    /// Part of a row of the weight, as every sign sees it.
    row: [Vec<f32>; 2],
    /// The packed tile of every sign: `[panel][depth][C]`, padded with zeros.
    panels: [Vec<f32>; 2],
}

impl Scratch {
    /// Packs the part of the weight that gives `columns` of the result from the reduction over `block`.
    fn pack<const C: usize>(&mut self, weight: &WeightMatrix, columns: Range<usize>, block: Range<usize>) {
        let (signs, depth, len) = (weight.signs(), block.len(), columns.len());
        for panels in &mut self.panels[..signs] {
            panels.clear();
            panels.resize(len.div_ceil(C) * C * depth, 0.0);
        }
        let [first, second] = &mut self.row;
        first.resize(len, 0.0);
        second.resize(len, 0.0);
        for (k, row) in block.enumerate() {
            weight.read(row, columns.start, [first, second]);
            for (panels, values) in self.panels[..signs].iter_mut().zip([&*first, &*second]) {
                for (panel, values) in values.chunks(C).enumerate() {
                    let at = panel * C * depth + k * C;
                    panels[at..at + values.len()].copy_from_slice(values);
                }
            }
        }
    }
}

/// Where a block of the product goes.
struct Target<'a> {
    out: &'a SharedColumns<'a>,
    rows: Range<usize>,
    columns: Range<usize>,
    /// Whether this is the first block of the reduction: store instead of add.
    first: bool,
}

impl Target<'_> {
    /// Adds a register block that starts at (row, column) of this target.
    #[inline(always)]
    fn add<const R: usize, const C: usize>(&self, row: usize, column: usize, block: &[[f32; C]; R]) {
        let row = self.rows.start + row;
        let column = self.columns.start + column;
        let width = C.min(self.columns.end - column);
        for (row, values) in (row..self.rows.end).zip(block) {
            // SAFETY: the columns belong to this unit of work alone, and this slice is dropped before the next is made.
            let out = unsafe { self.out.row_part(row, column, width) };
            for (out, value) in out.iter_mut().zip(values) {
                *out = if self.first { *value } else { *out + value };
            }
        }
    }
}
