//! Files of tensors as `torch.save` writes them, and pickles with whatever a test wants in them.

use std::io::Write;

use rawzip::{CompressionMethod, ZipArchiveWriter};
use safetensors::Dtype;

use super::super::test_model::TestTensors;

/// Instructions that leave one value on the stack.
pub(in super::super) type Code = Vec<u8>;

pub(super) fn text(text: &str) -> Code {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

pub(super) fn int(number: i64) -> Code {
    [&[0x8a, 8], &number.to_le_bytes()[..]].concat()
}

pub(super) fn global(module: &str, name: &str) -> Code {
    format!("c{module}\n{name}\n").into_bytes()
}

pub(super) fn tuple(items: &[Code]) -> Code {
    [b"(", &items.concat()[..], b"t"].concat()
}

pub(super) fn list(items: &[Code]) -> Code {
    [b"](", &items.concat()[..], b"e"].concat()
}

pub(super) fn dict(entries: &[(&str, Code)]) -> Code {
    let entries: Vec<_> = entries.iter().flat_map(|(key, value)| [text(key), value.clone()]).collect();
    [b"}(", &entries.concat()[..], b"u"].concat()
}

pub(super) fn ordered_dict() -> Code {
    [&global("collections", "OrderedDict")[..], b")R"].concat()
}

pub(super) fn call(callable: Code, arguments: &[Code]) -> Code {
    [callable, tuple(arguments), b"R".to_vec()].concat()
}

pub(super) fn pickle(code: &[u8]) -> Code {
    [b"\x80\x02", code, b"."].concat()
}

pub(super) fn storage(kind: &str, key: &str, len: i64) -> Code {
    let id = [text("storage"), global("torch", kind), text(key), text("cpu"), int(len)];
    [&tuple(&id)[..], b"Q"].concat()
}

/// A view of `storage`.
pub(super) fn tensor(storage: Code, offset: i64, shape: &[i64], strides: &[i64]) -> Code {
    let numbers = |numbers: &[i64]| tuple(&numbers.iter().copied().map(int).collect::<Vec<_>>());
    let arguments = [storage, int(offset), numbers(shape), numbers(strides), b"\x89".to_vec(), ordered_dict()];
    call(global("torch._utils", "_rebuild_tensor_v2"), &arguments)
}

/// A zip archive of these files.
pub(super) fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    archive_with(files, CompressionMethod::STORE)
}

/// A zip archive that says of these bytes that they are what `method` made of the files.
pub(super) fn archive_with(files: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
    let mut archive = ZipArchiveWriter::new(Vec::new());
    for (name, bytes) in files {
        let (mut entry, config) = archive.new_file(*name).compression_method(method).start().unwrap();
        let mut writer = config.wrap(&mut entry);
        writer.write_all(bytes).unwrap();
        let (_, descriptor) = writer.finish().unwrap();
        entry.finish(descriptor).unwrap();
    }
    archive.finish().unwrap()
}

/// The file with these tensors, each in a storage of its own.
pub(in super::super) fn pytorch_bytes(tensors: &TestTensors) -> Vec<u8> {
    let described = tensors.iter().enumerate().map(|(key, (name, tensor))| {
        let kind = match tensor.dtype {
            Dtype::F32 => "FloatStorage",
            Dtype::BF16 => "BFloat16Storage",
            Dtype::F16 => "HalfStorage",
            Dtype::I64 => "LongStorage",
            other => panic!("{other:?} has no name here"),
        };
        let shape: Vec<_> = tensor.shape.iter().map(|&size| size as i64).collect();
        let strides: Vec<_> = (1..=shape.len()).map(|next| shape[next..].iter().product()).collect();
        let storage = storage(kind, &key.to_string(), shape.iter().product());
        (name.as_str(), self::tensor(storage, 0, &shape, &strides))
    });
    let pickle = pickle(&dict(&described.collect::<Vec<_>>()));
    let names: Vec<_> = (0..tensors.len()).map(|key| format!("model/data/{key}")).collect();
    let values = tensors.values().map(|tensor| tensor.bytes.as_slice());
    let mut files = vec![("model/data.pkl", pickle.as_slice()), ("model/byteorder", b"little")];
    files.extend(names.iter().map(String::as_str).zip(values));
    archive(&files)
}
