//! The header of a GGUF file: version, metadata, and the list of tensors.
//!
//! Format: `docs/gguf.md` of the ggml project. Nothing in the header is believed before it is compared with the
//! size of the file, and nothing is allocated that the file is not large enough to describe.

use std::collections::{BTreeMap, HashSet};

use super::{
    cursor::Cursor,
    error::GgufProblem,
    metadata::{Entry, ValueKind},
    tensor::{TensorInfo, TensorType},
};

/// More dimensions than this the format does not allow.
pub(super) const MAX_DIMENSIONS: u32 = 4;
/// Tensor data start at multiples of this unless `general.alignment` says otherwise.
pub(super) const DEFAULT_ALIGNMENT: u32 = 32;
/// The shortest metadata entry: an empty key, a type, one byte.
const LEAST_ENTRY_BYTES: usize = 8 + 4 + 1;
/// The shortest tensor description: an empty name, the number of dimensions, one dimension, type, offset.
const LEAST_TENSOR_BYTES: usize = 8 + 4 + 8 + 4 + 8;

const ALIGNMENT_KEY: &str = "general.alignment";

/// What the header says, checked.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) entries: BTreeMap<String, Entry>,
    pub(super) tensors: Vec<TensorInfo>,
}

impl Header {
    /// Reads the header at the start of the file `bytes`.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, GgufProblem> {
        let mut cursor = Cursor::new(bytes, 0);
        read_version(&mut cursor)?;
        let tensor_count_at = cursor.position() as u64;
        let tensor_count = cursor.count(LEAST_TENSOR_BYTES, "number of tensors")?;
        let entry_count = cursor.count(LEAST_ENTRY_BYTES, "number of metadata keys")?;

        let mut entries = BTreeMap::new();
        let mut alignment = DEFAULT_ALIGNMENT;
        for index in 0..entry_count {
            let offset = cursor.position() as u64;
            let key = cursor.string(format_args!("name of metadata key {index}"))?;
            let value_at = cursor;
            let entry = Entry::scan(&mut cursor, key)?;
            if key == ALIGNMENT_KEY {
                alignment = read_alignment(value_at)?;
            }
            if entries.insert(key.to_owned(), entry).is_some() {
                return Err(GgufProblem::Malformed {
                    what: format!("metadata key \"{key}\""),
                    offset,
                    expected: "every key once".to_owned(),
                    found: "it a second time".to_owned(),
                });
            }
        }

        let mut described = Vec::new();
        let mut names = HashSet::new();
        for index in 0..tensor_count {
            let offset = cursor.position() as u64;
            let tensor = Description::read(&mut cursor, index)?;
            if !names.insert(tensor.name) {
                return Err(GgufProblem::Malformed {
                    what: format!("tensor \"{}\"", tensor.name),
                    offset,
                    expected: "every tensor once".to_owned(),
                    found: "it a second time".to_owned(),
                });
            }
            described.push(tensor);
        }

        let data_start = (cursor.position() as u64).next_multiple_of(u64::from(alignment));
        let tensors = described
            .into_iter()
            .map(|tensor| tensor.locate(data_start, alignment, bytes.len()))
            .collect::<Result<Vec<_>, _>>()?;
        check_overlap(&tensors, tensor_count_at)?;
        Ok(Self { entries, tensors })
    }
}

/// Reads the magic number and the version; what is not a little-endian GGUF file of version 2 or 3 ends here.
fn read_version(cursor: &mut Cursor<'_>) -> Result<(), GgufProblem> {
    let found = cursor.take(cursor.remaining().min(4) as u64, "magic number")?;
    if found != b"GGUF" {
        return Err(GgufProblem::Magic { found: found.to_owned() });
    }
    match cursor.u32("version")? {
        2 | 3 => Ok(()),
        // A version fits in the low half; if only the high half is set, the bytes are the other way round.
        swapped if swapped & 0xFFFF == 0 && swapped != 0 => {
            Err(GgufProblem::BigEndian { version: swapped.swap_bytes() })
        }
        found => Err(GgufProblem::Version { found }),
    }
}

/// Reads the value of `general.alignment`, type included.
fn read_alignment(mut cursor: Cursor<'_>) -> Result<u32, GgufProblem> {
    let offset = cursor.position() as u64;
    let kind = cursor.u32(ALIGNMENT_KEY)?;
    let value = cursor.u32(ALIGNMENT_KEY)?;
    // 4 is the number of u32, the type that the format prescribes for this key.
    if kind == 4 && value.is_power_of_two() {
        return Ok(value);
    }
    Err(GgufProblem::Malformed {
        what: format!("metadata key \"{ALIGNMENT_KEY}\""),
        offset,
        expected: format!("a power of two as {}", ValueKind::U32),
        found: format!("type {kind}, value {value}"),
    })
}

/// What the header says about a tensor.
struct Description<'a> {
    name: &'a str,
    shape: Vec<u64>,
    kind: TensorType,
    /// Counted from the start of the tensor data.
    offset: u64,
    /// Where in the file this description starts.
    described_at: u64,
}

impl<'a> Description<'a> {
    fn read(cursor: &mut Cursor<'a>, index: usize) -> Result<Self, GgufProblem> {
        let described_at = cursor.position() as u64;
        let name = cursor.string(format_args!("name of tensor {index}"))?;
        let dimensions_at = cursor.position() as u64;
        let dimensions = cursor.u32(format_args!("number of dimensions of tensor \"{name}\""))?;
        if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
            return Err(GgufProblem::Malformed {
                what: format!("number of dimensions of tensor \"{name}\""),
                offset: dimensions_at,
                expected: format!("1 to {MAX_DIMENSIONS}"),
                found: dimensions.to_string(),
            });
        }
        let mut shape = (0..dimensions)
            .map(|_| cursor.u64(format_args!("shape of tensor \"{name}\"")))
            .collect::<Result<Vec<_>, _>>()?;
        // The file lists the fastest dimension first.
        shape.reverse();
        let id = cursor.u32(format_args!("type of tensor \"{name}\""))?;
        let kind = TensorType::from_id(id)
            .ok_or_else(|| GgufProblem::TensorType { tensor: name.to_owned(), found: TensorType::describe(id) })?;
        let offset = cursor.u64(format_args!("offset of tensor \"{name}\""))?;
        Ok(Self { name, shape, kind, offset, described_at })
    }

    /// Checks shape and place, and turns the offset into a range of the file, which is `file_len` bytes long.
    fn locate(self, data_start: u64, alignment: u32, file_len: usize) -> Result<TensorInfo, GgufProblem> {
        let malformed = |expected: String, found: String| GgufProblem::Malformed {
            what: format!("tensor \"{}\"", self.name),
            offset: self.described_at,
            expected,
            found,
        };
        let sizes = self.sizes().ok_or_else(|| {
            malformed(
                format!(
                    "a shape of positive numbers whose last is a multiple of {}, the block of {:?}",
                    self.kind.block_len(),
                    self.kind
                ),
                format!("{:?}", self.shape),
            )
        })?;
        if !self.offset.is_multiple_of(u64::from(alignment)) {
            return Err(malformed(format!("an offset that is a multiple of {alignment}"), self.offset.to_string()));
        }
        let start = data_start.checked_add(self.offset);
        let end = start.and_then(|start| start.checked_add(sizes.bytes as u64));
        let inside = end.is_some_and(|end| end <= file_len as u64);
        match (start.map(usize::try_from), end.map(usize::try_from)) {
            (Some(Ok(start)), Some(Ok(end))) if inside => {
                Ok(TensorInfo { name: self.name.to_owned(), shape: sizes.shape, kind: self.kind, bytes: start..end })
            }
            _ => Err(malformed(
                format!("its data inside the file of {file_len} bytes"),
                format!(
                    "{} bytes of {:?} at {} + {} (is the file cut short?)",
                    sizes.bytes, self.kind, data_start, self.offset
                ),
            )),
        }
    }

    /// The shape as indices, and the bytes of the data; `None` if the shape is impossible.
    fn sizes(&self) -> Option<Sizes> {
        let shape = self
            .shape
            .iter()
            .map(|&dimension| usize::try_from(dimension).ok().filter(|&size| size > 0))
            .collect::<Option<Vec<_>>>()?;
        let (columns, slower) = shape.split_last()?;
        if !columns.is_multiple_of(self.kind.block_len()) {
            return None;
        }
        let row_bytes = (columns / self.kind.block_len()).checked_mul(self.kind.block_bytes())?;
        let bytes = slower.iter().try_fold(row_bytes, |product, &size| product.checked_mul(size))?;
        // The number of values must be countable too: a block may hold more values than bytes.
        shape.iter().try_fold(1_usize, |product, &size| product.checked_mul(size))?;
        Some(Sizes { shape, bytes })
    }
}

struct Sizes {
    shape: Vec<usize>,
    bytes: usize,
}

/// Two tensors that share bytes cannot both be right.
fn check_overlap(tensors: &[TensorInfo], offset: u64) -> Result<(), GgufProblem> {
    let mut in_order: Vec<_> = tensors.iter().collect();
    in_order.sort_by_key(|tensor| tensor.bytes.start);
    for pair in in_order.windows(2) {
        if let [first, second] = pair
            && second.bytes.start < first.bytes.end
        {
            return Err(GgufProblem::Malformed {
                what: "list of tensors".to_owned(),
                offset,
                expected: "every tensor in bytes of its own".to_owned(),
                found: format!("\"{}\" in {:?} and \"{}\" in {:?}", first.name, first.bytes, second.name, second.bytes),
            });
        }
    }
    Ok(())
}
