//! x·W, with the weight packed tile by tile.
//!
//! The classical blocked product (Goto and van de Geijn, 2008): x is packed once into panels of a few rows, every thread
//! packs its own tile of the weight into panels of a few columns and runs a register-blocked micro-kernel over both. Packing
//! touches every element of the weight anyway, so that is where bf16 is widened and w ± ε·z is formed: a perturbed weight
//! exists only as one tile in a thread's cache.
//!
//! The work is cut into units by the shape alone, and a unit is computed by one thread in a fixed order, so results do
//! not depend on the number of threads.

mod few_rows;
mod kernel;

use super::columns::SharedColumns;
use super::new_values;
use super::round;
use super::weight::WeightMatrix;
use crate::compute::Compute;
use crate::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::isa::Set;
use half::bf16;
use kernel::{Factor, Packed};
pub(super) use kernel::{Kernel, KernelTask, with_kernel};
use rayon::prelude::*;
use std::ops::Range;

/// Columns of the result in one unit of work. A multiple of every micro-kernel's width.
const UNIT: usize = 96;
/// Depth of a packed block: a panel pair of this depth stays in the first-level cache.
const DEPTH: usize = 256;

/// Up to so many rows per sign, packing costs more than it saves.
const FEW_ROWS: usize = 8;

/// y = x·W: x `[rows, out]`, W `[out, in]`, y `[rows, in]`. For a pair, the first half of the rows sees one sign.
pub(super) fn product(x: &[f32], weight: &WeightMatrix, compute: Compute) -> Vec<f32> {
    product_with(Isa::best(), x, weight, compute)
}

fn product_with(isa: Isa, x: &[f32], weight: &WeightMatrix, compute: Compute) -> Vec<f32> {
    match (compute, isa.set()) {
        #[cfg(target_arch = "x86_64")]
        (Compute::Bf16, Set::Avx512Bf16) if !has_few_rows(x, weight) => {
            // SAFETY: an `Isa` proves that the CPU has the features of its set.
            Kernel::<_, 12, 32>(|x, w| unsafe { kernel::avx512_bf16(x, w) }).product(x, weight)
        }
        (Compute::F32, _) => product_in_f32(isa, x, weight),
        (Compute::Bf16, _) => {
            let mut x = x.to_vec();
            round::in_place(&mut x);
            product_in_f32(isa, &x, &weight.rounded())
        }
    }
}

fn product_in_f32(isa: Isa, x: &[f32], weight: &WeightMatrix) -> Vec<f32> {
    if has_few_rows(x, weight) {
        return few_rows::product(x, weight);
    }
    with_kernel(isa, Product { x, weight })
}

struct Product<'a> {
    x: &'a [f32],
    weight: &'a WeightMatrix<'a>,
}

impl KernelTask for Product<'_> {
    type Output = Vec<f32>;

    fn run<const R: usize, const C: usize>(self, kernel: &Kernel<f32, R, C>) -> Vec<f32> {
        kernel.product(self.x, self.weight)
    }
}

fn has_few_rows(x: &[f32], weight: &WeightMatrix) -> bool {
    x.len() / weight.rows <= FEW_ROWS * weight.signs()
}

impl<P: Packed, const R: usize, const C: usize> Kernel<P, R, C> {
    fn product(&self, x: &[f32], weight: &WeightMatrix) -> Vec<f32> {
        let (depth, width, signs) = (weight.rows, weight.columns, weight.signs());
        let rows = x.len() / depth;
        // All of the result has to be written: nothing clears it before.
        assert_eq!(x.len(), rows * depth, "whole rows of x");
        assert!(rows.is_multiple_of(signs), "every sign has its rows");
        let share = rows / signs;
        let x: Vec<Vec<P>> = x.chunks_exact(share * depth).map(|x| pack_rows::<P, R>(x, share, depth)).collect();

        let units = |out: &SharedColumns| {
            (0..width.div_ceil(UNIT)).into_par_iter().for_each_init(Scratch::default, |scratch, unit| {
                let columns = unit * UNIT..((unit + 1) * UNIT).min(width);
                let mut blocks = blocks(depth).peekable();
                while let Some(block) = blocks.next() {
                    scratch.pack::<C>(weight, columns.clone(), block.clone());
                    for (sign, x) in x.iter().enumerate() {
                        let target = Target {
                            out,
                            rows: sign * share..(sign + 1) * share,
                            columns: columns.clone(),
                            first: block.start == 0,
                        };
                        // The next unit most often comes next on this thread, too.
                        let next = match blocks.peek() {
                            _ if sign > 0 => Next { weight, rows: 0..0, columns: 0..0 },
                            Some(rows) => Next { weight, rows: rows.clone(), columns: columns.clone() },
                            None => Next {
                                weight,
                                rows: 0..block.len(),
                                columns: columns.end..width.min(columns.end + UNIT),
                            },
                        };
                        self.run(x, &scratch.panels[sign], depth, block.clone(), &target, &next);
                    }
                }
            })
        };
        // SAFETY: the units have all columns, each one once, and the first block of each writes all its rows.
        unsafe { SharedColumns::fill(rows, width, units) }
    }

    /// All register blocks of one unit: for every panel of the weight, all panels of x.
    fn run(&self, x: &[P], weight: &[P], depth: usize, block: Range<usize>, target: &Target, next: &Next) {
        let (depth, block) = (depth.div_ceil(P::STEPS), block.start / P::STEPS..block.end.div_ceil(P::STEPS));
        let panels = x.len() / (R * depth);
        let all = panels * weight.len() / (C * block.len());
        for (j, weight) in weight.chunks_exact(C * block.len()).enumerate() {
            for (i, x) in x.chunks_exact(R * depth).enumerate() {
                next.prefetch(j * panels + i, all);
                let sum = self.0(&x[R * block.start..R * block.end], weight);
                target.add(i * R, j * C, &sum);
            }
        }
    }
}

/// Cuts the reduction into blocks of at most [`DEPTH`], each but the last of an even depth.
fn blocks(depth: usize) -> impl Iterator<Item = Range<usize>> {
    let size = depth.div_ceil(depth.div_ceil(DEPTH).max(1)).next_multiple_of(2).max(2);
    (0..depth.div_ceil(size)).map(move |i| i * size..((i + 1) * size).min(depth))
}

/// Packs rows into panels of `R` rows: `[panel][depth][R]`. The last one is padded with anything: nobody stores the sums of
/// rows that there are not.
fn pack_rows<P: Packed, const R: usize>(x: &[f32], rows: usize, depth: usize) -> Vec<P> {
    let steps = depth.div_ceil(P::STEPS);
    new_values(rows.div_ceil(R) * R * steps, R * steps, Vec::new, |lanes, panel, out| {
        let rows = panel * R..rows.min((panel + 1) * R);
        lanes.resize(R * steps, P::default());
        for (row, lane) in rows.zip(lanes.chunks_exact_mut(steps)) {
            P::convert(&x[row * depth..(row + 1) * depth], lane);
        }
        for (step, out) in out.chunks_exact_mut(R).enumerate() {
            for (lane, out) in out.iter_mut().enumerate() {
                *out = lanes[lane * steps + step];
            }
        }
    })
}

/// Buffers that a thread keeps from one unit of work to the next.
#[derive(Default)]
struct Scratch<P> {
    /// Parts of the rows of the weight that make one step, as every sign sees them: `[row][sign]`.
    rows: [[Vec<f32>; 2]; 2],
    /// The packed tile of every sign: `[panel][depth][C]`, the last panel padded with anything.
    panels: [Vec<P>; 2],
}

impl<P: Packed> Scratch<P> {
    /// Packs the part of the weight that gives `columns` of the result from the reduction over `block`.
    fn pack<const C: usize>(&mut self, weight: &WeightMatrix, columns: Range<usize>, block: Range<usize>) {
        let (signs, steps, len) = (weight.signs(), block.len().div_ceil(P::STEPS), columns.len());
        for panels in &mut self.panels[..signs] {
            panels.resize(len.div_ceil(C) * C * steps, P::default());
        }
        self.rows.iter_mut().flatten().for_each(|row| row.resize(len, 0.0));
        for step in 0..steps {
            let rows = block.clone().skip(step * P::STEPS).take(P::STEPS);
            // Nothing is widened that is to be narrow again.
            if P::STEPS == 2 && weight.is_exact_bf16() {
                let stored = |row| weight.borrow::<bf16>(row, columns.start, len).unwrap_or_default();
                let mut rows = rows.map(stored);
                let values = std::array::from_fn(|_| rows.next().unwrap_or_default());
                pack_step::<P, _, C>(values, &mut self.panels[0], step, steps);
                continue;
            }
            let mut values: [[&[f32]; 2]; 2] = [[&[]; 2]; 2];
            for ((k, row), buffers) in rows.enumerate().zip(&mut self.rows) {
                let [plus, minus] = match weight.borrow(row, columns.start, len) {
                    Some(stored) => [stored, &[]],
                    None => {
                        let [plus, minus] = buffers;
                        weight.read(row, columns.start, [plus, minus]);
                        [&**plus, &**minus]
                    }
                };
                (values[0][k], values[1][k]) = (plus, minus);
            }
            for (panels, values) in self.panels[..signs].iter_mut().zip(values) {
                pack_step::<P, _, C>(values, panels, step, steps);
            }
        }
    }
}

/// Packs the rows of the weight that make step `step` of `steps`.
fn pack_step<P: Packed, W: Factor, const C: usize>(
    [first, second]: [&[W]; 2],
    panels: &mut [P],
    step: usize,
    steps: usize,
) {
    let mut second = second.chunks(C);
    for (panel, first) in first.chunks(C).enumerate() {
        let at = (panel * steps + step) * C;
        P::pack([first, second.next().unwrap_or_default()], &mut panels[at..at + first.len()]);
    }
}

/// The part of the weight that is packed next.
struct Next<'a> {
    weight: &'a WeightMatrix<'a>,
    rows: Range<usize>,
    columns: Range<usize>,
}

impl Next<'_> {
    /// Begins to load its part `part` of `all`: it comes from memory, in short pieces, and is waited for otherwise.
    fn prefetch(&self, part: usize, all: usize) {
        let row = |part: usize| self.rows.start + part * self.rows.len() / all;
        for row in row(part)..row(part + 1) {
            let start = row * self.weight.columns;
            let mut part = self.weight.ahead(start + self.columns.start..start + self.columns.end);
            part.prefetch(part.lines());
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
            if self.first {
                // SAFETY: the columns belong to this unit of work alone.
                unsafe { self.out.write(row, column, values, width) };
            } else {
                // SAFETY: as above; the first block has written them, and this slice is dropped before the next is made.
                let out = unsafe { self.out.row_part(row, column, width) };
                for (out, value) in out.iter_mut().zip(values) {
                    *out += value;
                }
            }
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
            share in 1usize..30,
            depth in 1usize..1100,
            width in 1usize..110,
            pair: bool,
            narrow: bool,
            seed: u64,
        ) {
            let noise = Noise::Generated(Direction::new(seed, ParameterId::from_name("w")));
            let view = if pair { WeightView::Pair { noise, eps: 0.1 } } else { WeightView::Exact };
            let rows = share * view.signs();
            let (x, w) = (values(seed, rows * depth), values(!seed, width * depth));
            let weight = if narrow {
                let w: Vec<bf16> = w.iter().map(|w| bf16::from_f32(*w)).collect();
                FlexTensor::from_data(TensorData::new(w, [depth, width]))
            } else {
                FlexTensor::from_data(TensorData::new(w, [depth, width]))
            };
            let weight = WeightMatrix::new(&weight, &view);
            let mut read = [vec![0.0f32; width * depth], vec![0.0f32; width * depth]];
            let [first, second] = &mut read;
            weight.read(0, 0, [first, second]);
            for compute in [Compute::F32, Compute::Bf16] {
                let factor = |v: f32| f64::from(if compute == Compute::Bf16 { round::nearest(v) } else { v });
                let exact: Vec<f64> = (0..rows * width).map(|i| {
                    let (row, column) = (i / width, i % width);
                    let w = read[row / share][column..].iter().step_by(width);
                    x[row * depth..][..depth].iter().zip(w).map(|(x, w)| factor(*x) * factor(*w)).sum()
                }).collect();
                for isa in Isa::available() {
                    let fast = product_with(isa, &x, &weight, compute);
                    for (fast, exact) in fast.iter().zip(&exact) {
                        let error = (f64::from(*fast) - exact).abs();
                        prop_assert!(error < 1e-4 * (1.0 + exact.abs()), "{isa:?} {compute:?}: {fast} for {exact}");
                    }
                }
            }
        }
    }
}
