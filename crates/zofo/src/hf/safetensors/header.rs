//! The header of a safetensors file.

use std::{collections::BTreeMap, fmt, path::Path};

use safetensors::tensor::TensorInfo;
use serde::{
    Deserializer,
    de::{Error, MapAccess, Visitor},
};
use serde_json::Value;

use super::super::{error::HfError, weights::Stored};

/// Bytes of the number that says how long the header is.
const LENGTH_BYTES: usize = size_of::<u64>();
/// The format's limit.
const LARGEST_HEADER: usize = 100_000_000;
const METADATA: &str = "__metadata__";

/// Reads and checks the header of the file `bytes`; `path` is for messages.
pub(super) fn read(path: &Path, bytes: &[u8]) -> Result<BTreeMap<String, Stored>, HfError> {
    let malformed = |what: String, expected: String, found: String| HfError::Unexpected {
        path: path.to_owned(),
        what,
        expected,
        found,
    };
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(malformed(
            "safetensors header".to_owned(),
            format!("at least {LENGTH_BYTES} bytes"),
            format!("{} (is the file cut short?)", bytes.len()),
        ));
    };
    let length = u64::from_le_bytes(*length);
    let most = rest.len().min(LARGEST_HEADER);
    let Some(length) = usize::try_from(length).ok().filter(|length| *length <= most) else {
        return Err(malformed(
            "length of the safetensors header".to_owned(),
            format!("at most {most} bytes"),
            format!("{length} (is the file cut short, or in another format?)"),
        ));
    };
    let (header, data) = rest.split_at(length);
    let entries = parse(header).map_err(|cause| {
        malformed("safetensors header".to_owned(), "a JSON object of tensors".to_owned(), cause.to_string())
    })?;

    let data_start = LENGTH_BYTES + length;
    let mut in_order: Vec<_> = entries.iter().collect();
    in_order.sort_by_key(|(_, info)| info.data_offsets);
    let mut end_before = 0;
    for (name, info) in in_order {
        let (start, end) = info.data_offsets;
        let tensor = |part: &str| format!("{part} of tensor \"{name}\"");
        if start != end_before || end < start {
            return Err(malformed(
                tensor("data_offsets"),
                format!("[{end_before}, …], where the tensor before it ends"),
                format!("[{start}, {end}]"),
            ));
        }
        if end > data.len() {
            return Err(malformed(
                tensor("data_offsets"),
                format!("an end within the {} bytes of data", data.len()),
                format!("[{start}, {end}] (is the file cut short?)"),
            ));
        }
        let bits = info.shape.iter().try_fold(info.dtype.bitsize(), |product, &size| product.checked_mul(size));
        if bits != (end - start).checked_mul(8) {
            let expected = match bits {
                Some(bits) => format!("{} bytes for {:?} of {:?}", bits.div_ceil(8), info.shape, info.dtype),
                None => format!("a shape that can be, not {:?}", info.shape),
            };
            return Err(malformed(tensor("data"), expected, format!("{} bytes", end - start)));
        }
        end_before = end;
    }
    if end_before != data.len() {
        return Err(malformed(
            "end of the last tensor".to_owned(),
            format!("{}, the end of the data", data.len()),
            end_before.to_string(),
        ));
    }
    let place = |(name, info): (String, TensorInfo)| {
        let (start, end) = info.data_offsets;
        let stored =
            Stored { dtype: info.dtype, shape: info.shape, bytes: data_start + start..data_start + end, strides: None };
        (name, stored)
    };
    Ok(entries.into_iter().map(place).collect())
}

fn parse(header: &[u8]) -> Result<BTreeMap<String, TensorInfo>, serde_json::Error> {
    let text = str::from_utf8(header).map_err(Error::custom)?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let entries = deserializer.deserialize_map(Entries)?;
    deserializer.end()?;
    Ok(entries)
}

struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = BTreeMap<String, TensorInfo>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object with the tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = BTreeMap::new();
        let mut metadata = None;
        while let Some(name) = map.next_key::<String>()? {
            let twice = if name == METADATA {
                metadata.replace(map.next_value::<BTreeMap<String, String>>()?).is_some()
            } else {
                let value = map.next_value::<Value>()?;
                let info = serde_json::from_value(value)
                    .map_err(|cause| Error::custom(format_args!("tensor \"{name}\": {cause}")))?;
                entries.insert(name.clone(), info).is_some()
            };
            if twice {
                return Err(Error::custom(format_args!("\"{name}\" a second time")));
            }
        }
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use safetensors::{Dtype, SafeTensors};

    use super::super::super::test_model::{assert_says, message};
    use super::*;

    fn file(header: &[u8], data: usize) -> Vec<u8> {
        let length = (header.len() as u64).to_le_bytes();
        [&length, header, &vec![0; data]].concat()
    }

    fn read_bytes(bytes: &[u8]) -> Result<BTreeMap<String, Stored>, HfError> {
        let read = read(Path::new("model.safetensors"), bytes);
        // Whatever the reference refuses is refused.
        assert!(read.is_err() || SafeTensors::read_metadata(bytes).is_ok());
        read
    }

    #[track_caller]
    fn assert_refused(header: &str, data: usize, parts: &[&str]) {
        let text = message(read_bytes(&file(header.as_bytes(), data)));
        assert_says(&text, &["model.safetensors", "expected", "found"]);
        assert_says(&text, parts);
    }

    const A: &str = r#""a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]}"#;

    #[test]
    fn tensors_in_any_order() {
        let b = r#""b":{"dtype":"BF16","shape":[],"data_offsets":[8,10]}"#;
        let header = format!(r#"{{"__metadata__":{{"format":"pt"}},{b},{A}}}   "#);
        let tensors = read_bytes(&file(header.as_bytes(), 10)).unwrap();
        let start = 8 + header.len();
        let expected = [
            ("a", Stored { dtype: Dtype::F32, shape: vec![2, 1], bytes: start..start + 8, strides: None }),
            ("b", Stored { dtype: Dtype::BF16, shape: vec![], bytes: start + 8..start + 10, strides: None }),
        ];
        assert_eq!(tensors, expected.map(|(name, stored)| (name.to_owned(), stored)).into());
        assert!(read_bytes(&file(b"{}", 0)).unwrap().is_empty());
    }

    #[test]
    fn lengths_that_lie() {
        let text = message(read_bytes(&[1, 2, 3]));
        assert_says(&text, &["at least 8 bytes", "found 3"]);
        let text = message(read_bytes(&file(b"{}", 0)[..9]));
        assert_says(&text, &["at most 1 bytes", "found 2 "]);
        for length in [u64::MAX, 1 << 40, 100_000_001] {
            let mut bytes = length.to_le_bytes().to_vec();
            bytes.extend(b"{}");
            assert_says(&message(read_bytes(&bytes)), &[&length.to_string(), "at most 2 bytes"]);
        }
    }

    #[test]
    fn a_header_beyond_the_limit() {
        let header = format!("{{}}{}", " ".repeat(99_999_999));
        assert_refused(&header, 0, &["at most 100000000 bytes", "found 100000001"]);
    }

    #[test]
    fn headers_that_are_not_tensors() {
        let text = message(read_bytes(&file(b"{\"\xFF\":1}", 0)));
        assert_says(&text, &["utf-8"]);
        assert_refused("{\"a\":", 0, &["JSON", "EOF"]);
        assert_refused("[]", 0, &["invalid type: sequence"]);
        assert_refused("{} {}", 0, &["trailing characters"]);
        assert_refused(r#"{"a":{"dtype":"F32","shape":[2]}}"#, 8, &["tensor \"a\"", "data_offsets"]);
        assert_refused(
            r#"{"a":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}}"#,
            8,
            &["tensor \"a\"", "F33", "BF16"],
        );
        assert_refused(r#"{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}"#, 8, &["tensor \"a\"", "-2"]);
        assert_refused(r#"{"__metadata__":{"format":1}}"#, 0, &["invalid type: integer"]);
    }

    #[test]
    fn a_name_twice() {
        let header = format!("{{{A},{A}}}");
        let bytes = file(header.as_bytes(), 8);
        assert_says(&message(read_bytes(&bytes)), &["\"a\" a second time"]);
        assert_refused(r#"{"__metadata__":{},"__metadata__":{}}"#, 0, &["a second time"]);
    }

    #[test]
    fn offsets_that_lie() {
        let b = |start: usize, end: usize| {
            let elements = end.saturating_sub(start) / 4;
            format!(r#"{{{A},"b":{{"dtype":"F32","shape":[{elements}],"data_offsets":[{start},{end}]}}}}"#)
        };
        assert_refused(&b(4, 12), 12, &["tensor \"b\"", "expected [8, …]", "found [4, 12]"]);
        assert_refused(&b(12, 16), 16, &["tensor \"b\"", "expected [8, …]", "found [12, 16]"]);
        assert_refused(&b(8, 4), 8, &["tensor \"b\"", "found [8, 4]"]);
        assert_refused(&b(8, 16), 12, &["tensor \"b\"", "within the 12 bytes", "cut short"]);
        assert_refused(&b(8, 12), 16, &["end of the last tensor", "expected 16", "found 12"]);
        assert_refused("{}", 1, &["expected 1", "found 0"]);
        read_bytes(&file(b(8, 12).as_bytes(), 12)).unwrap();
    }

    #[test]
    fn shapes_that_lie() {
        let a =
            |dtype: &str, shape: &str| format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,8]}}}}"#);
        assert_refused(&a("F32", "[3]"), 8, &["tensor \"a\"", "12 bytes for [3] of F32", "found 8 bytes"]);
        assert_refused(&a("F16", "[2]"), 8, &["tensor \"a\"", "4 bytes for [2] of F16"]);
        assert_refused(&a("F32", "[4294967296,4294967296,4]"), 8, &["tensor \"a\"", "a shape that can be"]);
    }
}
