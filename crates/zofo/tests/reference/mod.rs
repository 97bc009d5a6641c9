//! MeZO as its paper has it, in f64: whole directions, and each side with weights of its own.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use zofo::task::SplitMix64;
use zofo::train::LearningRates;
use zofo::zo::BackboneDirection;
use zofo::zo::estimator::{Sides, Spsa};
use zofo::zo::momentum::Momentum;
use zofo::zo::optimizer::BackboneOptimizer;
use zofo::zo::space::{DirectionKind, ElementChoice, ElementDistribution};
use zofo::zo::update::BackboneUpdater;
use zofo_kernels::direction::ParameterId;

/// ε.
pub const EPS: f64 = 1e-3;

/// How far the end may lie from that of the reference, as a share of the way. Losses are sums in f32, of which a slope
/// keeps about four digits.
const TOLERANCE: f64 = 2e-3;

/// Tensors by name.
pub type Vectors = BTreeMap<String, Vec<f64>>;

/// What a trajectory is of.
#[derive(Clone)]
pub struct Setting {
    pub optimizer: BackboneOptimizer,
    pub learning_rate: f64,
    pub sides: Sides,
    pub directions: usize,
    pub kind: DirectionKind,
    pub decay: f64,
    /// Of `sgd`. The learning rate then falls.
    pub momentum: Option<Momentum>,
}

impl Setting {
    pub fn plain(optimizer: BackboneOptimizer) -> Self {
        let learning_rate = if optimizer == BackboneOptimizer::Sgd { 2e-4 } else { 1e-3 };
        let (sides, kind) = (Sides::Two, DirectionKind::default());
        Self { optimizer, learning_rate, sides, directions: 1, kind, decay: 0.0, momentum: None }
    }

    /// SGD with momentum over a window.
    pub fn with_momentum(decay: f64, window: u32, learning_rate: f64) -> Self {
        let momentum = Some(Momentum { decay, window: NonZeroU32::new(window).unwrap() });
        Self { momentum, learning_rate, ..Self::plain(BackboneOptimizer::Sgd) }
    }

    pub fn updater(&self) -> BackboneUpdater {
        let updater = match self.momentum {
            Some(momentum) => BackboneUpdater::with_momentum(momentum),
            None => BackboneUpdater::new(self.optimizer),
        };
        updater.with_weight_decay(self.decay)
    }

    pub fn seeds(&self, step: u64) -> Vec<u64> {
        let mut random = SplitMix64::keyed(5, "direction", step);
        (0..self.directions).map(|_| random.next_u64()).collect()
    }

    /// Two directions at once, which leaves one of three over.
    pub fn spsa(&self) -> Spsa {
        Spsa { eps: EPS as f32, sides: self.sides, at_once: 2 }
    }

    pub fn rates(&self, step: u64) -> LearningRates {
        let share = if self.momentum.is_some() { 1.0 - step as f64 / 40.0 } else { 1.0 };
        LearningRates { backbone: self.learning_rate * share, ..LearningRates::default() }
    }
}

/// The reference: state in f64, and rules as their papers have them.
pub struct Reference {
    setting: Setting,
    start: Vectors,
    /// Of the model's weights.
    pub shapes: BTreeMap<String, Vec<usize>>,
    theta: Vectors,
    mean_square: f64,
    moments: [Vectors; 2],
    /// Of all steps, for momentum.
    gradients: Vec<Vectors>,
    steps: i32,
}

impl Reference {
    pub fn new(setting: &Setting, theta: Vectors) -> Self {
        let zeros = || theta.iter().map(|(name, values)| (name.clone(), vec![0.0; values.len()])).collect();
        let moments = [zeros(), zeros()];
        let shapes = theta.keys().map(|name| (name.clone(), Vec::new())).collect();
        let (setting, start, gradients) = (setting.clone(), theta.clone(), Vec::new());
        Self { setting, start, shapes, theta, mean_square: 0.0, moments, gradients, steps: 0 }
    }

    /// Which elements of a tensor are trained.
    fn covered(&self, name: &str) -> Vec<bool> {
        let kind = &self.setting.kind;
        let in_layer = |layers: &Vec<usize>| layers.iter().any(|layer| name.contains(&format!(".layers.{layer}.")));
        let named = kind.names.as_ref().is_none_or(|_| name.contains("mlp"));
        let values = &self.theta[name];
        if !named || !kind.layers.as_ref().is_none_or(in_layer) {
            return vec![false; values.len()];
        }
        let Some(mask) = &kind.elements else { return vec![true; values.len()] };
        let mut sizes: Vec<f64> = self.start[name].iter().map(|w| w.abs()).collect();
        sizes.sort_by(f64::total_cmp);
        let count = (mask.share * sizes.len() as f64).round() as usize;
        let (small, large) = (sizes[count - 1], sizes[sizes.len() - count]);
        let size = values.iter().map(|w| f64::from((*w as f32).abs()));
        match mask.by {
            ElementChoice::Smallest => size.map(|size| size <= small).collect(),
            ElementChoice::Largest => size.map(|size| size >= large).collect(),
            ElementChoice::Random => unreachable!("the reference has no generator"),
        }
    }

    /// z, whole, with its length on a sphere.
    fn direction(&self, seed: u64) -> Vectors {
        let plain = BackboneDirection::Seeded(seed);
        let normals = |name: &str, len: usize| {
            let mut z = vec![0.0; len];
            plain.of(name, ParameterId::from_name(name)).fill(0, &mut z);
            z
        };
        let of = |(name, values): (&String, &Vec<f64>)| {
            let z = match (self.setting.kind.rank, &self.shapes[name][..]) {
                (Some(rank), &[rows, columns]) => {
                    let rank = rank.get();
                    let [u, v] =
                        [("u", rows), ("v", columns)].map(|(part, n)| normals(&format!("{name}#{part}"), n * rank));
                    let product =
                        |i: usize, j: usize| (0..rank).map(|k| u[i * rank + k] * v[j * rank + k]).sum::<f32>();
                    let all = (0..rows * columns).map(|i| product(i / columns, i % columns) / (rank as f32).sqrt());
                    all.collect()
                }
                _ => normals(name, values.len()),
            };
            let covered =
                z.iter().zip(self.covered(name)).map(|(z, covered)| if covered { f64::from(*z) } else { 0.0 });
            (name.clone(), covered.collect())
        };
        let mut z: Vectors = self.theta.iter().map(of).collect();
        if self.setting.kind.distribution == ElementDistribution::Sphere {
            let (count, squares) =
                z.values().flatten().filter(|z| **z != 0.0).fold((0.0, 0.0), |(n, sum), z| (n + 1.0, sum + z * z));
            let scale = f64::sqrt(count / squares);
            z.values_mut().flatten().for_each(|z| *z *= scale);
        }
        z
    }

    fn moved(&self, z: &Vectors, scale: f64) -> Vectors {
        let shift = |((name, w), z): ((&String, &Vec<f64>), &Vec<f64>)| {
            (name.clone(), w.iter().zip(z).map(|(w, z)| w + scale * z).collect())
        };
        self.theta.iter().zip(z.values()).map(shift).collect()
    }

    /// m ← βm + g·z, without what left the window: − β^W times the gradient of W steps ago.
    fn accumulate(&mut self, z: &[Vectors], slopes: &[f64], Momentum { decay, window }: Momentum) {
        let sum = |name: &str, i: usize| z.iter().zip(slopes).map(|(z, g)| g * z[name][i]).sum::<f64>();
        let of = |(name, values): (&String, &Vec<f64>)| {
            (name.clone(), (0..values.len()).map(|i| sum(name, i) / z.len() as f64).collect())
        };
        self.gradients.push(self.theta.iter().map(of).collect());
        let left = self.gradients.len().checked_sub(1 + window.get() as usize).map(|place| &self.gradients[place]);
        for (name, m) in &mut self.moments[0] {
            for (i, m) in m.iter_mut().enumerate() {
                *m = decay * *m + self.gradients[self.gradients.len() - 1][name][i];
                *m -= left.map_or(0.0, |left| decay.powi(window.get() as i32) * left[name][i]);
            }
        }
    }

    /// One step; returns the slopes.
    pub fn step(&mut self, step: u64, loss: impl Fn(&Vectors) -> f64) -> Vec<f64> {
        let z: Vec<Vectors> = self.setting.seeds(step).into_iter().map(|seed| self.direction(seed)).collect();
        let slope = |z: &Vectors| match self.setting.sides {
            Sides::Two => (loss(&self.moved(z, EPS)) - loss(&self.moved(z, -EPS))) / (2.0 * EPS),
            Sides::One => (loss(&self.moved(z, EPS)) - loss(&self.theta)) / EPS,
        };
        let slopes: Vec<f64> = z.iter().map(slope).collect();
        self.steps += 1;
        let count = slopes.len() as f64;
        self.mean_square = 0.99 * self.mean_square + 0.01 * slopes.iter().map(|g| g * g).sum::<f64>() / count;
        let root = (self.mean_square / (1.0 - 0.99f64.powi(self.steps))).sqrt();
        let corrections = [0.9f64, 0.999].map(|beta| 1.0 - beta.powi(self.steps));
        let rate = self.setting.rates(step).backbone;
        if let Some(momentum) = self.setting.momentum {
            self.accumulate(&z, &slopes, momentum);
        }
        let covered: Vec<Vec<bool>> = self.theta.keys().map(|name| self.covered(name)).collect();
        let [first, second] = &mut self.moments;
        let moments = first.values_mut().zip(second.values_mut());
        for (((name, theta), (first, second)), covered) in self.theta.iter_mut().zip(moments).zip(covered) {
            let z: Vec<&[f64]> = z.iter().map(|z| z[name].as_slice()).collect();
            for i in (0..theta.len()).filter(|&i| covered[i]) {
                let mean =
                    |f: &dyn Fn(f64) -> f64| z.iter().zip(&slopes).map(|(z, g)| f(*g) * z[i]).sum::<f64>() / count;
                let delta = match self.setting.optimizer {
                    _ if self.setting.momentum.is_some() => first[i],
                    BackboneOptimizer::Sgd => mean(&|g| g),
                    BackboneOptimizer::Rms => mean(&|g| g / root),
                    BackboneOptimizer::Sign => mean(&f64::signum),
                    BackboneOptimizer::Adam => {
                        let gradient = mean(&|g| g);
                        first[i] = 0.9 * first[i] + 0.1 * gradient;
                        second[i] = 0.999 * second[i] + 0.001 * gradient * gradient;
                        let (m, v) = (first[i] / corrections[0], second[i] / corrections[1]);
                        m / (v.sqrt() + 1e-8)
                    }
                };
                theta[i] -= rate * self.setting.decay * theta[i] + rate * delta;
            }
        }
        slopes
    }

    /// Fails unless `found` lies close to where the reference is.
    pub fn check(&self, found: &Vectors, context: &str) {
        let distance = |left: &Vectors, right: &Vectors| {
            let pairs = left.values().flatten().zip(right.values().flatten());
            pairs.map(|(left, right)| (left - right).powi(2)).sum::<f64>().sqrt()
        };
        let (error, way) = (distance(found, &self.theta), distance(&self.start, &self.theta));
        assert!(way > 0.05, "{context}: the reference went {way}");
        assert!(error < TOLERANCE * way, "{context}: {error} from the reference, which went {way}");
        for (name, start) in &self.start {
            let moved = found[name].iter().zip(start).any(|(left, right)| left != right);
            let expected = self.theta[name].iter().zip(start).any(|(left, right)| left != right);
            assert_eq!(moved, expected, "{context}: whether {name} moved");
        }
    }
}
