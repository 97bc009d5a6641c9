//! x·Wᵀ as dot products of rows: both operands lie in memory as they are multiplied, so nothing is packed.
//!
//! A register block computes the products of a few rows of x with a few rows of W, with vectors along the depth. A weight that
//! needs no change is read where it is; one that is perturbed, rounded or widened is formed once per unit of work in a
//! buffer of the thread. That makes it faster than packing, most so where it matters here: with few rows per weight.
//!
//! The work is cut into units by the shape alone, and every dot product runs over the whole depth in one fixed order, so
//! results do not depend on the number of threads.

/// A type of a micro-kernel that is a function for an instruction set. It is named only where the CPU has the features.
#[cfg(target_arch = "x86_64")]
macro_rules! micro {
    ($name:ident: $x:ty, $w:ty, rows $rows:literal, $function:ident) => {
        struct $name;

        impl Micro<$x, $w> for $name {
            const ROWS: usize = $rows;

            fn products<const R: usize>(&self, x: [&[$x]; R], w: [&[$w]; 4]) -> [[f32; 4]; R] {
                // SAFETY: the type is named only where the CPU has the features, and the trait promises one length.
                unsafe { $function(x, w) }
            }
        }
    };
}

mod bf16;
mod f32;
#[cfg(target_arch = "x86_64")]
mod lanes;

use super::columns::SharedColumns;
use super::round;
use super::weight::{Ahead, Stored, WeightMatrix};
use crate::compute::Compute;
use crate::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::isa::Set;
use rayon::prelude::*;
use std::ops::Range;

/// Rows of the weight in one unit of work. A multiple of every block's columns.
const UNIT: usize = 48;
/// Up to so many rows of x, weights stored as bf16 are widened in registers: reading them is what takes the time. With
/// more rows it is cheaper to widen them once.
const WIDENED_ROWS: usize = 16;

/// y = x·Wᵀ: x `[rows, in]`, W `[out, in]`, y `[rows, out]`. For a pair, the first half of the rows sees one sign.
pub(super) fn product(x: &[f32], weight: &WeightMatrix, compute: Compute) -> Vec<f32> {
    product_with(Isa::best(), x, weight, compute)
}

fn product_with(isa: Isa, x: &[f32], weight: &WeightMatrix, compute: Compute) -> Vec<f32> {
    match compute {
        Compute::F32 => product_in_f32(isa, x, weight),
        #[cfg(target_arch = "x86_64")]
        Compute::Bf16 if isa.set() == Set::Avx512Bf16 => bf16::product(x, weight),
        Compute::Bf16 => {
            let mut x = x.to_vec();
            round::in_place(&mut x);
            product_in_f32(isa, &x, &weight.rounded())
        }
    }
}

fn product_in_f32(isa: Isa, x: &[f32], weight: &WeightMatrix) -> Vec<f32> {
    if x.len() / weight.columns <= WIDENED_ROWS && weight.is_exact_bf16() {
        bf16::product_widened(isa, x, weight)
    } else {
        f32::product(isa, x, weight)
    }
}

/// Rows of the weight that a register block multiplies.
const COLUMNS: usize = 4;

/// A micro-kernel: it computes one register block.
trait Micro<X, W>: Sync {
    /// Rows of x in a register block, at most 6.
    const ROWS: usize;

    /// The dot product of every x with every w, all of one length. The partial sums of `ROWS` rows stay in registers. How
    /// the terms of one product are added does not depend on `R`.
    fn products<const R: usize>(&self, x: [&[X]; R], w: [&[W]; COLUMNS]) -> [[f32; COLUMNS]; R];
}

/// Runs a micro-kernel over a whole product.
fn run<X: Sync, W: Stored>(x: &[X], weight: &WeightMatrix, kernel: &impl Micro<X, W>) -> Vec<f32> {
    let depth = weight.columns;
    let tiles = |tile: Tile<W>| {
        let x = &x[tile.rows.start * depth..tile.rows.end * depth];
        tile.run(kernel, x);
    };
    // SAFETY: `Tile::run` writes all of the tile.
    unsafe { by_tiles(x.len(), weight, tiles) }
}

/// The product with an x of so many values, given what computes a tile of it.
///
/// # Safety
///
/// `compute` writes every element of the tile, and no others.
unsafe fn by_tiles<W: Stored>(x_len: usize, weight: &WeightMatrix, compute: impl Fn(Tile<W>) + Sync) -> Vec<f32> {
    let (depth, width, signs) = (weight.columns, weight.rows, weight.signs());
    let rows = x_len / depth;
    // All of the result has to be written: nothing clears it before.
    assert_eq!(x_len, rows * depth, "whole rows of x");
    assert!(rows.is_multiple_of(signs), "every sign has its rows");
    let share = rows / signs;
    let units = |out: &SharedColumns| {
        (0..width.div_ceil(UNIT)).into_par_iter().for_each_init(<[Vec<W>; 2]>::default, |buffers, unit| {
            let columns = unit * UNIT..((unit + 1) * UNIT).min(width);
            let weights = unit_rows(weight, columns.clone(), buffers);
            for (sign, weights) in weights.into_iter().take(signs).enumerate() {
                compute(Tile {
                    weights,
                    depth,
                    out,
                    sign,
                    rows: sign * share..(sign + 1) * share,
                    columns: columns.clone(),
                    ahead: unit_ahead(weight, unit + 1, sign),
                });
            }
        });
    };
    // SAFETY: the units have all columns, each one once, and the caller promises that their tiles are written.
    unsafe { SharedColumns::fill(rows, width, units) }
}

/// Rows of the weight as every sign sees them: where they are stored, or else formed in the buffers.
fn unit_rows<'a, W: Stored>(
    weight: &WeightMatrix<'a>,
    rows: Range<usize>,
    buffers: &'a mut [Vec<W>; 2],
) -> [&'a [W]; 2] {
    let len = rows.len() * weight.columns;
    if let Some(stored) = weight.borrow(rows.start, 0, len) {
        return [stored, &[]];
    }
    let [first, second] = buffers;
    first.resize(len, W::default());
    second.resize(if weight.signs() == 2 { len } else { 0 }, W::default());
    // Rows are contiguous, so a run of them is read like one long row.
    W::read(weight, rows.start, 0, [first, second]);
    [first, second]
}

/// What is loaded while a unit of the weight is multiplied for a sign: with the first one the unit after it, which most often
/// comes next on its thread, too.
fn unit_ahead<'a>(weight: &WeightMatrix<'a>, next: usize, sign: usize) -> Ahead<'a> {
    let row = |unit: usize| weight.rows.min(unit * UNIT);
    let rows = row(next)..row(if sign == 0 { next + 1 } else { next });
    weight.ahead(rows.start * weight.columns..rows.end * weight.columns)
}

/// The rows of one sign with one unit of the weight.
struct Tile<'a, W> {
    weights: &'a [W],
    depth: usize,
    out: &'a SharedColumns<'a>,
    sign: usize,
    /// Rows of the result.
    rows: Range<usize>,
    /// Columns of the result.
    columns: Range<usize>,
    ahead: Ahead<'a>,
}

impl<W> Tile<'_, W> {
    /// For every few rows of x, which then stay in the first-level cache, all rows of the weight, which stay in the second.
    /// Meanwhile what is multiplied next is loaded: it comes from memory, and would be waited for.
    fn run<X, M: Micro<X, W>>(mut self, kernel: &M, x: &[X]) {
        let (x_rows, w_rows) = (self.rows.len(), self.columns.len());
        let (blocks, groups) = (x_rows.div_ceil(M::ROWS), w_rows.div_ceil(COLUMNS));
        let lines = self.ahead.lines().div_ceil((blocks * groups).max(1));
        for block in 0..blocks {
            // Blocks of about equal size, none of them with a row too many.
            let (start, end) = (block * x_rows / blocks, (block + 1) * x_rows / blocks);
            for column in (0..w_rows).step_by(COLUMNS) {
                self.ahead.prefetch(lines);
                // At the edge a block repeats the last row; what it computes twice is not stored twice.
                let row = |c: usize| (column + c).min(w_rows - 1) * self.depth;
                let w = std::array::from_fn(|c| &self.weights[row(c)..row(c) + self.depth]);
                match end - start {
                    1 => self.block::<X, M, 1>(kernel, x, start, column, w),
                    2 => self.block::<X, M, 2>(kernel, x, start, column, w),
                    3 => self.block::<X, M, 3>(kernel, x, start, column, w),
                    4 => self.block::<X, M, 4>(kernel, x, start, column, w),
                    5 => self.block::<X, M, 5>(kernel, x, start, column, w),
                    _ => self.block::<X, M, 6>(kernel, x, start, column, w),
                }
            }
        }
    }

    /// `R` rows of x from `start`, which the caller's blocks divide so, with the rows of the weight from `column`.
    #[inline(always)]
    fn block<X, M: Micro<X, W>, const R: usize>(
        &self,
        kernel: &M,
        x: &[X],
        start: usize,
        column: usize,
        w: [&[W]; COLUMNS],
    ) {
        let x = std::array::from_fn(|r| &x[(start + r) * self.depth..][..self.depth]);
        let products: [[f32; COLUMNS]; R] = kernel.products(x, w);
        let width = COLUMNS.min(self.columns.len() - column);
        for (r, products) in products.iter().enumerate() {
            // SAFETY: the columns belong to this unit of work alone.
            unsafe { self.out.write(self.rows.start + start + r, self.columns.start + column, products, width) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::direction::{Direction, ParameterId};
    use crate::view::{Noise, WeightView};
    use burn::tensor::TensorData;
    use burn_flex::FlexTensor;
    use half::bf16;
    use proptest::prelude::*;

    fn values(seed: u64, len: usize) -> Vec<f32> {
        let mut out = vec![0.0; len];
        Direction::new(seed, ParameterId::from_name("test")).fill(0, &mut out);
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Every instruction set, storage and precision, against sums in f64.
        #[test]
        fn products_are_those_of_the_definition(
            share in 1usize..110,
            depth in 1usize..200,
            width in 1usize..120,
            signs in 0usize..3,
            seed: u64,
        ) {
            let noise = Noise::Generated(Direction::new(seed, ParameterId::from_name("w")));
            let view = match signs {
                0 => WeightView::Exact,
                1 => WeightView::One { noise, scale: 0.1 },
                _ => WeightView::Pair { noise, eps: 0.1 },
            };
            let rows = share * view.signs();
            let (x, w) = (values(seed, rows * depth), values(!seed, width * depth));
            let narrow: Vec<bf16> = w.iter().map(|w| bf16::from_f32(*w)).collect();
            let stored = [
                FlexTensor::from_data(TensorData::new(w, [width, depth])),
                FlexTensor::from_data(TensorData::new(narrow, [width, depth])),
            ];
            for weight in &stored {
                let weight = WeightMatrix::new(weight, &view);
                let mut read = [vec![0.0f32; width * depth], vec![0.0f32; width * depth]];
                let [first, second] = &mut read;
                weight.read(0, 0, [first, second]);
                for compute in [Compute::F32, Compute::Bf16] {
                    let factor = |v: f32| f64::from(if compute == Compute::Bf16 { round::nearest(v) } else { v });
                    let exact: Vec<f64> = (0..rows * width).map(|i| {
                        let (row, column) = (i / width, i % width);
                        let w = &read[row / share][column * depth..][..depth];
                        x[row * depth..][..depth].iter().zip(w).map(|(x, w)| factor(*x) * factor(*w)).sum()
                    }).collect();
                    for isa in Isa::available() {
                        let fast = product_with(isa, &x, &weight, compute);
                        for (fast, exact) in fast.iter().zip(&exact) {
                            let error = (f64::from(*fast) - exact).abs();
                            prop_assert!(error < 2e-5 * (1.0 + exact.abs()), "{isa:?} {compute:?}: {fast} for {exact}");
                        }
                    }
                }
            }
        }
    }
}
