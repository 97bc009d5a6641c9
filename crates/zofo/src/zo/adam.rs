//! Adam on zeroth-order gradients g·z: two more copies of θ in memory, in contrast to the scalar rules.

use super::BackboneDirection;
use super::optimizer::{Diverged, SlopeGuard, Step, power};
use crate::model::Backbone;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use zofo_kernels::Noise;
use zofo_kernels::direction::Descent;

const BETA_1: f64 = 0.9;
const BETA_2: f64 = 0.999;
const EPSILON: f64 = 1e-8;
/// Elements of a parameter that one task handles.
const CHUNK: usize = 1 << 16;

/// The constants of the rule, by name, for journals.
pub const CONSTANTS: &[(&str, f64)] = &[("beta_1", BETA_1), ("beta_2", BETA_2), ("epsilon", EPSILON)];

/// Adam (Kingma and Ba, 2015) with the estimate g·z in place of the gradient.
#[derive(Clone, Default)]
pub struct BackboneAdam {
    guard: SlopeGuard,
    steps: u32,
    /// First and second moment of every parameter, by name.
    moments: BTreeMap<String, [Vec<f32>; 2]>,
}

impl BackboneAdam {
    /// The guard with its counts.
    pub fn guard(&self) -> &SlopeGuard {
        &self.guard
    }

    /// Goes on with the counts of a checkpoint.
    pub(super) fn restore_guard(&mut self, guard: SlopeGuard) {
        self.guard = guard;
    }

    /// Whether a step of these slopes is made: not if the guard refuses one of them.
    ///
    /// # Errors
    ///
    /// [`Diverged`] at the twentieth skipped step in a row.
    pub(super) fn propose(&mut self, slopes: &[f32], learning_rate: f32) -> Result<Vec<Step>, Diverged> {
        let exact: Vec<f64> = slopes.iter().copied().map(f64::from).collect();
        if let Some(reason) = self.guard.admit(&exact)? {
            return Ok(vec![Step::Skip(reason); slopes.len()]);
        }
        Ok(vec![Step::Apply { coefficient: learning_rate }; slopes.len()])
    }

    /// The step of θ for the mean of the estimates slope·z, which replay repeats.
    pub(super) fn apply(
        &mut self,
        backbone: &mut Backbone,
        directions: &[BackboneDirection],
        slopes: &[f32],
        learning_rate: f32,
        keep: f32,
    ) {
        self.steps += 1;
        let correction_1 = 1.0 - power(BETA_1, u64::from(self.steps));
        let correction_2 = 1.0 - power(BETA_2, u64::from(self.steps));
        let share = 1.0 / slopes.len() as f64;
        for index in 0..backbone.parameters().len() {
            let parameter = &backbone.parameters()[index];
            let (name, len) = (parameter.name().to_owned(), parameter.shape().iter().product());
            if !directions.iter().all(|direction| direction.covers(&name)) {
                continue;
            }
            let noises: Vec<Noise> = directions.iter().map(|direction| direction.of(&name, parameter.id())).collect();
            let [first, second] = self.moments.entry(name).or_insert_with(|| [vec![0.0; len], vec![0.0; len]]);
            // Made behind its pointer, because a vector would be copied there.
            let mut shared: Arc<[f32]> = std::iter::repeat_n(0.0, len).collect();
            let update = Arc::make_mut(&mut shared);
            let chunks =
                update.par_chunks_mut(CHUNK).zip(first.par_chunks_mut(CHUNK).zip(second.par_chunks_mut(CHUNK)));
            chunks.enumerate().for_each(|(chunk, (update, (first, second)))| {
                let mut gradient = vec![0.0f64; update.len()];
                for (noise, slope) in noises.iter().zip(slopes) {
                    noise.fill(chunk * CHUNK, update);
                    for (gradient, z) in gradient.iter_mut().zip(&*update) {
                        *gradient += share * f64::from(*slope) * f64::from(*z);
                    }
                }
                for (((update, gradient), first), second) in update.iter_mut().zip(gradient).zip(first).zip(second) {
                    let m = BETA_1 * f64::from(*first) + (1.0 - BETA_1) * gradient;
                    let v = BETA_2 * f64::from(*second) + (1.0 - BETA_2) * gradient * gradient;
                    (*first, *second) = (m as f32, v as f32);
                    *update = (m / correction_1 / ((v / correction_2).sqrt() + EPSILON)) as f32;
                }
            });
            backbone.descend_one(index, Noise::Stored(shared), Descent { keep, ..learning_rate.into() });
        }
    }

    /// The step count and the moments, in the order of the backbone's parameters, those that have any marked by a 1.
    pub(super) fn write_moments(
        &self,
        backbone: &Backbone,
        put: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        put(&self.steps.to_le_bytes())?;
        for parameter in backbone.parameters() {
            let moments = self.moments.get(parameter.name());
            put(&[u8::from(moments.is_some())])?;
            for moment in moments.into_iter().flatten() {
                put(bytemuck::cast_slice(moment))?;
            }
        }
        Ok(())
    }

    /// The reverse of [`write_moments`](Self::write_moments).
    pub(super) fn read_moments(&mut self, backbone: &Backbone, reader: &mut dyn io::Read) -> io::Result<()> {
        let mut steps = [0; 4];
        reader.read_exact(&mut steps)?;
        self.steps = u32::from_le_bytes(steps);
        self.moments.clear();
        for parameter in backbone.parameters() {
            let mut is_there = [0];
            reader.read_exact(&mut is_there)?;
            if is_there == [0] {
                continue;
            }
            let len = parameter.shape().iter().product();
            let mut moments = [vec![0.0f32; len], vec![0.0f32; len]];
            for moment in &mut moments {
                reader.read_exact(bytemuck::cast_slice_mut(moment))?;
            }
            self.moments.insert(parameter.name().to_owned(), moments);
        }
        Ok(())
    }
}
