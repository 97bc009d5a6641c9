//! Where a user says that the rows of a task are: a folder, a file, or a data set of the hub.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use super::dataset::DataSplit;
use super::definition::Task;
use super::error::TaskError;
use super::files::{FileGroup, SplitFiles};
use super::source::{SourceSplits, SplitPart, SplitRows};
use crate::hf::hub::{DatasetRequest, Hub, HubError, HubId, Watcher};

/// How a data set of the hub is told from a path, as in the file systems of Hugging Face's libraries.
const SCHEME: &str = "hf://datasets/";
/// What those libraries call the branch with the Parquet files.
const PARQUET_ALIAS: &str = "~parquet";

/// Where the rows of a task are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// In a folder with a file for each split ([`SplitFiles::find`]), or all in this file.
    Path(PathBuf),
    /// On the hub.
    Hub(HubData),
}

/// A data set of the hub, and which of its rows a task has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubData {
    /// The data set.
    pub id: HubId,
    /// Its configuration; needed if it has several.
    pub config: Option<String>,
    /// Which rows train, and which are evaluated.
    pub splits: SourceSplits,
}

impl Location {
    /// What `place` names: `hf://datasets/ORG/NAME[@REVISION][/CONFIGURATION]`, or a path. Without one it is the data
    /// set that the task names, which also says what of that data set is meant where `place` does not.
    ///
    /// # Errors
    /// [`TaskError::NoSource`] and [`TaskError::BadLocation`].
    pub fn of(place: Option<&Path>, task: &Task) -> Result<Self, TaskError> {
        let source = task.source();
        let bad = |text: &str| TaskError::BadLocation { text: text.to_owned() };
        let Some(place) = place else {
            let source = source.ok_or_else(|| TaskError::NoSource { task: task.name().to_owned() })?;
            let id = HubId::dataset(&source.hub).map_err(|_| bad(&source.hub))?;
            return Ok(Self::Hub(HubData { id, config: source.config.clone(), splits: source.splits.clone() }));
        };
        let Some(uri) = place.to_str().and_then(|text| text.strip_prefix(SCHEME)) else {
            return Ok(Self::Path(place.to_owned()));
        };
        let (id, config) = parse(uri).ok_or_else(|| bad(&format!("{SCHEME}{uri}")))?;
        let source = source.filter(|source| source.hub == id.repository());
        let config = config.or_else(|| source.and_then(|source| source.config.clone()));
        let whole =
            |split: DataSplit| SplitRows::from(SplitPart { split: split.stem().to_owned(), start: 0, end: None });
        let splits = source.map_or_else(
            || SourceSplits { train: whole(DataSplit::Train), validation: whole(DataSplit::Validation) },
            |source| source.splits.clone(),
        );
        Ok(Self::Hub(HubData { id, config, splits }))
    }

    /// Whether a place names a data set of the hub.
    pub fn is_hub(place: &Path) -> bool {
        place.to_str().is_some_and(|text| text.starts_with(SCHEME))
    }

    /// Finds the files of some splits, from the hub if need be. A data set of the hub is then, in `self`, at its commit
    /// and with its configuration.
    ///
    /// # Errors
    /// Those of [`SplitFiles::find`] and [`Hub::fetch_dataset`]; [`TaskError::OneFile`] if `self` is a file and there are
    /// several splits.
    pub fn files(
        &mut self,
        task: &Task,
        splits: &[DataSplit],
        hub: &Hub,
        watcher: Watcher<'_>,
    ) -> Result<Vec<SplitFiles>, TaskError> {
        match self {
            Self::Path(path) if path.is_file() => match splits.len() {
                0 | 1 => Ok(splits.iter().map(|_| SplitFiles::whole(path)).collect()),
                _ => Err(TaskError::OneFile { path: path.clone() }),
            },
            Self::Path(path) => splits.iter().map(|&split| SplitFiles::find(path, task.name(), split)).collect(),
            Self::Hub(data) => Ok(data.fetch(splits, hub, watcher)?),
        }
    }
}

impl HubData {
    fn fetch(&mut self, splits: &[DataSplit], hub: &Hub, watcher: Watcher<'_>) -> Result<Vec<SplitFiles>, HubError> {
        let rows: Vec<&SplitRows> = splits.iter().map(|&split| self.rows(split)).collect();
        let names: BTreeSet<&str> = rows.iter().flat_map(|rows| rows.parts()).map(|part| part.split.as_str()).collect();
        let names: Vec<&str> = names.into_iter().collect();
        let request = DatasetRequest { id: &self.id, config: self.config.as_deref(), splits: &names };
        let fetched = hub.fetch_dataset(&request, watcher)?;
        let group = |part: &SplitPart| FileGroup {
            files: fetched.files.get(&part.split).cloned().unwrap_or_default(),
            start: part.start,
            end: part.end,
        };
        let files = rows.iter().map(|rows| SplitFiles(rows.parts().iter().map(group).collect())).collect();
        self.config = Some(fetched.config);
        self.id = fetched.id;
        Ok(files)
    }

    /// The rows of a split.
    pub fn rows(&self, split: DataSplit) -> &SplitRows {
        match split {
            DataSplit::Train => &self.splits.train,
            DataSplit::Validation => &self.splits.validation,
        }
    }
}

/// As [`Location::of`] reads it.
impl fmt::Display for HubData {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{SCHEME}{}", self.id.repository())?;
        if !self.id.is_default_revision() {
            write!(formatter, "@{}", self.id.revision().replace('/', "%2F"))?;
        }
        self.config.iter().try_for_each(|config| write!(formatter, "/{config}"))
    }
}

/// `ORG/NAME[@REVISION][/CONFIGURATION]`. A slash in a revision is written `%2F`.
fn parse(uri: &str) -> Option<(HubId, Option<String>)> {
    let (org, rest) = uri.split_once('/')?;
    let (name, config) = match rest.split_once('/') {
        Some((name, config)) => (name, Some(config)),
        None => (rest, None),
    };
    let is_plain = |config: &str| !config.is_empty() && !config.contains('/');
    if !config.is_none_or(is_plain) {
        return None;
    }
    let name = name.strip_suffix(PARQUET_ALIAS).and_then(|name| name.strip_suffix('@')).unwrap_or(name);
    let id = HubId::dataset(&format!("{org}/{}", name.replace("%2F", "/"))).ok()?;
    Some((id, config.map(str::to_owned)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn hub(place: Option<&str>, task: &str) -> HubData {
        match Location::of(place.map(Path::new), &Task::load(task).unwrap()).unwrap() {
            Location::Hub(data) => data,
            Location::Path(path) => panic!("{} is a path", path.display()),
        }
    }

    #[test]
    fn a_task_says_what_the_place_does_not() {
        let own = hub(None, "sst2");
        assert_eq!((own.id.to_string(), own.config.as_deref()), ("nyu-mll/glue".to_owned(), Some("sst2")));
        assert_eq!(hub(Some("hf://datasets/nyu-mll/glue"), "sst2"), own);
        assert_eq!(hub(Some("hf://datasets/nyu-mll/glue@~parquet/sst2"), "sst2"), own);
        let pinned = hub(Some(&format!("hf://datasets/nyu-mll/glue@{COMMIT}")), "sst2");
        assert_eq!((pinned.id.commit(), &pinned.splits), (Some(COMMIT), &own.splits));
        assert_eq!(hub(Some(&pinned.to_string()), "sst2"), pinned);
        let other = hub(Some("hf://datasets/acme/reviews@refs%2Fpr%2F3/small"), "sst2");
        assert_eq!((other.id.revision(), other.config.as_deref()), ("refs/pr/3", Some("small")));
        assert_eq!(other.splits.train.to_string(), "train");
        assert_eq!(hub(Some(&other.to_string()), "sst2"), other);
    }

    #[test]
    fn what_is_no_data_set_is_a_path_or_refused() {
        let task = Task::load("sst2").unwrap();
        for path in ["data", "nyu-mll/glue", "hf:/datasets/a/b"] {
            assert_eq!(Location::of(Some(Path::new(path)), &task).unwrap(), Location::Path(path.into()));
        }
        for bad in ["", "glue", "a/b/c/d", "a/b/", "a/b@/c", "a/../b"] {
            let uri = format!("{SCHEME}{bad}");
            let message = Location::of(Some(Path::new(&uri)), &task).unwrap_err().to_string();
            assert!(message.contains(&format!("\"{uri}\"")), "{message}");
        }
    }
}
