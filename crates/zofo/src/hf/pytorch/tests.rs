use std::{
    env, fs,
    path::{Path, PathBuf},
};

use ::safetensors::SafeTensors;
use burn_std::AllocationProperty;
use half::{bf16, f16};
use rawzip::CompressionMethod;

use super::super::{
    dtype::{StoredDtype, WeightDtype},
    safetensors,
    test_model::{assert_says, message},
};
use super::{pickle::Pickle, test_file::*, *};

fn open(bytes: &[u8]) -> Result<WeightFile, HfError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pytorch_model.bin");
    fs::write(&path, bytes).unwrap();
    super::open(&path)
}

fn values(file: &WeightFile, name: &str) -> Vec<f32> {
    bytemuck::cast_slice(&file.load(name, WeightDtype::F32).unwrap()).to_vec()
}

/// Eight values in F32.
fn eight() -> Vec<u8> {
    bytemuck::cast_slice(&[0.0_f32, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]).to_vec()
}

/// The file whose pickle is `code`, with a storage "0" of [`eight`].
fn file(code: &[u8]) -> Vec<u8> {
    archive(&[("x/data.pkl", &pickle(code)), ("x/data/0", &eight())])
}

fn eight_values() -> Code {
    storage("FloatStorage", "0", 8)
}

/// The file of a tensor "w" with these instructions.
fn weight(tensor: Code) -> Vec<u8> {
    file(&dict(&[("w", tensor)]))
}

#[track_caller]
fn assert_refused(bytes: &[u8], parts: &[&str]) {
    let text = message(open(bytes));
    assert_says(&text, &["pytorch_model.bin"]);
    assert_says(&text, parts);
}

/// Offset, shape, strides, and the values of a view of [`eight`].
type View = (i64, &'static [i64], &'static [i64], &'static [f32]);

#[test]
fn views_of_one_storage() {
    let views: [View; 8] = [
        (0, &[2, 4], &[4, 1], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]),
        (0, &[4, 2], &[1, 4], &[0.0, 4.0, 1.0, 5.0, 2.0, 6.0, 3.0, 7.0]),
        (2, &[2, 2], &[4, 1], &[2.0, 3.0, 6.0, 7.0]),
        (5, &[3], &[1], &[5.0, 6.0, 7.0]),
        (1, &[1, 3], &[99, 2], &[1.0, 3.0, 5.0]),
        (1, &[2, 1, 2], &[3, 7, 2], &[1.0, 3.0, 4.0, 6.0]),
        (7, &[], &[], &[7.0]),
        (8, &[0, 3], &[3, 1], &[]),
    ];
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let described = views.map(|(offset, shape, strides, _)| tensor(eight_values(), offset, shape, strides));
    let entries: Vec<_> = names.into_iter().zip(described).collect();
    let file = open(&file(&dict(&entries))).unwrap();
    assert_eq!(file.names(), names);
    for (name, (_, shape, _, expected)) in names.into_iter().zip(views) {
        assert!(file.shape(name).unwrap().iter().map(|&size| size as i64).eq(shape.iter().copied()), "{name}");
        assert_eq!(file.stored_dtype(name).unwrap(), StoredDtype::F32);
        assert_eq!(values(&file, name), expected, "{name}");
        let narrow = file.load(name, WeightDtype::Bf16).unwrap();
        let expected: Vec<_> = expected.iter().map(|&value| bf16::from_f32(value)).collect();
        assert_eq!(narrow[..], *bytemuck::cast_slice::<_, u8>(&expected), "{name}");
    }
}

#[test]
fn what_state_dictionaries_have_besides_tensors() {
    let parameter = call(
        global("torch._utils", "_rebuild_parameter"),
        &[tensor(eight_values(), 0, &[8], &[1]), b"\x88".to_vec(), ordered_dict()],
    );
    // Attributes are not entries, whatever they are called.
    let versions = dict(&[("version", int(1)), ("scale", b"G\x3f\xf0\0\0\0\0\0\0".to_vec())]);
    let attributes = dict(&[("_metadata", versions), ("w", int(3)), ("more", list(&[b"N".to_vec(), tuple(&[])]))]);
    let code = [ordered_dict(), text("w"), parameter, b"s".to_vec(), attributes, b"b".to_vec()].concat();
    let file = open(&file(&code)).unwrap();
    assert_eq!(file.names(), ["w"]);
    assert_eq!(values(&file, "w").len(), 8);
}

#[test]
fn the_memo_has_what_was_put_into_it() {
    // As torch.save writes a tied head: the dictionary is put into the memo before it is filled, the tensor once.
    let entries = [text("w"), tensor(eight_values(), 0, &[8], &[1]), b"r\xff\xff\xff\xff".to_vec()].concat();
    let head = [text("head"), b"j\xff\xff\xff\xff".to_vec()].concat();
    let code = [b"}q\x00(", &entries[..], &head, b"u0"].concat();
    assert_refused(&file(&code), &["data.pkl, at byte", "opcode 0x30 ('0')"]);
    let code = [b"}q\x00(", &entries[..], &head, b"u"].concat();
    let file = open(&file(&code)).unwrap();
    assert_eq!(values(&file, "head"), values(&file, "w"));
}

#[test]
fn names_that_are_not_of_tensors() {
    let attack = |module, name| weight(call(global(module, name), &[text("echo")]));
    for (module, name) in [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("__builtin__", "getattr"),
        ("torch", "load"),
        ("torch.storage", "FloatStorage"),
        ("torch._utils", "_rebuild_sparse_tensor"),
        ("collections", "defaultdict"),
    ] {
        assert_refused(
            &attack(module, name),
            &["data.pkl, at byte", &format!("found {module}.{name}, which is not run")],
        );
    }
    assert_refused(&attack("os\u{1b}[2J", "system"), &["found os\\u{1b}[2J.system"]);
    assert_refused(&weight(global(&"a".repeat(101), "b")), &["a name of at most 100 bytes"]);
    // Nor is anything called that has no business being called.
    assert_refused(&weight(call(int(1), &[])), &["a function's name", "found a whole number"]);
    assert_refused(&weight(call(global("torch", "FloatStorage"), &[])), &["arguments as torch.save writes them"]);
    assert_refused(
        &weight(call(global("collections", "OrderedDict"), &[int(1)])),
        &["OrderedDict of 1 (a whole number)"],
    );
    let hooked = [ordered_dict(), eight_values(), b"b".to_vec()].concat();
    assert_refused(&file(&hooked), &["attributes of a dictionary", "found a storage as those of a dictionary"]);
}

#[test]
fn things_that_are_not_tensors() {
    assert_refused(&file(&int(3)), &["a dictionary of tensors", "found a whole number"]);
    assert_refused(&weight(dict(&[])), &["entry \"w\"", "expected a tensor, found a dictionary"]);
    assert_refused(&weight(eight_values()), &["entry \"w\"", "found a storage"]);
    let whole = || tensor(eight_values(), 0, &[8], &[1]);
    assert_refused(&file(&dict(&[("w", whole()), ("w", whole())])), &["entry \"w\"", "a second time"]);
    let code = [b"}".to_vec(), int(3), whole(), b"s".to_vec()].concat();
    assert_refused(&file(&code), &["a tensor's name", "found a whole number"]);

    let negated = |metadata: Code| {
        let numbers = |number| tuple(&[int(number)]);
        let hooks = [b"\x89".to_vec(), ordered_dict(), metadata];
        let arguments = [&[eight_values(), int(0), numbers(8), numbers(1)][..], &hooks].concat();
        weight(call(global("torch._utils", "_rebuild_tensor_v2"), &arguments))
    };
    assert_refused(&negated(dict(&[("neg", b"\x88".to_vec())])), &["values as they are", "conjugate or negated"]);
    assert_eq!(values(&open(&negated(dict(&[]))).unwrap(), "w").len(), 8);
}

#[test]
fn views_that_lie() {
    let refused = |offset: i64, shape: &[i64], strides: &[i64], parts: &[&str]| {
        assert_refused(&weight(tensor(eight_values(), offset, shape, strides)), parts);
    };
    refused(-1, &[8], &[1], &["at least 0 in the offset", "found -1"]);
    refused(0, &[-8], &[1], &["at least 0 in the shape", "found -8"]);
    refused(7, &[8], &[-1], &["at least 0 in the strides", "found -1"]);
    refused(0, &[2, 4], &[1], &["2 strides for the shape [2, 4]", "found [1]"]);
    refused(0, &[1; 9], &[1; 9], &["at most 8 dimensions", "found 9"]);
    let part = "a part of the 8 values";
    refused(1, &[8], &[1], &["tensor \"w\"", part, "shape [8] with strides [1] from value 1 on"]);
    refused(0, &[2, 4], &[5, 1], &[part]);
    refused(9, &[0], &[1], &[part]);
    refused(i64::MAX, &[8], &[1], &[part]);
    let large = 1 << 40;
    refused(0, &[large, large], &[1, 1], &["a shape that can be"]);
    refused(0, &[3, 3], &[i64::MAX, i64::MAX], &["a shape that can be"]);
    refused(0, &[large], &[0], &["a value of its own at every index"]);
    refused(0, &[2, 7], &[1, 1], &["a value of its own at every index"]);
}

#[test]
fn storages_that_lie() {
    let whole = |storage: Code| weight(tensor(storage, 0, &[8], &[1]));
    assert_refused(
        &whole(storage("FloatStorage", "0", 9)),
        &["storage \"0\" of tensor \"w\"", "9 values of F32", "found 32 bytes"],
    );
    assert_refused(&whole(storage("FloatStorage", "0", 7)), &["7 values of F32"]);
    assert_refused(&whole(storage("HalfStorage", "0", i64::MAX)), &["values of F16"]);
    assert_refused(&whole(storage("FloatStorage", "0", -8)), &["the length of a storage", "found -8"]);
    assert_refused(&whole(storage("FloatStorage", "1", 8)), &["an entry \"x/data/1\"", "found none"]);
    assert_refused(&whole(storage("FloatStorage", "../data.pkl", 8)), &["an entry \"x/data/../data.pkl\""]);
    assert_refused(&whole(storage("ComplexFloatStorage", "0", 4)), &["torch.ComplexFloatStorage"]);
    assert_refused(&weight([&text("0")[..], b"Q"].concat()), &["a tuple for a persistent id", "found a text"]);
    assert_refused(&weight([&tuple(&[int(1)])[..], b"Q"].concat()), &["persistent id", "found (a whole number)"]);

    for kind in ["DoubleStorage", "LongStorage"] {
        let file = open(&weight(tensor(storage(kind, "0", 4), 0, &[4], &[1]))).unwrap();
        let text = message(file.load("w", WeightDtype::F32));
        assert_says(&text, &["tensor \"w\"", if kind == "DoubleStorage" { "F64" } else { "I64" }, "F32, BF16, F16"]);
        assert_says(&message(file.stored_dtype("v")), &["missing", "v"]);
    }
}

#[test]
fn archives_that_are_none() {
    let whole = pickle(&dict(&[("w", tensor(eight_values(), 0, &[8], &[1]))]));
    let files: [(&str, &[u8]); 2] = [("x/data.pkl", &whole), ("x/data/0", &eight())];
    let bytes = archive(&files);
    assert!(open(&bytes).is_ok());
    for length in 0..bytes.len() {
        assert_refused(&bytes[..length], &["expected", "found"]);
    }
    assert_refused(b"safetensors", &["as torch.save writes it", "found \"safe\""]);

    assert_refused(&archive_with(&files, CompressionMethod::DEFLATE), &["\"x/data.pkl\"", "neither compression"]);
    assert_refused(&archive(&files[1..]), &["NAME/data.pkl", "found none"]);
    assert_refused(&archive(&[("a/b/data.pkl", &whole)]), &["NAME/data.pkl", "found none"]);
    assert_refused(&archive(&[files[0], ("y/data.pkl", &whole)]), &["one entry NAME/data.pkl", "several"]);
    assert_refused(&archive(&[files[0], files[1], files[1]]), &["\"x/data/0\"", "twice"]);
    let order = |order| archive(&[files[0], files[1], ("x/byteorder", order)]);
    assert_refused(&order(b"big"), &["byte order is \"big\"", "supported: \"little\""]);
    assert!(open(&order(b"little")).is_ok());
    let large = vec![b'N'; pickle::LARGEST_PICKLE + 1];
    assert_refused(&archive(&[("x/data.pkl", &large)]), &["data.pkl", "at most 16777216 bytes"]);
}

#[test]
fn bytes_changed_anywhere_do_no_harm() {
    let entries = [("v", tensor(eight_values(), 2, &[2, 2], &[1, 2])), ("w", tensor(eight_values(), 0, &[8], &[1]))];
    let bytes = file(&dict(&entries));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pytorch_model.bin");
    for at in 0..bytes.len() {
        for change in [1, 0x80] {
            let mut changed = bytes.clone();
            changed[at] ^= change;
            fs::write(&path, changed).unwrap();
            let Ok(file) = super::open(&path) else { continue };
            for name in file.names() {
                let _ = file.load(name, WeightDtype::F32);
            }
        }
    }
}

#[test]
fn pickles_that_would_exhaust_memory() {
    let refused = |code: &[u8], expected: &str| {
        let problem = Pickle::run(code).err().unwrap();
        assert!(problem.mismatch.expected.contains(expected), "{problem:?}");
    };
    let million = 1_000_000;
    let start = b"\x80\x02".to_vec();
    // A tuple in a tuple …: neither the machine nor its end recurses.
    let nested = [start.clone(), b")".to_vec(), b"\x85".repeat(million), b".".to_vec()].concat();
    assert_eq!(Pickle::run(&nested).unwrap().root.kind(), "a tuple");
    // A pair of the pair before …: 2¹⁰⁰⁰ if they were copied.
    let doubling = [start.clone(), b")q\x00".to_vec(), b"h\x00h\x00\x86q\x00".repeat(1000), b".".to_vec()].concat();
    assert_eq!(Pickle::run(&doubling).unwrap().root.kind(), "a tuple");
    refused(&[start.clone(), b"N".repeat(3 * million)].concat(), "at most 2097152 values");
    refused(&[start.clone(), b"(".repeat(3 * million)].concat(), "at most 2097152 values");
    refused(&[start.clone(), b"}".repeat(3 * million)].concat(), "at most 2097152 values");
    // A list in itself.
    assert_eq!(Pickle::run(b"\x80\x02]q\x00h\x00a.").unwrap().root.kind(), "a list");
    refused(b"\x80\x02NX\xff\xff\xff\xff", "4294967295 bytes more");
    refused(b"\x80\x02j\xff\xff\xff\xff.", "number 4294967295 of the memo");
    assert_eq!(Pickle::run(b"\x80\x02Nr\xff\xff\xff\xff.").unwrap().root.kind(), "None");
}

#[test]
fn pickles_that_are_wrong() {
    let refused = |code: &[u8], expected: &str, offset: usize| {
        let problem = Pickle::run(code).err().unwrap();
        assert!(problem.mismatch.expected.contains(expected), "{problem:?}");
        assert_eq!(problem.offset, offset, "{problem:?}");
    };
    refused(b"\x80\x04N.", "protocol 2", 0);
    refused(b"", "2 bytes more", 0);
    refused(b"\x80\x02N", "1 bytes more", 3);
    refused(b"\x80\x02.", "a value on the stack", 2);
    refused(b"\x80\x02N(.", "a value on the stack", 4);
    refused(b"\x80\x02N(\x85", "a value on the stack", 4);
    refused(b"\x80\x02t", "a mark", 2);
    refused(b"\x80\x02}(Nu", "a value for every key", 5);
    refused(b"\x80\x02NNa", "a list to append to", 4);
    refused(b"\x80\x02NNNs", "a dictionary to put entries in", 5);
    refused(b"\x80\x02q\x00", "a value on the stack", 2);
    refused(b"\x80\x02\x8a\x09123456789", "at most 8 bytes", 2);
    refused(b"\x80\x02X\x01\0\0\0\xff.", "UTF-8", 2);
    refused(b"\x80\x02\x94", "an instruction that torch.save writes", 2);
    refused(b"\x80\x02cos", "a name", 2);
}

#[test]
fn numbers() {
    let run = |code: &[u8]| match Pickle::run(&pickle(code)).unwrap().root {
        value::Value::Int(number) => number,
        other => panic!("{other:?}"),
    };
    assert_eq!(run(b"K\xff"), 255);
    assert_eq!(run(b"M\xff\xff"), 65_535);
    assert_eq!(run(b"J\xff\xff\xff\xff"), -1);
    assert_eq!(run(b"\x8a\x00"), 0);
    assert_eq!(run(b"\x8a\x01\xff"), -1);
    assert_eq!(run(b"\x8a\x02\xff\x00"), 255);
    assert_eq!(run(b"\x8a\x05\x00\x00\x00\x00\x01"), 1 << 32);
    assert_eq!(run(&int(i64::MIN)), i64::MIN);
}

/// A file of before PyTorch 1.6 with a tensor "w" in storage "7", and its parts after the magic number.
fn legacy_parts() -> [Vec<u8>; 6] {
    let length = 8_u64.to_le_bytes();
    [
        pickle(&int(1001)),
        pickle(&dict(&[("protocol_version", int(1001)), ("little_endian", b"\x88".to_vec())])),
        pickle(&dict(&[("w", tensor(storage("FloatStorage", "7", 8), 0, &[4, 2], &[1, 4]))])),
        pickle(&list(&[text("7")])),
        length.to_vec(),
        eight(),
    ]
}

#[test]
fn files_of_before_pytorch_1_6() {
    let file = |change: &dyn Fn(&mut [Vec<u8>; 6])| {
        let mut parts = legacy_parts();
        change(&mut parts);
        [legacy::MAGIC, &parts.concat()].concat()
    };
    let whole = file(&|_| {});
    assert_eq!(values(&open(&whole).unwrap(), "w"), [0.0, 4.0, 1.0, 5.0, 2.0, 6.0, 3.0, 7.0]);
    for length in 0..whole.len() {
        assert_refused(&whole[..length], &["expected", "found"]);
    }
    assert_refused(&file(&|parts| parts[0] = pickle(&int(1002))), &["version of the file", "1002"]);
    let big = dict(&[("little_endian", b"\x89".to_vec())]);
    assert_refused(&file(&|parts| parts[1] = pickle(&big)), &["\"little_endian\" is Bool(false)"]);
    assert_refused(&file(&|parts| parts[1] = pickle(&int(1))), &["\"little_endian\" is none"]);
    assert_refused(&file(&|parts| parts[3] = pickle(&list(&[text("8")]))), &["keys of the storages", "\"8\""]);
    assert_refused(&file(&|parts| parts[3] = pickle(&list(&[]))), &["keys of the storages", "expected \"7\""]);
    assert_refused(&file(&|parts| parts[3] = pickle(&int(1))), &["a list"]);
    assert_refused(&file(&|parts| parts[4] = 9_u64.to_le_bytes().to_vec()), &["storage \"7\"", "8 values of F32"]);
}

/// A file that PyTorch wrote.
fn committed(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/pytorch-bin").join(name)
}

#[test]
fn golden_pytorch_tensors() {
    let expected = fs::read(committed("expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&expected).unwrap();
    for name in ["tensors.bin", "legacy.bin"] {
        let file = super::open(&committed(name)).unwrap();
        let mut names = expected.names();
        names.sort_unstable();
        assert_eq!(file.names(), names);
        for name in names {
            let expected = expected.tensor(name).unwrap();
            assert_eq!(file.shape(name).unwrap(), expected.shape(), "{name}");
            assert_eq!(bytemuck::cast_slice::<_, u8>(&values(&file, name)), expected.data(), "{name}");
        }
        for (name, dtype) in [("f32", StoredDtype::F32), ("f16", StoredDtype::F16), ("bf16", StoredDtype::Bf16)] {
            assert_eq!(file.stored_dtype(name).unwrap(), dtype);
        }
    }
}

/// What is stored in the type that is asked for is mapped, unless its values have to be put in order.
#[test]
fn golden_pytorch_tensors_are_mapped() {
    let file = super::open(&committed("tensors.bin")).unwrap();
    let property = |name, dtype| file.load(name, dtype).unwrap().property();
    for (name, dtype) in [
        ("f32", WeightDtype::F32),
        ("bf16", WeightDtype::Bf16),
        ("parameter", WeightDtype::F32),
        ("tied", WeightDtype::F32),
        ("part", WeightDtype::F32),
    ] {
        assert_eq!(property(name, dtype), AllocationProperty::Other, "{name}");
    }
    for (name, dtype) in [
        ("f32", WeightDtype::Bf16),
        ("f16", WeightDtype::F32),
        ("transposed", WeightDtype::F32),
        ("every_other", WeightDtype::F32),
    ] {
        assert_eq!(property(name, dtype), AllocationProperty::Native, "{name}");
    }
    let before = fs::read(committed("tensors.bin")).unwrap();
    let mut tied = file.load("tied", WeightDtype::F32).unwrap();
    tied.fill(0);
    assert_ne!(values(&file, "f32"), [0.0; 12]);
    assert_eq!(fs::read(committed("tensors.bin")).unwrap(), before);
}

/// The published form of OPT: half precision, and a head that shares the embedding's storage.
#[test]
fn golden_pytorch_half_precision_model() {
    let Some(folder) = env::var_os("ZOFO_GOLDEN_DIR") else {
        return;
    };
    let case = Path::new(&folder).join("opt-125m-like");
    let half = super::open(&case.join("model-bin-f16/pytorch_model.bin")).unwrap();
    let single = safetensors::open(&case.join("model/model.safetensors")).unwrap();
    for name in single.names() {
        assert_eq!(half.shape(name), single.shape(name), "{name}");
        assert_eq!(half.stored_dtype(name).unwrap(), StoredDtype::F16);
        let expected = values(&single, name).into_iter().map(|value| f16::from_f32(value).to_f32());
        assert_eq!(values(&half, name), expected.collect::<Vec<_>>(), "{name}");
    }
    let head = "lm_head.weight";
    assert!(half.names().into_iter().filter(|name| single.shape(name).is_none()).eq([head]));
    assert!(half.is_same(head, &half, "model.decoder.embed_tokens.weight", WeightDtype::F32).unwrap());
}
