//! What a decoder is made of, read from data: no family has forward code of its own.

use crate::task::ModelLimits;

/// How positions enter attention.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies: frequency i of a head is theta^(−2i/head_dim).
    pub theta: f64,
    /// Change of the frequencies for contexts longer than those of pre-training.
    pub scaling: RopeScaling,
}

/// The `rope_type` of Hugging Face configurations.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Frequencies as they are.
    Default,
    /// All frequencies divided by a factor (position interpolation).
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided by a factor, high ones kept, a ramp between.
    Llama3 {
        /// Divisor of low frequencies.
        factor: f64,
        /// original context / this is the longest wavelength that is interpolated between.
        low_freq_factor: f64,
        /// original context / this is the shortest wavelength that is changed.
        high_freq_factor: f64,
        /// Context length of pre-training, in tokens.
        original_context: f64,
    },
}

impl Rope {
    /// Frequencies of the `head_dim / 2` pairs of a head, in radians per position.
    ///
    /// Computed in f32 like transformers' `ROPE_INIT_FUNCTIONS`, so that angles agree at long positions too.
    pub fn frequencies(&self, head_dim: usize) -> Vec<f32> {
        let plain = (0..head_dim / 2).map(|i| {
            let exponent = (2 * i) as f32 / head_dim as f32;
            1.0 / (self.theta as f32).powf(exponent)
        });
        plain.map(|frequency| self.scaling.apply(frequency)).collect()
    }
}

impl RopeScaling {
    fn apply(&self, frequency: f32) -> f32 {
        match *self {
            RopeScaling::Default => frequency,
            RopeScaling::Linear { factor } => frequency / factor as f32,
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                let wavelength = std::f64::consts::TAU / f64::from(frequency);
                let low = original_context / low_freq_factor;
                let high = original_context / high_freq_factor;
                if wavelength > low {
                    frequency / factor as f32
                } else if wavelength < high {
                    frequency
                } else {
                    let smooth =
                        (original_context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    let frequency = f64::from(frequency);
                    ((1.0 - smooth) * frequency / factor + smooth * frequency) as f32
                }
            }
        }
    }
}

/// Sizes and constants of a decoder, whatever its family.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// Rows of the embedding matrix.
    pub vocabulary: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width between the MLP's projections.
    pub intermediate: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key/value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head; even.
    pub head_dim: usize,
    /// ε of the root-mean-square norms.
    pub norm_eps: f32,
    /// Rotary position embedding.
    pub rope: Rope,
    /// The longest sequence, in tokens.
    pub max_positions: usize,
    /// Names of the weights, as Hugging Face stores them.
    pub names: ParameterNames,
}

/// Names of a decoder's weights in Hugging Face files.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterNames {
    /// Embedding matrix `[vocabulary, hidden]`.
    pub embedding: String,
    /// Norm after the last block `[hidden]`.
    pub final_norm: String,
    /// Output matrix `[vocabulary, hidden]`; the same name as `embedding` where the two are tied.
    pub head: String,
    /// One entry per block.
    pub layers: Vec<LayerNames>,
}

/// Names of one block's weights.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerNames {
    /// Norm before attention `[hidden]`.
    pub attention_norm: String,
    /// Query projection `[heads · head_dim, hidden]`.
    pub q: String,
    /// Key projection `[kv_heads · head_dim, hidden]`.
    pub k: String,
    /// Value projection `[kv_heads · head_dim, hidden]`.
    pub v: String,
    /// Output projection of attention `[hidden, heads · head_dim]`.
    pub o: String,
    /// Norm before the MLP `[hidden]`.
    pub mlp_norm: String,
    /// Gate projection `[intermediate, hidden]`.
    pub gate: String,
    /// Up projection `[intermediate, hidden]`.
    pub up: String,
    /// Down projection `[hidden, intermediate]`.
    pub down: String,
}

impl DecoderConfig {
    /// Whether input and output share one matrix.
    pub fn is_tied(&self) -> bool {
        self.names.head == self.names.embedding
    }

    /// What the model can take.
    pub fn limits(&self) -> ModelLimits {
        ModelLimits { vocabulary: self.vocabulary, context: self.max_positions }
    }

    /// Name and shape of every weight, in the order of the forward pass; a tied matrix once.
    pub fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        let (hidden, inner) = (self.hidden, self.intermediate);
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let mut all = vec![(self.names.embedding.clone(), vec![self.vocabulary, hidden])];
        for layer in &self.names.layers {
            let weights = [
                (&layer.attention_norm, vec![hidden]),
                (&layer.q, vec![q, hidden]),
                (&layer.k, vec![kv, hidden]),
                (&layer.v, vec![kv, hidden]),
                (&layer.o, vec![hidden, q]),
                (&layer.mlp_norm, vec![hidden]),
                (&layer.gate, vec![inner, hidden]),
                (&layer.up, vec![inner, hidden]),
                (&layer.down, vec![hidden, inner]),
            ];
            all.extend(weights.map(|(name, shape)| (name.clone(), shape)));
        }
        all.push((self.names.final_norm.clone(), vec![hidden]));
        if !self.is_tied() {
            all.push((self.names.head.clone(), vec![self.vocabulary, hidden]));
        }
        all
    }
}
