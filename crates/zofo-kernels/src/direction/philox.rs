//! Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw, "Parallel random
//! numbers: as easy as 1, 2, 3" (SC 2011).

/// The multipliers of the two halves of a round (`PHILOX_M4x32_0` and `PHILOX_M4x32_1` of
/// Random123).
const MULTIPLIERS: [u64; 2] = [0xD251_1F53, 0xCD9E_8D57];

/// What the two key words grow by after each round: the golden ratio and √3 − 1 in 32-bit fixed
/// point.
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Rounds of the variant that the authors recommend: three more than pass every statistical test.
const ROUNDS: usize = 10;

/// The 32 bits that a word has.
const WORD: u64 = 0xFFFF_FFFF;

/// The key of each round, computed once per stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct RoundKeys([[u32; 2]; ROUNDS]);

impl RoundKeys {
    /// The schedule of a 64-bit key, whose low half is key word 0.
    #[inline(always)]
    pub(super) fn new(key: u64) -> Self {
        let mut words = [key as u32, (key >> 32) as u32];
        let mut schedule = [[0; 2]; ROUNDS];
        for round in &mut schedule {
            *round = words;
            words = [words[0].wrapping_add(WEYL[0]), words[1].wrapping_add(WEYL[1])];
        }
        Self(schedule)
    }
}

/// Encrypts one counter into four random words.
///
/// The state is widened to 64 bits because a round needs both halves of a 32-bit product: a vector
/// of widened words is multiplied in one instruction (`pmuludq` on x86), with no splitting into
/// even and odd lanes.
#[inline(always)]
pub(super) fn philox4x32_10(counter: [u32; 4], keys: &RoundKeys) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter.map(u64::from);
    for round in &keys.0 {
        let [k0, k1] = round.map(u64::from);
        let even = MULTIPLIERS[0] * c0;
        let odd = MULTIPLIERS[1] * c2;
        c0 = (odd >> 32) ^ c1 ^ k0;
        c1 = odd & WORD;
        c2 = (even >> 32) ^ c3 ^ k1;
        c3 = even & WORD;
    }
    [c0, c1, c2, c3].map(|word| word as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines `philox4x32 10` of Random123's `kat_vectors`: counter, key, expected words.
    const KNOWN_ANSWERS: [([u32; 4], u64, [u32; 4]); 3] = [
        ([0; 4], 0, [0x6627_E8D5, 0xE169_C58D, 0xBC57_AC4C, 0x9B00_DBD8]),
        ([u32::MAX; 4], u64::MAX, [0x408F_276D, 0x41C8_3B0E, 0xA20B_C7C6, 0x6D54_51FD]),
        (
            [0x243F_6A88, 0x85A3_08D3, 0x1319_8A2E, 0x0370_7344],
            0x299F_31D0_A409_3822,
            [0xD16C_FE09, 0x94FD_CCEB, 0x5001_E420, 0x2412_6EA1],
        ),
    ];

    #[test]
    fn known_answers_of_random123() {
        for (counter, key, expected) in KNOWN_ANSWERS {
            let words = philox4x32_10(counter, &RoundKeys::new(key));
            assert_eq!(words, expected, "counter {counter:x?}, key {key:x}");
        }
    }
}
