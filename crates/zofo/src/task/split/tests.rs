use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// A plain request.
fn plain(
    rows: usize,
    train: usize,
    validation_examples: usize,
    inner_fraction: f64,
    seed: u64,
) -> SplitRequest<'static> {
    let training = TrainingSize::Rows(train);
    SplitRequest { rows, excluded: &[], training, validation_examples, inner_fraction, seed, classes: None }
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|class| format!("class {class}")).collect()
}

/// Rows of each class in `part`.
fn tally(part: &[usize], of: &[usize], classes: usize) -> Vec<usize> {
    (0..classes).map(|class| part.iter().filter(|&&row| of[row] == class).count()).collect()
}

/// Fails unless `part` has the class shares of `whole`, each within one example.
fn check_shares(part: &[usize], whole: &[usize], of: &[usize], classes: usize) -> Result<(), TestCaseError> {
    for (count, all) in tally(part, of, classes).into_iter().zip(tally(whole, of, classes)) {
        let exact = part.len() as f64 * all as f64 / whole.len() as f64;
        prop_assert!((count as f64 - exact).abs() < 1.0, "{} examples of a class, {} by its share", count, exact);
    }
    Ok(())
}

proptest! {
    #[test]
    fn parts_are_disjoint_complete_and_reproducible(
        train in 2_usize..300,
        validation in 1_usize..100,
        spare in 0_usize..100,
        excluded in proptest::collection::btree_set(0_usize..500, 0..20),
        fraction in 0.05_f64..0.95,
        is_stratified: bool,
        seed: u64,
    ) {
        let usable = train + validation + spare;
        let excluded: Vec<usize> = excluded.into_iter().filter(|&row| row < usable).collect();
        let rows = usable + excluded.len();
        let inner = (train as f64 * fraction).round() as usize;
        let (of, names): (Vec<usize>, _) = ((0..rows).map(|row| row * row % 7 % 3).collect(), names(3));
        let classes = is_stratified.then_some(Classes { of: &of, names: &names });
        let request = SplitRequest { excluded: &excluded, classes, ..plain(rows, train, validation, fraction, seed) };
        match Splits::new(&request) {
            Ok(splits) => {
                prop_assert_eq!(splits.inner.len(), inner);
                prop_assert_eq!(splits.inner.len() + splits.outer.len(), train);
                prop_assert_eq!(splits.validation.len(), validation);
                let parts = [&splits.inner, &splits.outer, &splits.validation, &splits.rest];
                let all: BTreeSet<usize> = parts.into_iter().flatten().chain(&excluded).copied().collect();
                prop_assert!(all.into_iter().eq(0..rows));
                prop_assert_eq!(parts.into_iter().map(Vec::len).sum::<usize>(), usable);
                prop_assert_eq!(Splits::new(&request).unwrap(), splits);
            }
            Err(error) => {
                let empty = matches!(error, TaskError::EmptySplit { .. });
                prop_assert!(empty && (inner == 0 || inner == train), "{}", error);
            }
        }
    }

    #[test]
    fn stratified_parts_keep_the_shares_of_the_classes(
        of in proptest::collection::vec(prop_oneof![8 => Just(0_usize), 3 => Just(1), 1 => Just(2)], 20..200),
        (train, validation) in (0.1_f64..0.6, 0.05_f64..0.35),
        fraction in 0.2_f64..0.8,
        seed: u64,
    ) {
        let names = names(4);
        let rows = of.len();
        let (train, validation) = ((rows as f64 * train) as usize, (rows as f64 * validation) as usize);
        let classes = Some(Classes { of: &of, names: &names });
        let request = SplitRequest { classes, ..plain(rows, train.max(2), validation.max(1), fraction, seed) };
        let Ok(splits) = Splits::new(&request) else { return Ok(()) };
        let all: Vec<usize> = (0..rows).collect();
        let training = [splits.inner.clone(), splits.outer.clone()].concat();
        for (part, whole) in [
            (&training, &all),
            (&splits.validation, &all),
            (&splits.rest, &all),
            (&splits.inner, &training),
            (&splits.outer, &training),
        ] {
            check_shares(part, whole, &of, names.len())?;
        }
    }

    #[test]
    fn few_shot_takes_as_many_of_every_class(
        of in proptest::collection::vec(prop_oneof![5 => Just(0_usize), 1 => Just(1)], 30..120),
        shots in 1_usize..8,
        seed: u64,
    ) {
        let (names, rows) = (names(2), of.len());
        let classes = Some(Classes { of: &of, names: &names });
        let request = SplitRequest { training: TrainingSize::PerClass(shots), classes, ..plain(rows, 0, 5, 0.5, seed) };
        let all: Vec<usize> = (0..rows).collect();
        let fewest = *tally(&all, &of, 2).iter().min().unwrap();
        match Splits::new(&request) {
            Ok(splits) => {
                let training = [splits.inner.clone(), splits.outer.clone()].concat();
                prop_assert_eq!(tally(&training, &of, 2), [shots, shots]);
                check_shares(&splits.inner, &training, &of, 2)?;
                let others = [splits.validation.clone(), splits.rest.clone()].concat();
                check_shares(&splits.validation, &others, &of, 2)?;
                prop_assert!(fewest >= shots);
            }
            Err(TaskError::TooFewOfClass { rows, .. }) => prop_assert!(rows == fewest && rows < shots),
            Err(other) => prop_assert!(matches!(other, TaskError::TooFewRows { .. }), "{}", other),
        }
    }
}

#[test]
fn the_seed_decides() {
    let divide = |validation, seed| Splits::new(&plain(500, 300, validation, 1.0 / 3.0, seed)).unwrap();
    let (one, two) = (divide(100, 1), divide(100, 2));
    assert_ne!(one, two);
    // More validation rows leave the training rows as they were.
    let more = divide(150, 1);
    assert_eq!((&more.inner, &more.outer), (&one.inner, &one.outer));
    // So does what is excluded, where it did not train.
    let excluded = [one.rest[0]];
    let without = Splits::new(&SplitRequest { excluded: &excluded, ..plain(500, 300, 100, 1.0 / 3.0, 1) }).unwrap();
    assert_eq!((&without.inner, &without.outer, &without.validation), (&one.inner, &one.outer, &one.validation));
    assert!(!without.rest.contains(&excluded[0]));
}

#[test]
fn a_division_never_changes() {
    // A run that is resumed by another version of this program must find its rows.
    let splits = Splits::new(&plain(10, 6, 2, 0.3333, 7)).unwrap();
    let places = permutation(10, &mut SplitMix64::keyed(7, "split", 0));
    assert_eq!([splits.inner, splits.outer, splits.validation, splits.rest].concat(), places);
}

#[test]
fn too_few_rows_propose_numbers_that_work() {
    let error = Splits::new(&plain(400, 1000, 200, 0.3333, 0)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the training data has 400 rows, but data.train_examples = 1000 and data.validation_examples = 200 need 1200 of \
         them: set for example data.train_examples = 333 and data.validation_examples = 67"
    );
    assert!(Splits::new(&plain(400, 333, 67, 0.3333, 0)).is_ok());
    assert!(matches!(Splits::new(&plain(5, usize::MAX, 2, 0.5, 0)), Err(TaskError::TooFewRows { .. })));
    let names = names(2);
    let classes = Some(Classes { of: &[0, 0, 1, 0, 0, 0], names: &names });
    let request = SplitRequest { training: TrainingSize::PerClass(2), classes, ..plain(6, 0, 1, 0.5, 0) };
    assert_eq!(
        Splits::new(&request).unwrap_err().to_string(),
        "the training data has 1 usable rows of class \"class 1\", but data.few_shot = 2 needs 2 of every class: set \
         data.few_shot = 1 or less, or give more data"
    );
}

#[test]
fn an_empty_part_is_named_with_its_numbers() {
    let message =
        |train, validation, fraction| Splits::new(&plain(100, train, validation, fraction, 0)).unwrap_err().to_string();
    assert_eq!(message(0, 5, 0.5), "the training split would be empty: data.train_examples = 0; set it to at least 1");
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
