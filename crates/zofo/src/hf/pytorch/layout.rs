//! Where in the file the values of a tensor are.

use std::{collections::BTreeMap, ops::Range, path::Path};

use super::{
    super::{error::HfError, weights::Stored},
    pickle::{Pickle, PickleProblem},
    value::{Storage, Tensor, Value},
};

/// Runs the pickle at `bytes[start..]`, which is called `what`.
pub(super) fn run_pickle<'a>(path: &Path, what: &str, bytes: &'a [u8], start: usize) -> Result<Pickle<'a>, HfError> {
    Pickle::run(&bytes[start..]).map_err(|PickleProblem { offset, mismatch }| HfError::Unexpected {
        path: path.to_owned(),
        what: format!("{what}, at byte {}", start + offset),
        expected: mismatch.expected,
        found: mismatch.found,
    })
}

/// The tensors of the state dictionary that `pickle` has made; `locate` tells where in the file a storage is.
pub(super) fn state_dict<'a>(
    path: &Path,
    pickle: &Pickle<'a>,
    locate: impl Fn(&Storage<'a>) -> Result<Range<usize>, HfError>,
) -> Result<BTreeMap<String, Stored>, HfError> {
    let unexpected = |what: String, expected: &str, found: String| HfError::Unexpected {
        path: path.to_owned(),
        what,
        expected: expected.to_owned(),
        found,
    };
    let Value::Dict(dict) = pickle.root else {
        let expected = "a dictionary of tensors (a state_dict)";
        return Err(unexpected("content of the file".to_owned(), expected, pickle.root.kind().to_owned()));
    };
    let mut tensors = BTreeMap::new();
    for &(key, value) in &pickle.heap.dicts[dict] {
        let Value::Text(name) = key else {
            let what = "key of the dictionary".to_owned();
            return Err(unexpected(what, "a tensor's name", key.kind().to_owned()));
        };
        let Value::Tensor(tensor) = value else {
            return Err(unexpected(format!("entry \"{name}\""), "a tensor", value.kind().to_owned()));
        };
        let tensor = &pickle.heap.tensors[tensor];
        let stored = view(path, name, tensor, locate(&tensor.storage)?)?;
        if tensors.insert(name.to_owned(), stored).is_some() {
            return Err(unexpected(format!("entry \"{name}\""), "every name once", "it a second time".to_owned()));
        }
    }
    Ok(tensors)
}

/// `name` as `tensor` describes it, with its storage at `bytes` of the file.
fn view(path: &Path, name: &str, tensor: &Tensor<'_>, bytes: Range<usize>) -> Result<Stored, HfError> {
    let unexpected = |what: String, expected: String, found: String| HfError::Unexpected {
        path: path.to_owned(),
        what: format!("{what} of tensor \"{name}\""),
        expected,
        found,
    };
    let Storage { key, dtype, len } = tensor.storage;
    let size = dtype.bitsize() / 8;
    if len.checked_mul(size) != Some(bytes.len()) {
        return Err(unexpected(
            format!("storage \"{key}\""),
            format!("{len} values of {dtype:?}"),
            format!("{} bytes (is the file cut short?)", bytes.len()),
        ));
    }
    let Tensor { offset, shape, strides, .. } = tensor;
    let found = || format!("shape {shape:?} with strides {strides:?} from value {offset} on");
    let Some(View { count, span }) = View::of(shape, strides) else {
        return Err(unexpected("view".to_owned(), "a shape that can be".to_owned(), found()));
    };
    if offset.checked_add(span).is_none_or(|end| end > len) {
        return Err(unexpected("view".to_owned(), format!("a part of the {len} values of its storage"), found()));
    }
    // One value at many indices, as `expand` makes it, would let a small file ask for any amount of memory.
    if count > span {
        return Err(unexpected("view".to_owned(), "a value of its own at every index".to_owned(), found()));
    }
    let start = bytes.start + offset * size;
    Ok(Stored {
        dtype,
        shape: shape.clone(),
        bytes: start..start + span * size,
        strides: (!is_row_major(shape, strides)).then(|| strides.clone()),
    })
}

struct View {
    /// Indices.
    count: usize,
    /// Values of the storage from that at the first index to that at the last.
    span: usize,
}

impl View {
    /// `None` if a number is larger than can be.
    fn of(shape: &[usize], strides: &[usize]) -> Option<Self> {
        let count = shape.iter().try_fold(1_usize, |count, &size| count.checked_mul(size))?;
        if count == 0 {
            return Some(Self { count, span: 0 });
        }
        let span = shape.iter().zip(strides).try_fold(1_usize, |span, (&size, &stride)| {
            // Of at least one, because their product is not zero.
            (size - 1).checked_mul(stride)?.checked_add(span)
        })?;
        Some(Self { count, span })
    }
}

/// Whether values are in the order of the indices, without gaps. The stride of a single index says nothing.
fn is_row_major(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1;
    shape.contains(&0)
        || shape.iter().zip(strides).rev().all(|(&size, &stride)| {
            let matches = size == 1 || stride == expected;
            // Of a shape whose product can be.
            expected *= size;
            matches
        })
}
