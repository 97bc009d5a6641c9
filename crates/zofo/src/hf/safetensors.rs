//! One safetensors file, mapped.
//!
//! The header is checked here rather than by the crate of the format's authors, whose reader accepts a name twice and
//! does not tell which tensor is wrong; the tests compare the two. What follows the length of the header is JSON:
//! `{"name": {"dtype": …, "shape": […], "data_offsets": [start, end]}, …}`, and after it the data, without gaps.

mod header;
mod writer;

use std::path::Path;

use super::{error::HfError, weights::WeightFile};

pub(super) use writer::{LARGEST_SHARD, TensorSpec, shards, write_shard};

/// Maps the file at `path` and checks its header against the format and the size of the file.
///
/// # Errors
/// The file cannot be opened or mapped, or its header is wrong.
pub(super) fn open(path: &Path) -> Result<WeightFile, HfError> {
    WeightFile::open(path, header::read)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use burn_std::AllocationProperty;
    use half::{bf16, f16};
    use safetensors::Dtype;

    use super::super::dtype::{StoredDtype, WeightDtype};
    use super::super::test_model::{TestTensor, TestTensors, assert_says, message, safetensors_bytes};
    use super::*;

    fn open(bytes: &[u8]) -> WeightFile {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        fs::write(&path, bytes).unwrap();
        super::open(&path).unwrap()
    }

    fn tensor(dtype: Dtype, bytes: &[u8]) -> TestTensor {
        TestTensor { dtype, shape: vec![bytes.len() * 8 / dtype.bitsize()], bytes: bytes.to_owned() }
    }

    #[test]
    fn weights_load_in_both_types() {
        let values = [1.0, -0.5, 3.140625];
        let halves = values.map(f16::from_f32);
        let brains = values.map(bf16::from_f32);
        let file = open(&safetensors_bytes(&TestTensors::from([
            ("single".to_owned(), TestTensor::f32(&[3], &values)),
            ("half".to_owned(), tensor(Dtype::F16, bytemuck::cast_slice(&halves))),
            ("brain".to_owned(), tensor(Dtype::BF16, bytemuck::cast_slice(&brains))),
        ])));
        for (name, stored) in [("single", StoredDtype::F32), ("half", StoredDtype::F16), ("brain", StoredDtype::Bf16)] {
            assert_eq!(file.stored_dtype(name).unwrap(), stored);
            let wide = file.load(name, WeightDtype::F32).unwrap();
            assert_eq!(bytemuck::cast_slice::<_, f32>(&wide), values, "{name}");
            let narrow = file.load(name, WeightDtype::Bf16).unwrap();
            assert_eq!(bytemuck::cast_slice::<_, bf16>(&narrow), brains, "{name}");
        }
    }

    #[test]
    fn writing_to_a_mapped_weight_leaves_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let tensors = TestTensors::from([("w".to_owned(), TestTensor::f32(&[2], &[1.0, 2.0]))]);
        let bytes = safetensors_bytes(&tensors);
        fs::write(&path, &bytes).unwrap();
        let file = super::open(&path).unwrap();
        let mut weight = file.load("w", WeightDtype::F32).unwrap();
        assert_eq!(weight.property(), AllocationProperty::Other);
        weight[0] = 0xFF;
        assert_eq!(fs::read(&path).unwrap(), bytes);
        let again = file.load("w", WeightDtype::F32).unwrap();
        assert_eq!(bytemuck::cast_slice::<_, f32>(&again), [1.0, 2.0]);
    }

    #[test]
    fn a_misaligned_weight_is_copied() {
        // One byte before the weight, and a header whose length is a multiple of eight.
        let header = format!(
            "{:<128}",
            r#"{"mask":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}}"#
        );
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.push(7);
        bytes.extend(1.5_f32.to_le_bytes());
        let weight = open(&bytes).load("w", WeightDtype::F32).unwrap();
        assert_eq!(weight.property(), AllocationProperty::Native);
        assert_eq!(bytemuck::cast_slice::<_, f32>(&weight), [1.5]);
    }

    #[test]
    fn weights_that_cannot_be_used() {
        let tensors = [("mask".to_owned(), tensor(Dtype::I64, &[0; 16]))];
        let file = open(&safetensors_bytes(&tensors.into()));
        let text = message(file.load("mask", WeightDtype::F32));
        assert_says(&text, &["model.safetensors", "tensor \"mask\" is I64", "F32, BF16, F16"]);
        let text = message(file.stored_dtype("other"));
        assert_says(&text, &["model.safetensors", "missing", "other"]);

        let missing = Path::new("/nowhere/model.safetensors");
        let text = message(super::open(missing));
        assert_says(&text, &["cannot open /nowhere/model.safetensors"]);
    }
}
