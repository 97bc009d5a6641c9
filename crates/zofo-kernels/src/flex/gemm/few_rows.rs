//! x·W for a few rows of x: the weight is read once, row by row as it is stored, and nothing is packed.
//!
//! That is how the gradient of a few labels' logits goes through a large output matrix, and how GPT-2 generates.

use crate::flex::simd;
use crate::flex::weight::WeightMatrix;
use rayon::prelude::*;

/// Units of work, at most: each has sums of its own. And rows of the weight that one adds up, at least.
const UNITS: usize = 32;
const UNIT_ROWS: usize = 128;

/// y = x·W: x `[rows, out]`, W `[out, in]`, y `[rows, in]`. Units are cut by the shape, and their sums added in order.
pub(super) fn product(x: &[f32], weight: &WeightMatrix) -> Vec<f32> {
    let (depth, width, signs) = (weight.rows, weight.columns, weight.signs());
    let rows = x.len() / depth;
    let share = rows / signs;
    let unit_rows = depth.div_ceil(UNITS).max(UNIT_ROWS);
    let unit = |unit: usize| {
        let mut y = vec![0.0f32; rows * width];
        let mut buffers = [vec![0.0f32; width], vec![0.0f32; if signs == 2 { width } else { 0 }]];
        for k in unit * unit_rows..depth.min((unit + 1) * unit_rows) {
            let weights = weight_row(weight, k, &mut buffers);
            for (row, y) in y.chunks_exact_mut(width).enumerate() {
                simd::axpy(x[row * depth + k], weights[row / share], y);
            }
        }
        y
    };
    let sums: Vec<Vec<f32>> = (0..depth.div_ceil(unit_rows)).into_par_iter().map(unit).collect();
    let mut y = vec![0.0f32; rows * width];
    for sum in &sums {
        simd::axpy(1.0, sum, &mut y);
    }
    y
}

/// Row `k` of the weight as every sign sees it: where it is stored, or else formed in the buffers.
fn weight_row<'a>(weight: &WeightMatrix<'a>, k: usize, buffers: &'a mut [Vec<f32>; 2]) -> [&'a [f32]; 2] {
    if let Some(stored) = weight.borrow(k, 0, weight.columns) {
        return [stored, &[]];
    }
    let [first, second] = buffers;
    weight.read(k, 0, [first, second]);
    [first, second]
}
