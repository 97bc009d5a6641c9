//! What a file's name says of its content.

use std::path::Path;

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A JSON object on every line.
    JsonLines,
    /// A JSON list of objects, or JSON Lines.
    Json,
    /// Values between commas, the names of the columns in the first line.
    Csv,
    /// The same between tabs. Quotes count here too.
    Tsv,
    /// Apache Parquet.
    Parquet,
}

impl Format {
    const ALL: [(&'static str, Self); 5] = [
        ("jsonl", Self::JsonLines),
        ("json", Self::Json),
        ("csv", Self::Csv),
        ("tsv", Self::Tsv),
        ("parquet", Self::Parquet),
    ];

    /// Whether its values have types, other than that of text.
    pub fn has_types(self) -> bool {
        !matches!(self, Self::Csv | Self::Tsv)
    }

    /// The endings of names, for messages.
    pub(crate) fn endings() -> String {
        let endings: Vec<String> = Self::ALL.iter().map(|(ending, _)| format!(".{ending}")).collect();
        endings.join(", ")
    }
}

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all; a Parquet file is inside.
    None,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

/// What a file's name says of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileKind {
    /// How rows are written.
    pub format: Format,
    /// How that is compressed.
    pub compression: Compression,
}

impl FileKind {
    /// That of a file, by the end of its name. `None` if the end says nothing.
    pub fn of(path: &Path) -> Option<Self> {
        Self::split(path.file_name()?.to_str()?).map(|(_, kind)| kind)
    }

    /// A file's name before what tells its kind, and the kind: `train` of `train.csv.gz`.
    pub(crate) fn split(name: &str) -> Option<(&str, Self)> {
        let (name, compression) = match name.rsplit_once('.') {
            Some((rest, "gz")) => (rest, Compression::Gzip),
            Some((rest, "zst")) => (rest, Compression::Zstd),
            _ => (name, Compression::None),
        };
        let (stem, ending) = name.rsplit_once('.')?;
        let (_, format) = Format::ALL.into_iter().find(|(known, _)| *known == ending)?;
        (!stem.is_empty()).then_some((stem, Self { format, compression }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_what_is_inside() {
        let kind = |name: &str| FileKind::of(Path::new(name)).map(|kind| (kind.format, kind.compression));
        assert_eq!(kind("data/train.jsonl"), Some((Format::JsonLines, Compression::None)));
        assert_eq!(kind("train.v2.csv.gz"), Some((Format::Csv, Compression::Gzip)));
        assert_eq!(kind("x.tsv.zst"), Some((Format::Tsv, Compression::Zstd)));
        assert_eq!(kind("0000.parquet"), Some((Format::Parquet, Compression::None)));
        assert_eq!(FileKind::split("train.v2.csv.gz").unwrap().0, "train.v2");
        for name in ["train", "train.gz", "train.txt", ".csv", "csv", "train.csv.bz2", "train.jsonl~"] {
            assert_eq!(kind(name), None, "{name}");
        }
    }
}
