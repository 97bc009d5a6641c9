//! The zip archives of PyTorch 1.6 and later: `NAME/data.pkl`, the storages in `NAME/data/KEY`, and
//! `NAME/byteorder`, nothing of it compressed.
//!
//! Source: `PyTorchStreamWriter` in `caffe2/serialize` of PyTorch.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    path::Path,
};

use rawzip::{CompressionMethod, Error, ZipArchive, ZipArchiveEntryWayfinder, ZipSliceArchive};

use super::{
    super::{error::HfError, weights::Stored},
    layout::{run_pickle, state_dict},
    pickle::LARGEST_PICKLE,
};

/// The start of the first entry.
pub(super) const MAGIC: &[u8] = b"PK\x03\x04";
const PICKLE: &str = "data.pkl";
const BYTE_ORDER: &str = "byteorder";
/// How far before the end of the file the directory's last record may begin: its own size and the longest comment.
const SEARCHED: u64 = 22 + u16::MAX as u64;

/// The tensors in the archive `bytes`; `path` is for messages.
pub(super) fn read(path: &Path, bytes: &[u8]) -> Result<BTreeMap<String, Stored>, HfError> {
    let archive = Archive::open(path, bytes)?;
    if let Some(order) = archive.find(BYTE_ORDER)?
        && &bytes[order.clone()] != b"little"
    {
        let start = &bytes[order.start..order.end.min(order.start + 8)];
        return Err(HfError::Unsupported {
            path: path.to_owned(),
            what: "the byte order".to_owned(),
            found: format!("\"{}\"", start.escape_ascii()),
            supported: "\"little\"".to_owned(),
        });
    }
    let pickle = archive.get(PICKLE)?;
    if pickle.len() > LARGEST_PICKLE {
        return Err(HfError::Unexpected {
            path: path.to_owned(),
            what: PICKLE.to_owned(),
            expected: format!("at most {LARGEST_PICKLE} bytes"),
            found: pickle.len().to_string(),
        });
    }
    let pickle = run_pickle(path, PICKLE, &bytes[..pickle.end], pickle.start)?;
    state_dict(path, &pickle, |storage| archive.get(&format!("data/{}", storage.key)))
}

/// The directory of an archive.
struct Archive<'a> {
    path: &'a Path,
    zip: ZipSliceArchive<&'a [u8]>,
    entries: HashMap<String, Entry>,
    /// What the names of the file's own entries begin with.
    root: String,
}

struct Entry {
    way: ZipArchiveEntryWayfinder,
    /// Whether the bytes in the archive are those of the file.
    is_plain: bool,
}

impl<'a> Archive<'a> {
    fn open(path: &'a Path, bytes: &'a [u8]) -> Result<Self, HfError> {
        let damaged =
            |cause: Error| unexpected(path, "zip archive", "a whole one", format!("{cause} (is the file cut short?)"));
        let zip = ZipArchive::with_max_search_space(SEARCHED).locate_in_slice(bytes);
        let zip = zip.map_err(|(_, cause)| damaged(cause))?;
        let mut directory = zip.entries();
        let mut entries = HashMap::new();
        while let Some(record) = directory.next_entry().map_err(damaged)? {
            let Ok(name) = str::from_utf8(record.file_path().as_bytes()) else { continue };
            let is_plain = record.compression_method() == CompressionMethod::STORE && !record.flags().is_encrypted();
            let entry = Entry { way: record.wayfinder(), is_plain };
            if entries.insert(name.to_owned(), entry).is_some() {
                return Err(unexpected(path, &format!("\"{name}\" in the archive"), "it once", "it twice".to_owned()));
            }
        }
        let roots = entries.keys().filter_map(|name| name.strip_suffix(PICKLE));
        let mut roots = roots.filter(|root| root.find('/').is_none_or(|slash| slash + 1 == root.len()));
        match (roots.next(), roots.next()) {
            (Some(root), None) => {
                let root = root.to_owned();
                Ok(Self { path, zip, root, entries })
            }
            (None, _) => Err(unexpected(
                path,
                "zip archive",
                "an entry NAME/data.pkl, as torch.save writes it",
                "none".to_owned(),
            )),
            (Some(_), Some(_)) => Err(unexpected(path, "zip archive", "one entry NAME/data.pkl", "several".to_owned())),
        }
    }

    /// Where in the file the entry `name` is.
    fn get(&self, name: &str) -> Result<Range<usize>, HfError> {
        self.find(name)?.ok_or_else(|| {
            unexpected(self.path, "zip archive", &format!("an entry \"{}{name}\"", self.root), "none".to_owned())
        })
    }

    fn find(&self, name: &str) -> Result<Option<Range<usize>>, HfError> {
        let name = format!("{}{name}", self.root);
        let Some(entry) = self.entries.get(name.as_str()) else { return Ok(None) };
        let wrong = |expected: &str, found: String| {
            unexpected(self.path, &format!("\"{name}\" in the archive"), expected, found)
        };
        if !entry.is_plain {
            return Err(wrong("neither compression nor encryption, as torch.save writes it", "one".to_owned()));
        }
        let found = self.zip.get_entry(entry.way);
        let found =
            found.map_err(|cause| wrong("a place within the file", format!("{cause} (is the file cut short?)")))?;
        let (start, end) = found.compressed_data_range();
        let range = usize::try_from(start).ok().zip(usize::try_from(end).ok());
        let range = range.ok_or_else(|| wrong("a place that can be mapped", format!("{start}..{end}")))?;
        Ok(Some(range.0..range.1))
    }
}

fn unexpected(path: &Path, what: &str, expected: &str, found: String) -> HfError {
    HfError::Unexpected { path: path.to_owned(), what: what.to_owned(), expected: expected.to_owned(), found }
}
