//! x·W, with the weight packed tile by tile.
//!
//! The classical blocked product (Goto and van de Geijn, 2008): x is packed once into panels of a few rows, every thread
//! packs its own tile of the weight into panels of a few columns and runs a register-blocked micro-kernel over both. Packing
//! touches every element of the weight anyway, so that is where bf16 is widened and w ± ε·z is formed: a perturbed weight
//! exists only as one tile in a thread's cache.
//!
//! The work is cut into units by the shape alone, and a unit is computed by one thread in a fixed order, so results do
//! not depend on the number of threads.

mod kernel;

use super::columns::SharedColumns;
use super::round;
use super::weight::WeightMatrix;
use crate::compute::Compute;
use crate::isa::{Isa, Set};
use kernel::{Kernel, Packed};
use rayon::prelude::*;
use std::ops::Range;

/// Columns of the result in one unit of work. A multiple of every micro-kernel's width.
const UNIT: usize = 96;
/// Depth of a packed block: a panel pair of this depth stays in the first-level cache.
const DEPTH: usize = 512;

/// y = x·W: x `[rows, out]`, W `[out, in]`, y `[rows, in]`. For a pair, the first half of the rows sees one sign.
pub(super) fn product(x: &[f32], weight: &WeightMatrix, compute: Compute) -> Vec<f32> {
    product_with(Isa::best(), x, weight, compute)
}

fn product_with(isa: Isa, x: &[f32], weight: &WeightMatrix, compute: Compute) -> Vec<f32> {
    match (compute, isa.set()) {
        #[cfg(target_arch = "x86_64")]
        (Compute::Bf16, Set::Avx512Bf16) => {
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
    match isa.set() {
        Set::Portable => Kernel::<f32, 4, 8>(kernel::portable).product(x, weight),
        // SAFETY: an `Isa` proves that the CPU has the features of its set.
        #[cfg(target_arch = "x86_64")]
        Set::Avx2 => Kernel::<f32, 6, 16>(|x, w| unsafe { kernel::avx2(x, w) }).product(x, weight),
        #[cfg(target_arch = "x86_64")]
        Set::Avx512 | Set::Avx512Bf16 => {
            // SAFETY: as above.
            Kernel::<f32, 12, 32>(|x, w| unsafe { kernel::avx512(x, w) }).product(x, weight)
        }
    }
}

impl<P: Packed, const R: usize, const C: usize> Kernel<P, R, C> {
    fn product(&self, x: &[f32], weight: &WeightMatrix) -> Vec<f32> {
        let (depth, width, signs) = (weight.rows, weight.columns, weight.signs());
        let rows = x.len() / depth;
        let share = rows / signs;
        let x: Vec<Vec<P>> = x.chunks_exact(share * depth).map(|x| pack_rows::<P, R>(x, share, depth)).collect();

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
    fn run(&self, x: &[P], weight: &[P], depth: usize, block: Range<usize>, target: &Target) {
        let (depth, block) = (depth.div_ceil(P::STEPS), block.start / P::STEPS..block.end.div_ceil(P::STEPS));
        for (j, weight) in weight.chunks_exact(C * block.len()).enumerate() {
            for (i, x) in x.chunks_exact(R * depth).enumerate() {
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

/// Packs rows into panels of `R` rows: `[panel][depth][R]`, padded with zeros.
fn pack_rows<P: Packed, const R: usize>(x: &[f32], rows: usize, depth: usize) -> Vec<P> {
    let steps = depth.div_ceil(P::STEPS);
    let mut packed = vec![P::default(); rows.div_ceil(R) * R * steps];
    packed.par_chunks_mut(R * steps).enumerate().for_each(|(panel, out)| {
        let start = panel * R;
        for (lane, row) in (start..rows.min(start + R)).enumerate() {
            let source = &x[row * depth..(row + 1) * depth];
            let slots = out[lane..].iter_mut().step_by(R);
            for (factors, slot) in source.chunks(P::STEPS).zip(slots) {
                for (step, factor) in factors.iter().enumerate() {
                    slot.set(step, *factor);
                }
            }
        }
    });
    packed
}

/// Buffers that a thread keeps from one unit of work to the next.
#[derive(Default)]
struct Scratch<P> {
    /// Part of a row of the weight, as every sign sees it.
    row: [Vec<f32>; 2],
    /// The packed tile of every sign: `[panel][depth][C]`, padded with zeros.
    panels: [Vec<P>; 2],
}

impl<P: Packed> Scratch<P> {
    /// Packs the part of the weight that gives `columns` of the result from the reduction over `block`.
    fn pack<const C: usize>(&mut self, weight: &WeightMatrix, columns: Range<usize>, block: Range<usize>) {
        let (signs, steps, len) = (weight.signs(), block.len().div_ceil(P::STEPS), columns.len());
        for panels in &mut self.panels[..signs] {
            panels.clear();
            panels.resize(len.div_ceil(C) * C * steps, P::default());
        }
        let [first, second] = &mut self.row;
        first.resize(len, 0.0);
        second.resize(len, 0.0);
        for (k, row) in block.enumerate() {
            let values = match weight.borrow(row, columns.start, len) {
                Some(stored) => [stored, &[]],
                None => {
                    weight.read(row, columns.start, [first, second]);
                    [&**first, &**second]
                }
            };
            for (panels, values) in self.panels[..signs].iter_mut().zip(values) {
                for (panel, values) in values.chunks(C).enumerate() {
                    let at = (panel * steps + k / P::STEPS) * C;
                    for (slot, value) in panels[at..at + values.len()].iter_mut().zip(values) {
                        slot.set(k % P::STEPS, *value);
                    }
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
