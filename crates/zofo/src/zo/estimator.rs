//! Slopes along random directions, from function values alone (SPSA; Spall, 1992).

use super::{BackboneDirection, Perturbation};

/// Simultaneous perturbation: g = (G(θ + ε·z) − G(θ − ε·z)) / 2ε, or from one side, (G(θ + ε·z) − G(θ)) / ε.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spsa {
    /// ε.
    pub eps: f32,
    /// Where G is taken.
    pub sides: Sides,
    /// How many directions the objective is given at once, in one [`Perturbation::Together`]; of one side, θ counts as
    /// one. It changes nothing but what evaluations cost. At least 1.
    pub at_once: usize,
}

/// On which sides of θ an objective is evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sides {
    /// At θ + ε·z, and once at θ for all directions of a step: q + 1 evaluations for q directions, with an error of O(ε).
    One,
    /// At θ + ε·z and θ − ε·z: 2q evaluations, with an error of O(ε²).
    Two,
}

/// What both sides of a perturbation gave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// G(θ + ε·z).
    pub plus: f64,
    /// G(θ − ε·z); of one side, G(θ).
    pub minus: f64,
    /// g, the derivative of G along z.
    pub slope: f64,
}

impl Spsa {
    /// With values of both sides.
    pub fn two_sided(eps: f32) -> Self {
        Self { eps, sides: Sides::Two, at_once: 1 }
    }

    /// With values of one side, and of θ.
    pub fn one_sided(eps: f32) -> Self {
        Self { eps, sides: Sides::One, at_once: 1 }
    }

    /// The same, with the objective given so many directions at once.
    #[must_use]
    pub fn batched(self, at_once: usize) -> Self {
        Self { at_once, ..self }
    }

    /// The same with another ε: a share of this one.
    #[must_use]
    pub fn scaled(self, share: f32) -> Self {
        Self { eps: self.eps * share, ..self }
    }

    /// The slope of `objective` along `direction`: see [`slopes`](Self::slopes).
    ///
    /// ```
    /// use zofo::zo::estimator::Spsa;
    /// use zofo::zo::BackboneDirection;
    /// use zofo_kernels::direction::ParameterId;
    ///
    /// // G(w) = w², a "model" of one weight, at w = 3.
    /// let estimate = Spsa::two_sided(1e-3).slope(BackboneDirection::Seeded(1), |view| {
    ///     view.sides_of("w", &[3.0]).iter().map(|w| f64::from(w[0] * w[0])).collect::<Vec<f64>>()
    /// });
    /// let mut z = [0.0];
    /// BackboneDirection::Seeded(1).of("w", ParameterId::from_name("w")).fill(0, &mut z);
    /// assert!((estimate.slope - 6.0 * f64::from(z[0])).abs() < 0.02);
    /// ```
    pub fn slope<V: AsRef<[f64]>>(
        &self,
        direction: BackboneDirection,
        objective: impl FnMut(&Perturbation) -> V,
    ) -> Estimate {
        self.slopes(&[direction], objective)[0]
    }

    /// The slopes of `objective` along some directions. The objective is called with the views under which it has to be
    /// evaluated, and returns one value per sign of the view: of a [`Perturbation::Pair`] G at θ + ε·z and at θ − ε·z.
    ///
    /// g·z is an unbiased estimate of the gradient of a smoothed G, since E\[z·zᵀ\] = I. The objective may be anything that
    /// can be evaluated: it needs no gradient.
    ///
    /// # Panics
    ///
    /// If the objective returns another number of values, or `at_once` is 0.
    pub fn slopes<V: AsRef<[f64]>>(
        &self,
        directions: &[BackboneDirection],
        mut objective: impl FnMut(&Perturbation) -> V,
    ) -> Vec<Estimate> {
        let mut values: Vec<f64> = Vec::new();
        for views in self.views(directions).chunks(self.at_once) {
            let view = match views {
                [view] => view.clone(),
                views => Perturbation::Together(views.to_vec()),
            };
            let of_view = objective(&view);
            let (of_view, signs) = (of_view.as_ref(), view.signs());
            assert_eq!(of_view.len(), signs, "the objective returned {} values for {signs} signs", of_view.len());
            values.extend_from_slice(of_view);
        }
        let eps = f64::from(self.eps);
        match (self.sides, &values[..]) {
            (Sides::Two, values) => values
                .chunks_exact(2)
                .map(|both| Estimate { plus: both[0], minus: both[1], slope: (both[0] - both[1]) / (2.0 * eps) })
                .collect(),
            (Sides::One, [center, plus @ ..]) => {
                plus.iter().map(|&plus| Estimate { plus, minus: *center, slope: (plus - center) / eps }).collect()
            }
            (Sides::One, []) => Vec::new(),
        }
    }

    /// What has to be evaluated for some directions: pairs; of one side, θ and then a place for each.
    fn views(&self, directions: &[BackboneDirection]) -> Vec<Perturbation> {
        let directions = directions.iter().cloned();
        match self.sides {
            Sides::Two => directions.map(|direction| Perturbation::Pair { direction, eps: self.eps }).collect(),
            Sides::One => {
                let places = directions.map(|direction| Perturbation::One { direction, scale: self.eps });
                std::iter::once(Perturbation::None).chain(places).collect()
            }
        }
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
            let estimate = Spsa::two_sided(1e-2).slope(direction, |view| {
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
    fn directions_at_once_are_the_same_estimates() {
        let directions: Vec<_> = (0..5).map(BackboneDirection::Seeded).collect();
        for spsa in [Spsa::two_sided(1e-2), Spsa::one_sided(1e-2)] {
            let estimates = |at_once: usize| {
                let mut calls = 0;
                let estimates = spsa.batched(at_once).slopes(&directions, |view| {
                    calls += 1;
                    view.sides_of("w", &[3.0, 1.0]).iter().map(|w| f64::from(w[0] * w[1])).collect::<Vec<f64>>()
                });
                (estimates, calls)
            };
            let (alone, calls) = estimates(1);
            assert_eq!(alone.len(), 5);
            assert!(calls >= 5);
            for (at_once, calls) in [(2, 3), (7, 1)] {
                assert_eq!(estimates(at_once), (alone.clone(), calls));
            }
        }
        assert_eq!(Spsa::one_sided(1e-2).slopes(&[], |_| [1.0]), []);
    }

    #[test]
    fn the_floor_is_that_of_three_losses() {
        // Without a penalty: one loss, both sides, δ√2/(2ε).
        assert!((noise_floor(1e-7, 0.0, 1e-3) - 1e-4 / 2.0f64.sqrt()).abs() < 1e-12);
        assert!((noise_floor(1e-7, 1e4, 1e-3) - 1.0).abs() < 1e-6);
    }
}
