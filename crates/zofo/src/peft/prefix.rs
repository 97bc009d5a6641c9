//! Prefix tuning: keys and values of virtual tokens that every real token attends to, in every block (Li and Liang, arXiv
//! 2101.00190). They stand in the key/value cache as they are: neither projected nor rotated.

use super::init::{InitTokens, exactly, normal, tensor_of, uniform};
use crate::hf::{AdapterMatrix, HfError, PeftPrefix, adapter_weights_path};
use crate::model::{Backbone, DecoderConfig, LeafGradients, leaf};
use burn::tensor::{Device, Tensor};
use std::path::Path;
use std::sync::Arc;

/// Size and start of a prefix block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixConfig {
    /// n.
    pub virtual_tokens: usize,
    /// How it begins.
    pub init: PrefixInit,
}

/// How a prefix begins, and what of it is trained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrefixInit {
    /// Keys and values themselves, from standard normals, as PEFT does.
    Random,
    /// Keys and values themselves, from those that the backbone computes for real tokens, as MeZO does (Malladi et al.,
    /// arXiv 2305.17333): random numbers are unlike any that attention has seen, and training takes long to recover.
    Activations(InitTokens),
    /// Not keys and values but a network whose output they are, as PEFT's `prefix_projection` does: embeddings of width
    /// kv_heads · head_dim, a linear layer to `hidden`, tanh, and a linear layer to all keys and values.
    Projection {
        /// Width between the two layers.
        hidden: usize,
    },
}

/// A prefix block.
#[derive(Clone)]
pub struct Prefix {
    shape: Arc<PrefixShape>,
    trained: Trained,
    /// `[n, layers · 2 · kv_heads · head_dim]`: of each block the keys, then the values.
    keys_values: Tensor<2>,
}

/// What the block and its model agree on.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PrefixShape {
    layers: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl PrefixShape {
    fn of(model: &DecoderConfig) -> Self {
        Self { layers: model.layers.len(), kv_heads: model.kv_heads, head_dim: model.head_dim }
    }

    /// Width of the keys of one block, and of its values.
    fn width(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}

/// The tensors that are trained.
#[derive(Clone)]
enum Trained {
    /// Keys and values.
    KeysAndValues,
    /// What computes them: embeddings `[n, width]`, weight `[hidden, width]` and bias `[1, hidden]` of the first layer,
    /// weight `[layers · 2 · width, hidden]` and bias `[1, layers · 2 · width]` of the second.
    Projection(Box<[Tensor<2>; 5]>),
}

/// Names of the tensors of [`Trained::Projection`], as in PEFT's `PrefixEncoder`.
const PROJECTION: [&str; 5] =
    ["embedding.weight", "transform.0.weight", "transform.0.bias", "transform.2.weight", "transform.2.bias"];

/// The name of keys and values in PEFT's files.
const KEYS_AND_VALUES: &str = "prompt_embeddings";

impl Prefix {
    /// A new block for `backbone`, from `seed`.
    pub(super) fn new(config: &PrefixConfig, backbone: &Backbone, seed: u64) -> Self {
        let (model, device) = (backbone.config(), backbone.device());
        let shape = PrefixShape::of(model);
        let all = shape.layers * 2 * shape.width();
        let n = config.virtual_tokens;
        match &config.init {
            PrefixInit::Random => Self::plain(shape, normal(seed, KEYS_AND_VALUES, [n, all], device)),
            PrefixInit::Activations(tokens) => {
                let tokens = tokens.take(n, model.vocabulary, seed);
                Self::from_activations(model, backbone.keys_and_values(&tokens))
            }
            PrefixInit::Projection { hidden } => {
                let width = shape.width();
                let [embedding, first, first_bias, second, second_bias] = PROJECTION;
                let trained = [
                    normal(seed, embedding, [n, width], device),
                    uniform(seed, first, width, [*hidden, width], device),
                    uniform(seed, first_bias, width, [1, *hidden], device),
                    uniform(seed, second, *hidden, [all, *hidden], device),
                    uniform(seed, second_bias, *hidden, [1, all], device),
                ];
                let keys_values = project(&trained);
                Self { shape: Arc::new(shape), trained: Trained::Projection(Box::new(trained)), keys_values }
            }
        }
    }

    /// The block whose keys and values are these, `[n, kv_heads · head_dim]` each, a pair per block of `model`.
    pub fn from_activations(model: &DecoderConfig, activations: Vec<(Tensor<2>, Tensor<2>)>) -> Self {
        let all = activations.into_iter().flat_map(|(keys, values)| [keys, values]).collect();
        Self::plain(PrefixShape::of(model), Tensor::cat(all, 1))
    }

    fn plain(shape: PrefixShape, keys_values: Tensor<2>) -> Self {
        Self { shape: Arc::new(shape), trained: Trained::KeysAndValues, keys_values }
    }

    /// The block `stored`, which was read from the folder `dir`, for `model`.
    pub(super) fn from_peft(
        stored: PeftPrefix,
        dir: &Path,
        model: &DecoderConfig,
        device: &Device,
    ) -> Result<Self, HfError> {
        let shape = PrefixShape::of(model);
        let found = [stored.num_layers, stored.num_attention_heads, stored.token_dim];
        let expected = [shape.layers, shape.kv_heads, shape.width()];
        if found != expected {
            let sizes = |[layers, heads, width]: [usize; 3]| {
                format!("{layers} layers, {heads} heads of keys and values, of width {width} together")
            };
            return Err(HfError::Unexpected {
                path: adapter_weights_path(dir),
                what: format!("tensor \"{KEYS_AND_VALUES}\""),
                expected: format!("a prefix for the base model's {}", sizes(expected)),
                found: format!("one for {} (is the adapter for another model?)", sizes(found)),
            });
        }
        let AdapterMatrix { shape: size, values } = stored.embeddings;
        Ok(Self::plain(shape, tensor_of(values, size, device)))
    }

    /// The block as PEFT keeps it: keys and values, whatever is trained.
    pub(super) fn to_peft(&self, base_model: &Path) -> PeftPrefix {
        PeftPrefix {
            num_layers: self.shape.layers,
            num_attention_heads: self.shape.kv_heads,
            token_dim: self.shape.width(),
            embeddings: AdapterMatrix::from(&self.keys_values),
            base_model_name_or_path: Some(base_model.display().to_string()),
        }
    }

    pub(super) fn virtual_tokens(&self) -> usize {
        self.keys_values.dims()[0]
    }

    /// Keys and values of one block.
    pub(super) fn keys_and_values(&self, layer: usize) -> (Tensor<2>, Tensor<2>) {
        let (n, width) = (self.virtual_tokens(), self.shape.width());
        let part = |index: usize| self.keys_values.clone().slice([0..n, index * width..(index + 1) * width]);
        (part(2 * layer), part(2 * layer + 1))
    }

    pub(super) fn tensors(&self) -> Vec<(String, Tensor<2>)> {
        match &self.trained {
            Trained::KeysAndValues => vec![(KEYS_AND_VALUES.to_owned(), self.keys_values.clone())],
            Trained::Projection(tensors) => {
                PROJECTION.iter().zip(tensors.iter()).map(|(&name, tensor)| (name.to_owned(), tensor.clone())).collect()
            }
        }
    }

    /// The same keys and values, which then are what is trained.
    pub(super) fn as_read(&self) -> Self {
        Self { trained: Trained::KeysAndValues, ..self.clone() }
    }

    /// Gradients of what is trained, from that of keys and values.
    pub(super) fn back_from_read(&self, gradients: Vec<Tensor<2>>) -> Vec<Tensor<2>> {
        let Trained::Projection(trained) = &self.trained else { return gradients };
        let [gradient] = exactly(gradients);
        let leaves = trained.each_ref().map(|tensor| leaf(tensor.clone()));
        // With the gradient as a constant, the sum of the products with keys and values has the gradient of the loss.
        let total = (project(&leaves) * gradient.autodiff()).sum();
        let mut sums = LeafGradients::new(leaves.into());
        sums.add(total.backward());
        sums.into_tensors()
    }

    pub(super) fn with_tensors(&self, tensors: Vec<Tensor<2>>) -> Self {
        let shape = self.shape.clone();
        match &self.trained {
            Trained::KeysAndValues => {
                let [keys_values] = exactly(tensors);
                Self { shape, trained: Trained::KeysAndValues, keys_values }
            }
            Trained::Projection(_) => {
                let trained = exactly(tensors);
                Self { shape, keys_values: project(&trained), trained: Trained::Projection(Box::new(trained)) }
            }
        }
    }
}

/// The output of the network of [`Trained::Projection`]. Computed once for all blocks, because their parts of it are
/// small, and a gradient of the second layer's weight for each would be large.
fn project([embedding, first, first_bias, second, second_bias]: &[Tensor<2>; 5]) -> Tensor<2> {
    let hidden = embedding.clone().matmul(first.clone().transpose()) + first_bias.clone();
    hidden.tanh().matmul(second.clone().transpose()) + second_bias.clone()
}

#[cfg(test)]
mod tests;
