//! Values of blocks: from the stored bytes to f32.
//!
//! A block is a few half-precision scales followed by packed integers. The layouts and formulas are those of
//! `ggml-common.h` and `ggml-quants.c` of the ggml project. In the comments, `q` is the stored integer of a value.
//!
//! Types with a `_K`, and IQ4_XS, divide a super-block of 256 values into sub-blocks of 16 or 32, and quantise the scales of the
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
        TensorType::IQ4_NL => each(bytes, out, iq4_nl),
        TensorType::IQ4_XS => each(bytes, out, iq4_xs),
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

/// The values that the 4-bit integers of IQ4_NL and IQ4_XS stand for, in units of a block's scale: closer together
/// around zero, where most weights are.
const IQ4_LEVELS: [f32; 16] =
    [-127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0];

/// Writes `scale` times the levels of the 32 integers in `packed`, halves as in [`q4_0`].
fn iq4_levels(scale: f32, packed: &[u8], out: &mut [f32; 32]) {
    let (low, high) = out.split_at_mut(16);
    for ((low, high), &q) in low.iter_mut().zip(high).zip(packed) {
        *low = scale * IQ4_LEVELS[usize::from(q & 15)];
        *high = scale * IQ4_LEVELS[usize::from(q >> 4)];
    }
}

/// `d: f16, q: [u4; 32]`; x = d·level(q).
fn iq4_nl(block: &[u8; 18], out: &mut [f32; 32]) {
    iq4_levels(half_at(block, 0), &block[2..], out);
}

/// `d: f16, high bits of the scales: [u2; 8], low bits of the scales: [u4; 8], q: [u4; 256]`; x = d·(scale − 32)·level(q).
///
/// The parts of a scale come in the order of the sub-blocks of 32 values, the first in the lowest bits.
fn iq4_xs(block: &[u8; 136], out: &mut [f32; SUPER]) {
    let d = half_at(block, 0);
    let high_bits = u16::from_le_bytes([block[2], block[3]]);
    for (sub, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let low = u16::from(block[4 + sub / 2] >> (sub % 2 * 4) & 15);
        let scale = low | (high_bits >> (2 * sub) & 3) << 4;
        iq4_levels(d * (f32::from(scale) - 32.0), &block[8 + 16 * sub..][..16], out);
    }
}

#[cfg(test)]
mod tests;
