//! How weights are stored, and how they become tensor storage.

use std::fmt;

use burn_std::Bytes;
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::gguf::TensorType;

/// Values that a thread takes at a time: enough to be worth the handing over, few enough for its cache.
pub(super) const CHUNK: usize = 1 << 16;

/// How weights are kept in memory and written: `model.dtype`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightDtype {
    /// 32-bit floating point.
    F32,
    /// The upper half of 32-bit floating point.
    Bf16,
}

impl WeightDtype {
    /// Bytes of a value.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }

    /// The name in configurations and journals.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }

    /// The name in `config.json`.
    pub const fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
        }
    }
}

impl fmt::Display for WeightDtype {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// How a model's files store a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoredDtype {
    /// 32-bit floating point.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// The upper half of 32-bit floating point.
    Bf16,
    /// Blocks of a GGUF file that share scales.
    Quantized(TensorType),
}

impl StoredDtype {
    /// Bytes of so many values, which are whole blocks.
    pub(super) const fn bytes_of(self, values: usize) -> usize {
        match self {
            Self::F32 => 4 * values,
            Self::F16 | Self::Bf16 => 2 * values,
            Self::Quantized(kind) => values / kind.block_len() * kind.block_bytes(),
        }
    }

    /// Whether the file's bytes are those of a tensor of type `dtype`.
    pub(super) fn is_stored_as(self, dtype: WeightDtype) -> bool {
        matches!((self, dtype), (Self::F32, WeightDtype::F32) | (Self::Bf16, WeightDtype::Bf16))
    }
}

impl From<TensorType> for StoredDtype {
    fn from(kind: TensorType) -> Self {
        match kind {
            TensorType::F32 => Self::F32,
            TensorType::F16 => Self::F16,
            TensorType::BF16 => Self::Bf16,
            quantized => Self::Quantized(quantized),
        }
    }
}

/// A little-endian floating-point type of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Float {
    F32,
    F16,
    Bf16,
}

impl Float {
    /// What weights in files of this type are; `None` for a type that weights cannot have.
    pub(super) fn of(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F32 => Some(Self::F32),
            Dtype::F16 => Some(Self::F16),
            Dtype::BF16 => Some(Self::Bf16),
            _ => None,
        }
    }

    /// Bytes of a value.
    pub(super) const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

impl From<Float> for StoredDtype {
    fn from(float: Float) -> Self {
        match float {
            Float::F32 => Self::F32,
            Float::F16 => Self::F16,
            Float::Bf16 => Self::Bf16,
        }
    }
}

/// Copies `stored` into tensor storage of type `dtype`. Widening is exact; narrowing rounds to the nearest, ties to
/// even.
pub(super) fn convert(stored: &[u8], from: Float, dtype: WeightDtype) -> Bytes {
    match (from, dtype) {
        (Float::F32, WeightDtype::F32) => convert_each(stored, f32::from_le_bytes),
        (Float::F16, WeightDtype::F32) => convert_each(stored, |value| f16::from_le_bytes(value).to_f32()),
        (Float::Bf16, WeightDtype::F32) => convert_each(stored, |value| bf16::from_le_bytes(value).to_f32()),
        (Float::F32, WeightDtype::Bf16) => convert_each(stored, |value| bf16::from_f32(f32::from_le_bytes(value))),
        (Float::F16, WeightDtype::Bf16) => {
            convert_each(stored, |value| bf16::from_f32(f16::from_le_bytes(value).to_f32()))
        }
        (Float::Bf16, WeightDtype::Bf16) => convert_each(stored, bf16::from_le_bytes),
    }
}

fn convert_each<const SIZE: usize, T: bytemuck::NoUninit + Send + Sync>(
    stored: &[u8],
    convert: impl Fn([u8; SIZE]) -> T + Sync,
) -> Bytes {
    let values = stored.as_chunks::<SIZE>().0.par_iter();
    let converted: Vec<T> = values.with_min_len(CHUNK).map(|&value| convert(value)).collect();
    Bytes::from_elems(converted)
}

/// The SHA-256 of a tensor's bytes as [`ModelFiles::load`](super::ModelFiles::load) returns them; a journal keeps it to
/// tell whether it is replayed on the model that it began with.
pub fn hash_bytes(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of<const SIZE: usize>(values: &[[u8; SIZE]]) -> Vec<u8> {
        values.concat()
    }

    fn f32s(bytes: &Bytes) -> Vec<f32> {
        bytemuck::cast_slice(bytes).to_vec()
    }

    #[test]
    fn every_half_widens_to_its_value() {
        let halves: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        // Half precision by its definition: 5 bits of exponent, 10 of fraction.
        for (bits, value) in (0..=u16::MAX).zip(f32s(&convert(&halves, Float::F16, WeightDtype::F32))) {
            let exponent = i32::from(bits >> 10 & 31);
            let fraction = f64::from(bits & 1023);
            let magnitude = match exponent {
                0 => fraction * 2f64.powi(-24),
                31 if fraction == 0.0 => f64::INFINITY,
                31 => f64::NAN,
                _ => (1024.0 + fraction) * 2f64.powi(exponent - 25),
            };
            let expected = if bits >> 15 == 0 { magnitude } else { -magnitude };
            assert!(
                f64::from(value) == expected || value.is_nan() && expected.is_nan(),
                "{bits:#06x} became {value}, expected {expected}"
            );
        }
        for (bits, value) in (0..=u16::MAX).zip(f32s(&convert(&halves, Float::Bf16, WeightDtype::F32))) {
            let expected = f32::from_bits(u32::from(bits) << 16);
            assert!(value == expected || value.is_nan() && expected.is_nan());
        }
        let same = convert(&halves, Float::Bf16, WeightDtype::Bf16);
        assert_eq!(same[..], halves[..]);
    }

    #[test]
    fn narrowing_rounds_to_nearest_even() {
        // Above 1 the step is 2⁻⁷: halfway between an even and an odd neighbour, a hair beyond, and infinity.
        let cases = [
            (1.0 + 2f32.powi(-8), 1.0),
            (1.0 + 3.0 * 2f32.powi(-8), 1.0 + 2f32.powi(-6)),
            (1.0 + 2f32.powi(-8) + f32::EPSILON, 1.0 + 2f32.powi(-7)),
            (-1.0 - 2f32.powi(-8), -1.0),
            (f32::MAX, f32::INFINITY),
            (f32::NEG_INFINITY, f32::NEG_INFINITY),
        ];
        let stored = bytes_of(&cases.map(|(value, _)| value.to_le_bytes()));
        let narrow = convert(&stored, Float::F32, WeightDtype::Bf16);
        let narrow: &[bf16] = bytemuck::cast_slice(&narrow);
        assert_eq!(narrow, cases.map(|(_, expected)| bf16::from_f32(expected)));

        let nan = convert(&f32::NAN.to_le_bytes(), Float::F32, WeightDtype::Bf16);
        assert!(bytemuck::cast_slice::<_, bf16>(&nan)[0].is_nan());

        // 1 + 2⁻⁸ is a half-precision value too.
        let stored = f16::from_f32(1.0 + 3.0 * 2f32.powi(-8)).to_le_bytes();
        let narrow = convert(&stored, Float::F16, WeightDtype::Bf16);
        assert_eq!(narrow[..], bf16::from_f32(1.0 + 2f32.powi(-6)).to_le_bytes());
    }

    #[test]
    fn unaligned_bytes_are_copied_as_they_are() {
        let values: Vec<f32> = (0..200_000).map(|index| index as f32 * 0.37).collect();
        let mut stored = vec![0];
        stored.extend_from_slice(bytemuck::cast_slice(&values));
        assert_eq!(f32s(&convert(&stored[1..], Float::F32, WeightDtype::F32)), values);
    }

    #[test]
    fn names() {
        for (dtype, name) in [(WeightDtype::F32, "\"f32\""), (WeightDtype::Bf16, "\"bf16\"")] {
            assert_eq!(serde_json::to_string(&dtype).unwrap(), name);
            assert_eq!(serde_json::from_str::<WeightDtype>(name).unwrap(), dtype);
        }
    }

    #[test]
    fn hash_of_the_standard() {
        // FIPS 180-2, appendix B.1.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let hash = hash_bytes(b"abc").map(|byte| format!("{byte:02x}"));
        assert_eq!(hash.concat(), expected);
    }
}
