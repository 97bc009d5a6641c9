//! Values of blocks: from the stored bytes to f32.
//!
//! A block is a few half-precision scales followed by packed integers. The layouts and formulas are those of
//! `ggml-common.h` and `ggml-quants.c` of the ggml project. In the comments, `q` is the stored integer of a value.
//!
//! Types with a `_K` divide a super-block of 256 values into sub-blocks of 16 or 32, and quantise the scales of the
//! sub-blocks too.

use half::{bf16, f16};

use super::tensor::TensorType;

/// Values of a super-block.
const SUPER: usize = 256;

/// Writes the values of the blocks in `bytes` to `out`. The caller has made sure that `bytes` are whole blocks and
/// `out` is exactly as long as their values.
pub(super) fn dequantize(kind: TensorType, bytes: &[u8], out: &mut [f32]) {
    debug_assert_eq!(bytes.len() / kind.block_bytes() * kind.block_len(), out.len());
    match kind {
        TensorType::F32 => each(bytes, out, |&b, [x]| *x = f32::from_le_bytes(b)),
        TensorType::F16 => each(bytes, out, |&b, [x]| *x = f16::from_le_bytes(b).to_f32()),
        TensorType::BF16 => each(bytes, out, |&b, [x]| *x = bf16::from_le_bytes(b).to_f32()),
        TensorType::Q8_0 => each(bytes, out, q8_0),
        TensorType::Q4_0 => each(bytes, out, q4_0),
        TensorType::Q4_1 => each(bytes, out, q4_1),
        TensorType::Q5_0 => each(bytes, out, q5_0),
        TensorType::Q5_1 => each(bytes, out, q5_1),
        TensorType::Q2_K => each(bytes, out, q2_k),
        TensorType::Q3_K => each(bytes, out, q3_k),
        TensorType::Q4_K => each(bytes, out, q4_k),
        TensorType::Q5_K => each(bytes, out, q5_k),
        TensorType::Q6_K => each(bytes, out, q6_k),
    }
}

/// Applies `decode` to every block of `BYTES` bytes and `LEN` values. Lengths known at compile time let the compiler
/// drop the bounds checks and vectorise.
fn each<const BYTES: usize, const LEN: usize>(
    bytes: &[u8],
    out: &mut [f32],
    decode: impl Fn(&[u8; BYTES], &mut [f32; LEN]),
) {
    let (blocks, _) = bytes.as_chunks();
    let (values, _) = out.as_chunks_mut();
    for (block, values) in blocks.iter().zip(values) {
        decode(block, values);
    }
}

/// The half-precision number at byte `at` of a block.
fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// The 32-bit number at byte `at` of a block.
fn word_at(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// `d: f16, q: [i8; 32]`; x = d·q.
fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (x, &q) in out.iter_mut().zip(&block[2..]) {
        *x = d * f32::from(q.cast_signed());
    }
}

/// `d: f16, q: [u4; 32]`; x = d·(q − 8). The low halves of the bytes are values 0 to 15, the high ones 16 to 31.
fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    let (low, high) = out.split_at_mut(16);
    for ((low, high), &q) in low.iter_mut().zip(high).zip(&block[2..]) {
        *low = d * (f32::from(q & 15) - 8.0);
        *high = d * (f32::from(q >> 4) - 8.0);
    }
}

/// `d: f16, m: f16, q: [u4; 32]`; x = d·q + m. Halves as in [`q4_0`].
fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    let (low, high) = out.split_at_mut(16);
    for ((low, high), &q) in low.iter_mut().zip(high).zip(&block[4..]) {
        *low = d * f32::from(q & 15) + m;
        *high = d * f32::from(q >> 4) + m;
    }
}

/// The two 5-bit integers of Q5_0 and Q5_1 at `index`: four bits each from the byte `four`, as in [`q4_0`]; the fifth of
/// value i is bit i of `fifth`.
fn five_bits(fifth: u32, four: u8, index: usize) -> (f32, f32) {
    let low = u32::from(four & 15) | (fifth >> index & 1) << 4;
    let high = u32::from(four >> 4) | (fifth >> (index + 16) & 1) << 4;
    (low as f32, high as f32)
}

/// `d: f16, fifth bits: u32, q: [u4; 32]`; x = d·(q − 16).
fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    let fifth = word_at(block, 2);
    let (low, high) = out.split_at_mut(16);
    let pairs = low.iter_mut().zip(high).zip(&block[6..]);
    for (index, ((low, high), &four)) in pairs.enumerate() {
        let (first, second) = five_bits(fifth, four, index);
        *low = d * (first - 16.0);
        *high = d * (second - 16.0);
    }
}

/// `d: f16, m: f16, fifth bits: u32, q: [u4; 32]`; x = d·q + m.
fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    let fifth = word_at(block, 4);
    let (low, high) = out.split_at_mut(16);
    let pairs = low.iter_mut().zip(high).zip(&block[8..]);
    for (index, ((low, high), &four)) in pairs.enumerate() {
        let (first, second) = five_bits(fifth, four, index);
        *low = d * first + m;
        *high = d * second + m;
    }
}

/// `scales: [u4 scale, u4 minimum; 16], q: [u2; 256], d: f16, dmin: f16`; x = d·scale·q − dmin·minimum.
///
/// Each half of 128 values has 32 bytes of q; bits 2k and 2k+1 of byte l are value 32k + l of the half.
fn q2_k(block: &[u8; 84], out: &mut [f32; SUPER]) {
    let (d, d_min) = (half_at(block, 80), half_at(block, 82));
    for (sub, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(block[sub] & 15);
        let minimum = d_min * f32::from(block[sub] >> 4);
        let (quants, shift) = two_bits(&block[16..80], sub);
        for (x, &q) in out.iter_mut().zip(quants) {
            *x = scale * f32::from(q >> shift & 3) - minimum;
        }
    }
}

/// For sub-block `sub` of 16 values, the bytes that hold its 2-bit integers, and by how much to shift them.
fn two_bits(packed: &[u8], sub: usize) -> (&[u8], usize) {
    let start = sub / 8 * 32 + sub % 2 * 16;
    (&packed[start..start + 16], sub % 8 / 2 * 2)
}

/// `third bits: [u8; 32], q: [u2; 256], scales: [u6; 16], d: f16`; x = d·(scale − 32)·(q − 4), q with its third bit.
///
/// The third bit of value 32k + l is bit k of byte l. The low four bits of the scales are stored as in [`q4_0`], for
/// 16 values; the upper two of scale i are in byte 8 + i mod 4, at bit 2·(i / 4).
fn q3_k(block: &[u8; 110], out: &mut [f32; SUPER]) {
    let d = half_at(block, 108);
    let scales = &block[96..108];
    for (sub, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let low = scales[sub % 8] >> (sub / 8 * 4) & 15;
        let high = scales[8 + sub % 4] >> (sub / 4 * 2) & 3;
        let scale = d * (f32::from(low | high << 4) - 32.0);
        let (quants, shift) = two_bits(&block[32..96], sub);
        let third = &block[sub % 2 * 16..][..16];
        for ((x, &q), &bits) in out.iter_mut().zip(quants).zip(third) {
            *x = scale * (f32::from(q >> shift & 3 | (bits >> (sub / 2) & 1) << 2) - 4.0);
        }
    }
}

/// Scale and minimum of sub-block `sub` of 8, from the 12 bytes that hold them in 6 bits each (Q4_K, Q5_K).
///
/// The first four scales are the low six bits of bytes 0 to 3, the first four minima those of bytes 4 to 7. The last
/// four have their low four bits in bytes 8 to 11 (scales low, minima high) and their upper two in the free bits.
fn six_bits(packed: &[u8], sub: usize) -> (f32, f32) {
    let (scale, minimum) = if sub < 4 {
        (packed[sub] & 63, packed[sub + 4] & 63)
    } else {
        (packed[sub + 4] & 15 | packed[sub - 4] >> 6 << 4, packed[sub + 4] >> 4 | packed[sub] >> 6 << 4)
    };
    (f32::from(scale), f32::from(minimum))
}

/// `d: f16, dmin: f16, scales and minima: [u6, u6; 8], q: [u4; 256]`; x = d·scale·q − dmin·minimum.
///
/// Of every 32 bytes of q, the low halves are one sub-block of 32 values and the high halves the next.
fn q4_k(block: &[u8; 144], out: &mut [f32; SUPER]) {
    let (d, d_min) = (half_at(block, 0), half_at(block, 2));
    for (sub, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, minimum) = six_bits(&block[4..16], sub);
        let (scale, minimum) = (d * scale, d_min * minimum);
        let shift = sub % 2 * 4;
        for (x, &q) in out.iter_mut().zip(&block[16 + sub / 2 * 32..]) {
            *x = scale * f32::from(q >> shift & 15) - minimum;
        }
    }
}

/// [`q4_k`] with a fifth bit: that of value l of sub-block k is bit k of byte l of the 32 bytes before the q.
fn q5_k(block: &[u8; 176], out: &mut [f32; SUPER]) {
    let (d, d_min) = (half_at(block, 0), half_at(block, 2));
    for (sub, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, minimum) = six_bits(&block[4..16], sub);
        let (scale, minimum) = (d * scale, d_min * minimum);
        let shift = sub % 2 * 4;
        let quants = &block[48 + sub / 2 * 32..];
        for ((x, &q), &fifth) in out.iter_mut().zip(quants).zip(&block[16..48]) {
            *x = scale * f32::from(q >> shift & 15 | (fifth >> sub & 1) << 4) - minimum;
        }
    }
}

/// `low bits: [u4; 256], high bits: [u2; 256], scales: [i8; 16], d: f16`; x = d·scale·(q − 32).
///
/// Of each half of 128 values, 64 bytes hold the low bits (low halves are values 0 to 63, high halves 64 to 127) and 32
/// bytes the high bits (bits 2k and 2k+1 of byte l are of value 32k + l).
fn q6_k(block: &[u8; 210], out: &mut [f32; SUPER]) {
    let d = half_at(block, 208);
    for (sub, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(block[192 + sub].cast_signed());
        let low = &block[sub / 8 * 64 + sub % 4 * 16..][..16];
        let low_shift = sub % 8 / 4 * 4;
        let (high, high_shift) = two_bits(&block[128..192], sub);
        for ((x, &low), &high) in out.iter_mut().zip(low).zip(high) {
            let q = low >> low_shift & 15 | (high >> high_shift & 3) << 4;
            *x = scale * (f32::from(q) - 32.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of the half-precision number `value`.
    fn half(value: f32) -> [u8; 2] {
        f16::from_f32(value).to_le_bytes()
    }

    fn values(kind: TensorType, block: &[u8]) -> Vec<f32> {
        assert_eq!(block.len() % kind.block_bytes(), 0);
        let mut out = vec![f32::NAN; block.len() / kind.block_bytes() * kind.block_len()];
        dequantize(kind, block, &mut out);
        out
    }

    /// An integer below `2.pow(bits)` for every index, without a pattern that a wrong place could share.
    fn integers(count: usize, bits: u32) -> Vec<u8> {
        let scrambled = (1..=count as u32).map(|index| index.wrapping_mul(0x9E37_79B9) >> (32 - bits));
        scrambled.map(|integer| integer as u8).collect()
    }

    /// Sets the bits of `integer` from bit `shift` of byte `at`.
    fn pack(bytes: &mut [u8], at: usize, shift: usize, integer: u8) {
        bytes[at] |= integer << shift;
    }

    /// Value i of 32 in 16 bytes: the low half of byte i, or the high half of byte i − 16.
    fn pack_halves(integers: &[u8]) -> [u8; 16] {
        let mut bytes = [0; 16];
        for (index, integer) in integers.iter().enumerate() {
            pack(&mut bytes, index % 16, index / 16 * 4, integer & 15);
        }
        bytes
    }

    /// Bit 4 of all integers, bit i of the result that of the i-th.
    fn fifth_bits(integers: &[u8]) -> [u8; 4] {
        let bits = integers.iter().enumerate();
        let word = bits.fold(0, |word, (index, q)| word | u32::from(q >> 4) << index);
        word.to_le_bytes()
    }

    fn map(integers: &[u8], value: impl Fn(f32) -> f32) -> Vec<f32> {
        integers.iter().map(|&q| value(f32::from(q))).collect()
    }

    #[test]
    fn plain_floats() {
        let bytes = [1.5_f32.to_le_bytes(), (-0.1_f32).to_le_bytes()].concat();
        assert_eq!(values(TensorType::F32, &bytes), [1.5, -0.1]);
        // Largest, smallest subnormal and negative zero.
        let bytes = [0xff, 0x7b, 0x01, 0x00, 0x00, 0x80];
        let found = values(TensorType::F16, &bytes);
        assert_eq!(found, [65504.0, 2.0_f32.powi(-24), 0.0]);
        assert!(found[2].is_sign_negative());
        assert_eq!(values(TensorType::BF16, &[0x80, 0x3f, 0x49, 0xc0]), [1.0, -3.140625]);
    }

    #[test]
    fn blocks_of_32() {
        let (four, five) = (integers(32, 4), integers(32, 5));
        let block = [&half(0.5)[..], &pack_halves(&four)].concat();
        assert_eq!(values(TensorType::Q4_0, &block), map(&four, |q| 0.5 * (q - 8.0)));
        let block = [&half(0.5)[..], &half(-3.0), &pack_halves(&four)].concat();
        assert_eq!(values(TensorType::Q4_1, &block), map(&four, |q| 0.5 * q - 3.0));
        let block = [&half(-0.25)[..], &fifth_bits(&five), &pack_halves(&five)].concat();
        assert_eq!(values(TensorType::Q5_0, &block), map(&five, |q| -0.25 * (q - 16.0)));
        let block = [&half(0.25)[..], &half(2.0), &fifth_bits(&five), &pack_halves(&five)].concat();
        assert_eq!(values(TensorType::Q5_1, &block), map(&five, |q| 0.25 * q + 2.0));

        let eight = integers(32, 8);
        let block = [&half(2.0)[..], &eight].concat();
        let expected: Vec<_> = eight.iter().map(|&q| 2.0 * f32::from(q as i8)).collect();
        assert_eq!(values(TensorType::Q8_0, &block), expected);
        assert!(expected.iter().any(|&x| x < 0.0));
    }

    #[test]
    fn blocks_follow_one_another() {
        let first = [&half(1.0)[..], &[1; 32]].concat();
        let second = [&half(1.0)[..], &[2; 32]].concat();
        let found = values(TensorType::Q8_0, &[first, second].concat());
        assert_eq!(found, [[1.0; 32], [2.0; 32]].concat());
    }

    #[test]
    fn q2_k_super_block() {
        let (quants, scales, minima) = (integers(256, 2), integers(16, 4), integers(17, 4));
        let mut block = [0; 84];
        for sub in 0..16 {
            block[sub] = scales[sub] | minima[sub + 1] << 4;
        }
        for (index, &q) in quants.iter().enumerate() {
            pack(&mut block, 16 + index / 128 * 32 + index % 32, index % 128 / 32 * 2, q);
        }
        block[80..82].copy_from_slice(&half(0.5));
        block[82..84].copy_from_slice(&half(0.25));
        for (index, x) in values(TensorType::Q2_K, &block).into_iter().enumerate() {
            let (scale, minimum) = (scales[index / 16], minima[index / 16 + 1]);
            let expected = 0.5 * f32::from(scale * quants[index]) - 0.25 * f32::from(minimum);
            assert_eq!(x, expected, "{index}");
        }
    }

    #[test]
    fn q3_k_super_block() {
        let (quants, scales) = (integers(256, 3), integers(16, 6));
        let mut block = [0; 110];
        for (index, &q) in quants.iter().enumerate() {
            pack(&mut block, index % 32, index / 32, q >> 2);
            pack(&mut block, 32 + index / 128 * 32 + index % 32, index % 128 / 32 * 2, q & 3);
        }
        for (sub, &scale) in scales.iter().enumerate() {
            pack(&mut block, 96 + sub % 8, sub / 8 * 4, scale & 15);
            pack(&mut block, 104 + sub % 4, sub / 4 * 2, scale >> 4);
        }
        block[108..].copy_from_slice(&half(0.5));
        for (index, x) in values(TensorType::Q3_K, &block).into_iter().enumerate() {
            let scale = f32::from(scales[index / 16]) - 32.0;
            assert_eq!(x, 0.5 * scale * (f32::from(quants[index]) - 4.0), "{index}");
        }
    }

    /// Scales and minima of eight sub-blocks in the 12 bytes of Q4_K and Q5_K.
    fn pack_six_bits(scales: &[u8], minima: &[u8]) -> [u8; 12] {
        let mut bytes = [0; 12];
        for sub in 0..4 {
            bytes[sub] = scales[sub] | scales[sub + 4] >> 4 << 6;
            bytes[sub + 4] = minima[sub] | minima[sub + 4] >> 4 << 6;
            bytes[sub + 8] = scales[sub + 4] & 15 | (minima[sub + 4] & 15) << 4;
        }
        bytes
    }

    #[test]
    fn q4_k_and_q5_k_super_blocks() {
        let (scales, minima) = (integers(8, 6), integers(16, 6)[8..].to_vec());
        for (kind, bits) in [(TensorType::Q4_K, 4), (TensorType::Q5_K, 5)] {
            let quants = integers(256, bits);
            let mut block = [&half(0.5)[..], &half(0.25), &pack_six_bits(&scales, &minima)].concat();
            if kind == TensorType::Q5_K {
                let fifth_at = block.len();
                block.resize(fifth_at + 32, 0);
                for (index, &q) in quants.iter().enumerate() {
                    pack(&mut block, fifth_at + index % 32, index / 32, q >> 4);
                }
            }
            let four_at = block.len();
            block.resize(four_at + 128, 0);
            for (index, &q) in quants.iter().enumerate() {
                pack(&mut block, four_at + index / 64 * 32 + index % 32, index / 32 % 2 * 4, q & 15);
            }
            for (index, x) in values(kind, &block).into_iter().enumerate() {
                let (scale, minimum) = (f32::from(scales[index / 32]), f32::from(minima[index / 32]));
                let expected = 0.5 * scale * f32::from(quants[index]) - 0.25 * minimum;
                assert_eq!(x, expected, "{kind:?} {index}");
            }
        }
    }

    #[test]
    fn q6_k_super_block() {
        let (quants, scales) = (integers(256, 6), integers(16, 8));
        let mut block = [0; 210];
        for (index, &q) in quants.iter().enumerate() {
            pack(&mut block, index / 128 * 64 + index % 64, index % 128 / 64 * 4, q & 15);
            pack(&mut block, 128 + index / 128 * 32 + index % 32, index % 128 / 32 * 2, q >> 4);
        }
        block[192..208].copy_from_slice(&scales);
        block[208..].copy_from_slice(&half(0.5));
        for (index, x) in values(TensorType::Q6_K, &block).into_iter().enumerate() {
            let scale = f32::from(scales[index / 16] as i8);
            assert_eq!(x, 0.5 * scale * (f32::from(quants[index]) - 32.0), "{index}");
        }
    }
}
