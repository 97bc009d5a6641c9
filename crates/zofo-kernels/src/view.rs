//! Perturbed weights as views.

use crate::direction::{Descent, Direction, LowRank, Mask, Weight};
use half::bf16;
use std::sync::Arc;

/// Where the values of a direction come from.
///
/// # Panics
///
/// All methods panic if their slices differ in length, or reach beyond a stored direction.
#[derive(Clone, Debug)]
pub enum Noise {
    /// The counter-based generator: nothing is stored.
    Generated(Direction),
    /// The same, but 0 in the elements that a mask leaves out.
    Masked(Direction, Mask),
    /// The product of two thin matrices, which are stored.
    LowRank(Arc<LowRank>),
    /// One stored value per element, row-major. For comparisons with a recorded direction.
    Stored(Arc<[f32]>),
}

impl Noise {
    /// Writes z\[start .. start + out.len()\] into `out`, as it is without a mask.
    pub fn fill(&self, start: usize, out: &mut [f32]) {
        match self {
            Noise::Generated(direction) | Noise::Masked(direction, _) => direction.fill(start as u64, out),
            Noise::LowRank(z) => z.fill(start, out),
            Noise::Stored(z) => out.copy_from_slice(&z[start..start + out.len()]),
        }
    }

    /// As [`fill`](Self::fill), with 0 where a mask leaves out one of the `weights`, which begin at element `start`.
    pub fn fill_for<W: Weight>(&self, start: usize, weights: &[W], out: &mut [f32]) {
        self.fill(start, out);
        self.for_each_dropped(start, weights, |place| out[place] = 0.0);
    }

    /// Writes w + `scale`·z into `out`, for weights that begin at element `start`.
    pub fn perturb<W: Weight>(&self, start: usize, weights: &[W], scale: f32, out: &mut [f32]) {
        match self {
            Noise::Generated(direction) | Noise::Masked(direction, _) => {
                direction.perturb(start as u64, weights, scale, out);
            }
            Noise::LowRank(z) => {
                assert_eq!(weights.len(), out.len(), "weights and what is written have one length");
                z.fill(start, out);
                for (out, w) in out.iter_mut().zip(weights) {
                    *out = w.widen() + scale * *out;
                }
            }
            Noise::Stored(z) => {
                assert_eq!(weights.len(), out.len(), "weights and what is written have one length");
                for ((out, w), z) in out.iter_mut().zip(weights).zip(&z[start..start + weights.len()]) {
                    *out = w.widen() + scale * z;
                }
            }
        }
        self.for_each_dropped(start, weights, |place| out[place] = weights[place].widen());
    }

    /// Writes w + `eps`·z into `plus` and w − `eps`·z into `minus`, from one generation of z.
    pub fn perturb_pair<W: Weight>(&self, start: usize, weights: &[W], eps: f32, plus: &mut [f32], minus: &mut [f32]) {
        match self {
            Noise::Generated(direction) | Noise::Masked(direction, _) => {
                direction.perturb_pair(start as u64, weights, eps, plus, minus);
            }
            Noise::LowRank(_) | Noise::Stored(_) => {
                self.perturb(start, weights, eps, plus);
                self.perturb(start, weights, -eps, minus);
            }
        }
        self.for_each_dropped(start, weights, |place| {
            (plus[place], minus[place]) = (weights[place].widen(), weights[place].widen());
        });
    }

    /// w ← keep·w − coefficient·z in place, for weights that begin at element `start`. What a mask leaves out stays.
    pub fn update_f32(&self, start: usize, weights: &mut [f32], step: impl Into<Descent>) {
        let step = step.into();
        match self {
            Noise::Generated(direction) => direction.update_f32(start as u64, weights, step),
            Noise::Masked(direction, _) => {
                self.update_kept(start, weights, |weights| direction.update_f32(start as u64, weights, step));
            }
            Noise::LowRank(z) => {
                let mut values = vec![0.0; weights.len()];
                z.fill(start, &mut values);
                for (w, z) in weights.iter_mut().zip(values) {
                    *w = step.of(*w, z);
                }
            }
            Noise::Stored(z) => {
                let z = &z[start..start + weights.len()];
                for (w, z) in weights.iter_mut().zip(z) {
                    *w = step.of(*w, *z);
                }
            }
        }
    }

    /// w ← keep·w − coefficient·z in place. A generated direction rounds stochastically; a stored one, which
    /// has no seed to take random bits from, rounds to nearest. What a mask leaves out stays.
    pub fn update_bf16(&self, start: usize, weights: &mut [bf16], step: impl Into<Descent>) {
        let step = step.into();
        match self {
            Noise::Generated(direction) => direction.update_bf16(start as u64, weights, step),
            Noise::Masked(direction, _) => {
                self.update_kept(start, weights, |weights| direction.update_bf16(start as u64, weights, step));
            }
            Noise::LowRank(z) => {
                let mut values = vec![0.0; weights.len()];
                z.fill(start, &mut values);
                for (value, w) in values.iter_mut().zip(&*weights) {
                    *value = step.of(w.widen(), *value);
                }
                z.whole().round_bf16(start as u64, &values, weights, step.turn);
            }
            Noise::Stored(z) => {
                let z = &z[start..start + weights.len()];
                for (w, z) in weights.iter_mut().zip(z) {
                    *w = bf16::from_f32(step.of(w.widen(), *z));
                }
            }
        }
    }

    /// Applies `update` to all weights, and takes back what it did to those that a mask leaves out.
    fn update_kept<W: Weight>(&self, start: usize, weights: &mut [W], update: impl FnOnce(&mut [W])) {
        let before = weights.to_vec();
        update(weights);
        self.for_each_dropped(start, &before, |place| weights[place] = before[place]);
    }

    /// Calls `f` with the place in `weights` of every element that a mask leaves out.
    fn for_each_dropped<W: Weight>(&self, start: usize, weights: &[W], f: impl FnMut(usize)) {
        if let Noise::Masked(direction, mask) = self {
            mask.for_each_dropped(direction, start, weights, f);
        }
    }
}

/// How a kernel reads a weight w. Reading never changes the weight itself.
#[derive(Clone, Debug)]
pub enum WeightView {
    /// w.
    Exact,
    /// w + `scale`·z.
    One {
        /// The direction z of this weight.
        noise: Noise,
        /// Factor of z.
        scale: f32,
    },
    /// Both signs in lockstep: the first half of the activation rows sees w + `eps`·z, the second
    /// half w − `eps`·z, from one generation of z and one read of w.
    Pair {
        /// The direction z of this weight.
        noise: Noise,
        /// Factor of z.
        eps: f32,
    },
}

impl WeightView {
    /// A direction of low rank with its factor for every sign, if the weight is read along one.
    pub(crate) fn low_rank(&self) -> Option<(&LowRank, Vec<f32>)> {
        match self {
            WeightView::One { noise: Noise::LowRank(z), scale } => Some((z, vec![*scale])),
            WeightView::Pair { noise: Noise::LowRank(z), eps } => Some((z, vec![*eps, -*eps])),
            _ => None,
        }
    }

    /// Number of different weights that one activation batch sees: 2 for a pair, else 1.
    pub fn signs(&self) -> usize {
        match self {
            WeightView::Pair { .. } => 2,
            _ => 1,
        }
    }
}
