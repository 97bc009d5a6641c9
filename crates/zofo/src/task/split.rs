//! Which training row serves what: D_p (inner), D_f (outer), and the validation part that selects.

use super::error::TaskError;
use super::shuffle::{SplitMix64, permutation};

/// A division of the training file's rows (positions from 0). The three parts are disjoint and none
/// is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Splits {
    /// D_p: the inner level's examples.
    pub inner: Vec<usize>,
    /// D_f: the outer level's examples.
    pub outer: Vec<usize>,
    /// What chooses among checkpoints and never trains.
    pub validation: Vec<usize>,
}

impl Splits {
    /// Divides `rows` rows by one permutation, which depends on `seed` and `rows` alone.
    ///
    /// The first `train_examples` places train: of these the first `inner_fraction` (rounded) are
    /// D_p, the rest D_f. The next `validation_examples` validate. What is left is not used.
    ///
    /// # Errors
    /// [`TaskError::TooFewRows`] with values that would work, and [`TaskError::EmptySplit`].
    pub fn new(
        rows: usize,
        train_examples: usize,
        validation_examples: usize,
        inner_fraction: f64,
        seed: u64,
    ) -> Result<Self, TaskError> {
        if train_examples == 0 || validation_examples == 0 {
            let (part, key) = if train_examples == 0 {
                ("training", "data.train_examples")
            } else {
                ("validation", "data.validation_examples")
            };
            return Err(TaskError::EmptySplit { part, reason: format!("{key} = 0; set it to at least 1") });
        }
        let needed = train_examples.saturating_add(validation_examples);
        if needed > rows {
            // The same proportions, with at least one row to validate.
            let share = validation_examples as f64 / needed as f64;
            let proposed_validation = ((rows as f64 * share).round() as usize).max(1);
            return Err(TaskError::TooFewRows {
                rows,
                train: train_examples,
                validation: validation_examples,
                proposed_train: rows.saturating_sub(proposed_validation),
                proposed_validation,
            });
        }
        let inner_examples = (train_examples as f64 * inner_fraction).round() as usize;
        if inner_examples == 0 || inner_examples >= train_examples {
            let part = if inner_examples == 0 { "inner" } else { "outer" };
            let reason = format!(
                "data.inner_fraction = {inner_fraction} of data.train_examples = {train_examples}, rounded, is {inner_examples}; \
                 set another fraction or more examples"
            );
            return Err(TaskError::EmptySplit { part, reason });
        }
        let order = permutation(rows, &mut SplitMix64::keyed(seed, "split", 0));
        let (training, rest) = order.split_at(train_examples);
        let (inner, outer) = training.split_at(inner_examples);
        Ok(Self { inner: inner.to_vec(), outer: outer.to_vec(), validation: rest[..validation_examples].to_vec() })
    }
}

/// How many rows of an evaluation file are scored: the first `limit`, or all if there are fewer or
/// no limit is set.
pub fn evaluation_count(rows: usize, limit: Option<usize>) -> usize {
    limit.map_or(rows, |limit| limit.min(rows))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parts_are_disjoint_complete_and_reproducible(
            train in 2_usize..300,
            validation in 1_usize..100,
            spare in 0_usize..100,
            fraction in 0.05_f64..0.95,
            seed: u64,
        ) {
            let rows = train + validation + spare;
            let inner = (train as f64 * fraction).round() as usize;
            match Splits::new(rows, train, validation, fraction, seed) {
                Ok(splits) => {
                    prop_assert_eq!(splits.inner.len(), inner);
                    prop_assert_eq!(splits.inner.len() + splits.outer.len(), train);
                    prop_assert_eq!(splits.validation.len(), validation);
                    let all: BTreeSet<usize> =
                        splits.inner.iter().chain(&splits.outer).chain(&splits.validation).copied().collect();
                    prop_assert_eq!(all.len(), train + validation);
                    prop_assert!(all.last() < Some(&rows));
                    prop_assert_eq!(Splits::new(rows, train, validation, fraction, seed).unwrap(), splits);
                }
                Err(error) => {
                    let empty = matches!(error, TaskError::EmptySplit { .. });
                    prop_assert!(empty && (inner == 0 || inner == train), "{}", error);
                }
            }
        }
    }

    #[test]
    fn the_seed_decides() {
        let one = Splits::new(500, 300, 100, 1.0 / 3.0, 1).unwrap();
        let two = Splits::new(500, 300, 100, 1.0 / 3.0, 2).unwrap();
        assert_ne!(one, two);
        // More validation rows leave the training rows as they were.
        let more = Splits::new(500, 300, 150, 1.0 / 3.0, 1).unwrap();
        assert_eq!((&more.inner, &more.outer), (&one.inner, &one.outer));
    }

    #[test]
    fn too_few_rows_propose_numbers_that_work() {
        let error = Splits::new(400, 1000, 200, 0.3333, 0).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the training data has 400 rows, but data.train_examples = 1000 and data.validation_examples = 200 need 1200 of \
             them: set for example data.train_examples = 333 and data.validation_examples = 67"
        );
        assert!(Splits::new(400, 333, 67, 0.3333, 0).is_ok());
        assert!(matches!(Splits::new(5, usize::MAX, 2, 0.5, 0), Err(TaskError::TooFewRows { .. })));
    }

    #[test]
    fn an_empty_part_is_named_with_its_numbers() {
        let message =
            |train, validation, fraction| Splits::new(100, train, validation, fraction, 0).unwrap_err().to_string();
        assert_eq!(
            message(0, 5, 0.5),
            "the training split would be empty: data.train_examples = 0; set it to at least 1"
        );
        assert!(message(5, 0, 0.5).starts_with("the validation split would be empty: data.validation_examples = 0"));
        assert!(message(10, 5, 0.01).starts_with("the inner split would be empty: data.inner_fraction = 0.01 of"));
        assert!(message(10, 5, 0.99).starts_with("the outer split would be empty"));
    }

    #[test]
    fn evaluation_takes_the_first_rows() {
        assert_eq!(evaluation_count(872, Some(400)), 400);
        assert_eq!(evaluation_count(872, Some(1000)), 872);
        assert_eq!(evaluation_count(872, None), 872);
    }
}
