//! Files that are written and read again.

use std::fs;

use super::{
    super::{
        GgufFile,
        test_file::{assert_says, f32_bytes},
    },
    *,
};

fn tensor(name: &str, shape: &[usize], kind: WrittenType) -> NewTensor {
    NewTensor { name: name.to_owned(), shape: shape.to_vec(), kind }
}

/// The value at `index` of a tensor: exact in all types but Q8_0.
fn value(index: usize) -> f32 {
    (index % 255) as f32 - 127.0
}

/// A `read` that counts through all values of a tensor.
fn counting(tensor: &NewTensor, rows: Range<usize>, out: &mut [f32]) -> Result<(), HfError> {
    assert_eq!(out.len(), rows.len() * tensor.columns());
    let first = rows.start * tensor.columns();
    for (index, x) in out.iter_mut().enumerate() {
        *x = value(first + index);
    }
    Ok(())
}

#[test]
fn every_kind_of_value_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metadata.gguf");
    let mut metadata = NewMetadata::new();
    assert!(metadata.is_empty());
    metadata.set("string", "größer");
    metadata.set("owned", String::new());
    metadata.set("yes", true);
    metadata.set("u8", u8::MAX);
    metadata.set("i8", 1_i8);
    metadata.set("u16", u16::MAX);
    metadata.set("i16", 2_i16);
    metadata.set("u32", u32::MAX);
    metadata.set("i32", 3_i32);
    metadata.set("u64", 4_u64);
    metadata.set("i64", 5_i64);
    metadata.set("f32", 0.1_f32);
    metadata.set("f64", 0.1_f64);
    metadata.set_array("strings", &["a", "", "▁"]);
    metadata.set_array("integers", &[-1_i32, 2]);
    metadata.set_array("floats", &[0.5_f32, -1000.0]);
    metadata.set_array::<u32>("empty", &[]);
    metadata.set("replaced", "first");
    metadata.set("replaced", 7_u32);
    assert_eq!(metadata.len(), 18);
    write_gguf(&path, &metadata, &[], counting).unwrap();

    let file = GgufFile::open(&path).unwrap();
    let read = file.metadata();
    assert_eq!(read.keys().count(), 18);
    assert_eq!(read.string("string").unwrap(), Some("größer"));
    assert_eq!(read.string("owned").unwrap(), Some(""));
    assert_eq!(read.boolean("yes").unwrap(), Some(true));
    for (key, expected) in [
        ("u8", 255),
        ("i8", 1),
        ("u16", 65535),
        ("i16", 2),
        ("u32", u32::MAX),
        ("i32", 3),
        ("u64", 4),
        ("i64", 5),
        ("replaced", 7),
    ] {
        assert_eq!(read.unsigned(key).unwrap(), Some(expected), "{key}");
    }
    assert_eq!(read.float("f32").unwrap(), Some(0.1));
    assert_eq!(read.float("f64").unwrap(), Some(0.1));
    assert_eq!(read.strings("strings").unwrap(), Some(vec!["a", "", "▁"]));
    assert_eq!(read.integers("integers").unwrap(), Some(vec![-1, 2]));
    assert_eq!(read.numbers("integers").unwrap(), Some(vec![-1.0, 2.0]));
    assert_eq!(read.numbers("floats").unwrap(), Some(vec![0.5, -1000.0]));
    assert_eq!(read.integers("empty").unwrap(), Some(vec![]));
}

#[test]
fn tensors_are_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tensors.gguf");
    let tensors = [
        tensor("vector", &[3], WrittenType::F32),
        tensor("half", &[2, 5], WrittenType::F16),
        // Several parts of CHUNK values, the last a short one.
        tensor("long", &[700, 4000], WrittenType::BF16),
        tensor("deep", &[2, 1, 3, 64], WrittenType::Q8_0),
    ];
    let mut metadata = NewMetadata::new();
    metadata.set("general.architecture", "test");
    let mut largest = 0;
    write_gguf(&path, &metadata, &tensors, |tensor, rows, out| {
        largest = largest.max(out.len());
        counting(tensor, rows, out)
    })
    .unwrap();
    assert_eq!(largest, CHUNK / 4000 * 4000);

    let file = GgufFile::open(&path).unwrap();
    assert_eq!(file.tensors().len(), tensors.len());
    for (written, read) in tensors.iter().zip(file.tensors()) {
        assert_eq!(read.name(), written.name);
        assert_eq!(read.shape(), written.shape);
        assert_eq!(read.kind(), written.kind.into());
        assert!(read.byte_range().start.is_multiple_of(32));
        let mut values = vec![f32::NAN; read.rows() * read.columns()];
        file.dequantize(read, 0..read.rows(), &mut values).unwrap();
        for (index, x) in values.into_iter().enumerate() {
            let step = if written.kind == WrittenType::Q8_0 { 0.51 } else { 0.0 };
            assert!((x - value(index)).abs() <= step, "{}: {index} is {x}", written.name);
        }
    }
    // Padded at the end too, as gguf-py does.
    assert_eq!(fs::metadata(&path).unwrap().len() % 32, 0);
}

#[test]
fn the_layout_of_the_format() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.gguf");
    let mut metadata = NewMetadata::new();
    metadata.set("k", 9_u32);
    write_gguf(&path, &metadata, &[tensor("t", &[2, 3], WrittenType::F32)], counting).unwrap();
    let mut expected = b"GGUF\x03\0\0\0".to_vec();
    // One tensor, one key.
    expected.extend(b"\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0");
    expected.extend(b"\x01\0\0\0\0\0\0\0k\x04\0\0\0\x09\0\0\0");
    expected.extend(b"\x01\0\0\0\0\0\0\0t\x02\0\0\0\x03\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    expected.resize(expected.len().next_multiple_of(32), 0);
    expected.extend(f32_bytes(&[-127.0, -126.0, -125.0, -124.0, -123.0, -122.0]));
    expected.resize(expected.len().next_multiple_of(32), 0);
    assert_eq!(fs::read(&path).unwrap(), expected);
}

#[test]
fn what_cannot_be_written_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let says = |tensors: &[NewTensor], parts: &[&str]| {
        let error = write_gguf(&path, &NewMetadata::new(), tensors, counting).unwrap_err().to_string();
        assert_says(&error, &["model.gguf: tensor", "cannot be written"]);
        assert_says(&error, parts);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    };
    says(&[tensor(&"n".repeat(64), &[1], WrittenType::F32)], &["64 bytes", "63"]);
    says(&[tensor("t", &[], WrittenType::F32)], &["shape is []"]);
    says(&[tensor("t", &[2, 0], WrittenType::F32)], &["shape is [2, 0]"]);
    says(&[tensor("t", &[1, 1, 1, 1, 1], WrittenType::F32)], &["1 to 4"]);
    says(&[tensor("t", &[2, 40], WrittenType::Q8_0)], &["\"t\"", "rows have 40", "Q8_0 has blocks of 32"]);
    says(&[tensor("t", &[usize::MAX, 32], WrittenType::F32)], &["too large"]);
    let half = usize::MAX / 8;
    says(
        &[tensor("t", &[half], WrittenType::F32), tensor("u", &[half, 1], WrittenType::F32)],
        &["\"u\"", "file", "large"],
    );
    says(&[tensor("t", &[1], WrittenType::F32), tensor("t", &[1], WrittenType::F32)], &["\"t\"", "another"]);

    let huge = |_: &NewTensor, _: Range<usize>, out: &mut [f32]| {
        out.fill(1e6);
        Ok(())
    };
    let tensors = [tensor("t", &[1, 32], WrittenType::F16)];
    let error = write_gguf(&path, &NewMetadata::new(), &tensors, huge).unwrap_err().to_string();
    assert_says(&error, &["\"t\"", "F16 cannot hold the value 1000000"]);
    let stop = |_: &NewTensor, _: Range<usize>, _: &mut [f32]| Err(HfError::NotAModel { path: "source".into() });
    let error = write_gguf(&path, &NewMetadata::new(), &tensors, stop).unwrap_err().to_string();
    assert_says(&error, &["source is neither"]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_file_that_fails_its_check_does_not_appear() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let write = |passes: bool| {
        write_checked_gguf(
            &path,
            &NewMetadata::new(),
            &[],
            |_, _, _| unreachable!("there are no tensors"),
            |written| {
                assert_ne!(written, path);
                GgufFile::open(written)?;
                if passes { Ok(()) } else { Err(HfError::NotAModel { path: written.to_owned() }) }
            },
        )
    };
    write(false).unwrap_err();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    write(true).unwrap();
    let before = fs::read(&path).unwrap();
    write(false).unwrap_err();
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}
