//! Directions that are 0 in some of a weight's elements.

use super::Weight;
use super::philox::{RoundKeys, philox4x32_10};

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
    /// parameter of this identity.
    pub(crate) fn for_each_dropped<W: Weight>(
        self,
        parameter: u64,
        start: usize,
        weights: &[W],
        mut f: impl FnMut(usize),
    ) {
        let drops = |place: usize| match self {
            Self::Smallest(bound) => weights[place].widen().abs() > bound,
            Self::Largest(bound) => weights[place].widen().abs() < bound,
            Self::Random { seed, threshold } => {
                let element = (start + place) as u64;
                // Domain 2: see the scheme.
                let counter =
                    [element as u32, 2 << 24 | (element >> 32) as u32, parameter as u32, (parameter >> 32) as u32];
                philox4x32_10(counter, &RoundKeys::new(seed))[0] >= threshold
            }
        };
        (0..weights.len()).filter(|&place| drops(place)).for_each(&mut f);
    }
}
