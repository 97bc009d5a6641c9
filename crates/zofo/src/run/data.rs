//! The data of a run: where they are, and which row serves what.

use std::path::PathBuf;

use super::config::{DataConfig, Overlap};
use crate::hf::hub::{Hub, Watcher};
use crate::task::{
    Classes, DataSplit, Dataset, Example, Gold, Location, SplitFiles, SplitRequest, Splits, Task, TaskError,
    TrainingSize, evaluation_count, overlapping, repeated,
};

/// The files of a run's data.
pub(super) struct DataFiles {
    train: SplitFiles,
    /// `None` if what is evaluated is cut from the training rows.
    validation: Option<SplitFiles>,
    notes: Vec<String>,
}

/// Finds the files that `config` names. A data set of the hub is then named in `config` by its commit and its rows.
///
/// # Errors
/// As [`Location::files`].
pub(super) fn locate(
    config: &mut DataConfig,
    task: &Task,
    hub: &Hub,
    watcher: Watcher<'_>,
) -> Result<DataFiles, TaskError> {
    let given = |file: &Option<PathBuf>| file.as_deref().map(SplitFiles::whole);
    let (train, validation) = (given(&config.train), given(&config.validation));
    let is_one_file = train.is_some() && validation.is_none() && config.dir.is_none();
    let wanted: Vec<DataSplit> = [(DataSplit::Train, &train), (DataSplit::Validation, &validation)]
        .into_iter()
        .filter(|(split, file)| file.is_none() && !(is_one_file && *split == DataSplit::Validation))
        .map(|(split, _)| split)
        .collect();
    let mut notes = Vec::new();
    let mut found = Vec::new();
    let mut is_hub = false;
    if !wanted.is_empty() {
        let mut location = Location::of(config.dir.as_deref(), task)?;
        if let Location::Hub(data) = &mut location {
            let rows = |own: &Option<_>, default| own.clone().unwrap_or(default);
            data.splits.train = rows(&config.hub_train, data.splits.train.clone());
            data.splits.validation = rows(&config.hub_validation, data.splits.validation.clone());
        }
        found = location.files(task, &wanted, hub, watcher)?;
        if let Location::Hub(data) = location {
            is_hub = true;
            config.dir = Some(PathBuf::from(data.to_string()));
            config.hub_train = Some(data.splits.train);
            config.hub_validation = Some(data.splits.validation);
        }
    }
    if !is_hub && (config.hub_train.is_some() || config.hub_validation.is_some()) {
        notes.push(
            "data.hub_train and data.hub_validation are not used: they choose rows of a data set of the hub".to_owned(),
        );
    }
    // In the order of `wanted`.
    let mut found = found.into_iter();
    let train = match train.or_else(|| found.next()) {
        Some(train) => train,
        None => return Err(TaskError::NoSource { task: task.name().to_owned() }),
    };
    Ok(DataFiles { train, validation: validation.or_else(|| found.next()), notes })
}

/// The rows of a run, divided.
pub(super) struct TrainingData {
    train: Vec<Example>,
    held_out: Option<Vec<Example>>,
    splits: Splits,
    evaluation_limit: Option<usize>,
    /// What should be known of them.
    pub(super) notes: Vec<String>,
}

impl TrainingData {
    /// Reads and divides the rows.
    ///
    /// # Errors
    /// A file or row that is bad; fewer rows than are asked for.
    pub(super) fn read(config: &DataConfig, task: &Task, files: &DataFiles) -> Result<Self, TaskError> {
        let mut notes = files.notes.clone();
        let mut read = |files, split| {
            let dataset = Dataset::read(files, task, split, config.skip_bad_rows)?;
            if dataset.skipped.count > 0 {
                notes.push(format!("{split} data: {}", dataset.skipped));
            }
            Ok::<_, TaskError>(dataset.examples)
        };
        let train = read(&files.train, DataSplit::Train)?;
        let held_out = files.validation.as_ref().map(|files| read(files, DataSplit::Validation)).transpose()?;
        let excluded = excluded(&train, held_out.as_deref(), config.overlap, &mut notes);
        let (classes, size);
        let class_key = match config.few_shot {
            Some(shots) => {
                size = TrainingSize::PerClass(shots);
                Some("data.few_shot")
            }
            None => {
                size = TrainingSize::Rows(config.train_examples);
                config.stratify.then_some("data.stratify")
            }
        };
        let classes = match class_key {
            Some(key) => {
                classes = class_of_rows(&train, task, key)?;
                Some(Classes { of: &classes, names: task.classes() })
            }
            None => None,
        };
        let splits = Splits::new(&SplitRequest {
            rows: train.len(),
            excluded: &excluded,
            training: size,
            validation_examples: config.validation_examples,
            inner_fraction: config.inner_fraction,
            seed: config.seed,
            classes,
        })?;
        if held_out.is_none() && splits.rest.is_empty() {
            let reason = format!(
                "data.train has {} rows, and all of them train or select; ask for fewer, or name a file of rows to \
                 evaluate by data.validation",
                train.len() - excluded.len()
            );
            return Err(TaskError::EmptySplit { part: "evaluation", reason });
        }
        Ok(Self { train, held_out, splits, evaluation_limit: config.eval_examples, notes })
    }

    fn rows(&self, rows: &[usize]) -> Vec<&Example> {
        rows.iter().map(|&row| &self.train[row]).collect()
    }

    /// D_p.
    pub(super) fn inner(&self) -> Vec<&Example> {
        self.rows(&self.splits.inner)
    }

    /// D_f.
    pub(super) fn outer(&self) -> Vec<&Example> {
        self.rows(&self.splits.outer)
    }

    /// D_p and D_f in the order of their file: what a method of one level trains on.
    pub(super) fn training(&self) -> Vec<&Example> {
        let mut rows = [self.splits.inner.as_slice(), &self.splits.outer].concat();
        rows.sort_unstable();
        self.rows(&rows)
    }

    /// What selects.
    pub(super) fn validation(&self) -> Vec<&Example> {
        self.rows(&self.splits.validation)
    }

    /// What is evaluated at the end.
    pub(super) fn evaluation(&self) -> Vec<&Example> {
        let rows = match &self.held_out {
            Some(examples) => examples.iter().collect(),
            None => self.rows(&self.splits.rest),
        };
        let count = evaluation_count(rows.len(), self.evaluation_limit);
        rows.into_iter().take(count).collect()
    }
}

/// Training rows that no part may have: those that say what a row that is evaluated says, or, if that is cut from them,
/// what an earlier one says.
fn excluded(train: &[Example], held_out: Option<&[Example]>, overlap: Overlap, notes: &mut Vec<String>) -> Vec<usize> {
    let (rows, what) = match held_out {
        Some(held_out) => (overlapping(train, held_out), "have the text of a row that is evaluated"),
        None => (repeated(train), "have the text of an earlier one, which could be one that is evaluated"),
    };
    if rows.is_empty() {
        return rows;
    }
    let (count, all, first) = (rows.len(), train.len(), &train[rows[0]]);
    let place = format!("{}:{}", first.source.display(), first.line);
    let (consequence, rows) = match overlap {
        Overlap::Drop => ("they are left out (data.overlap = \"keep\" keeps them)", rows),
        Overlap::Keep => ("data.overlap = \"keep\" keeps them", Vec::new()),
    };
    notes.push(format!("{count} of {all} training rows {what}: {consequence}; the first is {place}"));
    rows
}

/// The class of every row.
fn class_of_rows(examples: &[Example], task: &Task, key: &'static str) -> Result<Vec<usize>, TaskError> {
    let none = || TaskError::NoClasses { task: task.name().to_owned(), key };
    if task.classes().is_empty() {
        return Err(none());
    }
    let class = |example: &Example| match &example.gold {
        Gold::Candidates(golds) => golds.first().copied().ok_or_else(none),
        Gold::Answers(_) | Gold::Conversation => Err(none()),
    };
    examples.iter().map(class).collect()
}
