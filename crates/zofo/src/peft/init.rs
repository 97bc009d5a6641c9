//! Values from which blocks begin.

use crate::hf::AdapterMatrix;
use crate::task::SplitMix64;
use burn::tensor::{Device, Tensor, TensorData};
use zofo_kernels::direction::{Direction, ParameterId};

/// The tokens of which a block takes embeddings or activations to begin from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InitTokens {
    /// Random ones, of the whole vocabulary.
    Random,
    /// These, from the first, repeated as often as it takes. At least one.
    Given(Vec<u32>),
}

impl InitTokens {
    /// As many as there are virtual tokens.
    pub(super) fn take(&self, count: usize, vocabulary: usize, seed: u64) -> Vec<u32> {
        match self {
            Self::Random => {
                let mut random = SplitMix64::keyed(seed, "initial tokens", 0);
                // Token ids have 32 bits, so vocabularies end there.
                (0..count).map(|_| random.below(vocabulary as u64) as u32).collect()
            }
            Self::Given(tokens) => tokens.iter().copied().cycle().take(count).collect(),
        }
    }
}

pub(super) fn tensor_of(values: Vec<f32>, shape: [usize; 2], device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Standard normals, as PyTorch begins an embedding. `name` tells apart the tensors of one seed.
pub(super) fn normal(seed: u64, name: &str, shape: [usize; 2], device: &Device) -> Tensor<2> {
    let mut values = vec![0.0; shape[0] * shape[1]];
    Direction::new(seed, ParameterId::from_name(name)).fill(0, &mut values);
    tensor_of(values, shape, device)
}

/// Uniform in ±1/√`inputs`, as PyTorch begins weights and biases of a linear layer.
pub(super) fn uniform(seed: u64, name: &str, inputs: usize, shape: [usize; 2], device: &Device) -> Tensor<2> {
    let mut random = SplitMix64::keyed(seed, name, 0);
    let bound = 1.0 / (inputs as f64).sqrt();
    let values = (0..shape[0] * shape[1]).map(|_| ((2.0 * random.next_unit() - 1.0) * bound) as f32);
    tensor_of(values.collect(), shape, device)
}

/// The tensors of a block that has `N`.
///
/// # Panics
///
/// If there are more or fewer: whoever gives tensors to a block took them from one like it.
pub(super) fn exactly<const N: usize>(tensors: Vec<Tensor<2>>) -> [Tensor<2>; N] {
    tensors.try_into().unwrap_or_else(|tensors: Vec<_>| panic!("{} tensors for a block of {N}", tensors.len()))
}

impl From<&Tensor<2>> for AdapterMatrix {
    fn from(tensor: &Tensor<2>) -> Self {
        let shape = tensor.dims();
        Self { shape, values: tensor.clone().inner().into_data().iter::<f32>().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_tokens_are_repeated_or_cut() {
        let given = InitTokens::Given(vec![5, 6, 7]);
        assert_eq!(given.take(2, 10, 0), [5, 6]);
        assert_eq!(given.take(7, 10, 0), [5, 6, 7, 5, 6, 7, 5]);
    }

    #[test]
    fn random_tokens_cover_the_vocabulary_and_depend_on_the_seed() {
        let take = |seed| InitTokens::Random.take(400, 8, seed);
        for token in 0..8 {
            assert!(take(1).contains(&token));
        }
        assert!(take(1).iter().all(|&token| token < 8));
        assert_eq!(take(1), take(1));
        assert_ne!(take(1), take(2));
    }

    #[test]
    fn uniform_values_fill_their_range() {
        let values: Vec<f32> = uniform(3, "w", 16, [100, 100], &Device::flex()).into_data().iter::<f32>().collect();
        assert!(values.iter().all(|value| value.abs() <= 0.25));
        let mean = values.iter().sum::<f32>() / 1e4;
        let variance = values.iter().map(|value| value * value).sum::<f32>() / 1e4;
        // A uniform number has the variance (0.5)²/12; the bounds are five standard deviations.
        assert!(mean.abs() < 0.0073 && (variance - 0.25 / 12.0).abs() < 0.0010, "{mean} {variance}");
    }
}
