//! Blocks packed by hand, value by value.

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

#[test]
fn levels_of_iq4() {
    let four = integers(32, 4);
    let block = [&half(0.5)[..], &pack_halves(&four)].concat();
    let level =
        |q: u8| [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113][usize::from(q)] as f32;
    let expected: Vec<_> = four.iter().map(|&q| 0.5 * level(q)).collect();
    assert_eq!(values(TensorType::IQ4_NL, &block), expected);

    let (quants, scales) = (integers(256, 4), integers(8, 6));
    let mut block = [0; 136];
    block[..2].copy_from_slice(&half(0.25));
    for (sub, &scale) in scales.iter().enumerate() {
        pack(&mut block, 2 + sub / 4, sub % 4 * 2, scale >> 4);
        pack(&mut block, 4 + sub / 2, sub % 2 * 4, scale & 15);
    }
    for (index, &q) in quants.iter().enumerate() {
        pack(&mut block, 8 + index / 32 * 16 + index % 16, index % 32 / 16 * 4, q);
    }
    for (index, x) in values(TensorType::IQ4_XS, &block).into_iter().enumerate() {
        let expected = 0.25 * (f32::from(scales[index / 32]) - 32.0) * level(quants[index]);
        assert_eq!(x, expected, "{index}");
    }
}
