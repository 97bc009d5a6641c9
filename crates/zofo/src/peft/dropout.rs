//! Dropout (Srivastava et al., 2014), inverted: what is kept is scaled up, so that evaluation needs nothing.

use crate::task::SplitMix64;
use burn::tensor::{Tensor, TensorData};

/// `x` with a share of its elements set to 0 and the others divided by 1 − `share`, which is below 1.
///
/// Whether an element is kept is a pure function of (`seed`, `module`, row, column).
pub(super) fn dropout(x: Tensor<2>, share: f64, seed: u64, module: &str) -> Tensor<2> {
    let [rows, columns] = x.dims();
    let mask = TensorData::new(mask(rows, columns, share, seed, module), [rows, columns]);
    let mask = Tensor::from_data(mask, &x.device());
    x * mask
}

/// What the elements are multiplied by.
fn mask(rows: usize, columns: usize, share: f64, seed: u64, module: &str) -> Vec<f32> {
    // An element's word of 32 bits is below this with probability `share`.
    let threshold = (share * 2f64.powi(32)).round() as u64;
    let kept = (1.0 / (1.0 - share)) as f32;
    let mut mask = Vec::with_capacity(rows * columns);
    for row in 0..rows {
        let mut words = SplitMix64::keyed(seed, module, row as u64);
        let factor = |word: u64| if word >> 32 < threshold { 0.0 } else { kept };
        mask.extend((0..columns).map(|_| factor(words.next_u64())));
    }
    mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_dropped_and_the_rest_keeps_the_mean() {
        let count = 400 * 1000;
        for share in [0.0, 0.1, 0.5, 0.9] {
            let mask = mask(400, 1000, share, 3, "m");
            let dropped = mask.iter().filter(|&&factor| factor == 0.0).count() as f64;
            // Five standard deviations of a binomial count.
            let spread = 5.0 * (count as f64 * share * (1.0 - share)).sqrt();
            assert!((dropped - share * count as f64).abs() <= spread, "{share}: {dropped}");
            let kept = (1.0 / (1.0 - share)) as f32;
            assert!(mask.iter().all(|&factor| factor == 0.0 || factor == kept));
        }
    }

    #[test]
    fn rows_columns_and_modules_are_independent() {
        let [rows, columns] = [300, 300];
        let signs = |seed, module| -> Vec<f64> {
            mask(rows, columns, 0.5, seed, module).iter().map(|&factor| f64::from(factor) - 1.0).collect()
        };
        let one = signs(1, "model.layers.0.q_proj");
        assert_eq!(one, signs(1, "model.layers.0.q_proj"));
        // Each product is ±1, and independent ones have a mean within five standard deviations of 0.
        let correlation = |pairs: &mut dyn Iterator<Item = (f64, f64)>| {
            let (sum, count) = pairs.fold((0.0, 0), |(sum, count), (left, right)| (sum + left * right, count + 1));
            assert!(f64::abs(sum) < 5.0 * f64::from(count).sqrt(), "{sum} of {count}");
        };
        for other in [signs(2, "model.layers.0.q_proj"), signs(1, "model.layers.1.q_proj")] {
            correlation(&mut one.iter().copied().zip(other));
        }
        correlation(&mut one.iter().copied().zip(one[columns..].iter().copied()));
        correlation(&mut one.iter().copied().zip(one[1..].iter().copied()));
    }

    #[test]
    fn more_rows_do_not_change_the_first() {
        assert_eq!(mask(2, 8, 0.3, 5, "m"), mask(7, 8, 0.3, 5, "m")[..16]);
    }
}
