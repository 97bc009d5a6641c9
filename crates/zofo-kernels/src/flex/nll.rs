//! The output matrix and cross-entropy in one operation.
//!
//! Logits exist for a few labelled positions at a time, never for a whole batch.

use super::dots;
use super::gemm;
use super::simd;
use super::weight::WeightMatrix;
use crate::compute::Compute;
use rayon::prelude::*;

/// Labelled positions whose logits are held at once (per sign).
const LABELS: usize = 64;

/// Which labels a call handles: row `label + sign · labels` of `hidden` predicts `targets[label]`.
pub(super) struct Labels<'a> {
    pub(super) hidden: &'a [f32],
    pub(super) targets: &'a [u32],
    /// Bounds the logits to ±c: ℓ ← c·tanh(ℓ/c).
    pub(super) softcap: Option<f32>,
    /// Of the products with the output matrix.
    pub(super) compute: Compute,
}

impl Labels<'_> {
    /// Rows of `x` (of `width` values) that belong to `labels`, for all signs, one after the other.
    fn rows(&self, x: &[f32], width: usize, labels: std::ops::Range<usize>, signs: usize) -> Vec<f32> {
        let share = self.targets.len();
        let part = |sign| {
            let base = sign * share;
            &x[(base + labels.start) * width..(base + labels.end) * width]
        };
        (0..signs).flat_map(part).copied().collect()
    }

    fn chunks(&self) -> impl Iterator<Item = std::ops::Range<usize>> + use<> {
        let count = self.targets.len();
        (0..count).step_by(LABELS).map(move |start| start..count.min(start + LABELS))
    }

    /// −log softmax(h·Wᵀ)\[target\] of every row of `hidden`.
    pub(super) fn nll(&self, weight: &WeightMatrix) -> Vec<f32> {
        let signs = weight.signs();
        let share = self.targets.len();
        let mut out = vec![0.0f32; share * signs];
        for chunk in self.chunks() {
            let hidden = self.rows(self.hidden, weight.columns, chunk.clone(), signs);
            let mut logits = dots::product(&hidden, weight, self.compute);
            let nll: Vec<f32> = logits
                .par_chunks_exact_mut(weight.rows)
                .enumerate()
                .map(|(row, logits)| {
                    if let Some(cap) = self.softcap {
                        simd::soft_cap(logits, cap);
                    }
                    let target = self.targets[chunk.start + row % chunk.len()];
                    (log_sum_exp(logits) - f64::from(logits[target as usize])) as f32
                })
                .collect();
            for (sign, nll) in nll.chunks_exact(chunk.len()).enumerate() {
                out[sign * share + chunk.start..][..chunk.len()].copy_from_slice(nll);
            }
        }
        out
    }

    /// (softmax − one-hot)·`grad`·W, through the soft cap: the gradient with respect to `hidden`.
    pub(super) fn backward(&self, grad: &[f32], weight: &WeightMatrix) -> Vec<f32> {
        let signs = weight.signs();
        let (share, width) = (self.targets.len(), weight.columns);
        let mut out = vec![0.0f32; self.hidden.len()];
        for chunk in self.chunks() {
            let hidden = self.rows(self.hidden, width, chunk.clone(), signs);
            let grad = self.rows(grad, 1, chunk.clone(), signs);
            let mut logits = dots::product(&hidden, weight, self.compute);
            let rows = logits.par_chunks_exact_mut(weight.rows).zip(&grad).enumerate();
            rows.for_each_init(Vec::new, |slopes, (row, (logits, grad))| {
                if let Some(cap) = self.softcap {
                    simd::soft_cap(logits, cap);
                    slopes.clear();
                    slopes.extend(logits.iter().map(|&logit| simd::soft_cap_slope(logit, cap)));
                }
                let max = simd::max(logits);
                let sum = simd::exp_in_place(logits, max);
                let factor = grad / sum;
                for value in logits.iter_mut() {
                    *value *= factor;
                }
                logits[self.targets[chunk.start + row % chunk.len()] as usize] -= grad;
                // Without a soft cap there are no slopes, and nothing to multiply.
                for (value, slope) in logits.iter_mut().zip(&*slopes) {
                    *value *= slope;
                }
            });
            let part = gemm::product(&logits, weight, self.compute);
            for (sign, part) in part.chunks_exact(chunk.len() * width).enumerate() {
                out[(sign * share + chunk.start) * width..][..part.len()].copy_from_slice(part);
            }
        }
        out
    }
}

/// log Σ exp(x). The sum runs in f64 over blocks: an error of 1e-7 here is 1e-4·λ in the slope.
fn log_sum_exp(x: &[f32]) -> f64 {
    const BLOCK: usize = 256;
    let max = simd::max(x);
    if !max.is_finite() {
        // An infinite or undefined logit has no log-probability; let the caller see it.
        return f64::NAN;
    }
    let mut buffer = [0.0f32; BLOCK];
    let mut sum = 0.0f64;
    for block in x.chunks(BLOCK) {
        let buffer = &mut buffer[..block.len()];
        buffer.copy_from_slice(block);
        sum += f64::from(simd::exp_in_place(buffer, max));
    }
    f64::from(max) + sum.ln()
}
