//! Directions that are 0 in some of a weight's elements.

use super::{Direction, Weight};

/// Which elements of one parameter a direction covers. The others stay as they are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mask {
    /// Those of |w| at most this (Sparse-MeZO; Liu et al., arXiv 2402.15751), as w is when it is read.
    Smallest(f32),
    /// Those of |w| at least this.
    Largest(f32),
    /// A random share of them: a pure function of the seed, the parameter and the index.
    Random {
        /// Chooses them.
        seed: u64,
        /// Of 2³² elements, how many.
        threshold: u32,
    },
}

impl Mask {
    /// A random share, from 0 to 1, of the elements.
    pub fn random(seed: u64, share: f64) -> Self {
        // The cast saturates.
        Self::Random { seed, threshold: (share * 4_294_967_296.0) as u32 }
    }

    /// Calls `f` with the place in `weights` of every element that is left out; they begin at element `start` of the
    /// parameter of this direction.
    pub(crate) fn for_each_dropped<W: Weight>(
        self,
        direction: &Direction,
        start: usize,
        weights: &[W],
        f: impl FnMut(usize),
    ) {
        let mut dropped = vec![false; weights.len()];
        match self {
            Self::Smallest(bound) => mark(weights, &mut dropped, |size| size > bound),
            Self::Largest(bound) => mark(weights, &mut dropped, |size| size < bound),
            Self::Random { seed, threshold } => direction.dropped(seed, start as u64, threshold, &mut dropped),
        }
        (0..dropped.len()).filter(|&place| dropped[place]).for_each(f);
    }
}

/// Marks the weights whose magnitudes are dropped.
fn mark<W: Weight>(weights: &[W], dropped: &mut [bool], drops: impl Fn(f32) -> bool) {
    for (dropped, weight) in dropped.iter_mut().zip(weights) {
        *dropped = drops(weight.widen().abs());
    }
}
