//! What is done with a direction: written out, added to weights, subtracted from weights.
//!
//! Every product and every sum is rounded on its own; a fused multiply-add would change the bits.

use half::bf16;

use super::descent::Descent;
use super::run::Kernel;
use super::stream::{Piece, Stream};
use super::weight::{Weight, round_stochastically};

/// z.
pub(super) struct Fill<'a> {
    pub(super) out: &'a mut [f32],
}

impl Kernel for Fill<'_> {
    #[inline(always)]
    fn piece(&mut self, stream: &Stream, piece: Piece) {
        let z = &stream.values(piece.group)[piece.in_group];
        self.out[piece.in_slice].copy_from_slice(z);
    }
}

/// w + scale·z.
pub(super) struct Perturb<'a, W> {
    pub(super) weights: &'a [W],
    pub(super) scale: f32,
    pub(super) out: &'a mut [f32],
}

impl<W: Weight> Kernel for Perturb<'_, W> {
    #[inline(always)]
    fn piece(&mut self, stream: &Stream, piece: Piece) {
        let z = &stream.values(piece.group)[piece.in_group];
        let weights = &self.weights[piece.in_slice.clone()];
        for ((out, w), z) in self.out[piece.in_slice].iter_mut().zip(weights).zip(z) {
            *out = w.widen() + self.scale * z;
        }
    }
}

/// w + eps·z and w − eps·z.
pub(super) struct PerturbPair<'a, W> {
    pub(super) weights: &'a [W],
    pub(super) eps: f32,
    pub(super) plus: &'a mut [f32],
    pub(super) minus: &'a mut [f32],
}

impl<W: Weight> Kernel for PerturbPair<'_, W> {
    #[inline(always)]
    fn piece(&mut self, stream: &Stream, piece: Piece) {
        let z = &stream.values(piece.group)[piece.in_group];
        let weights = &self.weights[piece.in_slice.clone()];
        let plus = &mut self.plus[piece.in_slice.clone()];
        let minus = &mut self.minus[piece.in_slice];
        for (((plus, minus), w), z) in plus.iter_mut().zip(minus).zip(weights).zip(z) {
            let (w, step) = (w.widen(), self.eps * z);
            *plus = w + step;
            *minus = w - step;
        }
    }
}

/// w ← keep·w − coefficient·z.
pub(super) struct UpdateF32<'a> {
    pub(super) weights: &'a mut [f32],
    pub(super) step: Descent,
}

impl Kernel for UpdateF32<'_> {
    #[inline(always)]
    fn piece(&mut self, stream: &Stream, piece: Piece) {
        let z = &stream.values(piece.group)[piece.in_group];
        for (w, z) in self.weights[piece.in_slice].iter_mut().zip(z) {
            *w = self.step.of(*w, *z);
        }
    }
}

/// w ← keep·w − coefficient·z, rounded stochastically.
pub(super) struct UpdateBf16<'a> {
    pub(super) weights: &'a mut [bf16],
    pub(super) step: Descent,
    /// Where the bits come from that decide how weights are rounded.
    pub(super) rounding: Stream,
}

impl Kernel for UpdateBf16<'_> {
    #[inline(always)]
    fn piece(&mut self, stream: &Stream, piece: Piece) {
        let z = &stream.values(piece.group)[piece.in_group.clone()];
        let words = self.rounding.rounding_words(piece.group);
        let weights = &mut self.weights[piece.in_slice];
        for ((w, z), &word) in weights.iter_mut().zip(z).zip(&words.as_flattened()[piece.in_group]) {
            *w = round_stochastically(self.step.of(w.widen(), *z), word);
        }
    }
}

/// Values, rounded stochastically.
pub(super) struct RoundBf16<'a> {
    pub(super) values: &'a [f32],
    pub(super) weights: &'a mut [bf16],
}

impl Kernel for RoundBf16<'_> {
    #[inline(always)]
    fn piece(&mut self, stream: &Stream, piece: Piece) {
        let words = stream.rounding_words(piece.group);
        let values = &self.values[piece.in_slice.clone()];
        let weights = &mut self.weights[piece.in_slice];
        for ((w, value), &word) in weights.iter_mut().zip(values).zip(&words.as_flattened()[piece.in_group]) {
            *w = round_stochastically(*value, word);
        }
    }
}

/// Whether a random mask leaves an element out: its word is not below the threshold.
pub(super) struct Dropped<'a> {
    pub(super) threshold: u32,
    pub(super) dropped: &'a mut [bool],
}

impl Kernel for Dropped<'_> {
    #[inline(always)]
    fn piece(&mut self, stream: &Stream, piece: Piece) {
        let words = stream.mask_words(piece.group);
        for (dropped, &word) in self.dropped[piece.in_slice].iter_mut().zip(&words.as_flattened()[piece.in_group]) {
            *dropped = word >= self.threshold;
        }
    }
}
