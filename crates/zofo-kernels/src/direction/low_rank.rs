//! Directions of low rank.

use rayon::prelude::*;

use super::{Direction, ParameterId};

/// z = U·Vᵀ/√r over a matrix `[rows, columns]`, with standard normals U `[rows, r]` and V `[columns, r]` (LOZO; Chen et al.,
/// arXiv 2410.07698, with V drawn in every step). Its elements have mean 0 and variance 1.
///
/// U and V are the directions of parameters of their own, whose names are that of the matrix with `#u` and `#v` behind it.
#[derive(Clone, Debug)]
pub struct LowRank {
    /// U/√r, row by row.
    u: Vec<f32>,
    /// Vᵀ, row by row.
    v: Vec<f32>,
    rank: usize,
    columns: usize,
    /// Where bits for rounding come from.
    whole: Direction,
}

impl LowRank {
    /// The direction of the parameter `name`, a matrix of this shape, under a seed. The rank is at least 1.
    pub fn new(seed: u64, name: &str, [rows, columns]: [usize; 2], rank: usize) -> Self {
        let normals = |suffix: &str, len: usize| {
            let mut values = vec![0.0; len];
            Direction::new(seed, ParameterId::from_name(&format!("{name}#{suffix}"))).fill(0, &mut values);
            values
        };
        let (mut u, by_row) = (normals("u", rows * rank), normals("v", columns * rank));
        let scale = 1.0 / (rank as f32).sqrt();
        u.iter_mut().for_each(|u| *u *= scale);
        let v = (0..rank * columns).map(|i| by_row[i % columns * rank + i / columns]).collect();
        Self { u, v, rank, columns, whole: Direction::new(seed, ParameterId::from_name(name)) }
    }

    /// The same bits of rounding that a direction of full rank would have.
    pub(crate) fn whole(&self) -> &Direction {
        &self.whole
    }

    /// Writes z\[start\], z\[start + 1\], … to `out`, row-major.
    pub fn fill(&self, start: usize, out: &mut [f32]) {
        let mut done = 0;
        while done < out.len() {
            let (row, first) = ((start + done) / self.columns, (start + done) % self.columns);
            let count = (self.columns - first).min(out.len() - done);
            let piece = &mut out[done..done + count];
            piece.fill(0.0);
            for (k, u) in self.u_of(row).iter().enumerate() {
                for (z, v) in piece.iter_mut().zip(&self.v_of(k)[first..first + count]) {
                    *z += u * v;
                }
            }
            done += count;
        }
    }

    /// y ← y + scale·x·zᵀ for rows x `[n, columns]` and y `[n, rows]`, of which the first share belongs to the first scale,
    /// and so on: z itself is never made.
    pub(crate) fn add_product(&self, x: &[f32], y: &mut [f32], scales: &[f32]) {
        let outputs = self.u.len() / self.rank;
        let share = y.len() / outputs / scales.len();
        let rows = x.par_chunks_exact(self.columns).zip(y.par_chunks_exact_mut(outputs)).enumerate();
        rows.for_each(|(row, (x, y))| {
            let through: Vec<f32> = (0..self.rank).map(|k| dot(x, self.v_of(k)) * scales[row / share]).collect();
            for (output, y) in y.iter_mut().enumerate() {
                *y += dot(&through, self.u_of(output));
            }
        });
    }

    /// y ← y + scale·x·z for rows x `[n, rows]` and y `[n, columns]`, likewise.
    pub(crate) fn add_product_transposed(&self, x: &[f32], y: &mut [f32], scales: &[f32]) {
        let inputs = self.u.len() / self.rank;
        let share = y.len() / self.columns / scales.len();
        let rows = x.par_chunks_exact(inputs).zip(y.par_chunks_exact_mut(self.columns)).enumerate();
        rows.for_each(|(row, (x, y))| {
            for k in 0..self.rank {
                let through: f32 = x.iter().enumerate().map(|(input, x)| x * self.u[input * self.rank + k]).sum();
                let through = through * scales[row / share];
                for (y, v) in y.iter_mut().zip(self.v_of(k)) {
                    *y += through * v;
                }
            }
        });
    }

    fn u_of(&self, row: usize) -> &[f32] {
        &self.u[row * self.rank..(row + 1) * self.rank]
    }

    fn v_of(&self, k: usize) -> &[f32] {
        &self.v[k * self.columns..(k + 1) * self.columns]
    }
}

/// In sixteen sums, so that it becomes vector instructions; their order is fixed.
fn dot(left: &[f32], right: &[f32]) -> f32 {
    let (left, left_rest) = left.as_chunks::<16>();
    let (right, right_rest) = right.as_chunks::<16>();
    let mut sums = [0.0f32; 16];
    for (left, right) in left.iter().zip(right) {
        for ((sum, left), right) in sums.iter_mut().zip(left).zip(right) {
            *sum += left * right;
        }
    }
    let rest: f32 = left_rest.iter().zip(right_rest).map(|(left, right)| left * right).sum();
    sums.iter().sum::<f32>() + rest
}
