//! Random directions: z ~ N(0, I), or random signs, one value per weight, computed from a counter wherever it is
//! needed and never stored.
//!
//! # Scheme 1
//!
//! An element of a direction is a pure function of (seed, parameter name, element index), in any
//! order, any chunking and on any thread. Journals record [`DIRECTION_SCHEME`]; whoever changes a
//! bit of what follows must count it up.
//!
//! - **Generator**: Philox4x32-10. Key word 0 is the low half of the 64-bit seed, key word 1 its
//!   high half.
//! - **Counter**: words 2 and 3 are the low and high half of the parameter's identity, the first 8
//!   bytes (little endian) of the SHA-256 of its name in UTF-8. Words 0 and 1 are the low and high
//!   half of a 64-bit number: 8 bits of domain (0: values, 1: stochastic rounding, 2: masks) above 56 bits
//!   of block index.
//! - **Layout**: 64 consecutive elements are a group, made of 16 blocks of 4 words. Element e takes
//!   word ⌊(e mod 64)/16⌋ of block 16·⌊e/64⌋ + (e mod 16): words 0 of the 16 blocks are the first
//!   16 elements, words 1 the next, so that vectors of up to 16 lanes are stored as they are
//!   computed.
//! - **Normals**: words 0 and 1 of a block give the elements at places 0 and 1 by Box–Muller, words
//!   2 and 3 those at places 2 and 3; the private module `normal` has the formulas, in operations
//!   whose bits IEEE 754 defines.
//! - **Signs**: a Rademacher direction has, at every place, +1 or −1 by the upper bit (0: +1) of the word that the layout
//!   gives to the element, in domain 0.
//! - **Masks**: a random mask keeps the elements whose words in domain 2, under the seed of the mask, are below a
//!   threshold; every element has the word at its own place.
//! - **Rounding**: in domain 1 every element has the word at its own place; its upper 16 bits
//!   decide how an updated weight is rounded to `bf16`. An update that subtracts a direction for the (n + 1)-th time takes
//!   the words under the seed plus n·0x9E37_79B9_7F4A_7C15, modulo 2⁶⁴.
//!
//! The index is row-major in the tensor as Hugging Face stores it, and the name is the one that is
//! written to `backbone/`.

mod descent;
mod kernel;
mod low_rank;
mod mask;
mod normal;
mod philox;
mod run;
mod stream;
mod weight;

#[cfg(test)]
mod statistics;
#[cfg(test)]
mod tests;

use half::bf16;
use sha2::{Digest, Sha256};

pub use self::descent::Descent;
pub use self::low_rank::LowRank;
pub use self::mask::Mask;
pub use self::weight::Weight;
pub use crate::isa::Isa;

use self::kernel::{Dropped, Fill, Perturb, PerturbPair, RoundBf16, UpdateBf16, UpdateF32};
use self::run::{Kernel, run_with};
use self::stream::{MAX_ELEMENTS, Stream};

/// The version of the map from (seed, parameter name, element index) to bits that this module
/// implements.
pub const DIRECTION_SCHEME: u32 = 1;

/// How the elements of a direction are distributed; all have mean 0 and variance 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Distribution {
    /// Standard normals.
    #[default]
    Gaussian,
    /// +1 or −1, each with probability ½.
    Rademacher,
}

/// The identity of a parameter within a direction: 64 bits of its name's hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ParameterId(u64);

impl ParameterId {
    /// The identity of the parameter of this name, for example
    /// `model.layers.0.self_attn.q_proj.weight`.
    pub fn from_name(name: &str) -> Self {
        let hash: [u8; 32] = Sha256::digest(name.as_bytes()).into();
        let [a, b, c, d, e, f, g, h, ..] = hash;
        Self(u64::from_le_bytes([a, b, c, d, e, f, g, h]))
    }
}

/// The direction of one parameter under one seed: an endless sequence of standard normals, or of random signs, that
/// costs no memory.
///
/// Methods take the index of the first element they touch, so that a tensor can be worked on in
/// pieces of any size, by any number of threads, with the same result.
///
/// # Panics
///
/// All methods panic if their slices differ in length, or if an index reaches 2⁵⁸.
#[derive(Clone, Copy, Debug)]
pub struct Direction {
    seed: u64,
    parameter: ParameterId,
    distribution: Distribution,
    isa: Isa,
}

impl Direction {
    /// The direction of a parameter under a seed, computed with the fastest instruction set of this
    /// CPU.
    pub fn new(seed: u64, parameter: ParameterId) -> Self {
        Self { seed, parameter, distribution: Distribution::Gaussian, isa: Isa::best() }
    }

    /// The direction of the same seed with elements of another distribution.
    pub fn with_distribution(self, distribution: Distribution) -> Self {
        Self { distribution, ..self }
    }

    /// The same direction, computed with the given instruction set: for tests and measurements.
    pub fn with_isa(self, isa: Isa) -> Self {
        Self { isa, ..self }
    }

    /// Writes z\[start\], z\[start + 1\], … to `out`.
    pub fn fill(&self, start: u64, out: &mut [f32]) {
        self.run(start, out.len(), Fill { out });
    }

    /// Writes w + `scale`·z to `out`, for the `weights` w that begin at element `start`. With a
    /// negative scale the bits are those of `minus` in [`perturb_pair`](Self::perturb_pair).
    pub fn perturb<W: Weight>(&self, start: u64, weights: &[W], scale: f32, out: &mut [f32]) {
        assert_eq!(weights.len(), out.len(), "weights and output differ in length");
        self.run(start, out.len(), Perturb { weights, scale, out });
    }

    /// Writes w + `eps`·z to `plus` and w − `eps`·z to `minus`, for the `weights` w that begin at
    /// element `start`, from one generation of z.
    pub fn perturb_pair<W: Weight>(&self, start: u64, weights: &[W], eps: f32, plus: &mut [f32], minus: &mut [f32]) {
        assert_eq!(weights.len(), plus.len(), "weights and output differ in length");
        assert_eq!(weights.len(), minus.len(), "weights and output differ in length");
        self.run(start, weights.len(), PerturbPair { weights, eps, plus, minus });
    }

    /// w ← keep·w − coefficient·z in place, for the `weights` w that begin at element `start`.
    pub fn update_f32(&self, start: u64, weights: &mut [f32], step: impl Into<Descent>) {
        self.run(start, weights.len(), UpdateF32 { weights, step: step.into() });
    }

    /// w ← keep·w − coefficient·z in place, for the `weights` w that begin at element `start`.
    ///
    /// The difference is computed in `f32` and rounded stochastically, with bits that depend on
    /// nothing but (seed, parameter, index, turn) and are independent of z: a change too small for `bf16`
    /// is kept on average instead of lost. A finite difference gives a finite weight.
    pub fn update_bf16(&self, start: u64, weights: &mut [bf16], step: impl Into<Descent>) {
        let step = step.into();
        let rounding = self.in_turn(step.turn).stream();
        self.run(start, weights.len(), UpdateBf16 { weights, step, rounding });
    }

    /// Rounds `values` stochastically into `weights`, which begin at element `start`, with the bits that
    /// [`update_bf16`](Self::update_bf16) uses in this turn.
    pub(crate) fn round_bf16(&self, start: u64, values: &[f32], weights: &mut [bf16], turn: u32) {
        assert_eq!(values.len(), weights.len(), "values and weights differ in length");
        self.in_turn(turn).run(start, values.len(), RoundBf16 { values, weights });
    }

    /// What has the bits of rounding of a [turn](Descent::turn).
    fn in_turn(&self, turn: u32) -> Self {
        /// 2⁶⁴ over the golden ratio.
        const STRIDE: u64 = 0x9E37_79B9_7F4A_7C15;
        Self { seed: self.seed.wrapping_add(u64::from(turn).wrapping_mul(STRIDE)), ..*self }
    }

    /// Which elements from `start` on a random mask of this seed leaves out: it keeps `threshold` of 2³².
    fn dropped(&self, seed: u64, start: u64, threshold: u32, dropped: &mut [bool]) {
        Self { seed, ..*self }.run(start, dropped.len(), Dropped { threshold, dropped });
    }

    fn run(&self, start: u64, len: usize, kernel: impl Kernel) {
        let end = start.checked_add(len as u64);
        assert!(
            end.is_some_and(|end| end <= MAX_ELEMENTS),
            "elements {start} + {len} exceed the 2^58 that a parameter may have"
        );
        run_with(self.isa, &self.stream(), start, len, kernel);
    }

    fn stream(&self) -> Stream {
        Stream::new(self.seed, self.parameter.0).with_distribution(self.distribution)
    }
}
