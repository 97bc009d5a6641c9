//! What a test found, over all cases.

use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::{Debug, Display};
use std::io::Write;

/// How far a value may be off: by `absolute`, plus `relative` times the expected value.
#[derive(Clone, Copy)]
pub struct Tolerance {
    pub absolute: f64,
    pub relative: f64,
}

impl Tolerance {
    fn allows(self, error: f64, expected: f64) -> bool {
        // Never true of NaN.
        error <= self.absolute + self.relative * expected.abs()
    }
}

/// A choice of the likeliest token with a lead below this may fall otherwise.
const NEAR_TIE: f64 = 1e-3;

/// Counts, errors and mismatches; [`finish`](Self::finish) prints the former and fails on the latter.
#[derive(Default)]
pub struct Report {
    cases: usize,
    skipped: BTreeMap<&'static str, Vec<String>>,
    largest: BTreeMap<&'static str, f64>,
    mismatches: Vec<String>,
}

impl Report {
    /// Notes that a case was run.
    pub fn ran(&mut self) {
        self.cases += 1;
    }

    /// Notes that a case was not run, and why.
    pub fn skip(&mut self, reason: &'static str, what: String) {
        self.skipped.entry(reason).or_default().push(what);
    }

    /// Compares values one by one. `kind` is what the largest error is printed for.
    pub fn close(
        &mut self,
        kind: &'static str,
        place: impl Display,
        actual: &[f32],
        expected: &[f32],
        tolerance: Tolerance,
    ) {
        self.compare(kind, place, actual, expected, tolerance, 0);
    }

    /// As [`close`](Self::close), but one in a thousand values may be beyond the tolerance by up to `outlier`.
    pub fn mostly_close(
        &mut self,
        kind: &'static str,
        place: impl Display,
        actual: &[f32],
        expected: &[f32],
        tolerance: Tolerance,
        outlier: f64,
    ) {
        let wide = Tolerance { absolute: outlier, ..tolerance };
        self.compare(kind, &place, actual, expected, wide, 0);
        self.compare(kind, &place, actual, expected, tolerance, expected.len() / 1000);
    }

    fn compare(
        &mut self,
        kind: &'static str,
        place: impl Display,
        actual: &[f32],
        expected: &[f32],
        tolerance: Tolerance,
        allowed: usize,
    ) {
        if actual.len() != expected.len() {
            let (actual, expected) = (actual.len(), expected.len());
            self.mismatches.push(format!("{place}: {kind}: {actual} values, expected {expected}"));
            return;
        }
        let mut wrong = Vec::new();
        for (index, (&actual, &expected)) in actual.iter().zip(expected).enumerate() {
            let error = self.error(kind, f64::from(actual), f64::from(expected));
            if !tolerance.allows(error, f64::from(expected)) {
                wrong.push((index, actual, expected));
            }
        }
        if wrong.len() > allowed {
            let (index, actual, wanted) = wrong[0];
            let (count, len) = (wrong.len(), expected.len());
            self.mismatches.push(format!(
                "{place}: {kind}: {count} of {len} values are off; value {index} is {actual}, expected {wanted}"
            ));
        }
    }

    /// Compares one number.
    pub fn number(
        &mut self,
        kind: &'static str,
        place: impl Display,
        actual: f64,
        expected: f64,
        tolerance: Tolerance,
    ) {
        let error = self.error(kind, actual, expected);
        if !tolerance.allows(error, expected) {
            self.mismatches.push(format!("{place}: {kind}: {actual}, expected {expected}"));
        }
    }

    /// Compares what has to be the same.
    pub fn equal<T: PartialEq + Debug + ?Sized>(&mut self, place: impl Display, actual: &T, expected: &T) {
        if actual != expected {
            self.mismatches.push(format!("{place}: {actual:?}, expected {expected:?}"));
        }
    }

    /// Compares values bit by bit.
    pub fn same_bits(&mut self, place: impl Display, actual: &[f32], expected: &[f32]) {
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<u32>>();
        if bits(actual) != bits(expected) {
            let pairs = actual.iter().zip(expected);
            let different = pairs.filter(|(actual, expected)| actual.to_bits() != expected.to_bits()).count();
            let (actual, expected) = (actual.len(), expected.len());
            self.mismatches
                .push(format!("{place}: {different} of {actual} values differ from the {expected} in their bits"));
        }
    }

    /// Compares greedily chosen tokens with the `greedy` of an `expected.json`, up to the first near tie.
    pub fn greedy(&mut self, place: impl Display, actual: &[u32], greedy: &Value) {
        let expected = super::ids(greedy, "new_ids");
        let margins = super::numbers(greedy, "top1_minus_top2_logit");
        let different = actual.iter().zip(&expected).position(|(actual, expected)| actual != expected);
        let is_near_tie = different.is_some_and(|index| margins[index] < NEAR_TIE);
        if !is_near_tie {
            self.equal(format!("{place}: greedy tokens"), actual, expected.as_slice());
        }
    }

    fn error(&mut self, kind: &'static str, actual: f64, expected: f64) -> f64 {
        let error = (actual - expected).abs();
        let largest = self.largest.entry(kind).or_default();
        // `max` alone would pass over NaN.
        *largest = if error.is_nan() { f64::INFINITY } else { largest.max(error) };
        error
    }

    /// Prints what was done.
    ///
    /// # Panics
    ///
    /// If something was off, or no case was run: the committed ones are always there.
    pub fn finish(self) {
        let cases = self.cases;
        self.finish_optional();
        assert!(cases > 0, "no case was run");
    }

    /// As [`finish`](Self::finish), where all cases may be missing.
    pub fn finish_optional(self) {
        let skipped: usize = self.skipped.values().map(Vec::len).sum();
        let mut line = format!("golden: {} cases, {skipped} skipped", self.cases);
        if skipped > 0 {
            let reasons = self.skipped.iter().map(|(reason, what)| format!("{reason}: {}", what.join(", ")));
            line += &format!(" ({})", reasons.collect::<Vec<_>>().join("; "));
        }
        line.push('\n');
        for (kind, error) in &self.largest {
            line += &format!("golden {kind}: max |error| {error:.2e}\n");
        }
        say(&line);
        let mismatches = self.mismatches;
        assert!(mismatches.is_empty(), "{} mismatches:\n{}", mismatches.len(), mismatches.join("\n"));
    }
}

/// Prints past the test harness, which shows what a passing test printed only on request: how much was compared is part
/// of the result.
pub fn say(text: &str) {
    // A closed stderr is no reason to fail.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}
