//! What a few seeds can tell: means with their intervals, and paired tests.

use std::f64::consts::FRAC_2_PI;

/// Up to so many pairs, all changes of signs are tried.
const MOST_PAIRS: usize = 16;

/// Numbers that stand for one thing, as one per seed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// How many.
    pub count: usize,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation, with n − 1; of at least two.
    pub deviation: Option<f64>,
    /// Half the width of the 95 % interval of the mean, by Student's t; of at least two.
    pub half_width: Option<f64>,
}

impl Sample {
    /// Of numbers, if there are any.
    pub fn of(values: &[f64]) -> Option<Self> {
        let count = values.len();
        if count == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / count as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let deviation = (count > 1).then(|| (squares / (count - 1) as f64).sqrt());
        let half_width = deviation.map(|deviation| quantile(0.95, count - 1) * deviation / (count as f64).sqrt());
        Some(Self { count, mean, deviation, half_width })
    }
}

/// By how much the left mean is above the right one, and the standard error of that, the samples being independent; none
/// with fewer than two numbers in either.
pub(super) fn difference(left: Sample, right: Sample) -> Option<(f64, f64)> {
    let square = |sample: Sample| Some(sample.deviation?.powi(2) / sample.count as f64);
    Some((left.mean - right.mean, (square(left)? + square(right)?).sqrt()))
}

/// The share of Student's t distribution between −t and t, for a whole number of degrees of freedom of at least 1
/// (Abramowitz and Stegun, 26.7.3 and 26.7.4).
fn share_within(t: f64, freedom: usize) -> f64 {
    let angle = (t / (freedom as f64).sqrt()).atan();
    let (sine, cosine) = angle.sin_cos();
    // The terms of odd degrees begin with cos, those of even ones with 1; each has a factor to the one before.
    let is_odd = freedom % 2 == 1;
    let mut term = if is_odd { cosine } else { 1.0 };
    let mut sum = 0.0;
    for step in 1..=freedom / 2 {
        sum += term;
        let even = 2.0 * step as f64;
        term *= cosine * cosine * if is_odd { even / (even + 1.0) } else { (even - 1.0) / even };
    }
    if is_odd { FRAC_2_PI * (angle + sine * sum) } else { sine * sum }
}

/// The t within which, to either side, this share lies.
fn quantile(share: f64, freedom: usize) -> f64 {
    // One degree of freedom has the widest tails: 95 % are within 12.7.
    let (mut low, mut high) = (0.0, 100.0);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if share_within(middle, freedom) < share {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

/// The differences of two things that were measured with the same seeds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Paired {
    /// The differences.
    pub difference: Sample,
    /// Two-sided p of the paired t-test; none if all differences are the same.
    pub t_test: Option<f64>,
    /// Two-sided p of the exact test that changes signs: the share of the 2ⁿ ways to swap pairs whose mean is at least as
    /// far from 0. It assumes nothing about the distribution. None beyond 16 pairs.
    pub sign_flips: Option<f64>,
}

impl Paired {
    /// Compares; none with fewer than two pairs.
    pub fn of(differences: &[f64]) -> Option<Self> {
        let difference = Sample::of(differences)?;
        let count = differences.len();
        let deviation = difference.deviation?;
        let t = difference.mean / (deviation / (count as f64).sqrt());
        let t_test = (deviation > 0.0).then(|| (1.0 - share_within(t.abs(), count - 1)).max(0.0));
        Some(Self { difference, t_test, sign_flips: sign_flips(differences) })
    }

    /// The smallest p that changing signs can give with so many pairs.
    pub fn smallest(&self) -> f64 {
        2.0 / 2f64.powi(self.difference.count as i32)
    }
}

fn sign_flips(differences: &[f64]) -> Option<f64> {
    let count = differences.len();
    if count > MOST_PAIRS {
        return None;
    }
    let observed = differences.iter().sum::<f64>().abs();
    // What differs by rounding alone is as far.
    let observed = observed - 1e-12 * differences.iter().map(|value| value.abs()).sum::<f64>();
    let flipped = |signs: u32| {
        let signed = differences.iter().enumerate().map(|(i, value)| if signs >> i & 1 == 1 { -value } else { *value });
        signed.sum::<f64>().abs()
    };
    let ways = 1u32 << count;
    let as_far = (0..ways).filter(|&signs| flipped(signs) >= observed).count();
    Some(as_far as f64 / f64::from(ways))
}

/// Corrects p values of several tests together by Holm's method: the chance of any false alarm stays what a single test
/// would have.
pub(super) fn holm(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&left, &right| values[left].total_cmp(&values[right]));
    let mut corrected = vec![0.0; values.len()];
    let mut least: f64 = 0.0;
    for (rank, &index) in order.iter().enumerate() {
        least = least.max(((values.len() - rank) as f64 * values[index]).min(1.0));
        corrected[index] = least;
    }
    corrected
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-6 * expected.abs().max(1.0), "{found} instead of {expected}");
    }

    /// Numbers of scipy 1.17: `t.ppf(0.975, n - 1)`, `ttest_1samp`, `permutation_test` with all permutations.
    #[test]
    fn intervals_and_tests_are_those_of_scipy() {
        let sample = Sample::of(&[0.80, 0.82, 0.87]).unwrap();
        close(sample.mean, 0.83);
        close(sample.deviation.unwrap(), 0.036_055_512_754_639_9);
        close(sample.half_width.unwrap(), 4.302_652_729_911_275 * 0.036_055_512_754_639_9 / 3f64.sqrt());
        let paired = Paired::of(&[0.02, 0.03, -0.01, 0.05, 0.04]).unwrap();
        close(paired.t_test.unwrap(), 0.064_985_910_342);
        close(paired.sign_flips.unwrap(), 4.0 / 32.0);
        close(paired.smallest(), 2.0 / 32.0);
    }

    /// Worked by hand: √(0.0002/2 + 0.0008/2).
    #[test]
    fn means_differ_with_their_standard_errors() {
        let [left, right] = [[0.80, 0.82], [0.70, 0.74]].map(|values| Sample::of(&values).unwrap());
        let (more, error) = difference(left, right).unwrap();
        close(more, 0.09);
        close(error, 0.0005f64.sqrt());
        assert_eq!(difference(left, Sample::of(&[0.7]).unwrap()), None);
    }

    /// Of degrees of freedom: the share within ±1.5, and the t within which 95 % lie.
    const SCIPY: [(usize, f64, f64); 6] = [
        (1, 0.625665916378, 12.706204736175),
        (2, 0.727606875109, 4.302652729749),
        (3, 0.769416134755, 3.182446305284),
        (4, 0.792000000000, 2.776445105198),
        (9, 0.832149343943, 2.262157162798),
        (20, 0.850764228831, 2.085963447266),
    ];

    /// Numbers of scipy 1.17: `t.cdf(x, n) - t.cdf(-x, n)` and `t.ppf(0.975, n)`.
    #[test]
    fn student_has_whole_degrees_of_freedom() {
        for (freedom, within, t) in SCIPY {
            close(share_within(1.5, freedom), within);
            close(quantile(0.95, freedom), t);
        }
    }

    #[test]
    fn too_few_numbers_tell_nothing() {
        assert_eq!(Sample::of(&[]), None);
        let one = Sample::of(&[0.5]).unwrap();
        assert_eq!((one.mean, one.deviation, one.half_width), (0.5, None, None));
        assert_eq!(Paired::of(&[0.1]), None);
        let same = Paired::of(&[0.25, 0.25]).unwrap();
        assert_eq!((same.t_test, same.sign_flips), (None, Some(0.5)));
        assert_eq!(Paired::of(&[0.1; 17]).unwrap().sign_flips, None);
    }

    /// Worked by hand: 0.01·3, then 0.03·2, then 0.04 raised to what stands before it.
    #[test]
    fn holm_keeps_the_order() {
        let corrected = holm(&[0.04, 0.01, 0.03]);
        for (found, expected) in corrected.into_iter().zip([0.06, 0.03, 0.06]) {
            close(found, expected);
        }
        assert_eq!(holm(&[0.7, 0.9]), [1.0, 1.0]);
    }
}
