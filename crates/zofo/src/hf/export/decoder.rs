//! What of a decoder a GGUF file can express.

use std::path::Path;

use super::super::{
    HfError,
    gguf::{Architecture, Llama3, ROPE_FACTORS, ROPE_LONG_FACTORS, Windows},
};
use crate::model::{DecoderConfig, Rope, RopeScaling};

/// The decoder as the file will describe it, and what it leaves out of the original, in sentences for the user.
pub(super) struct Expressible {
    pub(super) decoder: DecoderConfig,
    pub(super) losses: Vec<String>,
}

impl Expressible {
    /// The decoder of the model at `path`. What the format cannot say, but what makes no difference up to some length, is left out, and
    /// the context ends at that length.
    ///
    /// # Errors
    /// The format cannot express something else.
    pub(super) fn of(
        decoder: &DecoderConfig,
        path: &Path,
        architecture: &'static Architecture,
    ) -> Result<Self, HfError> {
        let mut found = Self { decoder: decoder.clone(), losses: Vec::new() };
        let refuse = |what: &str, found: String, supported: String| HfError::Unsupported {
            path: path.to_owned(),
            what: format!("in a GGUF file of architecture {}, {what}", architecture.name),
            found,
            supported,
        };
        found.check_layers(architecture, &refuse)?;
        found.drop_windows(architecture);
        for index in 0..found.decoder.ropes.len() {
            found.express_rope(index, architecture, &refuse)?;
        }
        Ok(found)
    }

    /// Constants of the layers for which there are no keys.
    fn check_layers(
        &mut self,
        architecture: &Architecture,
        refuse: &impl Fn(&str, String, String) -> HfError,
    ) -> Result<(), HfError> {
        let DecoderConfig { layers, hidden, heads, head_dim, output, .. } = &self.decoder;
        let usual = usual_scale(architecture, layers.len(), *hidden, *heads, *head_dim);
        for (index, layer) in layers.iter().enumerate() {
            let attention = &layer.attention;
            if layer.mlp.activation != architecture.activation {
                let [found, supported] = [layer.mlp.activation, architecture.activation].map(|f| format!("{f:?}"));
                return Err(refuse("the activation", found, supported));
            }
            let scale = attention.scale;
            if scale != usual && (!architecture.knows("attention.scale") || scale != layers[0].attention.scale) {
                let what = format!("the factor of attention scores (in layer {index})");
                return Err(refuse(&what, scale.to_string(), usual.to_string()));
            }
            if let Some(bound) = attention.softcap.filter(|_| !architecture.knows("attn_logit_softcapping")) {
                return Err(refuse("a bound of attention scores", bound.to_string(), "none".to_owned()));
            }
        }
        if let Some(bound) = output.softcap.filter(|_| !architecture.knows("final_logit_softcapping")) {
            return Err(refuse("a bound of logits", bound.to_string(), "none".to_owned()));
        }
        let name = architecture.name;
        if layers.iter().any(|layer| layer.attention.scale != usual) {
            self.losses.push(format!(
                "the factor of attention scores is not the usual one of {name} models: it is in the file, but llama.cpp \
                 and transformers do not look for it there"
            ));
        }
        if !follows(&self.decoder, architecture.windows) && architecture.windows != Windows::Nowhere {
            self.losses.push(format!(
                "the layers with a sliding window are not the usual ones of {name} models: they are in the file, but \
                 llama.cpp and transformers may not look for them there"
            ));
        }
        Ok(())
    }

    /// Sliding windows where the architecture has none.
    fn drop_windows(&mut self, architecture: &Architecture) {
        if architecture.windows != Windows::Nowhere {
            return;
        }
        let window = self.decoder.layers.iter().filter_map(|layer| layer.attention.sliding_window).min();
        for layer in &mut self.decoder.layers {
            layer.attention.sliding_window = None;
        }
        if let Some(window) = window {
            self.end_context(window, "sliding windows");
        }
    }

    /// Makes the context end at `length`, up to which `what` makes no difference.
    fn end_context(&mut self, length: usize, what: &str) {
        if length < self.decoder.max_positions {
            self.losses.push(format!(
                "a GGUF file of this model cannot have {what}; they make no difference up to {length} tokens, and that \
                 is the context length in the file instead of {}",
                self.decoder.max_positions
            ));
            self.decoder.max_positions = length;
        }
    }

    fn express_rope(
        &mut self,
        index: usize,
        architecture: &Architecture,
        refuse: &impl Fn(&str, String, String) -> HfError,
    ) -> Result<(), HfError> {
        let Rope { theta, dim, scaling } = self.decoder.ropes[index].clone();
        let has_divisors = architecture.has_rope_tensor(ROPE_FACTORS);
        let has_long_rope = architecture.has_rope_tensor(ROPE_LONG_FACTORS);
        let supported = match index {
            0 if has_long_rope => "none, longrope",
            0 if has_divisors => "none, linear, yarn, llama3",
            0 => "none, linear, yarn",
            // Of layers with a sliding window.
            _ => "none",
        };
        let refused = |kind: &str| {
            Err(refuse("a scaling of rotary positions", kind.to_owned(), format!("{supported}, as llama.cpp has them")))
        };
        let scaled = match scaling {
            RopeScaling::Default => RopeScaling::Default,
            RopeScaling::Dynamic { original_context, .. } => {
                self.end_context(original_context as usize, "rotary positions with dynamic scaling");
                RopeScaling::Default
            }
            RopeScaling::Linear { .. } if !supported.contains("linear") => return refused("linear"),
            RopeScaling::Linear { .. } => scaling,
            RopeScaling::Yarn(_) if !supported.contains("yarn") => return refused("yarn"),
            RopeScaling::Yarn(ref yarn) if !yarn.truncate => return refused("yarn with \"truncate\": false"),
            RopeScaling::Yarn(_) => scaling,
            RopeScaling::Llama3 { .. } if !has_divisors => return refused("llama3"),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                if (low_freq_factor, high_freq_factor) == (1.0, 4.0) {
                    scaling
                } else {
                    // Read back as what its divisors are, for the file has no other constants than Llama 3's own.
                    let scheme = Llama3 { factor, low_freq_factor, high_freq_factor, original_context };
                    let divisors = scheme.divisors(dim / 2, theta);
                    let original_context = self.decoder.max_positions as f64;
                    let (short, long) = (divisors.clone(), divisors);
                    RopeScaling::LongRope { short, long, original_context, attention_factor: 1.0 }
                }
            }
            RopeScaling::LongRope { .. } if has_long_rope => scaling,
            RopeScaling::LongRope { ref short, ref long, attention_factor, .. } => {
                if !has_divisors || short != long || attention_factor != 1.0 {
                    return refused("longrope");
                }
                scaling
            }
        };
        self.decoder.ropes[index].scaling = scaled;
        Ok(())
    }
}

/// The factor of attention scores where no key says otherwise.
pub(super) fn usual_scale(
    architecture: &Architecture,
    layers: usize,
    hidden: usize,
    heads: usize,
    head_dim: usize,
) -> f32 {
    (1.0 / architecture.query_scalar(layers, hidden, heads, head_dim).sqrt()) as f32
}

/// Whether the layers with a sliding window are those that `windows` says; without any window there is nothing to say.
pub(super) fn follows(decoder: &DecoderConfig, windows: Windows) -> bool {
    let slides = || decoder.layers.iter().map(|layer| layer.attention.sliding_window.is_some());
    !slides().any(|slides| slides) || slides().enumerate().all(|(index, found)| found == windows.slides(index))
}
