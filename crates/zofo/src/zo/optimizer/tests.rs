//! The rules against their formulas, the guard at its limits, the state through JSON.

use proptest::prelude::*;

use super::*;

fn coefficients(rule: ScalarRule, slopes: &[f64], learning_rate: f64) -> Vec<f32> {
    let mut optimizer = ScalarOptimizer::new(rule);
    let steps = slopes.iter().map(|&slope| match optimizer.step(slope, learning_rate) {
        Ok(Step::Apply { coefficient }) => coefficient,
        other => panic!("slope {slope}: {other:?}"),
    });
    steps.collect()
}

#[test]
fn names_are_those_of_configurations() {
    use BackboneOptimizer::{Adam, Rms, Sgd, Sign};
    for optimizer in [Rms, Sgd, Sign, Adam] {
        let json = serde_json::to_string(&optimizer).unwrap();
        assert_eq!(json, format!("\"{}\"", optimizer.name()));
        assert_eq!(serde_json::from_str::<BackboneOptimizer>(&json).unwrap(), optimizer);
        assert_eq!(optimizer.scalar_rule().is_none(), optimizer == Adam);
    }
}

#[test]
fn rms_follows_its_formula() {
    let slopes = [3.0, -4.0, 0.5];
    let v: [f64; 3] = [9.0, (0.99 * 9.0 + 16.0) / 1.99, (0.99 * 0.99 * 9.0 + 0.99 * 16.0 + 0.25) / 2.9701];
    let coefficients = coefficients(ScalarRule::Rms, &slopes, 1e-2);
    for ((coefficient, slope), v) in coefficients.iter().zip(slopes).zip(v) {
        let expected = 1e-2 * slope / (v.sqrt() + 1e-12);
        let error = f64::from(*coefficient) / expected - 1.0;
        assert!(error.abs() < 1e-7, "{coefficient} for {expected}");
    }
}

#[test]
fn powers_are_those_of_repeated_multiplication() {
    assert_eq!([0, 1, 2, 3, 10, 52].map(|n| power(0.5, n)), [1.0, 0.5, 0.25, 0.125, 1.0 / 1024.0, f64::EPSILON]);
    let product = (0..1000).fold(1.0, |product, _| product * 0.999);
    assert!((power(0.999, 1000) - product).abs() < 1e-13);
}

#[test]
fn sgd_and_sign_follow_their_formulas() {
    let slopes = [2.0, -0.5, 0.0];
    assert_eq!(coefficients(ScalarRule::Sgd, &slopes, 0.25), [0.5, -0.125, 0.0]);
    assert_eq!(coefficients(ScalarRule::Sign, &slopes, 0.25), [0.25, -0.25, 0.0]);
}

#[test]
fn zero_slopes_neither_divide_by_zero_nor_make_every_later_slope_an_outlier() {
    let mut slopes = [0.0; 12];
    slopes[11] = 1.0;
    let coefficients = coefficients(ScalarRule::Rms, &slopes, 1.0);
    assert_eq!(coefficients[..11], [0.0; 11]);
    assert!(coefficients[11] > 1.0 && coefficients[11].is_finite());
}

#[test]
fn outliers_are_judged_after_the_tenth_step_by_the_steps_before() {
    for (steps, slope, accepted) in [(9, 1e9, true), (10, 99.9, true), (10, 100.1, false), (10, -100.1, false)] {
        let mut optimizer = ScalarOptimizer::new(ScalarRule::Sgd);
        for step in 0..steps {
            optimizer.step(if step % 2 == 0 { 1.0 } else { -1.0 }, 0.1).unwrap();
        }
        let before = *optimizer.guard().moment();
        match optimizer.step(slope, 0.1).unwrap() {
            Step::Apply { .. } => assert!(accepted, "{slope} after {steps} was accepted"),
            Step::Skip(reason) => {
                assert!(!accepted, "{slope} after {steps}: {reason}");
                assert!(matches!(reason, SkipReason::Outlier { slope: s, .. } if s == slope));
                assert_eq!(*optimizer.guard().moment(), before);
                assert_eq!(optimizer.guard().skipped(), 1);
            }
        }
    }
}

#[test]
fn what_is_not_finite_in_f32_never_reaches_the_weights() {
    for (slope, rate) in [(f64::NAN, 1.0), (f64::INFINITY, 1.0), (-f64::INFINITY, 1.0), (1e39, 1.0), (1e38, 1e3)] {
        let step = ScalarOptimizer::new(ScalarRule::Sgd).step(slope, rate).unwrap();
        assert!(matches!(step, Step::Skip(SkipReason::NotFinite { .. })), "{slope}: {step:?}");
    }
}

#[test]
fn the_twentieth_skip_in_a_row_stops_the_run_and_an_accepted_step_starts_over() {
    let mut optimizer = ScalarOptimizer::new(ScalarRule::Rms);
    for _ in 0..19 {
        assert!(optimizer.step(f64::NAN, 1.0).is_ok());
    }
    assert!(matches!(optimizer.step(1.0, 1.0), Ok(Step::Apply { .. })));
    for _ in 0..19 {
        assert!(optimizer.step(f64::NAN, 1.0).is_ok());
    }
    let error = optimizer.step(f64::NAN, 1.0).unwrap_err().to_string();
    assert!(error.contains("20 steps in a row") && error.contains("NaN"), "{error}");
    assert_eq!(optimizer.guard().skipped(), 39);
}

proptest! {
    #[test]
    fn state_survives_json_bit_by_bit(slopes in prop::collection::vec(-1e3f64..1e3, 0..40)) {
        let mut optimizer = ScalarOptimizer::new(ScalarRule::Rms);
        for &slope in &slopes {
            optimizer.step(slope, 1e-3).unwrap();
        }
        let json = serde_json::to_string(&optimizer).unwrap();
        let mut restored: ScalarOptimizer = serde_json::from_str(&json).unwrap();
        let means = [restored, optimizer].map(|state| state.guard.moment.mean.to_bits());
        prop_assert_eq!(means[0], means[1]);
        prop_assert_eq!(restored, optimizer);
        prop_assert_eq!(restored.step(0.1, 1e-3), optimizer.step(0.1, 1e-3));
    }

    #[test]
    fn rms_does_not_depend_on_the_scale_of_the_loss(
        slopes in prop::collection::vec(0.1f64..10.0, 1..30),
        // Smaller slopes come near the 1e-12 that is added to their root mean square.
        exponent in -16i32..20,
    ) {
        let scale = 2f64.powi(exponent);
        let scaled: Vec<f64> = slopes.iter().map(|slope| slope * scale).collect();
        let one = coefficients(ScalarRule::Rms, &slopes, 1e-2);
        let other = coefficients(ScalarRule::Rms, &scaled, 1e-2);
        for (a, b) in one.iter().zip(&other) {
            prop_assert!((a / b - 1.0).abs() < 1e-5, "{} and {}", a, b);
        }
    }
}
