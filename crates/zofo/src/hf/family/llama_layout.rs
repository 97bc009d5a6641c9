//! What the families share that took over Llama's modules: sizes under Llama's keys, and parts under Llama's names.

use zofo_kernels::Activation;

use super::{
    super::{error::HfError, json::Keys},
    HEAD,
    parts::{inverse_root, linear, pre_norm},
    sizes::{activation, even_share, layers},
};
use crate::model::{
    Rope,
    config::{Attention, DecoderConfig, Embedding, Layer, Linear, Mlp, Norm, NormKind, Output, Qkv, UpProjection},
};

/// What absent keys mean, and how a family spells and computes what not all have in common.
#[derive(Clone, Debug)]
pub(super) struct Conventions {
    /// `num_key_value_heads`; none means as many as query heads, as a null does.
    pub(super) kv_heads: Option<usize>,
    /// `head_dim`; none means that the heads share the hidden size.
    pub(super) head_dim: Option<usize>,
    /// `max_position_embeddings`.
    pub(super) max_positions: usize,
    /// `rms_norm_eps`.
    pub(super) norm_eps: f64,
    /// What all norms compute.
    pub(super) norm: NormKind,
    /// The key of the activation.
    pub(super) activation_key: &'static str,
    /// Its default.
    pub(super) activation: &'static str,
    /// `tie_word_embeddings`.
    pub(super) tied: bool,
}

/// Those of Llama itself.
pub(super) const LLAMA: Conventions = Conventions {
    kv_heads: None,
    head_dim: None,
    max_positions: 2048,
    norm_eps: 1e-6,
    norm: NormKind::Rms,
    activation_key: "hidden_act",
    activation: "silu",
    tied: false,
};

/// The sizes of a model.
#[derive(Clone, Debug)]
pub(super) struct LlamaLayout {
    pub(super) vocabulary: usize,
    pub(super) hidden: usize,
    pub(super) intermediate: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    /// As stated, before any scaling of rotary positions.
    pub(super) max_positions: usize,
    norm_eps: f32,
    norm: NormKind,
    pub(super) activation: Activation,
    tied: bool,
}

/// One layer, as a maker of its parts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block<'a> {
    layout: &'a LlamaLayout,
    pub(super) index: usize,
}

impl LlamaLayout {
    /// Reads the sizes and checks that they fit together.
    pub(super) fn read(config: &Keys<'_>, conventions: &Conventions) -> Result<Self, HfError> {
        let hidden = config.required("hidden_size", Keys::size)?;
        let heads = config.required("num_attention_heads", Keys::size)?;
        Ok(Self {
            vocabulary: config.required("vocab_size", Keys::size)?,
            hidden,
            intermediate: config.required("intermediate_size", Keys::size)?,
            layers: layers(config, "num_hidden_layers")?,
            heads,
            kv_heads: kv_heads(config, heads, conventions.kv_heads)?,
            head_dim: head_dim(config, hidden, heads, conventions.head_dim)?,
            max_positions: config.size("max_position_embeddings")?.unwrap_or(conventions.max_positions),
            norm_eps: config.positive("rms_norm_eps")?.unwrap_or(conventions.norm_eps) as f32,
            norm: conventions.norm.clone(),
            activation: activation(config, conventions.activation_key, conventions.activation)?,
            tied: config.boolean("tie_word_embeddings")?.unwrap_or(conventions.tied),
        })
    }

    /// The layers, in order.
    pub(super) fn blocks(&self) -> impl Iterator<Item = Block<'_>> {
        (0..self.layers).map(|index| Block { layout: self, index })
    }

    /// The whole decoder.
    pub(super) fn decoder(&self, ropes: Vec<Rope>, layers: Vec<Layer>) -> DecoderConfig {
        let tokens = "model.embed_tokens.weight".to_owned();
        DecoderConfig {
            vocabulary: self.vocabulary,
            hidden: self.hidden,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            max_positions: ropes
                .iter()
                .map(|rope| rope.context(self.max_positions))
                .max()
                .unwrap_or(self.max_positions),
            ropes,
            layers,
            output: Output {
                norm: Some(self.norm("model.norm", self.hidden)),
                projection: None,
                head: if self.tied { tokens.clone() } else { HEAD.to_owned() },
                softcap: None,
            },
            embedding: Embedding { tokens, width: self.hidden, scale: None, projection: None, positions: None },
        }
    }

    fn norm(&self, module: &str, width: usize) -> Norm {
        Norm { weight: format!("{module}.weight"), width, eps: self.norm_eps, kind: self.norm.clone() }
    }
}

impl Block<'_> {
    /// A linear layer.
    pub(super) fn linear(&self, part: &str, inputs: usize, outputs: usize, bias: bool) -> Linear {
        linear(&self.module(part), inputs, outputs, bias)
    }

    /// A norm of the residual stream.
    pub(super) fn norm(&self, part: &str) -> Norm {
        self.layout.norm(&self.module(part), self.layout.hidden)
    }

    /// A norm of every head.
    pub(super) fn head_norm(&self, part: &str) -> Norm {
        self.layout.norm(&self.module(part), self.layout.head_dim)
    }

    /// Attention to everything with the model's first rotary positions, biases where the family has them.
    pub(super) fn attention(&self, qkv_bias: bool, output_bias: bool) -> Attention {
        let LlamaLayout { hidden, heads, kv_heads, head_dim, .. } = *self.layout;
        let [queries, keys] = [heads, kv_heads].map(|count| count * head_dim);
        Attention {
            qkv: Qkv::Separate {
                q: self.linear("self_attn.q_proj", hidden, queries, qkv_bias),
                k: self.linear("self_attn.k_proj", hidden, keys, qkv_bias),
                v: self.linear("self_attn.v_proj", hidden, keys, qkv_bias),
            },
            output: self.linear("self_attn.o_proj", queries, hidden, output_bias),
            q_norm: None,
            k_norm: None,
            rope: Some(0),
            sliding_window: None,
            scale: inverse_root(head_dim as f64),
            softcap: None,
        }
    }

    /// The gated MLP.
    pub(super) fn mlp(&self, bias: bool) -> Mlp {
        let LlamaLayout { hidden, intermediate, activation, .. } = *self.layout;
        Mlp {
            up: UpProjection::Gated {
                gate: self.linear("mlp.gate_proj", hidden, intermediate, bias),
                up: self.linear("mlp.up_proj", hidden, intermediate, bias),
            },
            down: self.linear("mlp.down_proj", intermediate, hidden, bias),
            activation,
        }
    }

    /// The layer of these sublayers, with a norm before each.
    pub(super) fn pre_norm_layer(&self, attention: Attention, mlp: Mlp) -> Layer {
        Layer {
            attention,
            attention_norms: pre_norm(self.norm("input_layernorm")),
            mlp,
            mlp_norms: pre_norm(self.norm("post_attention_layernorm")),
        }
    }

    fn module(&self, part: &str) -> String {
        format!("model.layers.{}.{part}", self.index)
    }
}

fn kv_heads(config: &Keys<'_>, heads: usize, default: Option<usize>) -> Result<usize, HfError> {
    let key = "num_key_value_heads";
    let stated = config.size(key)?;
    let default = default.filter(|_| !config.is_stated(key)).unwrap_or(heads);
    let kv_heads = stated.unwrap_or(default);
    if !heads.is_multiple_of(kv_heads) {
        let expected = format!("a divisor of the {heads} of num_attention_heads, not {kv_heads}");
        return Err(config.unexpected(key, expected));
    }
    Ok(kv_heads)
}

fn head_dim(config: &Keys<'_>, hidden: usize, heads: usize, default: Option<usize>) -> Result<usize, HfError> {
    let (key, head_dim) = match config.size("head_dim")?.or(default) {
        Some(head_dim) => ("head_dim", head_dim),
        None => ("hidden_size", even_share(config, "hidden_size", hidden, heads)?),
    };
    if !head_dim.is_multiple_of(2) {
        let expected = format!("heads of an even width, not {head_dim}: rotary positions turn pairs");
        return Err(config.unexpected(key, expected));
    }
    if heads.checked_mul(head_dim).is_none_or(|width| width > i32::MAX as usize) {
        let expected = format!("at most {} with {heads} heads", i32::MAX as usize / heads);
        return Err(config.unexpected("head_dim", expected));
    }
    Ok(head_dim)
}
