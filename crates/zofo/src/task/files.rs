//! Where the rows of a task are: which files, and which of their rows.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::dataset::DataSplit;
use super::error::TaskError;
use crate::data::FileKind;

/// The rows of a split: those of these groups of files, one behind the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitFiles(pub Vec<FileGroup>);

/// Files, and which of their rows are meant. Rows count from 0, over all files together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileGroup {
    /// The files, in order.
    pub files: Vec<PathBuf>,
    /// The first row.
    pub start: usize,
    /// The row after the last; `None` for all to the end.
    pub end: Option<usize>,
}

impl SplitFiles {
    /// All rows of one file.
    pub fn whole(file: &Path) -> Self {
        Self(vec![FileGroup { files: vec![file.to_owned()], start: 0, end: None }])
    }

    /// Finds the files of a split in a folder: in `<folder>/<task>` if that has data files, else in `folder` itself. It is
    /// one whose name is `train` or `validation` with the ending of any format ([`FileKind`]), or several that are numbered
    /// as the `datasets` library does: `train-00000-of-00002.parquet`.
    ///
    /// # Errors
    /// [`TaskError::MissingData`], which says what was looked for; [`TaskError::AmbiguousData`], which names both;
    /// [`TaskError::MissingShard`].
    pub fn find(folder: &Path, task: &str, split: DataSplit) -> Result<Self, TaskError> {
        let own_folder = folder.join(task);
        let expected = |folder: &Path| folder.join(format!("{}.jsonl", split.stem())).display().to_string();
        let mut looked_for = Vec::new();
        for folder in [own_folder.as_path(), folder] {
            let mut files = data_files(folder);
            looked_for.push(expected(folder));
            if let Some(found) = files.remove(split.stem()) {
                let files = found.into_files(split)?;
                return Ok(Self(vec![FileGroup { files, start: 0, end: None }]));
            }
            // The two files of a run come from one folder.
            if !files.is_empty() {
                looked_for = vec![expected(folder)];
                break;
            }
        }
        Err(TaskError::MissingData { task: task.to_owned(), looked_for })
    }

    /// The first file, which stands for all where only one can be named.
    pub(super) fn first(&self) -> Option<&Path> {
        self.0.iter().flat_map(|group| &group.files).next().map(PathBuf::as_path)
    }
}

/// The files of a folder that have the name of one split; at least one.
#[derive(Default)]
struct Found {
    /// Files each of which is all of it.
    whole: Vec<PathBuf>,
    /// Parts of it with their numbers, from 0, by the number of parts there should be.
    parts: BTreeMap<usize, Vec<(usize, PathBuf)>>,
}

impl Found {
    /// The one way in which the split is there.
    fn into_files(mut self, split: DataSplit) -> Result<Vec<PathBuf>, TaskError> {
        self.whole.sort();
        self.parts.values_mut().for_each(|parts| parts.sort());
        let ambiguous = |first: &Path, second: &Path| {
            Err(TaskError::AmbiguousData { split, first: first.to_owned(), second: second.to_owned() })
        };
        let firsts = self.parts.values().filter_map(|parts| Some(&parts.first()?.1));
        let ways: Vec<&PathBuf> = self.whole.iter().chain(firsts).collect();
        if let [first, second, ..] = ways[..] {
            return ambiguous(first, second);
        }
        let Some((count, parts)) = self.parts.pop_first() else {
            return Ok(self.whole);
        };
        if let Some([(_, first), (_, second)]) = parts.array_windows().find(|[one, next]| one.0 == next.0) {
            return ambiguous(first, second);
        }
        let missing = (0..count).find(|index| parts.get(*index).is_none_or(|(number, _)| number != index));
        match (missing, parts.first()) {
            (Some(missing), Some((_, example))) => {
                Err(TaskError::MissingShard { split, missing, count, example: example.clone() })
            }
            _ => Ok(parts.into_iter().map(|(_, file)| file).collect()),
        }
    }
}

/// The number of a part and how many there are, of what follows a split's name: `-00000-of-00002`, or the same with a
/// checksum behind it. `None` if it is something else.
fn part(rest: &str) -> Option<(usize, usize)> {
    let (index, rest) = rest.strip_prefix('-')?.split_once("-of-")?;
    let count = rest.split_once('-').map_or(rest, |(count, _)| count);
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    let (index, count) = (number(index)?, number(count)?);
    (index < count).then_some((index, count))
}

/// The files of a folder that have the name of a split, by that name.
fn data_files(folder: &Path) -> BTreeMap<&'static str, Found> {
    let mut files: BTreeMap<&'static str, Found> = BTreeMap::new();
    // A folder that is not there has none; one that cannot be read is missing too, for the message's purpose.
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()).filter(|path| path.is_file()) {
        let stem = path.file_name().and_then(|name| name.to_str()).and_then(FileKind::split).map(|(stem, _)| stem);
        for split in DataSplit::ALL.map(DataSplit::stem) {
            match stem.and_then(|stem| stem.strip_prefix(split)) {
                Some("") => files.entry(split).or_default().whole.push(path.clone()),
                Some(rest) => {
                    if let Some((index, count)) = part(rest) {
                        files.entry(split).or_default().parts.entry(count).or_default().push((index, path.clone()));
                    }
                }
                None => {}
            }
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_looked_for_in_the_task_folder_and_then_in_the_folder_itself() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let find = |split| SplitFiles::find(root, "sst2", split);
        let message = |split| find(split).unwrap_err().to_string();
        let (nested, direct) = (root.join("sst2/train.csv.gz"), root.join("train.jsonl"));
        let missing = message(DataSplit::Train);
        let both = format!("{} and for {} (", root.join("sst2/train.jsonl").display(), direct.display());
        assert!(missing.contains(&both) && missing.contains(".parquet"), "{missing}");

        fs::create_dir(root.join("sst2")).unwrap();
        fs::write(&direct, "").unwrap();
        assert_eq!(find(DataSplit::Train).unwrap(), SplitFiles::whole(&direct));
        // An empty folder of the task's name, or one with other files, does not count.
        fs::write(root.join("sst2/notes.jsonl"), "").unwrap();
        assert_eq!(find(DataSplit::Train).unwrap(), SplitFiles::whole(&direct));
        fs::write(&nested, "").unwrap();
        assert_eq!(find(DataSplit::Train).unwrap(), SplitFiles::whole(&nested));

        // The two files of a run come from one folder.
        fs::write(root.join("validation.jsonl"), "").unwrap();
        let missing = message(DataSplit::Validation);
        let place = format!("looked for {} (", root.join("sst2/validation.jsonl").display());
        assert!(missing.contains(&place), "{missing}");

        let parquet = root.join("sst2/train.parquet");
        fs::write(&parquet, "").unwrap();
        let ambiguous = message(DataSplit::Train);
        assert!(ambiguous.contains(&nested.display().to_string()), "{ambiguous}");
        assert!(ambiguous.contains(&parquet.display().to_string()), "{ambiguous}");
    }

    #[test]
    fn a_split_may_be_in_numbered_parts() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let write = |name: &str| fs::write(path(name), "").unwrap();
        let find = || SplitFiles::find(folder.path(), "sst2", DataSplit::Train);
        let message = || find().unwrap_err().to_string();
        // Neither of these is a part.
        for other in ["train-x-of-y.parquet", "train-00003-of-00003.parquet", "training-00000-of-00001.parquet"] {
            write(other);
        }
        assert!(matches!(find(), Err(TaskError::MissingData { .. })));
        let parts = [
            "train-00000-of-00003.parquet",
            "train-00001-of-00003-a09b74b3ef9c3b56.parquet",
            "train-00002-of-00003.parquet",
        ];
        write(parts[2]);
        write(parts[0]);
        let missing = message();
        assert!(missing.contains("part 00001 of 00003") && missing.contains(parts[0]), "{missing}");
        write(parts[1]);
        let expected = FileGroup { files: parts.map(path).to_vec(), start: 0, end: None };
        assert_eq!(find().unwrap(), SplitFiles(vec![expected]));

        write("train-00001-of-00003.jsonl");
        let twice = message();
        assert!(twice.contains("train-00001-of-00003.jsonl") && twice.contains(parts[1]), "{twice}");
        fs::remove_file(path("train-00001-of-00003.jsonl")).unwrap();
        write("train.csv");
        let both = message();
        assert!(both.contains("train.csv") && both.contains(parts[0]), "{both}");
    }
}
