//! Weights of a GGUF file as tensor storage.

use std::{collections::BTreeMap, fs::File};

use burn_std::Bytes;
use half::bf16;
use rayon::prelude::*;
use zofo_kernels::map_private;

use super::super::{
    atomic::failed_to,
    dtype::{CHUNK, StoredDtype, WeightDtype},
    error::HfError,
    gguf::{GgufError, GgufFile, HfTensor, TensorInfo},
};

/// The weights of a GGUF file under their Hugging Face names.
#[derive(Debug)]
pub(super) struct GgufWeights {
    file: GgufFile,
    /// The same file, for mappings that can be written to.
    opened: File,
    tensors: BTreeMap<String, HfTensor>,
}

impl GgufWeights {
    pub(super) fn new(file: GgufFile, opened: File, tensors: BTreeMap<String, HfTensor>) -> Self {
        Self { file, opened, tensors }
    }

    pub(super) fn file(&self) -> &GgufFile {
        &self.file
    }

    /// How the weight `name` is stored, if there is one.
    pub(super) fn stored_dtype(&self, name: &str) -> Option<StoredDtype> {
        Some(self.stored(self.tensors.get(name)?)?.kind().into())
    }

    /// The weight `name`, if there is one, in the order of Hugging Face.
    pub(super) fn load(&self, name: &str, dtype: WeightDtype) -> Option<Result<Bytes, HfError>> {
        let tensor = self.tensors.get(name)?;
        let stored = self.stored(tensor)?;
        let place = stored.byte_range();
        let usable = StoredDtype::from(stored.kind()).is_stored_as(dtype)
            && place.start.is_multiple_of(dtype.size())
            && !tensor.is_rearranged();
        if usable {
            let mapped = map_private(&self.opened, place.start as u64, place.len());
            return Some(mapped.map_err(|cause| failed_to("map", self.file.path())(cause).into()));
        }
        let loaded = match dtype {
            WeightDtype::F32 => self.dequantize(tensor, 0.0_f32, <[f32]>::copy_from_slice),
            WeightDtype::Bf16 => self.dequantize(tensor, bf16::ZERO, |out, values| {
                for (out, &value) in out.iter_mut().zip(values) {
                    *out = bf16::from_f32(value);
                }
            }),
        };
        Some(loaded.map_err(HfError::from))
    }

    fn stored(&self, tensor: &HfTensor) -> Option<&TensorInfo> {
        self.file.tensor(&tensor.gguf_name)
    }

    /// All rows of `tensor`, by as many threads as there are; `narrow` writes a few rows to their place.
    fn dequantize<T: bytemuck::NoUninit + Send + Sync>(
        &self,
        tensor: &HfTensor,
        zero: T,
        narrow: impl Fn(&mut [T], &[f32]) + Sync,
    ) -> Result<Bytes, GgufError> {
        let columns = tensor.shape.last().copied().unwrap_or(1);
        let rows = tensor.shape.iter().rev().skip(1).product();
        let rows_at_once = if tensor.is_read_whole() { rows } else { CHUNK.div_ceil(columns) };
        let mut values = vec![zero; rows * columns];
        values.par_chunks_mut(rows_at_once * columns).enumerate().try_for_each_init(
            Vec::new,
            |scratch, (index, out)| {
                let first = index * rows_at_once;
                scratch.resize(out.len(), 0.0);
                self.file.read_f32(tensor, first..first + out.len() / columns, scratch)?;
                narrow(out, scratch);
                Ok(())
            },
        )?;
        Ok(Bytes::from_elems(values))
    }
}

#[cfg(test)]
mod tests {
    use burn_std::AllocationProperty;
    use safetensors::Dtype;

    use super::super::super::{
        ModelFiles,
        test_model::{TestModel, TestTensor, assert_says, message, write_gguf},
    };
    use super::*;

    /// A model whose value projections are stored in BF16, and the rest in F32.
    fn model() -> (TestModel, ModelFiles) {
        let mut test = TestModel::new();
        for (name, tensor) in &mut test.tensors {
            if name.contains("v_proj") {
                let values: &[f32] = bytemuck::cast_slice(&tensor.bytes);
                let narrow: Vec<_> = values.iter().map(|&value| bf16::from_f32(value)).collect();
                tensor.bytes = bytemuck::cast_slice(&narrow).to_owned();
                tensor.dtype = Dtype::BF16;
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        write_gguf(&path, &test.tensors);
        (test, ModelFiles::open(&path).unwrap())
    }

    #[test]
    fn weights_in_the_order_of_hugging_face() {
        let (test, model) = model();
        assert_eq!(model.parameters().len(), 21);
        for (name, shape) in model.parameters() {
            let expected = &test.tensors[name];
            assert_eq!(shape, expected.shape);
            let wide = model.load(name, WeightDtype::F32).unwrap();
            let narrow = model.load(name, WeightDtype::Bf16).unwrap();
            let wide: &[f32] = bytemuck::cast_slice(&wide);
            if expected.dtype == Dtype::BF16 {
                assert_eq!(model.stored_dtype(name).unwrap(), StoredDtype::Bf16);
                assert_eq!(narrow[..], expected.bytes[..], "{name}");
                let stored: &[bf16] = bytemuck::cast_slice(&expected.bytes);
                assert!(wide.iter().zip(stored).all(|(wide, narrow)| *wide == narrow.to_f32()));
            } else {
                assert_eq!(model.stored_dtype(name).unwrap(), StoredDtype::F32);
                assert_eq!(wide, bytemuck::cast_slice::<_, f32>(&expected.bytes), "{name}");
                let narrow: &[bf16] = bytemuck::cast_slice(&narrow);
                assert!(wide.iter().zip(narrow).all(|(wide, narrow)| bf16::from_f32(*wide) == *narrow));
            }
        }
        assert_says(&message(model.load("other", WeightDtype::F32)), &["model.gguf", "missing", "other"]);
        assert_says(&message(model.stored_dtype("other")), &["model.gguf", "missing", "other"]);
    }

    #[test]
    fn what_needs_no_change_is_mapped() {
        let (_, model) = model();
        for (part, dtype, mapped) in [
            ("v_proj", WeightDtype::Bf16, true),
            ("v_proj", WeightDtype::F32, false),
            ("o_proj", WeightDtype::F32, true),
            ("o_proj", WeightDtype::Bf16, false),
            ("q_proj", WeightDtype::F32, false),
            ("k_proj", WeightDtype::F32, false),
        ] {
            let name = format!("model.layers.1.self_attn.{part}.weight");
            let property = model.load(&name, dtype).unwrap().property();
            assert_eq!(property == AllocationProperty::Other, mapped, "{part} as {dtype:?}");
        }
    }

    #[test]
    fn many_rows_by_several_threads() {
        let (mut test, _) = model();
        // 30 000 rows of 8 are more than one thread takes at a time, and no multiple of it.
        for name in ["model.embed_tokens.weight", "lm_head.weight"] {
            test.tensors.insert(name.to_owned(), TestTensor::counting(&[30_000, 8], 0.0));
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        write_gguf(&path, &test.tensors);
        let model = ModelFiles::open(&path).unwrap();
        let narrow = model.load("lm_head.weight", WeightDtype::Bf16).unwrap();
        let narrow: &[bf16] = bytemuck::cast_slice(&narrow);
        let expected = (0..240_000).map(|index| bf16::from_f32(index as f32 / 256.0));
        assert!(narrow.iter().copied().eq(expected));
    }
}
