//! Values to bytes: the types that are written.

use half::{bf16, f16};
use rayon::prelude::*;

use super::tensor::TensorType;

/// Values that a thread takes at a time; a multiple of every block.
const CHUNK: usize = 1 << 16;

/// How the values of a tensor are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types, reason = "the names by which these types are known")]
pub enum WrittenType {
    /// 32-bit floating point.
    F32,
    /// IEEE 754 half precision, rounded to the nearest, ties to even.
    F16,
    /// The upper half of 32-bit floating point, rounded to the nearest, ties to even.
    BF16,
    /// Signed bytes in blocks of 32 that share a half-precision scale.
    Q8_0,
}

impl From<WrittenType> for TensorType {
    fn from(kind: WrittenType) -> Self {
        match kind {
            WrittenType::F32 => Self::F32,
            WrittenType::F16 => Self::F16,
            WrittenType::BF16 => Self::BF16,
            WrittenType::Q8_0 => Self::Q8_0,
        }
    }
}

impl WrittenType {
    /// The name in messages and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::Q8_0 => "q8_0",
        }
    }

    /// The number under `general.file_type` of a file whose matrices are of this type (`llama_ftype` in `llama.h`).
    pub(in crate::hf) const fn file_type(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q8_0 => 7,
            Self::BF16 => 32,
        }
    }

    /// How a tensor of this row-major shape is written in a file whose matrices are of this type. Vectors (norms and
    /// biases) stay F32, and rows that are no whole blocks become F16, as in llama.cpp's converter.
    pub fn of_tensor(self, shape: &[usize]) -> Self {
        match shape {
            [] | [_] => Self::F32,
            [.., columns] if !columns.is_multiple_of(TensorType::from(self).block_len()) => Self::F16,
            _ => self,
        }
    }
}

/// Writes `values`, which are whole blocks, to `out`, which has room for exactly those.
///
/// # Errors
/// A value that the type cannot hold, as infinity or what becomes that.
pub(super) fn quantize(kind: WrittenType, values: &[f32], out: &mut [u8]) -> Result<(), f32> {
    match kind {
        WrittenType::F32 => each(values, out, |[x]| Some(x.to_le_bytes())),
        WrittenType::F16 => each(values, out, |&[x]| {
            let half = f16::from_f32(x);
            half.is_finite().then(|| half.to_le_bytes())
        }),
        WrittenType::BF16 => each(values, out, |&[x]| {
            let half = bf16::from_f32(x);
            half.is_finite().then(|| half.to_le_bytes())
        }),
        WrittenType::Q8_0 => each(values, out, q8_0),
    }
}

/// Applies `encode` to every block of `LEN` values, on all threads.
fn each<const LEN: usize, const BYTES: usize>(
    values: &[f32],
    out: &mut [u8],
    encode: impl Fn(&[f32; LEN]) -> Option<[u8; BYTES]> + Sync,
) -> Result<(), f32> {
    debug_assert_eq!(values.len() * BYTES, out.len() * LEN);
    let chunks = values.par_chunks(CHUNK).zip(out.par_chunks_mut(CHUNK / LEN * BYTES));
    chunks.try_for_each(|(values, out)| {
        for (block, bytes) in values.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
            *bytes = encode(block).ok_or_else(|| largest(block))?;
        }
        Ok(())
    })
}

/// The value of a block that stands in the way of writing it.
fn largest(block: &[f32]) -> f32 {
    let larger = |first: f32, second: f32| if second.is_nan() || second.abs() > first.abs() { second } else { first };
    block.iter().copied().fold(0.0, larger)
}

/// `d: f16, q: [i8; 32]` with d = max |x| / 127 and q = x/d rounded to the nearest, halves away from zero
/// (`quantize_row_q8_0_ref` of the ggml project: q is computed with d as it is before it is rounded to half precision).
fn q8_0(block: &[f32; 32]) -> Option<[u8; 34]> {
    // A NaN is no maximum, so it is looked for apart.
    let largest = block.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
    let d = largest / 127.0;
    let scale = f16::from_f32(d);
    if !scale.is_finite() || block.iter().any(|x| x.is_nan()) {
        return None;
    }
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let mut bytes = [0; 34];
    bytes[..2].copy_from_slice(&scale.to_le_bytes());
    for (byte, x) in bytes[2..].iter_mut().zip(block) {
        *byte = ((x * inverse).round() as i8).cast_unsigned();
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::{super::quant::dequantize, *};

    fn written(kind: WrittenType, values: &[f32]) -> Result<Vec<u8>, f32> {
        let tensor_type = TensorType::from(kind);
        let mut out = vec![0xAA; values.len() / tensor_type.block_len() * tensor_type.block_bytes()];
        quantize(kind, values, &mut out).map(|()| out)
    }

    fn read_back(kind: WrittenType, values: &[f32]) -> Vec<f32> {
        let mut out = vec![f32::NAN; values.len()];
        dequantize(kind.into(), &written(kind, values).unwrap(), &mut out);
        out
    }

    #[test]
    fn floats_round_to_nearest_even() {
        let values = [1.0, -0.1, 65504.0, 1.0 + 2f32.powi(-11), 1.0 + 3.0 * 2f32.powi(-11), f32::MIN_POSITIVE];
        assert_eq!(read_back(WrittenType::F32, &values), values);
        let halves = read_back(WrittenType::F16, &values);
        assert_eq!(halves, [1.0, -0.099975586, 65504.0, 1.0, 1.0 + 2f32.powi(-9), 0.0]);
        assert_eq!(read_back(WrittenType::BF16, &[1.0 + 2f32.powi(-8), -3.0]), [1.0, -3.0]);
    }

    #[test]
    fn q8_0_of_the_reference() {
        // 127 steps of 0.5, so that the scale is exact and halves are halves.
        let mut values = [0.0; 32];
        values[..6].copy_from_slice(&[63.5, -63.5, 0.25, -0.25, 0.75, 0.2]);
        let bytes = written(WrittenType::Q8_0, &values).unwrap();
        assert_eq!(bytes[..2], f16::from_f32(0.5).to_le_bytes());
        assert_eq!(bytes[2..8].iter().map(|q| q.cast_signed()).collect::<Vec<_>>(), [127, -127, 1, -1, 2, 0]);
        assert_eq!(bytes[8..], [0; 26]);
        assert_eq!(written(WrittenType::Q8_0, &[0.0; 32]).unwrap(), [0; 34]);

        // An inexact scale: values come back within half a step and the rounding of the scale.
        let values: Vec<_> = (0..96).map(|index| (index as f32 * 0.7).sin() * 0.01).collect();
        for (x, back) in values.iter().zip(read_back(WrittenType::Q8_0, &values)) {
            assert!((x - back).abs() < 0.01 / 127.0 * 0.51 + 0.01 / 2048.0, "{x} became {back}");
        }
    }

    #[test]
    fn chunks_follow_one_another() {
        let values: Vec<_> = (0..CHUNK + 64).map(|index| index as f32).collect();
        assert_eq!(read_back(WrittenType::F32, &values), values);
        let back = read_back(WrittenType::Q8_0, &values);
        assert!(values.iter().zip(back).all(|(x, back)| (x - back).abs() <= x / 200.0 + 0.2));
    }

    #[test]
    fn what_a_type_cannot_hold() {
        for (kind, value) in [
            (WrittenType::F16, 65520.0),
            (WrittenType::F16, f32::NEG_INFINITY),
            (WrittenType::BF16, f32::MAX),
            (WrittenType::Q8_0, 1e7),
            (WrittenType::Q8_0, f32::INFINITY),
        ] {
            let mut values = [1.0; 32];
            values[7] = value;
            assert_eq!(written(kind, &values), Err(value), "{kind:?}");
            values[9] = f32::NAN;
            values[7] = 1.0;
            assert!(written(kind, &values).unwrap_err().is_nan(), "{kind:?}");
        }
        let nan = written(WrittenType::F32, &[f32::NAN]).unwrap();
        assert_eq!(nan, f32::NAN.to_le_bytes());
    }

    #[test]
    fn what_stays_exact() {
        for kind in [WrittenType::F32, WrittenType::F16, WrittenType::BF16, WrittenType::Q8_0] {
            assert_eq!(kind.of_tensor(&[64]), WrittenType::F32);
            assert_eq!(kind.of_tensor(&[3, 64]), kind);
        }
        assert_eq!(WrittenType::Q8_0.of_tensor(&[64, 40]), WrittenType::F16);
        assert_eq!(WrittenType::BF16.of_tensor(&[64, 40]), WrittenType::BF16);
    }
}
