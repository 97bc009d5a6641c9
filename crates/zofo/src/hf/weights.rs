//! The files that keep a folder's weights, whichever format they are in.

mod folder;
mod index;
mod stored;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Cursor, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use burn_std::Bytes;
use zofo_kernels::{MappedFile, map_private};

use super::{
    atomic::failed_to,
    dtype::{CHUNK, Float, StoredDtype, WeightDtype, convert},
    error::HfError,
};

pub(super) use folder::ShardedWeights;
pub(super) use stored::Stored;

/// A file with named tensors, mapped, whose description of them holds.
#[derive(Debug)]
pub(super) struct WeightFile {
    path: PathBuf,
    /// The same file as `map`, for mappings that can be written to.
    file: File,
    map: MappedFile,
    tensors: BTreeMap<String, Stored>,
}

impl WeightFile {
    /// Maps the file at `path`, in which `describe` finds the tensors: it is given the path, for messages, and the bytes.
    ///
    /// # Errors
    /// The file cannot be opened or mapped; those of `describe`.
    pub(super) fn open(
        path: &Path,
        describe: impl FnOnce(&Path, &[u8]) -> Result<BTreeMap<String, Stored>, HfError>,
    ) -> Result<Self, HfError> {
        let file = File::open(path).map_err(failed_to("open", path))?;
        let map = MappedFile::open(path).map_err(failed_to("open", path))?;
        let tensors = describe(path, &map)?;
        Ok(Self { path: path.to_owned(), file, map, tensors })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The names of all tensors.
    pub(super) fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(&self.tensors.get(name)?.shape)
    }

    /// How a weight is stored.
    ///
    /// # Errors
    /// The file has no such tensor, or not in a type that weights can have.
    pub(super) fn stored_dtype(&self, name: &str) -> Result<StoredDtype, HfError> {
        Ok(self.weight(name)?.1.into())
    }

    /// A weight as row-major tensor storage of type `dtype`: mapped if it is stored so, in that order, and as aligned as
    /// its values need.
    ///
    /// # Errors
    /// As [`stored_dtype`](Self::stored_dtype); the mapping fails.
    pub(super) fn load(&self, name: &str, dtype: WeightDtype) -> Result<Bytes, HfError> {
        let (stored, from) = self.weight(name)?;
        if let Some(values) = stored.gathered(&self.map) {
            return Ok(convert(&values, from, dtype));
        }
        let bytes = stored.bytes.clone();
        let aligned = bytes.start.is_multiple_of(dtype.size());
        if aligned && StoredDtype::from(from).is_stored_as(dtype) && !bytes.is_empty() {
            let mapped = map_private(&self.file, bytes.start as u64, bytes.len());
            return Ok(mapped.map_err(failed_to("map", &self.path))?);
        }
        Ok(convert(&self.map[bytes], from, dtype))
    }

    /// Whether the weight `name` is the weight `other_name` of `other`, both as type `dtype`. They are read a block at a
    /// time, and not through a mapping, whose pages would stay: as large as they are, this takes no memory.
    ///
    /// # Errors
    /// As [`stored_dtype`](Self::stored_dtype); reading fails.
    pub(super) fn is_same(
        &self,
        name: &str,
        other: &Self,
        other_name: &str,
        dtype: WeightDtype,
    ) -> Result<bool, HfError> {
        let (mut left, mut right) = (self.blocks(name)?, other.blocks(other_name)?);
        loop {
            let (left, right) = (left.next(dtype)?, right.next(dtype)?);
            if left[..] != right[..] {
                return Ok(false);
            }
            if left.is_empty() {
                return Ok(true);
            }
        }
    }

    fn blocks(&self, name: &str) -> Result<Blocks<'_>, HfError> {
        let (stored, from) = self.weight(name)?;
        let values: Box<dyn Read> = match stored.gathered(&self.map) {
            Some(values) => Box::new(Cursor::new(values)),
            None => {
                let section = || {
                    let mut file = File::open(&self.path)?;
                    file.seek(SeekFrom::Start(stored.bytes.start as u64))?;
                    io::Result::Ok(file.take(stored.bytes.len() as u64))
                };
                Box::new(section().map_err(failed_to("read", &self.path))?)
            }
        };
        Ok(Blocks { path: &self.path, values, from })
    }

    fn weight(&self, name: &str) -> Result<(&Stored, Float), HfError> {
        let missing = || HfError::MissingTensors { path: self.path.clone(), names: vec![name.to_owned()] };
        let stored = self.tensors.get(name).ok_or_else(missing)?;
        match Float::of(stored.dtype) {
            Some(float) => Ok((stored, float)),
            None => Err(HfError::Unsupported {
                path: self.path.clone(),
                what: format!("the type of tensor \"{name}\""),
                found: format!("{:?}", stored.dtype),
                supported: "F32, BF16, F16".to_owned(),
            }),
        }
    }
}

/// The values of a weight, in the order of the indices.
struct Blocks<'a> {
    path: &'a Path,
    values: Box<dyn Read>,
    from: Float,
}

impl Blocks<'_> {
    /// The next [`CHUNK`] values as type `dtype`, fewer at the end, and none after it.
    fn next(&mut self, dtype: WeightDtype) -> Result<Bytes, HfError> {
        let mut block = Vec::new();
        let most = (CHUNK * self.from.size()) as u64;
        self.values.by_ref().take(most).read_to_end(&mut block).map_err(failed_to("read", self.path))?;
        Ok(convert(&block, self.from, dtype))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use ::safetensors::Dtype;
    use half::f16;

    use super::super::{
        safetensors,
        test_model::{TestTensor, TestTensors, safetensors_bytes},
    };
    use super::*;

    #[test]
    fn weights_are_compared_to_their_last_value() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let count = 2 * CHUNK + 3;
        // Whole numbers that half precision has.
        let values: Vec<f32> = (0..count).map(|index| (index % 2048) as f32).collect();
        let mut other = values.clone();
        *other.last_mut().unwrap() += 1.0;
        let mut near = values.clone();
        // The last is 2, where bfloat16 has steps of 2⁻⁶.
        *near.last_mut().unwrap() += 2f32.powi(-9);
        let halves: Vec<f16> = values.iter().map(|&value| f16::from_f32(value)).collect();
        let bytes = bytemuck::cast_slice(&halves).to_owned();
        let tensors = TestTensors::from([
            ("one".to_owned(), TestTensor::f32(&[count], &values)),
            ("half".to_owned(), TestTensor { dtype: Dtype::F16, shape: vec![count], bytes }),
            ("other".to_owned(), TestTensor::f32(&[count], &other)),
            ("near".to_owned(), TestTensor::f32(&[count], &near)),
            ("short".to_owned(), TestTensor::f32(&[count - 1], &values[..count - 1])),
        ]);
        fs::write(&path, safetensors_bytes(&tensors)).unwrap();
        let file = safetensors::open(&path).unwrap();
        for (name, is_same) in [("one", true), ("half", true), ("other", false), ("near", false), ("short", false)] {
            assert_eq!(file.is_same("one", &file, name, WeightDtype::F32).unwrap(), is_same, "{name}");
        }
        assert!(file.is_same("one", &file, "near", WeightDtype::Bf16).unwrap());
        assert!(file.is_same("one", &file, "missing", WeightDtype::F32).is_err());
    }
}
