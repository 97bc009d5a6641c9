//! What a decoder is made of, read from data: no family has forward code of its own.

use super::rope::Rope;
use crate::task::ModelLimits;
use zofo_kernels::Activation;

/// A decoder-only transformer, whatever its family: sizes, constants, and the names of its weights.
///
/// ```text
/// h ← embedding(tokens) (+ positions)
/// for every layer:  h ← h + attention(h);  h ← h + mlp(h)      norms where `SublayerNorms` says
/// logits ← norm(h)·headᵀ
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// Rows of the embedding matrix.
    pub vocabulary: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key/value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// The longest sequence, in tokens.
    pub max_positions: usize,
    /// Rotary positions that layers have; empty if positions are learned.
    pub ropes: Vec<Rope>,
    /// From tokens to the residual stream.
    pub embedding: Embedding,
    /// The blocks, in order.
    pub layers: Vec<Layer>,
    /// From the residual stream to logits.
    pub output: Output,
}

/// From tokens to the residual stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// Name of the matrix `[vocabulary, width]`.
    pub tokens: String,
    /// Width of a token's embedding, which can differ from that of the residual stream.
    pub width: usize,
    /// Factor of token embeddings. Virtual tokens of prompt tuning are not scaled.
    pub scale: Option<f32>,
    /// Maps embeddings to the residual stream's width, `[hidden, width]`.
    pub projection: Option<Linear>,
    /// Learned positions, added behind the projection.
    pub positions: Option<PositionTable>,
}

/// A learned vector per position.
#[derive(Clone, Debug, PartialEq)]
pub struct PositionTable {
    /// Name of the matrix `[rows, hidden]`.
    pub weight: String,
    /// Number of rows.
    pub rows: usize,
    /// The row of position 0.
    pub offset: usize,
}

/// One block.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// The first sublayer.
    pub attention: Attention,
    /// Norms around attention.
    pub attention_norms: SublayerNorms,
    /// The second sublayer.
    pub mlp: Mlp,
    /// Norms around the MLP.
    pub mlp_norms: SublayerNorms,
}

/// Where a sublayer f has norms: h ← stream(h + output(f(input(h)))), the absent ones left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SublayerNorms {
    /// Before the sublayer (pre-norm).
    pub input: Option<Norm>,
    /// On what the sublayer adds (Gemma).
    pub output: Option<Norm>,
    /// On the residual stream, after the sublayer (post-norm).
    pub stream: Option<Norm>,
}

/// Attention of a block.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Queries, keys and values.
    pub qkv: Qkv,
    /// Output projection `[hidden, heads · head_dim]`.
    pub output: Linear,
    /// Norm of every head's query, before the rotation.
    pub q_norm: Option<Norm>,
    /// Norm of every head's key, before the rotation.
    pub k_norm: Option<Norm>,
    /// Index in [`DecoderConfig::ropes`].
    pub rope: Option<usize>,
    /// A token sees itself and this many less one before it.
    pub sliding_window: Option<usize>,
    /// Factor of the scores.
    pub scale: f32,
    /// Scores s become c·tanh(s/c).
    pub softcap: Option<f32>,
}

/// The projections to queries `[heads · head_dim, hidden]`, keys and values `[kv_heads · head_dim, hidden]`.
#[derive(Clone, Debug, PartialEq)]
pub enum Qkv {
    /// Three matrices.
    Separate {
        /// Queries.
        q: Linear,
        /// Keys.
        k: Linear,
        /// Values.
        v: Linear,
    },
    /// One matrix whose outputs are queries, keys and values, in this order.
    Fused(Linear),
}

/// The MLP of a block.
#[derive(Clone, Debug, PartialEq)]
pub struct Mlp {
    /// Into the MLP.
    pub up: UpProjection,
    /// Out of it, `[hidden, intermediate]`.
    pub down: Linear,
    /// Between the two.
    pub activation: Activation,
}

/// The projections into an MLP, each `[intermediate, hidden]`.
#[derive(Clone, Debug, PartialEq)]
pub enum UpProjection {
    /// activation(up(x)).
    Plain(Linear),
    /// activation(gate(x)) · up(x).
    Gated {
        /// Through the activation.
        gate: Linear,
        /// Beside it.
        up: Linear,
    },
    /// Gated, one matrix with the outputs of gate and up, in this order.
    FusedGated(Linear),
}

/// From the residual stream to logits.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// Norm after the last block.
    pub norm: Option<Norm>,
    /// Maps the residual stream to the width of embeddings, `[width, hidden]`.
    pub projection: Option<Linear>,
    /// Name of the matrix `[vocabulary, width]`; that of the token embeddings where the two are tied.
    pub head: String,
    /// Logits l become c·tanh(l/c).
    pub softcap: Option<f32>,
}

/// x·Wᵀ + b.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// Name of W.
    pub weight: String,
    /// Name of b.
    pub bias: Option<String>,
    /// Width of x.
    pub inputs: usize,
    /// Width of the result.
    pub outputs: usize,
    /// How files store W.
    pub order: WeightOrder,
}

/// The order in which a matrix is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightOrder {
    /// `[out, in]`, as `torch.nn.Linear` has it.
    OutputMajor,
    /// `[in, out]`, as the `Conv1D` of GPT-2 has it.
    InputMajor,
}

/// A norm over the last dimension.
#[derive(Clone, Debug, PartialEq)]
pub struct Norm {
    /// Name of the factors.
    pub weight: String,
    /// Number of factors.
    pub width: usize,
    /// Added to the mean square or the variance.
    pub eps: f32,
    /// What it computes.
    pub kind: NormKind,
}

/// What a norm computes.
#[derive(Clone, Debug, PartialEq)]
pub enum NormKind {
    /// x / √(mean(x²) + ε) · w.
    Rms,
    /// x / √(mean(x²) + ε) · (1 + w), as Gemma has it.
    RmsUnitOffset,
    /// (x − mean(x)) / √(var(x) + ε) · w + b.
    Layer {
        /// Name of b.
        bias: String,
    },
}

/// A linear layer of a block, as PEFT sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearModule {
    /// Path of the module, as `model.layers.0.self_attn.q_proj`.
    pub name: String,
    /// Index of the block.
    pub layer: usize,
    /// Width of what goes in.
    pub inputs: usize,
    /// Width of what comes out.
    pub outputs: usize,
    /// How files store the weight.
    pub order: WeightOrder,
}

impl Linear {
    /// The shape of W in files.
    pub fn shape(&self) -> Vec<usize> {
        match self.order {
            WeightOrder::OutputMajor => vec![self.outputs, self.inputs],
            WeightOrder::InputMajor => vec![self.inputs, self.outputs],
        }
    }

    fn parameters(&self) -> impl Iterator<Item = (String, Vec<usize>)> {
        let bias = self.bias.iter().map(|name| (name.clone(), vec![self.outputs]));
        [(self.weight.clone(), self.shape())].into_iter().chain(bias)
    }
}

impl Norm {
    fn parameters(&self) -> impl Iterator<Item = (String, Vec<usize>)> {
        let bias = match &self.kind {
            NormKind::Layer { bias } => Some(bias.clone()),
            NormKind::Rms | NormKind::RmsUnitOffset => None,
        };
        [self.weight.clone()].into_iter().chain(bias).map(|name| (name, vec![self.width]))
    }
}

impl Qkv {
    /// The matrices, in order.
    pub fn linears(&self) -> Vec<&Linear> {
        match self {
            Self::Separate { q, k, v } => vec![q, k, v],
            Self::Fused(qkv) => vec![qkv],
        }
    }
}

impl UpProjection {
    /// The matrices, in order.
    pub fn linears(&self) -> Vec<&Linear> {
        match self {
            Self::Plain(up) | Self::FusedGated(up) => vec![up],
            Self::Gated { gate, up } => vec![gate, up],
        }
    }

    /// Width of all their outputs together.
    pub fn width(&self) -> usize {
        self.linears().into_iter().map(|linear| linear.outputs).sum()
    }
}

impl Layer {
    /// The linear layers, in the order of the forward pass.
    pub fn linears(&self) -> Vec<&Linear> {
        let Self { attention, mlp, .. } = self;
        [attention.qkv.linears(), vec![&attention.output], mlp.up.linears(), vec![&mlp.down]].concat()
    }

    fn parameters(&self) -> impl Iterator<Item = (String, Vec<usize>)> {
        let Self { attention, attention_norms, mlp, mlp_norms } = self;
        let mut all = Vec::new();
        let norm = |all: &mut Vec<_>, norm: &Option<Norm>| all.extend(norm.iter().flat_map(Norm::parameters));
        norm(&mut all, &attention_norms.input);
        all.extend(attention.qkv.linears().into_iter().flat_map(Linear::parameters));
        norm(&mut all, &attention.q_norm);
        norm(&mut all, &attention.k_norm);
        all.extend(attention.output.parameters());
        norm(&mut all, &attention_norms.output);
        norm(&mut all, &attention_norms.stream);
        norm(&mut all, &mlp_norms.input);
        all.extend(mlp.up.linears().into_iter().flat_map(Linear::parameters));
        all.extend(mlp.down.parameters());
        norm(&mut all, &mlp_norms.output);
        norm(&mut all, &mlp_norms.stream);
        all.into_iter()
    }
}

impl DecoderConfig {
    /// Whether the keys of a token differ with the length of its sequence, so that those of a beginning cannot be used in
    /// longer ones.
    pub fn keys_depend_on_length(&self) -> bool {
        self.ropes.iter().any(Rope::depends_on_length)
    }

    /// Whether input and output share one matrix.
    pub fn is_tied(&self) -> bool {
        self.output.head == self.embedding.tokens
    }

    /// What the model can take.
    pub fn limits(&self) -> ModelLimits {
        ModelLimits { vocabulary: self.vocabulary, context: self.max_positions }
    }

    /// Width of the keys, and of the values, of a token.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Name and shape of every weight, in the order of the forward pass; a tied matrix once.
    pub fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        let Embedding { tokens, width, projection, positions, .. } = &self.embedding;
        let mut all = vec![(tokens.clone(), vec![self.vocabulary, *width])];
        all.extend(projection.iter().flat_map(Linear::parameters));
        all.extend(positions.iter().map(|table| (table.weight.clone(), vec![table.rows, self.hidden])));
        all.extend(self.layers.iter().flat_map(Layer::parameters));
        all.extend(self.output.norm.iter().flat_map(Norm::parameters));
        all.extend(self.output.projection.iter().flat_map(Linear::parameters));
        if !self.is_tied() {
            all.push((self.output.head.clone(), vec![self.vocabulary, *width]));
        }
        all
    }

    /// All norms, in the order of the forward pass.
    pub fn norms(&self) -> impl Iterator<Item = &Norm> {
        fn of_layer(layer: &Layer) -> Vec<&Norm> {
            let Layer { attention, attention_norms: first, mlp_norms: second, .. } = layer;
            [&first.input, &attention.q_norm, &attention.k_norm, &first.output, &first.stream]
                .into_iter()
                .chain([&second.input, &second.output, &second.stream])
                .flatten()
                .collect()
        }
        self.layers.iter().flat_map(of_layer).chain(&self.output.norm)
    }

    /// The linear layers inside the blocks, in the order of the forward pass: what LoRA can adapt.
    pub fn linears(&self) -> Vec<LinearModule> {
        let of_layer = |(layer, block): (usize, &Layer)| {
            let module = |linear: &Linear| LinearModule {
                name: module_of(&linear.weight).to_owned(),
                layer,
                inputs: linear.inputs,
                outputs: linear.outputs,
                order: linear.order,
            };
            block.linears().into_iter().map(module).collect::<Vec<_>>()
        };
        self.layers.iter().enumerate().flat_map(of_layer).collect()
    }
}

/// The module that a weight belongs to: its name without `.weight`.
pub fn module_of(weight: &str) -> &str {
    weight.strip_suffix(".weight").unwrap_or(weight)
}
