//! Weights that nobody trained: to measure what a model will cost before it is fetched, and for tests.

use std::collections::HashMap;

use burn_std::Bytes;
use half::bf16;
use rayon::prelude::*;
use zofo_kernels::direction::{Direction, ParameterId};

use super::super::dtype::{CHUNK, WeightDtype};
use crate::model::DecoderConfig;
use crate::model::config::NormKind;

/// Standard deviation of matrices, that of `initializer_range` where a configuration does not say.
const DEVIATION: f32 = 0.02;

/// Weights that are a pure function of a seed, their name and the index of each value.
#[derive(Debug)]
pub(super) struct RandomWeights {
    seed: u64,
    weights: HashMap<String, Weight>,
}

#[derive(Clone, Copy, Debug)]
struct Weight {
    len: usize,
    start: Start,
}

/// What a weight holds before training.
#[derive(Clone, Copy, Debug)]
enum Start {
    /// Matrices.
    Normal,
    /// Norms, which begin as the identity, and biases.
    Constant(f32),
}

impl RandomWeights {
    pub(super) fn new(config: &DecoderConfig, parameters: &[(String, Vec<usize>)], seed: u64) -> Self {
        let factors: HashMap<&str, f32> = config
            .norms()
            .map(|norm| match norm.kind {
                NormKind::Rms | NormKind::Layer { .. } => (norm.weight.as_str(), 1.0),
                NormKind::RmsUnitOffset => (norm.weight.as_str(), 0.0),
            })
            .collect();
        let weight = |(name, shape): &(String, Vec<usize>)| {
            let start = match (factors.get(name.as_str()), shape.len()) {
                (Some(&factor), _) => Start::Constant(factor),
                (None, 1) => Start::Constant(0.0),
                (None, _) => Start::Normal,
            };
            (name.clone(), Weight { len: shape.iter().product(), start })
        };
        Self { seed, weights: parameters.iter().map(weight).collect() }
    }

    /// The weight `name`, if there is one.
    pub(super) fn load(&self, name: &str, dtype: WeightDtype) -> Option<Bytes> {
        let Weight { len, start } = *self.weights.get(name)?;
        let direction = Direction::new(self.seed, ParameterId::from_name(name));
        let fill = |first: usize, out: &mut [f32]| match start {
            Start::Constant(value) => out.fill(value),
            Start::Normal => {
                direction.fill(first as u64, out);
                out.iter_mut().for_each(|value| *value *= DEVIATION);
            }
        };
        Some(match dtype {
            WeightDtype::F32 => {
                let mut values = vec![0.0f32; len];
                let chunks = values.par_chunks_mut(CHUNK).enumerate();
                chunks.for_each(|(index, out)| fill(index * CHUNK, out));
                Bytes::from_elems(values)
            }
            WeightDtype::Bf16 => {
                let mut values = vec![bf16::ZERO; len];
                let chunks = values.par_chunks_mut(CHUNK).enumerate();
                chunks.for_each_init(Vec::new, |wide, (index, out)| {
                    wide.resize(out.len(), 0.0);
                    fill(index * CHUNK, wide);
                    for (out, &value) in out.iter_mut().zip(&*wide) {
                        *out = bf16::from_f32(value);
                    }
                });
                Bytes::from_elems(values)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{ModelFiles, test_model::TestModel};
    use super::*;

    #[test]
    fn a_configuration_is_enough_for_a_model() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        std::fs::write(path.join("config.json"), TestModel::new().config.to_string()).unwrap();
        let files = ModelFiles::with_random_weights(path, 7).unwrap();
        let values = |files: &ModelFiles, name: &str, dtype| files.load(name, dtype).unwrap().to_vec();

        let embedding = values(&files, "model.embed_tokens.weight", WeightDtype::F32);
        let embedding: &[f32] = bytemuck::cast_slice(&embedding);
        assert_eq!(embedding.len(), 6 * 8);
        let square = embedding.iter().map(|x| x * x).sum::<f32>() / 48.0;
        assert!((0.01..0.03).contains(&square.sqrt()), "{square}");
        let narrow = values(&files, "model.embed_tokens.weight", WeightDtype::Bf16);
        let narrow: &[bf16] = bytemuck::cast_slice(&narrow);
        assert!(narrow.iter().zip(embedding).all(|(narrow, wide)| *narrow == bf16::from_f32(*wide)));
        let norm = values(&files, "model.norm.weight", WeightDtype::F32);
        assert_eq!(bytemuck::cast_slice::<u8, f32>(&norm), [1.0; 8]);

        // The same seed gives the same model, which can be written and opened like any other.
        let again = ModelFiles::with_random_weights(path, 7).unwrap();
        let other = ModelFiles::with_random_weights(path, 8).unwrap();
        let q = "model.layers.1.self_attn.q_proj.weight";
        assert_eq!(values(&again, q, WeightDtype::F32), values(&files, q, WeightDtype::F32));
        assert_ne!(values(&other, q, WeightDtype::F32), values(&files, q, WeightDtype::F32));
        let out = path.join("model");
        let content = |name: &str| files.load(name, WeightDtype::Bf16);
        files.write_backbone::<_, super::super::HfError>(&out, WeightDtype::Bf16, content).unwrap();
        let written = ModelFiles::open(&out).unwrap();
        assert_eq!(values(&written, q, WeightDtype::Bf16), values(&files, q, WeightDtype::Bf16));
    }
}
