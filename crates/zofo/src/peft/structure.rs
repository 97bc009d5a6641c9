//! What a block has to know of its model.

use crate::model::DecoderConfig;

/// A linear layer inside a block of the model.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct LinearModule {
    /// The path, as `model.layers.0.self_attn.q_proj`; its weight's name has `.weight` after it.
    pub(super) name: String,
    /// Width of its input.
    pub(super) inputs: usize,
    /// Width of its output.
    pub(super) outputs: usize,
    /// Whether the weight is stored as `[inputs, outputs]`, as in GPT-2, and not as `[outputs, inputs]`.
    pub(super) input_major: bool,
    /// The block, from 0.
    pub(super) layer: usize,
}

impl LinearModule {
    /// The last part of the path.
    pub(super) fn last_part(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or(&self.name)
    }
}

/// The linear layers inside the blocks, in the order of the forward pass.
pub(super) fn linear_modules(model: &DecoderConfig) -> Vec<LinearModule> {
    let (hidden, inner) = (model.hidden, model.intermediate);
    let (q, kv) = (model.heads * model.head_dim, model.kv_heads * model.head_dim);
    let layers = model.names.layers.iter().enumerate();
    let linear = layers.flat_map(|(layer, names)| {
        let all = [
            (&names.q, hidden, q),
            (&names.k, hidden, kv),
            (&names.v, hidden, kv),
            (&names.o, q, hidden),
            (&names.gate, hidden, inner),
            (&names.up, hidden, inner),
            (&names.down, inner, hidden),
        ];
        all.map(|(weight, inputs, outputs)| LinearModule {
            name: weight.strip_suffix(".weight").unwrap_or(weight).to_owned(),
            inputs,
            outputs,
            input_major: false,
            layer,
        })
    });
    linear.collect()
}

/// The weights that project to queries and to values, in every block: PEFT's default targets of LoRA. They are one where
/// the model has one projection for both.
pub(super) fn query_and_value_weights(model: &DecoderConfig) -> Vec<&str> {
    model.names.layers.iter().flat_map(|names| [names.q.as_str(), names.v.as_str()]).collect()
}

/// Width of the word embeddings.
pub(super) fn embedding_width(model: &DecoderConfig) -> usize {
    model.hidden
}

/// The last parts of the modules' paths, each once.
pub(super) fn last_parts<'a>(modules: impl IntoIterator<Item = &'a LinearModule>) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    for module in modules {
        let part = module.last_part();
        if !parts.iter().any(|known| known == part) {
            parts.push(part.to_owned());
        }
    }
    parts
}
