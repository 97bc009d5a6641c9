//! The pseudo-random permutations behind splits and batches.
//!
//! A run must draw the same rows in every version of this program, so the generator and the shuffle
//! are written down here instead of taken from a crate that may change them.

/// SplitMix64: a 64-bit generator of period 2⁶⁴ (Steele, Lea and Flood, "Fast splittable
/// pseudorandom number generators", 2014; the constants are those of Vigna's public-domain
/// `splitmix64.c`).
#[derive(Clone, Debug)]
pub struct SplitMix64 {
    state: u64,
}

/// The state's increment: 2⁶⁴ divided by the golden ratio, made odd.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64's output function, a bijection of 64-bit words.
fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

impl SplitMix64 {
    /// The generator that starts from a seed.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// A generator of its own for each (seed, purpose, counter).
    ///
    /// The seed, then the bytes of `purpose` in groups of eight (little-endian, zero-padded), then
    /// the counter are absorbed by state ← mix((state xor word) + γ), from state 0.
    pub fn keyed(seed: u64, purpose: &str, counter: u64) -> Self {
        let purpose = purpose.as_bytes().chunks(8).map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(word)
        });
        let words = std::iter::once(seed).chain(purpose).chain(std::iter::once(counter));
        Self { state: words.fold(0, |state, word| mix((state ^ word).wrapping_add(GAMMA))) }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GAMMA);
        mix(self.state)
    }

    /// A number of [0, 1), one of 2⁵³ that are evenly spaced.
    pub fn next_unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A number below `bound`, each equally likely (Lemire, "Fast random integer generation in an
    /// interval", 2019: the high word of a 128-bit product, rejecting the few low words that would
    /// favour some numbers). `bound` = 0 gives 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        let rejected = bound.wrapping_neg().checked_rem(bound).unwrap_or(0);
        loop {
            let product = u128::from(self.next_u64()) * u128::from(bound);
            let (high, low) = ((product >> 64) as u64, product as u64);
            if low >= rejected {
                return high;
            }
        }
    }
}

/// A permutation of 0 … `length` − 1 by Fisher and Yates' shuffle: from the last place down, each
/// exchanges its entry with one at or before it.
pub fn permutation(length: usize, generator: &mut SplitMix64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..length).collect();
    for last in (1..length).rev() {
        // `usize` has at most 64 bits on every supported target, and the result is at most `last`.
        let other = generator.below(last as u64 + 1) as usize;
        order.swap(last, other);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        // Published test vectors of splitmix64.c.
        let mut generator = SplitMix64::new(1_234_567);
        let drawn: Vec<u64> = (0..3).map(|_| generator.next_u64()).collect();
        assert_eq!(drawn, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
        assert_eq!(SplitMix64::new(0).next_u64(), 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn every_part_of_a_key_matters() {
        let first = |seed, purpose, counter| SplitMix64::keyed(seed, purpose, counter).next_u64();
        let all = [
            first(1, "inner", 0),
            first(2, "inner", 0),
            first(1, "outer", 0),
            first(1, "inner", 1),
            first(0, "a longer purpose", 0),
            first(0, "a longer purpose ", 0),
        ];
        for (index, value) in all.iter().enumerate() {
            assert!(!all[..index].contains(value));
        }
    }

    #[test]
    fn a_keyed_shuffle_never_changes() {
        // Computed by a second implementation from the description above; another order would
        // change every run's data.
        assert_eq!(permutation(8, &mut SplitMix64::keyed(7, "split", 0)), [7, 4, 5, 3, 0, 1, 2, 6]);
    }

    #[test]
    fn below_is_uniform() {
        let mut generator = SplitMix64::new(3);
        let mut counts = [0_u32; 6];
        for _ in 0..60_000 {
            counts[generator.below(6) as usize] += 1;
        }
        // Chi-square with 5 degrees of freedom exceeds 20.5 with probability 0.001.
        let chi: f64 = counts.iter().map(|&count| (f64::from(count) - 1e4).powi(2) / 1e4).sum();
        assert!(chi < 20.5, "{counts:?}");
        // Without rejection the plain product would reach every third number below 3·2⁶² twice as
        // often as the others.
        let mut residues = [0_u32; 3];
        for _ in 0..30_000 {
            residues[(generator.below(3 << 62) % 3) as usize] += 1;
        }
        assert!(residues.iter().all(|count| (9_600..10_400).contains(count)), "{residues:?}");
        assert_eq!(generator.below(1), 0);
    }

    #[test]
    fn permutations_of_four_are_equally_likely() {
        let mut generator = SplitMix64::new(11);
        let mut counts = std::collections::BTreeMap::new();
        for _ in 0..24_000 {
            *counts.entry(permutation(4, &mut generator)).or_insert(0_u32) += 1;
        }
        assert_eq!(counts.len(), 24);
        // Chi-square with 23 degrees of freedom exceeds 49.7 with probability 0.001.
        let chi: f64 = counts.values().map(|&count| (f64::from(count) - 1e3).powi(2) / 1e3).sum();
        assert!(chi < 49.7, "{chi}");
    }

    #[test]
    fn small_permutations() {
        assert!(permutation(0, &mut SplitMix64::new(0)).is_empty());
        assert_eq!(permutation(1, &mut SplitMix64::new(0)), [0]);
    }
}
