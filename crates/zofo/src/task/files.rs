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

    /// Finds the file of a split in a folder: in `<folder>/<task>` if that has data files, else in `folder` itself. Its
    /// name is `train` or `validation` with the ending of any format ([`FileKind`]).
    ///
    /// # Errors
    /// [`TaskError::MissingData`], which says what was looked for; [`TaskError::AmbiguousData`], which names both.
    pub fn find(folder: &Path, task: &str, split: DataSplit) -> Result<Self, TaskError> {
        let own_folder = folder.join(task);
        let expected = |folder: &Path| folder.join(format!("{}.jsonl", split.stem())).display().to_string();
        let mut looked_for = Vec::new();
        for folder in [own_folder.as_path(), folder] {
            let mut files = data_files(folder);
            looked_for.push(expected(folder));
            match files.remove(split.stem()).as_deref() {
                Some([file]) => return Ok(Self::whole(file)),
                Some([first, second, ..]) => {
                    return Err(TaskError::AmbiguousData { split, first: first.clone(), second: second.clone() });
                }
                // The two files of a run come from one folder.
                Some([]) | None if !files.is_empty() => {
                    looked_for = vec![expected(folder)];
                    break;
                }
                Some([]) | None => {}
            }
        }
        Err(TaskError::MissingData { task: task.to_owned(), looked_for })
    }

    /// The first file, which stands for all where only one can be named.
    pub(super) fn first(&self) -> Option<&Path> {
        self.0.iter().flat_map(|group| &group.files).next().map(PathBuf::as_path)
    }
}

/// The files of a folder that have the name of a split, by that name, in order.
fn data_files(folder: &Path) -> BTreeMap<&'static str, Vec<PathBuf>> {
    let mut files: BTreeMap<&'static str, Vec<PathBuf>> = BTreeMap::new();
    // A folder that is not there has none; one that cannot be read is missing too, for the message's purpose.
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()).filter(|path| path.is_file()) {
        let stem = path.file_name().and_then(|name| name.to_str()).and_then(FileKind::split).map(|(stem, _)| stem);
        let split = DataSplit::ALL.into_iter().find(|split| stem == Some(split.stem()));
        if let Some(split) = split {
            files.entry(split.stem()).or_default().push(path);
        }
    }
    files.values_mut().for_each(|files| files.sort());
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
}
