//! Writing safetensors files one tensor at a time, so that no second copy of the weights is in memory.

use std::{collections::HashMap, ops::Deref, path::Path};

use safetensors::{
    Dtype,
    tensor::{Metadata, TensorInfo},
};

use super::super::{atomic::NewFile, dtype::WeightDtype, error::HfError};

/// Bytes of the weights in a file, above which another one begins (the Hugging Face Hub's recommendation). A tensor
/// that is larger has a file of its own.
pub(crate) const LARGEST_SHARD: usize = 5_000_000_000;

/// A tensor to be written.
#[derive(Clone, Debug)]
pub(crate) struct TensorSpec<'a> {
    pub(crate) name: &'a str,
    pub(crate) shape: &'a [usize],
    pub(crate) dtype: WeightDtype,
}

impl TensorSpec<'_> {
    pub(crate) fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.size()
    }
}

/// Cuts `tensors` into runs of at most `largest` bytes.
pub(crate) fn shards<'s, 'a>(tensors: &'s [TensorSpec<'a>], largest: usize) -> Vec<&'s [TensorSpec<'a>]> {
    let mut shards = Vec::new();
    let mut start = 0;
    let mut bytes = 0;
    for (index, tensor) in tensors.iter().enumerate() {
        if index > start && bytes + tensor.bytes() > largest {
            shards.push(&tensors[start..index]);
            (start, bytes) = (index, 0);
        }
        bytes += tensor.bytes();
    }
    shards.push(&tensors[start..]);
    shards
}

/// Writes the file `path` with `tensors`, whose bytes `content` gives one after the other.
///
/// # Errors
/// That of `content`; the bytes are not as many as the shape asks for; the file cannot be written.
pub(crate) fn write_shard<T: Deref<Target = [u8]>, E: From<HfError>>(
    path: &Path,
    tensors: &[TensorSpec<'_>],
    mut content: impl FnMut(&str) -> Result<T, E>,
) -> Result<(), E> {
    let mut file = NewFile::create(path).map_err(HfError::from)?;
    file.write_all(&header(path, tensors)?).map_err(HfError::from)?;
    for tensor in tensors {
        let bytes = content(tensor.name)?;
        if bytes.len() != tensor.bytes() {
            return Err(E::from(HfError::Unexpected {
                path: path.to_owned(),
                what: format!("data of tensor \"{}\"", tensor.name),
                expected: format!("{} bytes for {:?}", tensor.bytes(), tensor.shape),
                found: bytes.len().to_string(),
            }));
        }
        file.write_all(&bytes).map_err(HfError::from)?;
    }
    Ok(file.finish().map_err(HfError::from)?)
}

/// The header with its length before it, filled up so that the data begin at a multiple of 8 bytes.
fn header(path: &Path, tensors: &[TensorSpec<'_>]) -> Result<Vec<u8>, HfError> {
    let mut start = 0;
    let entry = |tensor: &TensorSpec<'_>| {
        let end = start + tensor.bytes();
        let info = TensorInfo {
            dtype: match tensor.dtype {
                WeightDtype::F32 => Dtype::F32,
                WeightDtype::Bf16 => Dtype::BF16,
            },
            shape: tensor.shape.to_owned(),
            data_offsets: (start, end),
        };
        start = end;
        (tensor.name.to_owned(), info)
    };
    let entries = tensors.iter().map(entry).collect();
    // Transformers reads no file that does not say so.
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(format), entries).map_err(|cause| HfError::Unexpected {
        path: path.to_owned(),
        what: "tensors to write".to_owned(),
        expected: "a list that a safetensors file can hold".to_owned(),
        found: cause.to_string(),
    })?;
    let mut json = serde_json::to_vec(&metadata).map_err(|source| HfError::Json { path: path.to_owned(), source })?;
    json.resize(json.len().next_multiple_of(8), b' ');
    let length = (json.len() as u64).to_le_bytes();
    Ok([&length[..], &json].concat())
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::super::super::test_model::{assert_says, message};
    use super::*;

    const SPECS: [TensorSpec<'_>; 4] = [
        TensorSpec { name: "b", shape: &[3], dtype: WeightDtype::F32 },
        TensorSpec { name: "a", shape: &[2, 4], dtype: WeightDtype::F32 },
        TensorSpec { name: "c", shape: &[], dtype: WeightDtype::F32 },
        TensorSpec { name: "d", shape: &[5], dtype: WeightDtype::Bf16 },
    ];

    #[test]
    fn the_reference_reads_what_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let content = |name: &str| {
            let spec = SPECS.iter().find(|spec| spec.name == name).unwrap();
            Ok::<_, HfError>(vec![name.as_bytes()[0]; spec.bytes()])
        };
        write_shard(&path, &SPECS, content).unwrap();

        let bytes = std::fs::read(&path).unwrap();
        let (header, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(header % 8, 0);
        assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
        let read = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(read.len(), 4);
        for spec in SPECS {
            let tensor = read.tensor(spec.name).unwrap();
            assert_eq!(tensor.shape(), spec.shape);
            assert_eq!(tensor.data(), content(spec.name).unwrap());
        }
        assert_eq!(read.tensor("d").unwrap().dtype(), Dtype::BF16);
    }

    #[test]
    fn wrong_content_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let result = write_shard(&path, &SPECS, |_| Ok::<_, HfError>(vec![0; 12]));
        assert_says(&message(result), &["tensor \"a\"", "32 bytes for [2, 4]", "found 12"]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_named() {
        let content = |_: &str| Ok::<_, HfError>(vec![0; 12]);
        let result = write_shard(Path::new("/dev/full"), &SPECS[..1], content);
        assert_says(&message(result), &["cannot write /dev/full"]);
    }

    #[test]
    fn runs_of_tensors() {
        let names = |largest: usize| {
            let shards = shards(&SPECS, largest);
            shards.iter().map(|shard| shard.iter().map(|spec| spec.name).collect::<String>()).collect::<Vec<_>>()
        };
        // Of 12, 32, 4 and 10 bytes.
        assert_eq!(names(100), ["bacd"]);
        assert_eq!(names(44), ["ba", "cd"]);
        assert_eq!(names(36), ["b", "ac", "d"]);
        assert_eq!(names(1), ["b", "a", "c", "d"]);
        assert_eq!(names(14), ["b", "a", "cd"]);
    }
}
