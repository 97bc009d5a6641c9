//! The architectures that are read and written: which models of Hugging Face each stands for, and what sets it apart.
//!
//! What is said here about keys and tensors is what llama.cpp's converter writes and its loader computes.

use serde_json::Value;
use zofo_kernels::Activation;

use super::{
    config::{gemma, gemma2, gemma3, gpt2, llama, phi3, qwen2, qwen3},
    error::GgufError,
    keys::ModelKeys,
    names::{ROPE_FACTORS, ROPE_LONG_FACTORS, ROPE_SHORT_FACTORS},
};

/// One value of `general.architecture`. Another one is another entry in [`ARCHITECTURES`] and a function that makes its
/// `config.json`; names, shapes and order of the tensors follow from the decoder that this describes.
#[derive(Debug)]
pub(in crate::hf) struct Architecture {
    /// The name, with which the keys of the model begin too.
    pub(in crate::hf) name: &'static str,
    /// The classes of transformers whose models it can hold; read, it is the first.
    pub(in crate::hf) classes: &'static [&'static str],
    /// Whether rows of query and key projections are stored with rotary pairs side by side.
    pub(in crate::hf) pairs_rows: bool,
    /// Which layers have a sliding window.
    pub(in crate::hf) windows: Windows,
    /// What all its MLPs compute between their projections, for which there is no key.
    pub(in crate::hf) activation: Activation,
    /// The number of layers of the one model whose scores are divided by the root of hidden size / heads; those of the
    /// others are divided by the root of a head's width. llama.cpp knows that model by this number.
    wide_scores: Option<usize>,
    /// Whether converters used to write a tied embedding a second time, as the output matrix.
    pub(super) repeats_embedding: bool,
    /// Keys in [`super::config::UNCOMMON_KEYS`] that it has a use for.
    own_keys: &'static [&'static str],
    /// Tensors that are no weights but say how positions turn queries and keys.
    pub(super) rope_tensors: &'static [&'static str],
    /// Makes `config.json`.
    pub(super) config: fn(&ModelKeys<'_>) -> Result<Value, GgufError>,
}

/// Which layers have a sliding window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::hf) enum Windows {
    /// None, whatever the original has.
    Nowhere,
    /// All, if the key of the window is there.
    Everywhere,
    /// All but the last of every so many, unless the key of the pattern says otherwise.
    Period(usize),
}

/// Llama, from which the others differ.
const LLAMA: Architecture = Architecture {
    name: "llama",
    classes: &["LlamaForCausalLM", "MistralForCausalLM"],
    pairs_rows: true,
    windows: Windows::Nowhere,
    activation: Activation::Silu,
    wide_scores: None,
    repeats_embedding: false,
    own_keys: &[],
    rope_tensors: &[ROPE_FACTORS],
    config: llama,
};

const GEMMA: Architecture = Architecture {
    name: "gemma",
    classes: &["GemmaForCausalLM"],
    pairs_rows: false,
    activation: Activation::GeluTanh,
    rope_tensors: &[],
    config: gemma,
    ..LLAMA
};

const ARCHITECTURES: [Architecture; 8] = [
    LLAMA,
    Architecture { name: "qwen2", classes: &["Qwen2ForCausalLM"], pairs_rows: false, config: qwen2, ..LLAMA },
    Architecture { name: "qwen3", classes: &["Qwen3ForCausalLM"], pairs_rows: false, config: qwen3, ..LLAMA },
    Architecture {
        name: "gpt2",
        classes: &["GPT2LMHeadModel"],
        pairs_rows: false,
        activation: Activation::GeluTanh,
        repeats_embedding: true,
        rope_tensors: &[],
        config: gpt2,
        ..LLAMA
    },
    GEMMA,
    Architecture {
        name: "gemma2",
        classes: &["Gemma2ForCausalLM"],
        windows: Windows::Period(2),
        wide_scores: Some(46),
        own_keys: &["attention.sliding_window", "attention.scale", "attn_logit_softcapping", "final_logit_softcapping"],
        config: gemma2,
        ..GEMMA
    },
    Architecture {
        name: "gemma3",
        classes: &["Gemma3ForCausalLM"],
        windows: Windows::Period(6),
        wide_scores: Some(62),
        own_keys: &["attention.sliding_window", "attention.scale", "final_logit_softcapping"],
        config: gemma3,
        ..GEMMA
    },
    Architecture {
        name: "phi3",
        classes: &["Phi3ForCausalLM"],
        pairs_rows: false,
        windows: Windows::Everywhere,
        own_keys: &["attention.sliding_window"],
        rope_tensors: &[ROPE_LONG_FACTORS, ROPE_SHORT_FACTORS],
        config: phi3,
        ..LLAMA
    },
];

impl Architecture {
    /// The one of this name.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        Self::all().find(|architecture| architecture.name == name)
    }

    /// The one that holds models of this class of transformers.
    pub(in crate::hf) fn of_class(class: &str) -> Option<&'static Self> {
        Self::all().find(|architecture| architecture.classes.contains(&class))
    }

    /// All of them.
    pub(in crate::hf) fn all() -> impl Iterator<Item = &'static Self> {
        const ALL: &[Architecture] = &ARCHITECTURES;
        ALL.iter()
    }

    /// The names, for messages.
    pub(super) fn names() -> String {
        Self::all().map(|architecture| architecture.name).collect::<Vec<_>>().join(", ")
    }

    /// Whether it has a use for a key in [`super::config::UNCOMMON_KEYS`].
    pub(in crate::hf) fn knows(&self, key: &str) -> bool {
        self.own_keys.contains(&key)
    }

    /// Whether a tensor that says how positions turn has a place in it.
    pub(in crate::hf) fn has_rope_tensor(&self, name: &str) -> bool {
        self.rope_tensors.contains(&name)
    }

    /// By the root of what attention scores are divided, where no key says otherwise.
    pub(in crate::hf) fn query_scalar(&self, layers: usize, hidden: usize, heads: usize, head_dim: usize) -> f64 {
        if self.wide_scores == Some(layers) { hidden as f64 / heads as f64 } else { head_dim as f64 }
    }
}

impl Windows {
    /// Whether a layer has a window, where no key says otherwise.
    pub(in crate::hf) fn slides(self, layer: usize) -> bool {
        match self {
            Self::Nowhere => false,
            Self::Everywhere => true,
            Self::Period(period) => layer % period < period - 1,
        }
    }
}
