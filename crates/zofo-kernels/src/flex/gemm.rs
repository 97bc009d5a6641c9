//! Matrix products with a weight that is perturbed while it is packed.
//!
//! The classical blocked product (Goto and van de Geijn, 2008): the activations are packed once into panels of
//! [`Tile::ROWS`] rows, every thread packs its own tile of the weight into panels of `COLUMNS` columns and runs a
//! register-blocked micro-kernel over both. Packing has to touch every element of the weight anyway, so that is where
//! bf16 is widened and w ± ε·z is formed: a perturbed weight exists only as one tile in a thread's cache.
//!
//! The work is cut into units by the shape alone, and a unit is computed by one thread in a fixed order, so results do
//! not depend on the number of threads.

use super::weight::WeightMatrix;
use rayon::prelude::*;
use std::ops::Range;

/// Columns of the result in one unit of work. A multiple of every micro-kernel's width.
const UNIT: usize = 96;
/// Depth of a packed block: a panel pair of this depth stays in the first-level cache.
const DEPTH: usize = 512;
/// Up to this many rows per sign, packing costs more than it saves and rows are multiplied one by one.
const FEW_ROWS: usize = 4;

/// Which product: over the columns or over the rows of the weight.
#[derive(Clone, Copy, PartialEq)]
enum Product {
    /// x·Wᵀ: reduces over the weight's columns.
    Transposed,
    /// x·W: reduces over the weight's rows.
    Plain,
}

/// y = x·Wᵀ: x `[rows, in]`, W `[out, in]`, y `[rows, out]`.
pub(super) fn times_transposed(x: &[f32], weight: &WeightMatrix) -> Vec<f32> {
    let rows = x.len() / weight.columns;
    if rows <= FEW_ROWS * weight.signs() {
        return few_rows(x, rows, weight);
    }
    super::dots::product(x, weight)
}

/// y = x·W: x `[rows, out]`, W `[out, in]`, y `[rows, in]`.
pub(super) fn times_plain(x: &[f32], weight: &WeightMatrix) -> Vec<f32> {
    product(x, x.len() / weight.rows, weight, Product::Plain)
}

/// The instruction sets with a micro-kernel.
#[derive(Clone, Copy)]
pub(super) enum Isa {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    pub(super) fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                return Isa::Avx512;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Isa::Avx2;
            }
        }
        Isa::Portable
    }

    /// Rows and columns of the block of the result that the micro-kernel keeps in registers.
    fn tile(self) -> (usize, usize) {
        match self {
            Isa::Portable => (4, 8),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => (6, 16),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => (12, 32),
        }
    }
}

/// A result that several threads write in disjoint columns.
pub(super) struct Columns(pub(super) *mut f32);

// SAFETY: the pointer is only used through `product`, where every unit of work writes a range of columns of its own.
unsafe impl Sync for Columns {}

fn product(x: &[f32], rows: usize, weight: &WeightMatrix, kind: Product) -> Vec<f32> {
    let (depth, width) = match kind {
        Product::Transposed => (weight.columns, weight.rows),
        Product::Plain => (weight.rows, weight.columns),
    };
    let isa = Isa::best();
    let signs = weight.signs();
    let share = rows / signs;
    let (tile_rows, _) = isa.tile();
    let panels: Vec<Vec<f32>> = (0..signs)
        .map(|sign| {
            let part = &x[sign * share * depth..(sign + 1) * share * depth];
            pack_rows(part, share, depth, tile_rows)
        })
        .collect();

    let mut y = vec![0.0f32; rows * width];
    let out = Columns(y.as_mut_ptr());
    (0..width.div_ceil(UNIT)).into_par_iter().for_each_init(Scratch::default, |scratch, unit| {
        let columns = unit * UNIT..((unit + 1) * UNIT).min(width);
        for block in blocks(depth) {
            scratch.pack(weight, kind, columns.clone(), block.clone(), isa.tile().1);
            for (sign, panels) in panels.iter().enumerate() {
                let target = Target {
                    out: &out,
                    stride: width,
                    rows: sign * share..(sign + 1) * share,
                    columns: columns.clone(),
                    first: block.start == 0,
                };
                run_block(isa, panels, &scratch.panels[sign], depth, block.clone(), &target);
            }
        }
    });
    y
}

/// Cuts the reduction into blocks of at most [`DEPTH`], whole groups of a direction where possible.
fn blocks(depth: usize) -> impl Iterator<Item = Range<usize>> {
    let count = depth.div_ceil(DEPTH).max(1);
    let size = depth.div_ceil(count).next_multiple_of(64);
    (0..depth.div_ceil(size)).map(move |i| i * size..((i + 1) * size).min(depth))
}

/// Packs rows into panels of `height` rows: `[panel][depth][height]`, padded with zeros.
fn pack_rows(x: &[f32], rows: usize, depth: usize, height: usize) -> Vec<f32> {
    let mut packed = vec![0.0f32; rows.div_ceil(height) * height * depth];
    packed.par_chunks_mut(height * depth).enumerate().for_each(|(panel, out)| {
        let start = panel * height;
        for (lane, row) in (start..rows.min(start + height)).enumerate() {
            let source = &x[row * depth..(row + 1) * depth];
            for (value, slot) in source.iter().zip(out[lane..].iter_mut().step_by(height)) {
                *slot = *value;
            }
        }
    });
    packed
}

/// Buffers that a thread keeps from one unit of work to the next.
#[derive(Default)]
struct Scratch {
    /// Rows of the weight as every sign sees them.
    rows: [Vec<f32>; 2],
    /// The packed tile of every sign: `[panel][depth][width]`.
    panels: [Vec<f32>; 2],
}

impl Scratch {
    /// Packs the part of the weight that gives `columns` of the result from the reduction over `block`.
    fn pack(&mut self, weight: &WeightMatrix, kind: Product, columns: Range<usize>, block: Range<usize>, width: usize) {
        let signs = weight.signs();
        let depth = block.len();
        let size = columns.len().div_ceil(width) * width * depth;
        for panels in &mut self.panels[..signs] {
            panels.clear();
            panels.resize(size, 0.0);
        }
        match kind {
            Product::Transposed => {
                for start in columns.clone().step_by(width) {
                    let end = columns.end.min(start + width);
                    self.read(weight, start..end, block.clone());
                    let at = (start - columns.start) * depth;
                    for sign in 0..signs {
                        let panel = &mut self.panels[sign][at..at + width * depth];
                        interleave(&self.rows[sign], depth, panel, width);
                    }
                }
            }
            Product::Plain => {
                for (k, row) in block.enumerate() {
                    self.read(weight, row..row + 1, columns.clone());
                    for sign in 0..signs {
                        for (panel, values) in self.rows[sign].chunks(width).enumerate() {
                            let at = panel * width * depth + k * width;
                            self.panels[sign][at..at + values.len()].copy_from_slice(values);
                        }
                    }
                }
            }
        }
    }

    /// Reads `columns` of some `rows` of the weight into the row buffers.
    fn read(&mut self, weight: &WeightMatrix, rows: Range<usize>, columns: Range<usize>) {
        let len = columns.len();
        let [first, second] = &mut self.rows;
        first.resize(rows.len() * len, 0.0);
        second.resize(if weight.signs() == 2 { rows.len() * len } else { 0 }, 0.0);
        let mut rest = second.as_mut_slice();
        for (row, out) in rows.zip(first.chunks_exact_mut(len)) {
            let (other, tail) = rest.split_at_mut(len.min(rest.len()));
            weight.read(row, columns.start, [out, other]);
            rest = tail;
        }
    }
}

/// `[rows][depth]` → `[depth][width]`, in blocks that stay in registers and cache.
fn interleave(rows: &[f32], depth: usize, panel: &mut [f32], width: usize) {
    const BLOCK: usize = 16;
    for start in (0..depth).step_by(BLOCK) {
        let end = depth.min(start + BLOCK);
        for (lane, row) in rows.chunks_exact(depth).enumerate() {
            for (k, value) in row[start..end].iter().enumerate() {
                panel[(start + k) * width + lane] = *value;
            }
        }
    }
}

/// Where a block of the product goes.
struct Target<'a> {
    out: &'a Columns,
    stride: usize,
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
            // SAFETY: row is below the number of rows of the result and column + width at most its stride, so the range
            // lies within the allocation; no other unit of work touches these columns (see `product`), and within
            // this one the slice is dropped before the next is made.
            let out = unsafe { std::slice::from_raw_parts_mut(self.out.0.add(row * self.stride + column), width) };
            for (out, value) in out.iter_mut().zip(values) {
                *out = if self.first { *value } else { *out + value };
            }
        }
    }
}

fn run_block(isa: Isa, x: &[f32], weight: &[f32], depth: usize, block: Range<usize>, target: &Target) {
    match isa {
        Isa::Portable => run_tiles::<4, 8, false>(x, weight, depth, block, target),
        // SAFETY: `Isa::best` found the instruction set on this CPU.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { run_avx2(x, weight, depth, block, target) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { run_avx512(x, weight, depth, block, target) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2(x: &[f32], weight: &[f32], depth: usize, block: Range<usize>, target: &Target) {
    run_tiles::<6, 16, true>(x, weight, depth, block, target);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn run_avx512(x: &[f32], weight: &[f32], depth: usize, block: Range<usize>, target: &Target) {
    run_tiles::<12, 32, true>(x, weight, depth, block, target);
}

/// All register blocks of one unit: for every panel of the weight, all panels of the activations.
#[inline(always)]
fn run_tiles<const R: usize, const C: usize, const FMA: bool>(
    x: &[f32],
    weight: &[f32],
    depth: usize,
    block: Range<usize>,
    target: &Target,
) {
    for (j, weight) in weight.chunks_exact(C * block.len()).enumerate() {
        for (i, x) in x.chunks_exact(R * depth).enumerate() {
            let x = &x[R * block.start..R * block.end];
            let sum = micro_kernel::<R, C, FMA>(x, weight);
            target.add(i * R, j * C, &sum);
        }
    }
}

/// Σₖ x\[k\]ᵀ·w\[k\] of an `[depth][R]` and a `[depth][C]` panel. Fully unrolled by the compiler, so that the sums stay in
/// vector registers.
#[inline(always)]
fn micro_kernel<const R: usize, const C: usize, const FMA: bool>(x: &[f32], weight: &[f32]) -> [[f32; C]; R] {
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

/// The product for one or a few rows, as in generation: every row of the weight is read once and multiplied at once.
fn few_rows(x: &[f32], rows: usize, weight: &WeightMatrix) -> Vec<f32> {
    const UNIT: usize = 32;
    let (depth, width, signs) = (weight.columns, weight.rows, weight.signs());
    let share = rows / signs;
    let mut by_column = vec![0.0f32; width * rows];
    by_column.par_chunks_mut(UNIT * rows).enumerate().for_each_init(
        || [vec![0.0f32; depth], vec![0.0f32; depth]],
        |buffers, (unit, out)| {
            for (offset, out) in out.chunks_exact_mut(rows).enumerate() {
                let column = unit * UNIT + offset;
                let borrowed = weight.borrow(column, 0, depth);
                if borrowed.is_none() {
                    let [first, second] = buffers;
                    weight.read(column, 0, [first, second]);
                }
                for (row, out) in out.iter_mut().enumerate() {
                    let w = borrowed.unwrap_or(&buffers[row / share.max(1)]);
                    *out = super::simd::dot(&x[row * depth..(row + 1) * depth], w);
                }
            }
        },
    );
    if rows == 1 {
        return by_column;
    }
    let mut y = vec![0.0f32; width * rows];
    for (column, values) in by_column.chunks_exact(rows).enumerate() {
        for (row, value) in values.iter().enumerate() {
            y[row * width + column] = *value;
        }
    }
    y
}
