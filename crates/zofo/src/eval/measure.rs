//! How good predictions are, and how sure that is.

use super::scoring::Evaluation;
use crate::task::metric::{ClassCounts, calibration_error, class_counts, exact_match, macro_f1, token_f1};
use crate::task::{Metric, SplitMix64};
use serde::Serialize;
use std::collections::BTreeMap;

/// Samples with replacement of which an interval is made.
const RESAMPLES: u64 = 1000;

/// The share of resamples that lies below an interval, and above it.
const TAIL: f64 = 0.025;

/// The name of the expected calibration error among [`Measures`].
pub const CALIBRATION_ERROR: &str = "calibration-error";

/// A number over a set of examples, with its 95 % percentile bootstrap interval (Efron, 1979): what the middle 95 % of
/// 1000 samples of as many examples, drawn with replacement, give.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Measure {
    /// Over the examples as they are.
    pub value: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

/// Measures by name: those of [`Metric`], and [`CALIBRATION_ERROR`].
pub type Measures = BTreeMap<&'static str, Measure>;

impl Measure {
    /// A statistic of `examples` examples, whose positions it is given. The same samples are drawn every time.
    pub fn bootstrap(examples: usize, statistic: impl Fn(&[usize]) -> f64) -> Self {
        let all: Vec<usize> = (0..examples).collect();
        let mut sample = all.clone();
        let mut values: Vec<f64> = (0..RESAMPLES)
            .map(|resample| {
                let mut random = SplitMix64::keyed(0, "bootstrap", resample);
                sample.fill_with(|| random.below(examples as u64) as usize);
                statistic(&sample)
            })
            .collect();
        values.sort_by(f64::total_cmp);
        Self { value: statistic(&all), low: quantile(&values, TAIL), high: quantile(&values, 1.0 - TAIL) }
    }

    /// The mean of one value per example.
    pub fn mean(values: &[f64]) -> Self {
        Self::bootstrap(values.len(), |sample| sample.iter().map(|&i| values[i]).sum::<f64>() / sample.len() as f64)
    }
}

/// A quantile of sorted numbers, interpolated between neighbours as by numpy's default.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

/// Accuracy, calibration error, and, where examples share `classes` candidates, macro-F1.
pub fn measure_choices(evaluation: &Evaluation, classes: Option<usize>) -> Measures {
    let examples = &evaluation.examples;
    let right: Vec<f64> = examples.iter().map(|example| f64::from(u8::from(example.is_right()))).collect();
    let confidences: Vec<f64> = examples.iter().map(super::Scored::confidence).collect();
    let calibration = |sample: &[usize]| calibration_error(sample.iter().map(|&i| (confidences[i], right[i] > 0.5)));
    let mut measures = Measures::from([
        (Metric::Accuracy.as_str(), Measure::mean(&right)),
        (CALIBRATION_ERROR, Measure::bootstrap(examples.len(), calibration)),
    ]);
    if let Some(classes) = classes {
        let f1 = |sample: &[usize]| {
            let pairs = sample.iter().map(|&i| (examples[i].golds[0], examples[i].prediction));
            macro_f1(&class_counts(pairs, classes))
        };
        measures.insert(Metric::MacroF1.as_str(), Measure::bootstrap(examples.len(), f1));
    }
    measures
}

/// Counts of every class.
pub fn count_classes(evaluation: &Evaluation, classes: usize) -> Vec<ClassCounts> {
    class_counts(evaluation.examples.iter().map(|example| (example.golds[0], example.prediction)), classes)
}

/// Perplexity over the tokens of all right answers.
pub fn measure_conversations(evaluation: &Evaluation) -> Measures {
    let totals: Vec<(f64, usize)> = evaluation.examples.iter().map(super::Scored::gold_nll).collect();
    let perplexity = |sample: &[usize]| {
        let sums = sample.iter().map(|&i| totals[i]);
        let (nll, tokens) = sums.fold((0.0, 0), |(nll, tokens), (more, count)| (nll + more, tokens + count));
        (nll / tokens as f64).exp()
    };
    Measures::from([(Metric::Perplexity.as_str(), Measure::bootstrap(totals.len(), perplexity))])
}

/// Exact match and F1 of words, of texts and their right answers: see [`exact_match`] and [`token_f1`].
pub fn measure_texts<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a [String])>) -> Measures {
    let judge = |(text, answers): (&str, &[String])| {
        let answers = || answers.iter().map(String::as_str);
        (exact_match(text, answers()), token_f1(text, answers()))
    };
    let (exact, f1): (Vec<f64>, Vec<f64>) = pairs.into_iter().map(judge).unzip();
    Measures::from([(Metric::ExactMatch.as_str(), Measure::mean(&exact)), (Metric::F1.as_str(), Measure::mean(&f1))])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::Scored;

    /// Numbers of numpy 2.
    #[test]
    fn quantiles_are_those_of_numpy() {
        let sorted = [1.0, 2.0, 4.0, 8.0];
        assert_eq!(quantile(&sorted, 0.5), 3.0);
        assert!((quantile(&sorted, 0.025) - 1.075).abs() < 1e-12);
        assert!((quantile(&sorted, 0.975) - 7.7).abs() < 1e-12);
        assert_eq!(quantile(&[5.0], 0.3), 5.0);
    }

    #[test]
    fn an_interval_is_as_wide_as_the_normal_approximation_says() {
        let values: Vec<f64> = (0..400).map(|i| f64::from(u8::from(i % 5 != 0))).collect();
        let measure = Measure::mean(&values);
        assert_eq!(measure, Measure::mean(&values));
        assert_eq!(measure.value, 0.8);
        // 1.96 √(0.8 · 0.2 / 400) = 0.0392.
        for end in [measure.low - 0.8 + 0.0392, measure.high - 0.8 - 0.0392] {
            assert!(end.abs() < 0.006, "{measure:?}");
        }
        assert_eq!(Measure::mean(&[1.0; 7]), Measure { value: 1.0, low: 1.0, high: 1.0 });
    }

    fn choice(scores: [f64; 3], gold: usize) -> Scored {
        let prediction = (0..3).fold(0, |best, i| if scores[i] > scores[best] { i } else { best });
        Scored { scores: scores.to_vec(), token_logprobs: vec![vec![-1.0]; 3], prediction, golds: vec![gold] }
    }

    /// Macro-F1 is scikit-learn 1.9.1's `f1_score([0, 0, 1, 2], [0, 1, 1, 0], average="macro")`.
    #[test]
    fn choices_have_accuracy_calibration_and_f1() {
        let [zero, one] = [[9.0, 0.0, 0.0], [0.0, 9.0, 0.0]];
        let examples = [(zero, 0), (one, 0), (one, 1), (zero, 2)].map(|(scores, gold)| choice(scores, gold)).to_vec();
        let evaluation = Evaluation { examples, tokens: 0 };
        let measures = measure_choices(&evaluation, Some(3));
        assert_eq!(measures["accuracy"].value, 0.5);
        assert!((measures["macro-f1"].value - 0.388_888_888_888_888_9).abs() < 1e-15);
        let sure = 1.0 / (1.0 + 2.0 * (-9.0f64).exp());
        assert!((measures[CALIBRATION_ERROR].value - (sure - 0.5)).abs() < 1e-12);
        assert!(measures.values().all(|measure| measure.low <= measure.value && measure.value <= measure.high));
        let counts = count_classes(&evaluation, 3);
        assert_eq!(counts[1], ClassCounts { gold: 1, predicted: 2, right: 1 });
        assert!(!measure_choices(&evaluation, None).contains_key("macro-f1"));
    }

    #[test]
    fn conversations_have_the_perplexity_of_all_their_tokens() {
        let said = |logprobs: &[f32]| Scored { token_logprobs: vec![logprobs.to_vec()], ..choice([0.0; 3], 0) };
        let examples = vec![said(&[-1.0, -2.0, -3.0]), said(&[-6.0])];
        let measure = measure_conversations(&Evaluation { examples, tokens: 0 })["perplexity"];
        assert!((measure.value - 3.0f64.exp()).abs() < 1e-12, "{measure:?}");
        // Samples are of the first alone, of both, and of the second alone.
        assert!((measure.low - 2.0f64.exp()).abs() < 1e-9 && (measure.high - 6.0f64.exp()).abs() < 1e-9, "{measure:?}");
    }

    #[test]
    fn texts_have_the_means_of_their_scores() {
        let answers = ["the Normans".to_owned(), "Norman dynasty".to_owned()];
        let pairs = [("Normans.", &answers[..]), ("Norman kings", &answers[..])];
        let measures = measure_texts(pairs);
        assert_eq!((measures["em"].value, measures["f1"].value), (0.5, 0.75));
    }
}
