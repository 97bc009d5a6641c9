//! What a few seeds can tell: means with their intervals, and paired tests.

use statrs::distribution::{ContinuousCDF, StudentsT};

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
        let half_width = deviation
            .zip(student(count))
            .map(|(deviation, t)| t.inverse_cdf(0.975) * deviation / (count as f64).sqrt());
        Some(Self { count, mean, deviation, half_width })
    }
}

/// Student's t of a mean of `count` numbers.
fn student(count: usize) -> Option<StudentsT> {
    StudentsT::new(0.0, 1.0, count.checked_sub(1)? as f64).ok()
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
        let t_test = student(count).filter(|_| deviation > 0.0).map(|student| 2.0 * student.cdf(-t.abs()));
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
