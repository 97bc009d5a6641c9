//! Parts of decoders by the names of their modules, as `torch.nn` stores them.

use crate::model::config::{Linear, Norm, NormKind, SublayerNorms, WeightOrder};

/// A `torch.nn.Linear`.
pub(super) fn linear(module: &str, inputs: usize, outputs: usize, bias: bool) -> Linear {
    Linear {
        weight: format!("{module}.weight"),
        bias: bias.then(|| format!("{module}.bias")),
        inputs,
        outputs,
        order: WeightOrder::OutputMajor,
    }
}

/// A `torch.nn.LayerNorm`.
pub(super) fn layer_norm(module: &str, width: usize, eps: f32) -> Norm {
    Norm { weight: format!("{module}.weight"), width, eps, kind: NormKind::Layer { bias: format!("{module}.bias") } }
}

/// A norm before a sublayer, and no other.
pub(super) fn pre_norm(norm: Norm) -> SublayerNorms {
    SublayerNorms { input: Some(norm), ..SublayerNorms::default() }
}

/// 1/√width: the usual factor of attention scores.
pub(super) fn inverse_root(width: f64) -> f32 {
    (1.0 / width.sqrt()) as f32
}
