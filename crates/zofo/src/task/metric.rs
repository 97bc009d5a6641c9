//! How predictions become one number.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::definition::Kind;
use super::filters::is_space;

/// How predictions are turned into one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Metric {
    /// The share of examples whose prediction is right.
    #[serde(rename = "accuracy")]
    Accuracy,
    /// The mean of the classes' F1: [`macro_f1`].
    #[serde(rename = "macro-f1")]
    MacroF1,
    /// The mean overlap of words with the best right answer: [`token_f1`].
    #[serde(rename = "f1")]
    F1,
    /// The share of texts that are a right answer: [`exact_match`].
    #[serde(rename = "em")]
    ExactMatch,
    /// e to the mean negative log-likelihood per token of what the assistant says. The lower, the better.
    #[serde(rename = "perplexity")]
    Perplexity,
}

impl Metric {
    /// The word for it in task files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Metric::Accuracy => "accuracy",
            Metric::MacroF1 => "macro-f1",
            Metric::F1 => "f1",
            Metric::ExactMatch => "em",
            Metric::Perplexity => "perplexity",
        }
    }

    /// The kind of tasks that it is for.
    pub const fn kind(self) -> Kind {
        match self {
            Metric::Accuracy | Metric::MacroF1 => Kind::Classification,
            Metric::F1 | Metric::ExactMatch => Kind::Generation,
            Metric::Perplexity => Kind::Chat,
        }
    }

    /// Whether a value is better than another.
    pub fn is_better(self, value: f64, than: f64) -> bool {
        match self {
            Metric::Accuracy | Metric::MacroF1 | Metric::F1 | Metric::ExactMatch => value > than,
            Metric::Perplexity => value < than,
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// How one class fared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClassCounts {
    /// Examples of this class.
    pub gold: usize,
    /// Examples that were predicted to be of it.
    pub predicted: usize,
    /// Examples of it that were predicted to be so.
    pub right: usize,
}

impl ClassCounts {
    /// The share of predictions of this class that are right; 0 if there are none.
    pub fn precision(&self) -> f64 {
        ratio(self.right, self.predicted)
    }

    /// The share of examples of this class that were found; 0 if there are none.
    pub fn recall(&self) -> f64 {
        ratio(self.right, self.gold)
    }

    /// The harmonic mean of the two; 0 if nothing is right.
    pub fn f1(&self) -> f64 {
        ratio(2 * self.right, self.gold + self.predicted)
    }
}

fn ratio(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// Counts by class of (gold, prediction) pairs, of which both are positions below `classes`.
pub fn class_counts(pairs: impl IntoIterator<Item = (usize, usize)>, classes: usize) -> Vec<ClassCounts> {
    let mut counts = vec![ClassCounts::default(); classes];
    for (gold, prediction) in pairs {
        counts[gold].gold += 1;
        counts[prediction].predicted += 1;
        counts[gold].right += usize::from(gold == prediction);
    }
    counts
}

/// The unweighted mean of F1 over the classes that occur among golds or predictions; 0 without any.
///
/// scikit-learn's `f1_score(average="macro", zero_division=0)`. A class that neither occurs nor is predicted has no F1
/// and does not count.
pub fn macro_f1(counts: &[ClassCounts]) -> f64 {
    let occurring = counts.iter().filter(|class| class.gold + class.predicted > 0);
    let (sum, number) = occurring.fold((0.0, 0usize), |(sum, number), class| (sum + class.f1(), number + 1));
    if number == 0 { 0.0 } else { sum / number as f64 }
}

/// Bins of [`calibration_error`].
const CALIBRATION_BINS: usize = 10;

/// Expected calibration error of predictions, each with its probability and whether it is right: how far, on average over
/// predictions, the share of right ones is from the mean probability, within 10 bins of equal width. 0 without any.
///
/// ECE of Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", 2017, equation 3; bin m of M has the
/// probabilities above (m − 1)/M, up to m/M.
pub fn calibration_error(predictions: impl IntoIterator<Item = (f64, bool)>) -> f64 {
    let mut gaps = [0.0; CALIBRATION_BINS];
    let mut count = 0usize;
    for (probability, is_right) in predictions {
        // A cast takes what is below 0 to 0.
        let bin = ((probability * CALIBRATION_BINS as f64).ceil() - 1.0) as usize;
        gaps[bin.min(CALIBRATION_BINS - 1)] += f64::from(u8::from(is_right)) - probability;
        count += 1;
    }
    if count == 0 { 0.0 } else { gaps.iter().map(|gap: &f64| gap.abs()).sum::<f64>() / count as f64 }
}

/// A text as SQuAD compares it: in lower case, without ASCII punctuation, without the words a, an and the, with single
/// blanks between words and none at the ends.
///
/// `normalize_answer` of the official SQuAD v1.1 evaluation script.
pub fn normalize(text: &str) -> String {
    let text: String = text.to_lowercase().chars().filter(|character| !character.is_ascii_punctuation()).collect();
    let mut words = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(first) = rest.chars().next() {
        let in_word = is_word(first);
        let end = rest.find(|character| is_word(character) != in_word).unwrap_or(rest.len());
        let (run, behind) = rest.split_at(end);
        words.push_str(if matches!(run, "a" | "an" | "the") { " " } else { run });
        rest = behind;
    }
    words.split(is_space).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// What a regular expression's `\w` is, of what punctuation leaves.
fn is_word(character: char) -> bool {
    character.is_alphanumeric()
}

/// Whether a text is one of the right answers, after [`normalize`]: 1 or 0. The best of `answers` counts.
pub fn exact_match<'a>(text: &str, answers: impl IntoIterator<Item = &'a str>) -> f64 {
    let text = normalize(text);
    f64::from(u8::from(answers.into_iter().any(|answer| normalize(answer) == text)))
}

/// F1 of the words of a text and of a right answer after [`normalize`], in which a word counts as often as it occurs in
/// both. The best of `answers` counts.
///
/// SQuAD's F1. Where the first answer says that there is none (`CANNOTANSWER` or `no answer`), only saying so counts.
pub fn token_f1<'a>(text: &str, answers: impl IntoIterator<Item = &'a str>) -> f64 {
    let mut answers = answers.into_iter().peekable();
    if let Some(answer) = answers.next_if(|answer| matches!(*answer, "CANNOTANSWER" | "no answer")) {
        return exact_match(text, [answer]);
    }
    let text = normalize(text);
    answers.map(|answer| overlap(&text, &normalize(answer))).fold(0.0, f64::max)
}

/// F1 of two normalised texts.
fn overlap(text: &str, answer: &str) -> f64 {
    let words = |text: &str| -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for word in text.split_whitespace() {
            *counts.entry(word.to_owned()).or_default() += 1;
        }
        counts
    };
    let (text, answer) = (words(text), words(answer));
    let common: usize = text.iter().filter_map(|(word, count)| answer.get(word).map(|other| other.min(count))).sum();
    ratio(2 * common, text.values().sum::<usize>() + answer.values().sum::<usize>())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of scikit-learn 1.9.1.
    #[test]
    fn macro_f1_is_that_of_scikit_learn() {
        let (golds, predictions) = ([0, 0, 1, 1, 2, 2, 2, 3, 0, 1], [0, 1, 1, 1, 2, 0, 4, 2, 0, 2]);
        let counts = class_counts(golds.into_iter().zip(predictions), 6);
        let scores: Vec<[f64; 3]> =
            counts.iter().map(|class| [class.precision(), class.recall(), class.f1()]).collect();
        let (two_thirds, third) = (2.0 / 3.0, 1.0 / 3.0);
        assert_eq!(scores, [[two_thirds; 3], [two_thirds; 3], [third; 3], [0.0; 3], [0.0; 3], [0.0; 3]]);
        assert_eq!(counts[4], ClassCounts { gold: 0, predicted: 1, right: 0 });
        // Class 4, which is only predicted, counts; class 5, which does not occur, does not.
        assert!((macro_f1(&counts) - 0.333_333_333_333_333_3).abs() < 1e-15);
        assert!((macro_f1(&class_counts([(0, 0), (0, 0), (1, 0)], 2)) - 0.4).abs() < 1e-15);
        assert_eq!(macro_f1(&class_counts([], 2)), 0.0);
    }

    #[test]
    fn calibration_error_is_the_mean_gap_of_the_bins() {
        // Of 0.95 and 0.9 (its own bin ends there) each is right, of two at 0.55 one is, of 0.3 none.
        let predictions = [(0.95, true), (0.9, true), (0.55, true), (0.55, false), (0.3, false)];
        let expected = (0.05 + 0.1 + 0.1 + 0.3) / 5.0;
        assert!((calibration_error(predictions) - expected).abs() < 1e-15);
        assert_eq!(calibration_error([(1.0, true), (0.0, false)]), 0.0);
        assert_eq!(calibration_error([]), 0.0);
    }

    /// Values of the official SQuAD v1.1 evaluation script, with Python 3.
    #[test]
    fn texts_are_normalised_as_by_squad() {
        for (text, expected) in [
            ("  The  Quick, brown fox!", "quick brown fox"),
            ("an-other A.", "another"),
            ("“the” end", "“ ” end"),
            ("a", ""),
            ("U.S.A", "usa"),
            ("the_end", "theend"),
            ("naïve The—café", "naïve —café"),
            ("The1 a1 theta", "the1 a1 theta"),
            ("thé a\u{a0}b\u{2003}c", "thé b c"),
            ("İstanbul", "i̇stanbul"),
            ("一a一", "一a一"),
            ("x\u{1c}the\u{1f}y", "x y"),
        ] {
            assert_eq!(normalize(text), expected, "{text:?}");
        }
    }

    /// As above.
    #[test]
    fn f1_and_exact_match_are_those_of_squad() {
        for (text, answers, f1, exact) in [
            ("the Norman dynasty", ["Normans", "Norman dynasty of France"], 0.666_666_666_666_666_6, 0.0),
            (
                "in the 10th and 11th centuries",
                ["10th and 11th centuries", "the first half of the 10th century"],
                0.888_888_888_888_889,
                0.0,
            ),
            ("to be or not to be", ["be to be", "so"], 0.666_666_666_666_666_6, 0.0),
            ("The", ["a", "b"], 0.0, 1.0),
            ("nothing", ["something", "else"], 0.0, 0.0),
            ("a a b b b", ["b b c", "c"], 0.666_666_666_666_666_6, 0.0),
            ("Paris.", ["London", "the paris"], 1.0, 1.0),
        ] {
            assert!((token_f1(text, answers) - f1).abs() < 1e-15, "{text}");
            assert_eq!(exact_match(text, answers), exact, "{text}");
        }
        assert_eq!(token_f1("x", []), 0.0);
    }

    #[test]
    fn without_an_answer_only_saying_so_counts() {
        for none in ["CANNOTANSWER", "no answer"] {
            assert_eq!(token_f1(&none.to_lowercase(), [none, "Paris"]), 1.0);
            assert_eq!(token_f1("Paris", [none, "Paris"]), 0.0);
            assert_eq!(token_f1("no", [none]), 0.0);
        }
        // Only the first answer says so.
        assert_eq!(token_f1("no", ["Paris", "no answer"]), 2.0 / 3.0);
    }
}
