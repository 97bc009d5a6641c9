//! Random directions: z ~ N(0, I), one value per weight, computed from a counter wherever it is
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
//!   half of a 64-bit number: 8 bits of domain (0: normals, 1: stochastic rounding) above 56 bits
//!   of block index.
//! - **Layout**: 64 consecutive elements are a group, made of 16 blocks of 4 words. Element e takes
//!   word ⌊(e mod 64)/16⌋ of block 16·⌊e/64⌋ + (e mod 16): words 0 of the 16 blocks are the first
//!   16 elements, words 1 the next, so that vectors of up to 16 lanes are stored as they are
//!   computed.
//! - **Normals**: words 0 and 1 of a block give the elements at places 0 and 1 by Box–Muller, words
//!   2 and 3 those at places 2 and 3; the private module `normal` has the formulas, in operations
//!   whose bits IEEE 754 defines.
//! - **Rounding**: in domain 1 every element has the word at its own place; its upper 16 bits
//!   decide how an updated weight is rounded to `bf16`.
//!
//! The index is row-major in the tensor as Hugging Face stores it, and the name is the one that is
//! written to `backbone/`.

mod kernel;
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

pub use self::weight::Weight;
pub use crate::isa::Isa;

use self::kernel::{Fill, Perturb, PerturbPair, UpdateBf16, UpdateF32};
use self::run::{Kernel, run_with};
use self::stream::{MAX_ELEMENTS, Stream};

/// The version of the map from (seed, parameter name, element index) to bits that this module
/// implements.
pub const DIRECTION_SCHEME: u32 = 1;

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

/// The direction of one parameter under one seed: an endless sequence of standard normals that
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
    isa: Isa,
}

impl Direction {
    /// The direction of a parameter under a seed, computed with the fastest instruction set of this
    /// CPU.
    pub fn new(seed: u64, parameter: ParameterId) -> Self {
        Self { seed, parameter, isa: Isa::best() }
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

    /// w ← w − `coefficient`·z in place, for the `weights` w that begin at element `start`.
    pub fn update_f32(&self, start: u64, weights: &mut [f32], coefficient: f32) {
        self.run(start, weights.len(), UpdateF32 { weights, coefficient });
    }

    /// w ← w − `coefficient`·z in place, for the `weights` w that begin at element `start`.
    ///
    /// The difference is computed in `f32` and rounded stochastically, with bits that depend on
    /// nothing but (seed, parameter, index) and are independent of z: a change too small for `bf16`
    /// is kept on average instead of lost. A finite difference gives a finite weight.
    pub fn update_bf16(&self, start: u64, weights: &mut [bf16], coefficient: f32) {
        self.run(start, weights.len(), UpdateBf16 { weights, coefficient });
    }

    fn run(&self, start: u64, len: usize, kernel: impl Kernel) {
        let end = start.checked_add(len as u64);
        assert!(
            end.is_some_and(|end| end <= MAX_ELEMENTS),
            "elements {start} + {len} exceed the 2^58 that a parameter may have"
        );
        run_with(self.isa, &Stream::new(self.seed, self.parameter.0), start, len, kernel);
    }
}
