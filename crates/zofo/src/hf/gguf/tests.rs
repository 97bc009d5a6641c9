//! Headers: what is read from right ones, and what is said about wrong ones.

use proptest::prelude::*;

use super::{
    reader::Header,
    test_file::{TestFile, assert_says, f32_bytes, message, open_bytes, string_bytes},
    *,
};

/// One F32 tensor `t` of shape [2, 3].
fn small() -> TestFile {
    TestFile::new().string("name", "small").counting("t", &[2, 3], 1.0)
}

#[test]
fn reads_what_was_written() {
    for version in [2, 3] {
        let mut written = small()
            .u32("u32", 7)
            .raw("i8", 1, &(-3_i8).to_le_bytes())
            .raw("u64", 10, &(1_u64 << 40).to_le_bytes())
            .raw("f64", 12, &0.1_f64.to_le_bytes())
            .f32("f32", 1e-5)
            .bool("yes", true)
            .strings("words", &["one", "zwei", ""])
            .i32s("integers", &[-1, 2])
            .tensor("half", &[4], TensorType::F16, vec![0, 0x3c, 0, 0xc0, 0, 0, 0xff, 0x7b]);
        written.version = version;
        let file = written.open().unwrap();
        let metadata = file.metadata();
        assert_eq!(metadata.string("name").unwrap(), Some("small"));
        assert_eq!(metadata.unsigned("u32").unwrap(), Some(7));
        assert_eq!(metadata.float("f64").unwrap(), Some(0.1));
        assert_eq!(metadata.float("f32").unwrap(), Some(1e-5), "as it was meant");
        assert_eq!(metadata.boolean("yes").unwrap(), Some(true));
        assert_eq!(metadata.strings("words").unwrap(), Some(vec!["one", "zwei", ""]));
        assert_eq!(metadata.integers("integers").unwrap(), Some(vec![-1, 2]));
        assert_eq!(metadata.unsigned("absent").unwrap(), None);
        assert_says(&message(metadata.unsigned("i8")), &["\"i8\" is -3"]);
        assert_says(&message(metadata.unsigned("u64")), &["\"u64\" is 1099511627776"]);

        assert_eq!(file.tensors().len(), 2);
        let tensor = file.tensor("t").unwrap();
        assert_eq!((tensor.shape(), tensor.kind()), (&[2, 3][..], TensorType::F32));
        assert_eq!((tensor.rows(), tensor.columns()), (2, 3));
        assert_eq!(tensor.byte_range().len(), 24);
        let mut row = [0.0; 3];
        file.dequantize(tensor, 1..2, &mut row).unwrap();
        assert_eq!(row, [4.0, 5.0, 6.0]);
        let mut values = [0.0; 4];
        let half = file.tensor("half").unwrap();
        assert_eq!((half.rows(), half.columns()), (1, 4));
        file.dequantize(half, 0..1, &mut values).unwrap();
        assert_eq!(values, [1.0, -2.0, 0.0, 65504.0]);
    }
}

#[test]
fn alignment_of_the_file_counts() {
    let mut written = small().u32("general.alignment", 64);
    written.alignment = 64;
    let written = written.counting("u", &[2], 10.0);
    let file = written.open().unwrap();
    let mut values = [0.0; 2];
    file.dequantize(file.tensor("u").unwrap(), 0..1, &mut values).unwrap();
    assert_eq!(values, [10.0, 11.0]);

    for wrong in [0, 24] {
        let text = message(small().u32("general.alignment", wrong).open());
        assert_says(&text, &["general.alignment", "power of two", &wrong.to_string()]);
    }
    let text = message(small().string("general.alignment", "32").open());
    assert_says(&text, &["general.alignment", "u32", "type 8"]);
}

#[test]
fn rows_that_are_not_there() {
    let file = small().open().unwrap();
    let tensor = file.tensor("t").unwrap();
    for (rows, length) in [(0..3, 9), (0..2, 5), (2..3, 3), (1..usize::MAX, 0)] {
        let text = message(file.dequantize(tensor, rows.clone(), &mut vec![0.0; length]));
        let asked = format!("{}..{} into {length} values", rows.start, rows.end);
        assert_says(&text, &["tensor \"t\"", &asked, "2 rows of 3"]);
    }
    file.dequantize(tensor, 2..2, &mut []).unwrap();
}

#[test]
fn a_file_that_is_cut_anywhere_in_the_header_is_an_error() {
    let (header, bytes) = TestFile::llama().write();
    for length in 0..header {
        assert!(Header::read(&bytes[..length]).is_err(), "cut to {length}");
    }
    assert_says(&message(open_bytes(&bytes[..3])), &["model.gguf: not a GGUF file", "\"GGU\""]);
    assert_says(&message(open_bytes(&bytes[..6])), &["version, at byte 4", "4 bytes", "2 up to"]);
}

#[test]
fn a_file_that_is_cut_in_the_data_names_the_tensor() {
    let (_, bytes) = small().write();
    let text = message(open_bytes(&bytes[..bytes.len() - 1]));
    let length = format!("inside the file of {} bytes", bytes.len() - 1);
    assert_says(&text, &["tensor \"t\"", &length, "24 bytes of F32", "cut short"]);
}

#[test]
fn what_is_no_gguf_file_of_this_kind() {
    let missing = message(GgufFile::open(Path::new("no/such.gguf")));
    assert_says(&missing, &["no/such.gguf: cannot open the file"]);
    assert_says(&message(open_bytes(b"")), &["not a GGUF file"]);
    assert_says(&message(open_bytes(b"PK\x03\x04....")), &["PK\\x03\\x04"]);

    let mut file = small();
    file.version = 1;
    assert_says(&message(file.open()), &["GGUF version 1", "2 and 3"]);
    file.version = 4;
    assert_says(&message(file.open()), &["GGUF version 4"]);
    file.version = 3_u32.swap_bytes();
    assert_says(&message(file.open()), &["big-endian", "version 3"]);
}

#[test]
fn counts_that_the_file_cannot_hold() {
    let (_, bytes) = small().write();
    for (at, what) in [(8, "number of tensors"), (16, "number of metadata keys")] {
        for lie in [u64::MAX, 1 << 40, bytes.len() as u64] {
            let mut bytes = bytes.clone();
            bytes[at..at + 8].copy_from_slice(&lie.to_le_bytes());
            let offset = format!("at byte {at}");
            let text = message(open_bytes(&bytes));
            assert_says(&text, &[what, &offset, "at most", &lie.to_string()]);
        }
    }
    let huge = [&8_u32.to_le_bytes()[..], &u64::MAX.to_le_bytes()].concat();
    let text = message(small().raw("words", 9, &huge).open());
    assert_says(&text, &["number of elements of metadata key \"words\"", "18446744073709551615"]);
}

#[test]
fn strings_that_lie() {
    let text = message(small().raw("k", 8, &u64::MAX.to_le_bytes()).open());
    assert_says(&text, &["metadata key \"k\"", "18446744073709551615 bytes", "end of the file"]);

    let mut not_text = string_bytes("ab");
    not_text[9] = 0xff;
    let text = message(small().raw("k", 8, &not_text).open());
    assert_says(&text, &["metadata key \"k\"", "UTF-8"]);
}

#[test]
fn values_that_do_not_exist() {
    let text = message(small().raw("k", 13, &[0]).open());
    assert_says(&text, &["type of metadata key \"k\"", "found 13"]);
    let text = message(small().raw("k", 7, &[2]).open());
    assert_says(&text, &["metadata key \"k\"", "boolean", "found 2"]);
    let nested = [&9_u32.to_le_bytes()[..], &1_u64.to_le_bytes(), &[0; 12]].concat();
    let text = message(small().raw("k", 9, &nested).open());
    assert_says(&text, &["metadata key \"k\"", "array inside an array"]);
}

#[test]
fn keys_and_tensors_come_once() {
    let mut file = small();
    file.entries.push(file.entries[0].clone());
    assert_says(&message(file.open()), &["metadata key \"name\"", "second time"]);

    let mut file = small();
    file.tensors.push(file.tensors[0].clone());
    assert_says(&message(file.open()), &["tensor \"t\"", "second time"]);
}

#[test]
fn values_of_another_type() {
    let file = small().u32("n", 1).i32s("a", &[1]).open().unwrap();
    let metadata = file.metadata();
    assert_says(&message(metadata.string("n")), &["\"n\" holds an integer (u32)", "a string"]);
    assert_says(&message(metadata.float("n")), &["\"n\"", "expected a number (f32 or f64)"]);
    assert_says(&message(metadata.boolean("name")), &["\"name\" holds a string", "a boolean"]);
    assert_says(&message(metadata.unsigned("a")), &["an array of 1 times an integer (i32)"]);
    assert_says(&message(metadata.strings("a")), &["\"a\"", "an array of strings"]);
    assert_says(&message(metadata.integers("n")), &["\"n\"", "an array of integers"]);
    let text = message(metadata.required("absent", Metadata::string));
    assert_says(&text, &["\"absent\" is missing"]);
}

#[test]
fn types_that_are_not_supported() {
    for (kind, name) in [(16, "IQ2_XXS (number 16)"), (28, "F64"), (99, "number 99")] {
        let mut file = small();
        file.tensors[0].kind = kind;
        assert_says(&message(file.open()), &["tensor \"t\"", name, "F32, F16, BF16, Q8_0", "Q6_K"]);
    }
}

#[test]
fn shapes_that_cannot_be() {
    for (dimensions, part) in [
        (vec![0, 2], "[2, 0]"),
        (vec![u64::MAX, 2], "[2, 18446744073709551615]"),
        (vec![1 << 32, 1 << 32], "[4294967296, 4294967296]"),
        (vec![1 << 62, 1], "[1, 4611686018427387904]"),
        (vec![], "found 0"),
        (vec![1; 5], "found 5"),
    ] {
        let mut file = small();
        file.tensors[0].dimensions = dimensions;
        assert_says(&message(file.open()), &["tensor \"t\"", part]);
    }
    let mut file = small();
    file.tensors[0].kind = TensorType::Q4_K.id();
    assert_says(&message(file.open()), &["tensor \"t\"", "multiple of 256", "Q4_K", "[2, 3]"]);
}

#[test]
fn data_in_places_that_cannot_be() {
    let mut file = small();
    file.tensors[0].offset = Some(4);
    assert_says(&message(file.open()), &["tensor \"t\"", "multiple of 32", "found 4"]);
    for offset in [32, 1 << 40, u64::MAX - 31] {
        file.tensors[0].offset = Some(offset);
        assert_says(&message(file.open()), &["tensor \"t\"", "inside the file", &offset.to_string()]);
    }
    let mut file = small().counting("u", &[20], 0.0);
    file.tensors[0].offset = Some(32);
    assert_says(&message(file.open()), &["\"t\" in", "\"u\" in", "bytes of its own"]);
}

/// Uses a file in every way there is; whether that succeeds does not matter.
fn use_up(bytes: &[u8]) {
    let Ok(file) = open_bytes(bytes) else { return };
    for tensor in file.tensors() {
        let mut row = vec![0.0; tensor.columns()];
        for index in 0..tensor.rows().min(4) {
            file.dequantize(tensor, index..index + 1, &mut row).unwrap();
        }
    }
    let _ = file.hf_config();
    let _ = file.hf_tokenizer_config();
    let _ = file.tokenizer();
    let Ok(decoder) = file.decoder_config() else {
        return;
    };
    let Ok(tensors) = file.hf_tensors(&decoder) else {
        return;
    };
    for tensor in tensors {
        let mut row = vec![0.0; tensor.shape.last().copied().unwrap()];
        file.read_f32(&tensor, 0..1, &mut row).unwrap();
    }
}

proptest! {
    /// Whatever bytes are changed: an error or a model, but no panic.
    #[test]
    fn damaged_files_do_not_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let (header, mut bytes) = TestFile::llama().write();
        for (index, byte) in changes {
            bytes[index.index(header)] = byte;
        }
        use_up(&bytes);
    }

    /// Numbers are where damage does most: every 8 bytes of the header in turn become a large or a small one.
    #[test]
    fn damaged_numbers_do_not_panic(
        at in any::<prop::sample::Index>(),
        number in prop_oneof![Just(u64::MAX), Just(u64::MAX - 31), Just(1 << 33), 0_u64..100],
    ) {
        let (header, mut bytes) = TestFile::llama().write();
        let at = at.index(header - 8);
        bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        use_up(&bytes);
    }
}

#[test]
fn damage_is_tried_on_a_model_that_is_fine() {
    let bytes = TestFile::llama().write().1;
    let file = open_bytes(&bytes).unwrap();
    let decoder = file.decoder_config().unwrap();
    assert_eq!(file.hf_tensors(&decoder).unwrap().len(), 2 + 2 * 9);
    file.tokenizer().unwrap();
    assert_eq!(f32_bytes(&[0.0, 1.0]), bytes[file.tensors()[0].byte_range()][..8]);
}
