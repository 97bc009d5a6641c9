//! Slopes along random directions, from function values alone (SPSA; Spall, 1992).

use super::{BackboneDirection, Perturbation};

/// Two-sided simultaneous perturbation: g = (G(θ + ε·z) − G(θ − ε·z)) / 2ε.
#[derive(Clone, Copy, Debug)]
pub struct Spsa {
    /// ε.
    pub eps: f32,
}

/// What both sides of a perturbation gave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// G(θ + ε·z).
    pub plus: f64,
    /// G(θ − ε·z).
    pub minus: f64,
    /// g, the derivative of G along z up to O(ε²).
    pub slope: f64,
}

impl Spsa {
    /// The slope of `objective` along `direction`. The objective is called once, with the view under which it has to
    /// evaluate both sides, and returns G at θ + ε·z and at θ − ε·z.
    ///
    /// g·z is an unbiased estimate of the gradient of a smoothed G, since E\[z·zᵀ\] = I. The objective may be anything that
    /// can be evaluated: it needs no gradient.
    ///
    /// ```
    /// use zofo::zo::estimator::Spsa;
    /// use zofo::zo::{BackboneDirection, Perturbation};
    /// use zofo_kernels::direction::ParameterId;
    ///
    /// // G(w) = w², a "model" of one weight, at w = 3.
    /// let w = [3.0f32];
    /// let estimate = Spsa { eps: 1e-3 }.slope(BackboneDirection::Seeded(1), |view| {
    ///     let Perturbation::Pair { direction, eps } = view else { unreachable!() };
    ///     let noise = direction.of("w", ParameterId::from_name("w"));
    ///     let (mut plus, mut minus) = ([0.0], [0.0]);
    ///     noise.perturb_pair(0, &w, *eps, &mut plus, &mut minus);
    ///     [plus[0], minus[0]].map(|w| f64::from(w * w))
    /// });
    /// let mut z = [0.0];
    /// BackboneDirection::Seeded(1).of("w", ParameterId::from_name("w")).fill(0, &mut z);
    /// assert!((estimate.slope - 6.0 * f64::from(z[0])).abs() < 0.02);
    /// ```
    pub fn slope(&self, direction: BackboneDirection, objective: impl FnOnce(&Perturbation) -> [f64; 2]) -> Estimate {
        let [plus, minus] = objective(&Perturbation::Pair { direction, eps: self.eps });
        let slope = (plus - minus) / (2.0 * f64::from(self.eps));
        Estimate { plus, minus, slope }
    }
}

/// ε′ at which curvature is negligible, so that what is left of a second difference is rounding.
const NOISE_EPS: f32 = 1e-5;

/// The rounding error δ of a loss F: the root mean square of F(θ + ε′z) − 2F(θ) + F(θ − ε′z) over some directions, over √6
/// (the variances 1 + 4 + 1 of independent errors).
///
/// `both_sides` evaluates F under a pair, `center` is F(θ).
pub fn loss_noise(
    seeds: impl IntoIterator<Item = u64>,
    center: f64,
    mut both_sides: impl FnMut(&Perturbation) -> [f64; 2],
) -> f64 {
    let (mut sum, mut count) = (0.0, 0.0f64);
    for seed in seeds {
        let direction = BackboneDirection::Seeded(seed);
        let [plus, minus] = both_sides(&Perturbation::Pair { direction, eps: NOISE_EPS });
        let difference = plus - 2.0 * center + minus;
        sum += difference * difference;
        count += 1.0;
    }
    (sum / count.max(1.0) / 6.0).sqrt()
}

/// The part of a slope that is rounding: δ·√(1 + 2λ²)/(ε·√2), for G = a + λ(b − c) with an error δ in each of the losses.
pub fn noise_floor(loss_noise: f64, penalty: f64, eps: f64) -> f64 {
    loss_noise * (1.0 + 2.0 * penalty * penalty).sqrt() / (eps * std::f64::consts::SQRT_2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zofo_kernels::direction::ParameterId;

    /// Mean of g·z over many directions equals the gradient of a quadratic.
    #[test]
    fn slope_times_direction_is_the_gradient_of_a_quadratic_on_average() {
        const N: usize = 8;
        const DIRECTIONS: u64 = 200_000;
        let weights: [f32; N] = std::array::from_fn(|i| i as f32 - 3.0);
        // G(w) = ½ Σ cᵢ·wᵢ² + w₀·w₁.
        let value = |w: &[f32]| -> f64 {
            let squares = w.iter().enumerate().map(|(i, w)| 0.5 * (i + 1) as f64 * f64::from(*w).powi(2));
            squares.sum::<f64>() + f64::from(w[0]) * f64::from(w[1])
        };
        let gradient: [f64; N] = std::array::from_fn(|i| {
            let cross = match i {
                0 => weights[1],
                1 => weights[0],
                _ => 0.0,
            };
            (i + 1) as f64 * f64::from(weights[i]) + f64::from(cross)
        });
        let id = ParameterId::from_name("w");
        let mut mean = [0.0f64; N];
        for seed in 0..DIRECTIONS {
            let direction = BackboneDirection::Seeded(seed);
            let mut z = [0.0f32; N];
            direction.of("w", id).fill(0, &mut z);
            let estimate = Spsa { eps: 1e-2 }.slope(direction, |view| {
                let Perturbation::Pair { direction, eps } = view else { panic!("not a pair") };
                let (mut plus, mut minus) = ([0.0; N], [0.0; N]);
                direction.of("w", id).perturb_pair(0, &weights, *eps, &mut plus, &mut minus);
                [value(&plus), value(&minus)]
            });
            for (mean, z) in mean.iter_mut().zip(z) {
                *mean += estimate.slope * f64::from(z) / DIRECTIONS as f64;
            }
        }
        // Var(g·zᵢ) = |∇|² + ∇ᵢ²; five standard errors.
        let norm: f64 = gradient.iter().map(|g| g * g).sum();
        for (mean, exact) in mean.iter().zip(gradient) {
            let error = ((norm + exact * exact) / DIRECTIONS as f64).sqrt();
            assert!((mean - exact).abs() < 5.0 * error, "{mean} for {exact}, error {error}");
        }
    }

    #[test]
    fn the_floor_is_that_of_three_losses() {
        // Without a penalty: one loss, both sides, δ√2/(2ε).
        assert!((noise_floor(1e-7, 0.0, 1e-3) - 1e-4 / 2.0f64.sqrt()).abs() < 1e-12);
        assert!((noise_floor(1e-7, 1e4, 1e-3) - 1.0).abs() < 1e-6);
    }
}
