//! The tensors of a model: what GGUF calls each weight, and in which arrangement it stores the values.
//!
//! Names, and when the arrangement differs, follow from what a weight is for in the decoder.

use super::architecture::Architecture;
use crate::model::config::{
    Attention, DecoderConfig, Layer, Linear, Mlp, Norm, NormKind, Qkv, UpProjection, WeightOrder,
};

pub(super) const EMBEDDING: &str = "token_embd.weight";
pub(super) const OUTPUT: &str = "output.weight";
pub(in crate::hf) const POSITIONS: &str = "position_embd.weight";
/// Not weights: these become part of `rope_parameters`.
pub(in crate::hf) const ROPE_FACTORS: &str = "rope_freqs.weight";
pub(in crate::hf) const ROPE_LONG_FACTORS: &str = "rope_factors_long.weight";
pub(in crate::hf) const ROPE_SHORT_FACTORS: &str = "rope_factors_short.weight";

/// A tensor as Hugging Face names, shapes and orders it, and what it is in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HfTensor {
    /// The name, as `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// The row-major shape; of a matrix mostly `[out, in]`.
    pub shape: Vec<usize>,
    /// The name in the file.
    pub gguf_name: String,
    pub(super) arrangement: Arrangement,
}

/// What the file does to the values of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrangement {
    /// Nothing.
    Same,
    /// Of the rows of every head, those that rotary positions turn together are side by side. Hugging Face pairs row i of
    /// a head with row i + head_dim/2; the file has the two at 2i and 2i + 1.
    Paired {
        /// Rows of a head.
        head_dim: usize,
    },
    /// Rows and columns are exchanged.
    Transposed,
    /// All values are larger by one.
    PlusOne,
}

impl HfTensor {
    /// Whether the file has other values, or has them in another order, than Hugging Face.
    pub fn is_rearranged(&self) -> bool {
        self.arrangement != Arrangement::Same
    }

    /// The shape in the file, row-major.
    pub fn stored_shape(&self) -> Vec<usize> {
        match self.arrangement {
            Arrangement::Transposed => self.shape.iter().rev().copied().collect(),
            _ => self.shape.clone(),
        }
    }
}

/// The tensors of a model, in the order of the layers, as a file of this architecture has them.
pub(in crate::hf) fn model_tensors(decoder: &DecoderConfig, architecture: &Architecture) -> Vec<HfTensor> {
    let mut list = List { tensors: Vec::new() };
    let embedding = &decoder.embedding;
    list.add(&embedding.tokens, EMBEDDING, vec![decoder.vocabulary, embedding.width], Arrangement::Same);
    if let Some(table) = &embedding.positions {
        list.add(&table.weight, POSITIONS, vec![table.rows, decoder.hidden], Arrangement::Same);
    }
    let paired =
        if architecture.pairs_rows { Arrangement::Paired { head_dim: decoder.head_dim } } else { Arrangement::Same };
    for (index, layer) in decoder.layers.iter().enumerate() {
        list.layer(layer, &format!("blk.{index}"), paired);
    }
    if let Some(norm) = &decoder.output.norm {
        list.norm(norm, "output_norm");
    }
    // Without a head of its own the model uses the embedding's matrix (`tie_word_embeddings`).
    if !decoder.is_tied() {
        list.add(&decoder.output.head, OUTPUT, vec![decoder.vocabulary, embedding.width], Arrangement::Same);
    }
    list.tensors
}

/// The tensors so far.
struct List {
    tensors: Vec<HfTensor>,
}

impl List {
    fn layer(&mut self, layer: &Layer, block: &str, paired: Arrangement) {
        let Layer { attention, attention_norms, mlp, mlp_norms } = layer;
        let place = |part: &str| format!("{block}.{part}");
        if let Some(norm) = &attention_norms.input {
            self.norm(norm, &place("attn_norm"));
        }
        self.attention(attention, place, paired);
        if let Some(norm) = &attention_norms.output {
            self.norm(norm, &place("post_attention_norm"));
        }
        if let Some(norm) = &mlp_norms.input {
            self.norm(norm, &place("ffn_norm"));
        }
        let Mlp { up, down, .. } = mlp;
        match up {
            UpProjection::Plain(up) | UpProjection::FusedGated(up) => self.linear(up, &place("ffn_up")),
            UpProjection::Gated { gate, up } => {
                self.linear(gate, &place("ffn_gate"));
                self.linear(up, &place("ffn_up"));
            }
        }
        self.linear(down, &place("ffn_down"));
        if let Some(norm) = &mlp_norms.output {
            self.norm(norm, &place("post_ffw_norm"));
        }
    }

    fn attention(&mut self, attention: &Attention, place: impl Fn(&str) -> String, paired: Arrangement) {
        match &attention.qkv {
            Qkv::Separate { q, k, v } => {
                self.rotated(q, &place("attn_q"), paired);
                self.rotated(k, &place("attn_k"), paired);
                self.linear(v, &place("attn_v"));
            }
            Qkv::Fused(qkv) => self.linear(qkv, &place("attn_qkv")),
        }
        for (norm, part) in [(&attention.q_norm, "attn_q_norm"), (&attention.k_norm, "attn_k_norm")] {
            if let Some(norm) = norm {
                self.norm(norm, &place(part));
            }
        }
        self.linear(&attention.output, &place("attn_output"));
    }

    fn linear(&mut self, linear: &Linear, module: &str) {
        let arrangement = match linear.order {
            WeightOrder::OutputMajor => Arrangement::Same,
            WeightOrder::InputMajor => Arrangement::Transposed,
        };
        self.add(&linear.weight, &format!("{module}.weight"), linear.shape(), arrangement);
        self.bias(linear, module, Arrangement::Same);
    }

    /// A projection whose outputs positions turn.
    fn rotated(&mut self, linear: &Linear, module: &str, arrangement: Arrangement) {
        self.add(&linear.weight, &format!("{module}.weight"), linear.shape(), arrangement);
        self.bias(linear, module, arrangement);
    }

    fn bias(&mut self, linear: &Linear, module: &str, arrangement: Arrangement) {
        if let Some(bias) = &linear.bias {
            self.add(bias, &format!("{module}.bias"), vec![linear.outputs], arrangement);
        }
    }

    fn norm(&mut self, norm: &Norm, module: &str) {
        let arrangement = match norm.kind {
            NormKind::RmsUnitOffset => Arrangement::PlusOne,
            NormKind::Rms | NormKind::Layer { .. } => Arrangement::Same,
        };
        self.add(&norm.weight, &format!("{module}.weight"), vec![norm.width], arrangement);
        if let NormKind::Layer { bias } = &norm.kind {
            self.add(bias, &format!("{module}.bias"), vec![norm.width], Arrangement::Same);
        }
    }

    fn add(&mut self, name: &str, gguf_name: &str, shape: Vec<usize>, arrangement: Arrangement) {
        self.tensors.push(HfTensor { name: name.to_owned(), shape, gguf_name: gguf_name.to_owned(), arrangement });
    }
}

#[cfg(test)]
mod tests;
