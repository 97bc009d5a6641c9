use std::fs;
use std::io::Write;
use std::path::PathBuf;

use serde_json::json;
use tempfile::TempDir;

use super::*;

fn folder(name: &str, content: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    (folder, path)
}

fn rows(name: &str, content: &[u8]) -> Result<Vec<Result<Row, RowError>>, DataError> {
    let (_folder, path) = folder(name, content);
    Rows::open(&path).map(Iterator::collect)
}

/// All rows of a file without faults.
fn good(name: &str, content: &[u8]) -> Vec<(usize, Value)> {
    rows(name, content)
        .unwrap()
        .into_iter()
        .map(|row| row.map(|row| (row.number, row.values.into())).unwrap())
        .collect()
}

/// Numbers of the rows of a file, or what is wrong with them.
fn told(name: &str, content: &[u8]) -> Vec<String> {
    let tell = |row| match row {
        Ok(Row { number, .. }) => number.to_string(),
        Err(RowError::Bad(bad)) => format!("{}: expected {}, found {}", bad.number, bad.expected, bad.found),
        Err(RowError::Broken(error)) => format!("broken: {error}"),
    };
    rows(name, content).unwrap().into_iter().map(tell).collect()
}

/// What is wrong with a whole file, without its folder.
fn refused(name: &str, content: &[u8]) -> String {
    let message = rows(name, content).err().unwrap().to_string();
    message.split_once(name).map(|(_, rest)| rest.to_owned()).unwrap_or(message)
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn every_text_format_plain_and_compressed() {
    let lines = "{\"a\": \"x, y\", \"b\": 1}\n{\"a\": \"z\", \"b\": 2}\n";
    let list = "\u{feff} [{\"a\": \"x, y\", \"b\": 1},\n {\"a\": \"z\", \"b\": 2}]\n";
    let csv = "\u{feff}a,b\r\n\"x, y\",1\r\nz,2\r\n";
    let tsv = "a\tb\nx, y\t1\nz\t2";
    for (name, content, has_types) in [
        ("f.jsonl", lines, true),
        ("f.json", lines, true),
        ("f.json", list, true),
        ("f.csv", csv, false),
        ("f.tsv", tsv, false),
    ] {
        let value = |number: i32| if has_types { json!(number) } else { json!(number.to_string()) };
        let expected = [json!({"a": "x, y", "b": value(1)}), json!({"a": "z", "b": value(2)})];
        let values = |name: &str, content: &[u8]| good(name, content).into_iter().map(|row| row.1).collect::<Vec<_>>();
        assert_eq!(values(name, content.as_bytes()), expected, "{name}");
        // Two members, as of files that were joined.
        let (head, tail) = content.split_at(7);
        let gz = [gzip(head.as_bytes()), gzip(tail.as_bytes())].concat();
        assert_eq!(values(&format!("{name}.gz"), &gz), expected, "{name}.gz");
        let zst = zstd::encode_all(content.as_bytes(), 1).unwrap();
        assert_eq!(values(&format!("{name}.zst"), &zst), expected, "{name}.zst");
    }
    let (_folder, path) = folder("f.csv", csv.as_bytes());
    assert!(!Rows::open(&path).unwrap().has_types());
}

#[test]
fn faulty_rows_say_where_and_those_behind_them_are_read() {
    assert_eq!(
        told("f.jsonl", b"{}\n[1]\n{\"a\": \"\xff\"}\n\n\n{}\n\n"),
        [
            "1",
            "2: expected a JSON object, found a list",
            "3: expected UTF-8 text, found an invalid byte at column 8",
            "4: expected a JSON object, found an empty line",
            "6",
        ]
    );
    assert_eq!(told("f.json", b"[{}, 3, {}]"), ["1", "2: expected a JSON object, found a number", "3"]);
    assert_eq!(
        told("f.csv", b"a,b\n1,2\n1\n\"1\n1\",2\n1,2,3\nx\xffy,2\n1,2\n"),
        [
            "2",
            "3: expected 2 values, as the first line has, found 1",
            "4",
            "6: expected 2 values, as the first line has, found 3",
            "7: expected UTF-8 text, found an invalid byte at byte 2 of `a`",
            "8",
        ]
    );
}

#[test]
fn a_row_that_is_too_long_is_not_held() {
    let mut content = b"{\"a\": \"".to_vec();
    content.resize(LONGEST_ROW + 10, b'x');
    content.extend_from_slice(b"\"}\n{}\n");
    assert_eq!(
        told("f.jsonl.zst", &zstd::encode_all(&content[..], 1).unwrap()),
        ["1: expected a JSON object of at most 67108864 bytes, found a longer line", "2"]
    );
    let whole = |limit| compressed::whole_below(Path::new("f.json"), &mut &b"12345"[..], limit);
    assert_eq!(whole(5).unwrap(), b"12345");
    assert!(whole(4).unwrap_err().to_string().starts_with("f.json: expected at most 4 bytes"));
}

#[test]
fn files_that_are_not_what_their_names_say() {
    assert!(
        refused("f.txt", b"").starts_with(": the name does not tell the format: expected it to end in .jsonl, .json,")
    );
    assert!(
        refused("f.parquet", b"PAR1 and nothing").contains("expected a Parquet file, found a damaged one, or none: ")
    );
    assert!(refused("f.json", b"[{}, ").contains("expected a JSON list of objects, found text that is not JSON: EOF"));
    assert_eq!(refused("f.csv", b"a,b,a\n"), ": expected the names of the columns in the first line, found `a` twice");
    assert!(refused("f.csv", b"a,,b\n").ends_with("found no name for column 2"));
    assert!(refused("f.csv", b"a,b\xff\n").ends_with("found name 2 with an invalid byte at its byte 2"));
    assert!(good("f.csv", b"").is_empty() && good("f.csv", b"a,b\n").is_empty() && good("f.jsonl", b"").is_empty());
    // Damage is found where it is, and ends the file.
    let mut damaged = gzip(&b"{\"a\": 1}\n".repeat(1000));
    damaged.truncate(damaged.len() - 12);
    let rows = told("f.jsonl.gz", &damaged);
    assert!(rows.last().unwrap().starts_with("broken: cannot read "), "{:?}", rows.last());
    assert!(rows.iter().filter(|row| row.starts_with("broken")).count() == 1);
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("f.csv")).unwrap();
    let message = Rows::open(&folder.path().join("f.csv")).err().unwrap().to_string();
    assert!(message.ends_with("f.csv: expected a file, found a folder"), "{message}");
    let absent = Rows::open(&folder.path().join("g.csv")).err().unwrap();
    assert!(matches!(absent, DataError::Read { .. }));
}

fn golden(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/rows")).join(name)
}

fn values(path: &Path) -> Vec<Map<String, Value>> {
    Rows::open(path).unwrap().map(|row| row.unwrap().values).collect()
}

#[test]
fn parquet_files_of_pyarrow() {
    let expected = values(&golden("expected.jsonl"));
    assert_eq!(expected.len(), 7);
    for codec in ["none", "snappy", "gzip", "zstd"] {
        let path = golden(&format!("{codec}.parquet"));
        assert_eq!(values(&path), expected, "{codec}");
        let (_folder, packed) = folder("f.parquet.gz", &gzip(&fs::read(&path).unwrap()));
        assert_eq!(values(&packed), expected, "{codec}, packed");
    }
    assert!(values(&golden("empty.parquet")).is_empty());
    let numbers: Vec<usize> = Rows::open(&golden("snappy.parquet")).unwrap().map(|row| row.unwrap().number).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn damaged_parquet_is_an_error() {
    let content = fs::read(golden("none.parquet")).unwrap();
    for length in [content.len() - 1, content.len() / 2, 8] {
        assert!(refused("f.parquet", &content[..length]).contains("expected a Parquet file"), "{length}");
    }
}
