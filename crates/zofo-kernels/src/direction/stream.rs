//! The layout of scheme 1: which counter, word and lane belong to an element.

use std::ops::Range;

use super::Distribution;
use super::normal::box_muller;
use super::philox::{RoundKeys, philox4x32_10};

/// Counters of a group. Lane l of every 16-lane vector comes from counter l, so that no vector is
/// ever transposed.
const LANES: usize = 16;

/// Elements of a group: 16 counters of four words.
pub(super) const GROUP: usize = 4 * LANES;

/// Elements that a parameter may have: the block index has 56 bits, and 16 blocks make 64 elements.
pub(super) const MAX_ELEMENTS: u64 = 1 << 58;

/// What bits are for: the top 8 bits of a counter's upper half, so that two domains never share a
/// counter.
#[derive(Clone, Copy)]
enum Domain {
    Value = 0,
    Rounding = 1,
    Mask = 2,
}

/// The bits of one parameter under one seed, computed group by group.
pub(super) struct Stream {
    keys: RoundKeys,
    parameter: [u32; 2],
    distribution: Distribution,
}

impl Stream {
    #[inline(always)]
    pub(super) fn new(seed: u64, parameter: u64) -> Self {
        let parameter = [parameter as u32, (parameter >> 32) as u32];
        Self { keys: RoundKeys::new(seed), parameter, distribution: Distribution::Gaussian }
    }

    #[inline(always)]
    pub(super) fn with_distribution(self, distribution: Distribution) -> Self {
        Self { distribution, ..self }
    }

    /// The four words of each counter of a group: `[word][lane]`.
    #[inline(always)]
    fn words(&self, domain: Domain, group: u64) -> [[u32; LANES]; 4] {
        let first = group * LANES as u64;
        let upper = ((domain as u32) << 24) | (first >> 32) as u32;
        let mut words = [[0; LANES]; 4];
        let [w0, w1, w2, w3] = &mut words;
        for lane in 0..LANES {
            // `first` is a multiple of 16: adding a lane carries nothing into the upper half.
            let low = first as u32 | lane as u32;
            let counter = [low, upper, self.parameter[0], self.parameter[1]];
            [w0[lane], w1[lane], w2[lane], w3[lane]] = philox4x32_10(counter, &self.keys);
        }
        words
    }

    /// The direction at elements 64·`group` to 64·`group` + 63.
    #[inline(always)]
    pub(super) fn values(&self, group: u64) -> [f32; GROUP] {
        match self.distribution {
            Distribution::Gaussian => self.normals(group),
            Distribution::Rademacher => self.signs(group),
        }
    }

    /// The signs of the same elements as [`normals`](Self::normals).
    #[inline(always)]
    fn signs(&self, group: u64) -> [f32; GROUP] {
        const ONE: u32 = 1.0f32.to_bits();
        let words = self.words(Domain::Value, group);
        let mut z = [0.0; GROUP];
        for (z, word) in z.iter_mut().zip(words.as_flattened()) {
            *z = f32::from_bits(ONE | word & 0x8000_0000);
        }
        z
    }

    /// The normals of elements 64·`group` to 64·`group` + 63.
    #[inline(always)]
    fn normals(&self, group: u64) -> [f32; GROUP] {
        let [w0, w1, w2, w3] = self.words(Domain::Value, group);
        let mut z = [0.0; GROUP];
        for lane in 0..LANES {
            (z[lane], z[LANES + lane]) = box_muller(w0[lane], w1[lane]);
            (z[2 * LANES + lane], z[3 * LANES + lane]) = box_muller(w2[lane], w3[lane]);
        }
        z
    }

    /// One word for each of the same elements, in order when flattened, from other counters than
    /// the normals.
    #[inline(always)]
    pub(super) fn rounding_words(&self, group: u64) -> [[u32; LANES]; 4] {
        self.words(Domain::Rounding, group)
    }

    /// The same of a random mask.
    #[inline(always)]
    pub(super) fn mask_words(&self, group: u64) -> [[u32; LANES]; 4] {
        self.words(Domain::Mask, group)
    }
}

/// The part of one group that a slice of elements covers.
pub(super) struct Piece {
    /// Index of the group.
    pub(super) group: u64,
    /// The elements, counted from the start of the group.
    pub(super) in_group: Range<usize>,
    /// The same elements, counted from the start of the slice.
    pub(super) in_slice: Range<usize>,
}

/// Cuts elements `start` to `start + len` at the borders of groups.
#[inline(always)]
pub(super) fn pieces(start: u64, len: usize) -> impl Iterator<Item = Piece> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let element = start + done as u64;
        let first = (element % GROUP as u64) as usize;
        let count = (GROUP - first).min(len - done);
        let piece =
            Piece { group: element / GROUP as u64, in_group: first..first + count, in_slice: done..done + count };
        done += count;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Scheme 1 written down a second time, one element at a time.
    fn element(seed: u64, parameter: u64, index: u64, domain: u32) -> ([u32; 4], usize) {
        let block = 16 * (index / 64) + index % 16;
        let counter = [block as u32, (domain << 24) + (block >> 32) as u32, parameter as u32, (parameter >> 32) as u32];
        (philox4x32_10(counter, &RoundKeys::new(seed)), (index % 64 / 16) as usize)
    }

    proptest! {
        #[test]
        fn groups_follow_the_layout(
            seed: u64,
            parameter: u64,
            group in 0..MAX_ELEMENTS / GROUP as u64,
        ) {
            let stream = Stream::new(seed, parameter);
            let (normals, words) = (stream.normals(group), stream.rounding_words(group));
            let of_mask = stream.mask_words(group);
            let signs = Stream::new(seed, parameter).with_distribution(Distribution::Rademacher).values(group);
            let elements = normals.iter().zip(words.as_flattened()).enumerate();
            for (offset, (normal, rounding)) in elements {
                let index = group * GROUP as u64 + offset as u64;
                let (words, word) = element(seed, parameter, index, 0);
                let pair = word / 2 * 2;
                let (x, y) = box_muller(words[pair], words[pair + 1]);
                prop_assert_eq!(normal.to_bits(), if word == pair { x } else { y }.to_bits());
                let sign = if words[word] >> 31 == 0 { 1.0 } else { -1.0 };
                prop_assert_eq!(signs[offset], sign);
                let (words, word) = element(seed, parameter, index, 1);
                prop_assert_eq!(*rounding, words[word]);
                let (words, word) = element(seed, parameter, index, 2);
                prop_assert_eq!(of_mask.as_flattened()[offset], words[word]);
            }
        }

        #[test]
        fn pieces_cover_a_slice_once(start in 0u64..1000, len in 0usize..1000) {
            let mut next = 0;
            for piece in pieces(start, len) {
                prop_assert_eq!(piece.in_slice.start, next);
                prop_assert!(piece.in_group.end <= GROUP && !piece.in_group.is_empty());
                prop_assert_eq!(piece.in_group.len(), piece.in_slice.len());
                let element = piece.group * GROUP as u64 + piece.in_group.start as u64;
                prop_assert_eq!(element, start + next as u64);
                next = piece.in_slice.end;
            }
            prop_assert_eq!(next, len);
        }
    }
}
