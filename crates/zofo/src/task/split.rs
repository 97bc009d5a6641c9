//! Which training row serves what: D_p (inner), D_f (outer), the validation part that selects, and what is left.

use super::error::TaskError;
use super::shuffle::{SplitMix64, permutation};
use super::stratify;

/// How many rows train.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrainingSize {
    /// So many in all.
    Rows(usize),
    /// So many of every class.
    PerClass(usize),
}

/// What a division is asked for.
#[derive(Clone, Copy, Debug)]
pub struct SplitRequest<'a> {
    /// Rows in the training file.
    pub rows: usize,
    /// Those of them, ascending, that no part may have.
    pub excluded: &'a [usize],
    /// What trains: `data.train_examples` or `data.few_shot`.
    pub training: TrainingSize,
    /// What selects.
    pub validation_examples: usize,
    /// Share of the training rows that are D_p.
    pub inner_fraction: f64,
    /// Which of many divisions.
    pub seed: u64,
    /// What makes a division stratified.
    pub classes: Option<Classes<'a>>,
}

/// The classes of the training file's rows.
#[derive(Clone, Copy, Debug)]
pub struct Classes<'a> {
    /// The class of every row, counted from 0.
    pub of: &'a [usize],
    /// The classes' names.
    pub names: &'a [String],
}

/// A division of the training file's rows (positions from 0). The four parts are disjoint, and the first three are not
/// empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Splits {
    /// D_p: the inner level's examples.
    pub inner: Vec<usize>,
    /// D_f: the outer level's examples.
    pub outer: Vec<usize>,
    /// What chooses among checkpoints and never trains.
    pub validation: Vec<usize>,
    /// What no other part has.
    pub rest: Vec<usize>,
}

impl Splits {
    /// Divides rows by one permutation, which depends on `seed` and `rows` alone; excluded rows are taken out of it.
    ///
    /// The first places train: of these the first `inner_fraction` (rounded) are D_p, the rest D_f. The next
    /// `validation_examples` validate.
    ///
    /// With classes, every part takes the first rows of each class, so many that the training, the validation and the
    /// remaining part have the class shares of the file, and D_p and D_f those of the training part, each within one
    /// example ([`TrainingSize::PerClass`]: the training part has equal shares, the others those of what is left).
    ///
    /// # Errors
    /// [`TaskError::TooFewRows`] with values that would work, [`TaskError::TooFewOfClass`] and
    /// [`TaskError::EmptySplit`].
    pub fn new(request: &SplitRequest<'_>) -> Result<Self, TaskError> {
        let order: Vec<usize> = permutation(request.rows, &mut SplitMix64::keyed(request.seed, "split", 0))
            .into_iter()
            .filter(|row| request.excluded.binary_search(row).is_err())
            .collect();
        let validation = request.validation_examples;
        let (training, validation, rest) = match (request.training, request.classes) {
            (TrainingSize::Rows(train), classes) => {
                check_sizes(order.len(), train, validation)?;
                let sizes = [train, validation, order.len() - train - validation];
                let [training, validation, rest] = cut(order, sizes, classes);
                (training, validation, rest)
            }
            (TrainingSize::PerClass(shots), Some(classes)) => {
                let (training, others) = few_of_each(order, shots, classes)?;
                check_sizes(training.len() + others.len(), training.len(), validation)?;
                let sizes = [validation, others.len() - validation];
                let [validation, rest] = cut(others, sizes, Some(classes));
                (training, validation, rest)
            }
            (TrainingSize::PerClass(_), None) => {
                let reason = "data.few_shot counts examples of classes, and there are none".to_owned();
                return Err(TaskError::EmptySplit { part: "training", reason });
            }
        };
        let inner = inner_size(training.len(), request.inner_fraction)?;
        let sizes = [inner, training.len() - inner];
        let [inner, outer] = cut(training, sizes, request.classes);
        Ok(Self { inner, outer, validation, rest })
    }
}

/// # Errors
/// A part would be empty, or there are fewer rows than are asked for.
fn check_sizes(rows: usize, train: usize, validation: usize) -> Result<(), TaskError> {
    if train == 0 || validation == 0 {
        let (part, key) =
            if train == 0 { ("training", "data.train_examples") } else { ("validation", "data.validation_examples") };
        return Err(TaskError::EmptySplit { part, reason: format!("{key} = 0; set it to at least 1") });
    }
    let needed = train.saturating_add(validation);
    if needed <= rows {
        return Ok(());
    }
    // The same proportions, with at least one row to validate.
    let share = validation as f64 / needed as f64;
    let proposed_validation = ((rows as f64 * share).round() as usize).max(1);
    Err(TaskError::TooFewRows {
        rows,
        train,
        validation,
        proposed_train: rows.saturating_sub(proposed_validation),
        proposed_validation,
    })
}

/// # Errors
/// One of the two parts would be empty.
fn inner_size(train: usize, fraction: f64) -> Result<usize, TaskError> {
    let inner = (train as f64 * fraction).round() as usize;
    if inner > 0 && inner < train {
        return Ok(inner);
    }
    let part = if inner == 0 { "inner" } else { "outer" };
    let reason = format!(
        "data.inner_fraction = {fraction} of {train} training examples, rounded, is {inner}; set another fraction or \
         more examples"
    );
    Err(TaskError::EmptySplit { part, reason })
}

/// Cuts rows into parts of `sizes`, which sum to their number; every part keeps their order.
fn cut<const PARTS: usize>(
    rows: Vec<usize>,
    sizes: [usize; PARTS],
    classes: Option<Classes<'_>>,
) -> [Vec<usize>; PARTS] {
    let mut parts = sizes.map(Vec::with_capacity);
    let Some(classes) = classes else {
        let mut rows = rows.into_iter();
        for (part, size) in parts.iter_mut().zip(sizes) {
            part.extend(rows.by_ref().take(size));
        }
        return parts;
    };
    let mut of_class = vec![0; classes.names.len()];
    rows.iter().for_each(|&row| of_class[classes.of[row]] += 1);
    let mut left = stratify::counts(&sizes, &of_class);
    for row in rows {
        let class = classes.of[row];
        // The counts of a class sum to its rows, so there is always a part.
        if let Some(part) = (0..PARTS).find(|&part| left[part][class] > 0) {
            left[part][class] -= 1;
            parts[part].push(row);
        }
    }
    parts
}

/// The first `shots` rows of every class, and the others.
fn few_of_each(rows: Vec<usize>, shots: usize, classes: Classes<'_>) -> Result<(Vec<usize>, Vec<usize>), TaskError> {
    let mut taken = vec![0; classes.names.len()];
    let (few, others) = rows.into_iter().partition(|&row| {
        let taken = &mut taken[classes.of[row]];
        *taken += 1;
        *taken <= shots
    });
    match taken.iter().position(|&rows| rows < shots) {
        Some(class) => Err(TaskError::TooFewOfClass { class: classes.names[class].clone(), rows: taken[class], shots }),
        None => Ok((few, others)),
    }
}

/// How many rows of an evaluation file are scored: the first `limit`, or all if there are fewer or
/// no limit is set.
pub fn evaluation_count(rows: usize, limit: Option<usize>) -> usize {
    limit.map_or(rows, |limit| limit.min(rows))
}

#[cfg(test)]
mod tests;
