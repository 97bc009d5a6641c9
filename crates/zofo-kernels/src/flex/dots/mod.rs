//! x·Wᵀ as dot products of rows: both operands lie in memory as they are multiplied, so nothing is packed.
//!
//! A register block computes the products of a few rows of x with a few rows of W, with vectors along the depth. A weight that
//! needs no change is read where it is; one that is perturbed, rounded or widened is formed once per unit of work in a
//! buffer of the thread. That makes it faster than packing, most so where it matters here: with few rows per weight.
//!
//! The work is cut into units by the shape alone, and every dot product is added up in one fixed order, so results do not
//! depend on the number of threads.

mod bf16;
mod f32;

use super::columns::SharedColumns;
use super::round;
use super::weight::{Stored, WeightMatrix};
use crate::compute::Compute;
use crate::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::isa::Set;
use rayon::prelude::*;
use std::ops::Range;

/// Rows of the weight in one unit of work. A multiple of every block's columns.
const UNIT: usize = 96;
/// Bytes of x that are multiplied with a whole unit before the next. Together they fit a second-level cache.
const BLOCK_BYTES: usize = 128 << 10;
/// Elements of a dot product that are added up at once, at most: the operands of a register block then fit a first-level
/// cache. A multiple of every kernel's block of lanes.
const CHUNK: usize = 640;
const CHUNK_MULTIPLE: usize = 32;
/// Bytes of the weight that stay in the first-level cache while rows of x pass by.
const GROUP_BYTES: usize = 20 << 10;
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

/// Runs a micro-kernel, which computes the dot products of `R` rows of x with `C` rows of W, all of one length, over a whole
/// product.
fn run<X: Sync, W: Stored, const R: usize, const C: usize>(
    x: &[X],
    weight: &WeightMatrix,
    kernel: impl Fn([&[X]; R], [&[W]; C]) -> [[f32; C]; R] + Sync,
) -> Vec<f32> {
    let (depth, width, signs) = (weight.columns, weight.rows, weight.signs());
    let rows = x.len() / depth;
    let share = rows / signs;
    let mut y = vec![0.0f32; rows * width];
    let out = SharedColumns::new(&mut y, width);
    (0..width.div_ceil(UNIT)).into_par_iter().for_each_init(<[Vec<W>; 2]>::default, |buffers, unit| {
        let columns = unit * UNIT..((unit + 1) * UNIT).min(width);
        let weights = unit_rows(weight, columns.clone(), buffers);
        for (sign, weights) in weights.iter().take(signs).enumerate() {
            let rows = sign * share..(sign + 1) * share;
            let x = &x[rows.start * depth..rows.end * depth];
            Tile { x, weights, depth, out: &out, rows, columns: columns.clone() }.run(&kernel);
        }
    });
    y
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

/// The rows of x that see one sign, with one unit of the weight.
struct Tile<'a, X, W> {
    x: &'a [X],
    weights: &'a [W],
    depth: usize,
    out: &'a SharedColumns<'a>,
    /// Rows of the result.
    rows: Range<usize>,
    /// Columns of the result.
    columns: Range<usize>,
}

impl<X, W> Tile<'_, X, W> {
    fn run<const R: usize, const C: usize>(&self, products: impl Fn([&[X]; R], [&[W]; C]) -> [[f32; C]; R]) {
        for chunk in chunks(self.depth) {
            let block = (BLOCK_BYTES / (size_of::<X>() * chunk.len())).next_multiple_of(R);
            let group = (GROUP_BYTES / (size_of::<W>() * chunk.len() * C)).max(1) * C;
            // Every few rows of x are fetched once for all rows of the weight that stay in the first-level cache.
            for rows in parts(self.rows.len(), block) {
                for columns in parts(self.columns.len(), group) {
                    for i in rows.clone().step_by(R) {
                        for j in columns.clone().step_by(C) {
                            self.block(i, j, chunk.clone(), &products);
                        }
                    }
                }
            }
        }
    }

    /// The register block that starts at row `i` and column `j`, over a chunk of the depth.
    #[inline(always)]
    fn block<const R: usize, const C: usize>(
        &self,
        i: usize,
        j: usize,
        chunk: Range<usize>,
        products: impl Fn([&[X]; R], [&[W]; C]) -> [[f32; C]; R],
    ) {
        let (x_rows, w_rows) = (self.rows.len(), self.columns.len());
        // At the edges a block repeats the last row; what it computes twice is not stored twice.
        let part = |index: usize, count: usize| {
            let start = index.min(count - 1) * self.depth;
            start + chunk.start..start + chunk.end
        };
        let w: [&[W]; C] = std::array::from_fn(|c| &self.weights[part(j + c, w_rows)]);
        let x: [&[X]; R] = std::array::from_fn(|r| &self.x[part(i + r, x_rows)]);
        let products = products(x, w);
        let width = C.min(w_rows - j);
        for (r, products) in products.iter().enumerate().take(x_rows - i) {
            // SAFETY: the columns belong to this unit of work alone, and this slice is dropped before the next.
            let out = unsafe { self.out.row_part(self.rows.start + i + r, self.columns.start + j, width) };
            if chunk.start == 0 {
                out.copy_from_slice(&products[..width]);
            } else {
                for (out, product) in out.iter_mut().zip(products) {
                    *out += product;
                }
            }
        }
    }
}

/// Cuts the depth into chunks of at most [`CHUNK`], of about one size.
fn chunks(depth: usize) -> impl Iterator<Item = Range<usize>> {
    parts(depth, depth.div_ceil(depth.div_ceil(CHUNK)).next_multiple_of(CHUNK_MULTIPLE))
}

fn parts(len: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len).step_by(size).map(move |start| start..len.min(start + size))
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
            depth in prop_oneof![1usize..200, 600usize..1400],
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
