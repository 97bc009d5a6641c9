//! `rope_parameters`: how positions turn queries and keys.

use std::f64::consts::TAU;

use serde_json::{Value, json};

use super::{
    GgufFile,
    error::{GgufError, GgufProblem},
    keys::ModelKeys,
    names::{ROPE_FACTORS, ROPE_LONG_FACTORS, ROPE_SHORT_FACTORS},
    sizes::Sizes,
};
use crate::model::long_rope_attention_factor;

/// The format's default for `rope.freq_base`, and transformers' for `rope_theta`.
pub(in crate::hf) const DEFAULT_THETA: f64 = 10_000.0;

const SCALING_TYPE: &str = "rope.scaling.type";
const SCALING_FACTOR: &str = "rope.scaling.factor";
/// An older name of [`SCALING_FACTOR`] for linear scaling.
const SCALE_LINEAR: &str = "rope.scale_linear";
const ORIGINAL_CONTEXT: &str = "rope.scaling.original_context_length";
const ATTENTION_FACTOR: &str = "rope.scaling.attn_factor";

/// The constants of Llama 3.1, 3.2 and 3.3, of which only the factor differs from model to model. A GGUF file has the
/// factors of the frequencies, not these constants.
const LLAMA3_LOW_FREQ_FACTOR: f64 = 1.0;
const LLAMA3_HIGH_FREQ_FACTOR: f64 = 4.0;
const LLAMA3_ORIGINAL_CONTEXT: f64 = 8192.0;
/// Converters compute the factors in f32.
const FACTOR_TOLERANCE: f64 = 1e-4;

/// Rotary positions whose frequencies may have factors in a tensor.
pub(super) fn rope_parameters(keys: &ModelKeys<'_>, sizes: &Sizes) -> Result<Value, GgufError> {
    let mut parameters = scaling_parameters(keys, sizes)?;
    let Some(factors) = factors(keys.file, ROPE_FACTORS, sizes.head_dim / 2)? else {
        return Ok(parameters);
    };
    if factors.iter().all(|&factor| factor == 1.0) {
        return Ok(parameters);
    }
    if parameters["rope_type"] != "default" {
        let found = &parameters["factor"];
        let expected = format!("that is not supported together with tensor \"{ROPE_FACTORS}\"");
        return Err(keys.bad_value(SCALING_FACTOR, found, expected));
    }
    let theta = base(keys, "rope.freq_base")?;
    let original_context = keys.size(ORIGINAL_CONTEXT)?.map_or(LLAMA3_ORIGINAL_CONTEXT, |length| length as f64);
    match llama3_factor(&factors, theta, original_context) {
        Some(factor) => {
            parameters["rope_type"] = "llama3".into();
            parameters["factor"] = factor.into();
            parameters["high_freq_factor"] = LLAMA3_HIGH_FREQ_FACTOR.into();
            parameters["low_freq_factor"] = LLAMA3_LOW_FREQ_FACTOR.into();
            parameters["original_max_position_embeddings"] = (original_context as u32).into();
        }
        // Of another scheme: the same divisors at all lengths are a case of LongRoPE.
        None => {
            parameters["rope_type"] = "longrope".into();
            parameters["short_factor"] = json!(factors);
            parameters["long_factor"] = json!(factors);
            parameters["attention_factor"] = 1.0.into();
            parameters["original_max_position_embeddings"] = sizes.context.into();
        }
    }
    Ok(parameters)
}

/// Rotary positions, scaled as keys say: not at all, linearly, or by YaRN.
pub(super) fn scaling_parameters(keys: &ModelKeys<'_>, sizes: &Sizes) -> Result<Value, GgufError> {
    let theta = base(keys, "rope.freq_base")?;
    // As llama.cpp reads it: without a type, a factor means linear scaling.
    match keys.string(SCALING_TYPE)? {
        Some("none") => Ok(json!({ "rope_theta": theta, "rope_type": "default" })),
        None | Some("linear") => Ok(match scaling_factor(keys)? {
            Some(factor) => json!({ "factor": factor, "rope_theta": theta, "rope_type": "linear" }),
            None => json!({ "rope_theta": theta, "rope_type": "default" }),
        }),
        Some("yarn") => yarn_parameters(keys, sizes, theta),
        Some(other) => Err(unsupported_scaling(keys, other, "none, linear and yarn")),
    }
}

fn unsupported_scaling(keys: &ModelKeys<'_>, found: &str, supported: &str) -> GgufError {
    let expected = format!("supported are {supported}; use the model's Hugging Face directory instead");
    keys.bad_value(SCALING_TYPE, format!("\"{found}\""), expected)
}

/// The base under a key, or the format's default.
pub(super) fn base(keys: &ModelKeys<'_>, key: &str) -> Result<f64, GgufError> {
    Ok(keys.positive(key)?.unwrap_or(DEFAULT_THETA))
}

/// The factor of linear scaling and of YaRN, unless it is 1. The newer name counts.
fn scaling_factor(keys: &ModelKeys<'_>) -> Result<Option<f64>, GgufError> {
    let factor = match keys.positive_or_zero(SCALING_FACTOR)? {
        None => keys.positive_or_zero(SCALE_LINEAR)?,
        stated => stated,
    };
    Ok(factor.filter(|&factor| factor != 1.0))
}

fn yarn_parameters(keys: &ModelKeys<'_>, sizes: &Sizes, theta: f64) -> Result<Value, GgufError> {
    // ext_factor switches YaRN off or mixes it, and the others change the factor of cosines and sines in ways that are
    // llama.cpp's own; none of them is in files that its converter makes of models of these architectures.
    for (key, neutral) in
        [("yarn_ext_factor", 1.0), ("yarn_attn_factor", 1.0), ("yarn_log_multiplier", 0.0), ("alpha", 0.0)]
    {
        let key = format!("rope.scaling.{key}");
        if let Some(found) = keys.metadata().float(&keys.name(&key))?.filter(|&found| found != neutral) {
            return Err(keys.bad_value(&key, found, format!("only {neutral} is supported, which has no effect")));
        }
    }
    let factor = keys.positive(SCALING_FACTOR)?.ok_or_else(|| keys.missing(SCALING_FACTOR))?;
    let mut parameters = json!({
        "beta_fast": keys.positive("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
        "beta_slow": keys.positive("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
        "factor": factor,
        "original_max_position_embeddings": keys.size(ORIGINAL_CONTEXT)?.unwrap_or(sizes.context),
        "rope_theta": theta,
        "rope_type": "yarn",
    });
    // llama.cpp multiplies it with the usual factor, where transformers has it instead.
    if let Some(multiple) = keys.positive(ATTENTION_FACTOR)?.filter(|&multiple| multiple != 1.0) {
        parameters["attention_factor"] = (multiple * crate::model::yarn_attention_factor(factor, None)).into();
    }
    Ok(parameters)
}

/// Phi-3's: without scaling, or LongRoPE, whose divisors are in two tensors.
pub(super) fn long_rope_parameters(keys: &ModelKeys<'_>, sizes: &Sizes, dim: usize) -> Result<Value, GgufError> {
    if let Some(other) = keys.string(SCALING_TYPE)?.filter(|kind| !["none", "longrope"].contains(kind)) {
        return Err(unsupported_scaling(keys, other, "none and longrope"));
    }
    let theta = base(keys, "rope.freq_base")?;
    let [long, short] = [ROPE_LONG_FACTORS, ROPE_SHORT_FACTORS].map(|name| factors(keys.file, name, dim / 2));
    let (long, short) = match (long?, short?) {
        (None, None) => return Ok(json!({ "rope_theta": theta, "rope_type": "default" })),
        (Some(long), Some(short)) => (long, short),
        (long, _) => {
            let tensor = if long.is_none() { ROPE_LONG_FACTORS } else { ROPE_SHORT_FACTORS };
            return Err(keys.metadata().error(GgufProblem::MissingTensor { tensor: tensor.to_owned() }));
        }
    };
    let original = keys.size(ORIGINAL_CONTEXT)?.ok_or_else(|| keys.missing(ORIGINAL_CONTEXT))?;
    let mut parameters = json!({
        "long_factor": long,
        "rope_theta": theta,
        "rope_type": "longrope",
        "short_factor": short,
    });
    let usual = long_rope_attention_factor(sizes.context as f64 / original as f64, original as f64);
    // A file has it in f32; the usual one is left to be computed.
    if let Some(stated) = keys.positive(ATTENTION_FACTOR)?.filter(|&stated| stated as f32 != usual as f32) {
        parameters["attention_factor"] = stated.into();
    }
    Ok(parameters)
}

/// The `partial_rotary_factor` of which transformers makes `dim`: it multiplies and rounds down.
pub(super) fn partial_rotary_factor(dim: usize, head_dim: usize) -> f64 {
    let share = dim as f64 / head_dim as f64;
    if (share * head_dim as f64) as usize == dim { share } else { share.next_up() }
}

/// The divisors of the frequencies in the tensor `name`, if there is one.
fn factors(file: &GgufFile, name: &str, pairs: usize) -> Result<Option<Vec<f32>>, GgufError> {
    let Some(tensor) = file.tensor(name) else {
        return Ok(None);
    };
    if tensor.shape() != [pairs] {
        return Err(file.error(GgufProblem::TensorShape {
            tensor: name.to_owned(),
            expected: vec![pairs],
            found: tensor.shape().to_owned(),
        }));
    }
    let mut factors = vec![0.0; pairs];
    file.dequantize(tensor, 0..1, &mut factors)?;
    match factors.iter().position(|factor| !(factor.is_finite() && *factor > 0.0)) {
        None => Ok(Some(factors)),
        Some(index) => {
            Err(file.error(GgufProblem::RopeFactor { tensor: name.to_owned(), index, found: factors[index] }))
        }
    }
}

/// The factor of Llama 3's scaling, if these are the factors of the frequencies in that scheme.
fn llama3_factor(factors: &[f32], theta: f64, original_context: f64) -> Option<f64> {
    let scheme = Llama3 {
        factor: f64::from(factors.iter().copied().fold(1.0, f32::max)),
        low_freq_factor: LLAMA3_LOW_FREQ_FACTOR,
        high_freq_factor: LLAMA3_HIGH_FREQ_FACTOR,
        original_context,
    };
    let close = |(found, expected): (&f32, f32)| {
        (f64::from(*found) - f64::from(expected)).abs() <= FACTOR_TOLERANCE * f64::from(expected)
    };
    factors.iter().zip(scheme.divisors(factors.len(), theta)).all(close).then_some(scheme.factor)
}

/// Llama 3's scaling of rotary positions.
#[derive(Clone, Copy, Debug)]
pub(in crate::hf) struct Llama3 {
    pub(in crate::hf) factor: f64,
    pub(in crate::hf) low_freq_factor: f64,
    pub(in crate::hf) high_freq_factor: f64,
    pub(in crate::hf) original_context: f64,
}

impl Llama3 {
    /// By how much it divides the frequency of each pair, which depends on its wavelength in tokens: not at all for short
    /// waves, by `factor` for long ones, and in between by the inverse of a blend of the two inverses (transformers,
    /// `_compute_llama3_parameters`).
    pub(in crate::hf) fn divisors(&self, pairs: usize, theta: f64) -> Vec<f32> {
        let of_pair = |index: usize| {
            let wavelength = TAU * theta.powf(index as f64 / pairs as f64);
            let turns = self.original_context / wavelength;
            let share = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor);
            let share = share.clamp(0.0, 1.0);
            (1.0 / ((1.0 - share) / self.factor + share)) as f32
        };
        (0..pairs).map(of_pair).collect()
    }
}

#[cfg(test)]
mod tests;
