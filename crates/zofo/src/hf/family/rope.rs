//! Rotary positions in a `config.json`, as transformers' `RotaryEmbeddingConfigMixin` reads them.
//!
//! Transformers 5 keeps all of it in `rope_parameters`; transformers 4 has `rope_theta` beside `rope_scaling`, in which
//! `rope_type` was called `type` at first.

use super::super::{error::HfError, json::Keys};
use crate::model::{Rope, RopeScaling, Yarn, long_rope_attention_factor, yarn_attention_factor};

/// What the absence of `rope_theta` means in most families.
pub(super) const DEFAULT_THETA: f64 = 10_000.0;
const ORIGINAL_CONTEXT: &str = "original_max_position_embeddings";

/// What rotary positions depend on besides the object that describes them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Surroundings {
    /// How many elements of a head turn.
    pub(super) dim: usize,
    /// The value of `max_position_embeddings`.
    pub(super) max_positions: usize,
    /// Stands for an absent `rope_theta`.
    pub(super) theta: f64,
    /// An `original_max_position_embeddings` outside the object, which precedes one inside.
    pub(super) original_context: Option<f64>,
}

/// The object that describes rotary positions. Where both are there, transformers 5 takes the older.
pub(super) fn parameters<'a>(config: &Keys<'a>) -> Result<Option<Keys<'a>>, HfError> {
    let mut parameters = None;
    for key in ["rope_scaling", "rope_parameters"] {
        let found = config.object(key)?.filter(|object| !object.is_empty());
        parameters = parameters.or(found);
    }
    Ok(parameters)
}

/// Rotary positions of a model whose layers all have the same, over whole heads.
pub(super) fn rope(config: &Keys<'_>, head_dim: usize, max_positions: usize) -> Result<Rope, HfError> {
    let surroundings = Surroundings {
        dim: head_dim,
        max_positions,
        theta: config.positive("rope_theta")?.unwrap_or(DEFAULT_THETA),
        original_context: config.positive(ORIGINAL_CONTEXT)?,
    };
    reject_partial_rotation(config)?;
    match parameters(config)? {
        Some(parameters) => scaled(&parameters, &surroundings),
        None => Ok(Rope { theta: surroundings.theta, dim: head_dim, scaling: RopeScaling::Default }),
    }
}

/// The value and, for messages, the key of the type.
pub(super) fn rope_type<'a>(parameters: &Keys<'a>) -> Result<(&'static str, &'a str), HfError> {
    Ok(match parameters.string("rope_type")? {
        Some(name) => ("rope_type", name),
        None => ("type", parameters.string("type")?.unwrap_or("default")),
    })
}

/// Rotary positions of any type.
pub(super) fn scaled(parameters: &Keys<'_>, surroundings: &Surroundings) -> Result<Rope, HfError> {
    for key in ["full_attention", "sliding_attention", "mrope_section"] {
        if parameters.get(key).is_some() {
            return Err(parameters.unsupported(key, "the same rotary positions in all layers and of all tokens"));
        }
    }
    reject_partial_rotation(parameters)?;
    let theta = theta(parameters, surroundings)?;
    let (key, name) = rope_type(parameters)?;
    let factor = || parameters.required("factor", Keys::positive);
    let original_context = original_context(parameters, surroundings)?;
    let scaling = match name {
        "default" => RopeScaling::Default,
        "linear" => RopeScaling::Linear { factor: factor()? },
        "dynamic" => {
            if surroundings.dim <= 2 {
                let expected = "another type where heads have two elements: its formula divides by their number less 2";
                return Err(parameters.unexpected(key, expected));
            }
            RopeScaling::Dynamic { factor: factor()?, original_context: surroundings.max_positions as f64 }
        }
        "yarn" => {
            if theta <= 1.0 {
                return Err(parameters.unexpected("rope_theta", "more than 1 with yarn, which divides by its logarithm"));
            }
            yarn(parameters, factor()?, original_context)?
        }
        "llama3" => llama3(parameters, factor()?, original_context)?,
        "longrope" => long_rope(parameters, surroundings)?,
        _ => return Err(parameters.unsupported(key, "default, linear, dynamic, yarn, llama3, longrope")),
    };
    Ok(Rope { theta, dim: surroundings.dim, scaling })
}

/// The base, stated inside or outside.
pub(super) fn theta(parameters: &Keys<'_>, surroundings: &Surroundings) -> Result<f64, HfError> {
    Ok(parameters.positive("rope_theta")?.unwrap_or(surroundings.theta))
}

/// Divisors of frequencies for short and long sequences.
pub(super) fn long_rope(parameters: &Keys<'_>, surroundings: &Surroundings) -> Result<RopeScaling, HfError> {
    let original_context = original_context(parameters, surroundings)?;
    if original_context <= 1.0 {
        let expected =
            format!("more than 1, not {original_context}, with longrope, which divides by its logarithm");
        return Err(parameters.unexpected(ORIGINAL_CONTEXT, expected));
    }
    let pairs = surroundings.dim / 2;
    let divisors = |key: &str| -> Result<Vec<f32>, HfError> {
        let divisors = parameters.required(key, Keys::positive_list)?;
        if divisors.len() == pairs {
            Ok(divisors.into_iter().map(|divisor| divisor as f32).collect())
        } else {
            let expected = format!("one number for each of the {pairs} pairs that turn, not {}", divisors.len());
            Err(parameters.unexpected(key, expected))
        }
    };
    let factor = parameters.positive("factor")?.unwrap_or(surroundings.max_positions as f64 / original_context);
    Ok(RopeScaling::LongRope {
        short: divisors("short_factor")?,
        long: divisors("long_factor")?,
        original_context,
        attention_factor: match parameters.positive("attention_factor")? {
            Some(stated) => stated,
            None => long_rope_attention_factor(factor, original_context),
        },
    })
}

fn yarn(parameters: &Keys<'_>, factor: f64, original_context: f64) -> Result<RopeScaling, HfError> {
    // To transformers, a zero is as good as nothing.
    let mscale = |key| Ok::<_, HfError>(parameters.not_negative(key)?.filter(|&mscale| mscale > 0.0));
    let mscales = mscale("mscale")?.zip(mscale("mscale_all_dim")?);
    Ok(RopeScaling::Yarn(Yarn {
        factor,
        original_context,
        beta_fast: parameters.positive("beta_fast")?.unwrap_or(32.0),
        beta_slow: parameters.positive("beta_slow")?.unwrap_or(1.0),
        truncate: parameters.boolean("truncate")?.unwrap_or(true),
        attention_factor: match parameters.positive("attention_factor")? {
            Some(stated) => stated,
            None => yarn_attention_factor(factor, mscales),
        },
    }))
}

fn llama3(parameters: &Keys<'_>, factor: f64, original_context: f64) -> Result<RopeScaling, HfError> {
    let low_freq_factor = parameters.required("low_freq_factor", Keys::positive)?;
    let high_freq_factor = parameters.required("high_freq_factor", Keys::positive)?;
    if high_freq_factor <= low_freq_factor {
        let expected = format!("more than the {low_freq_factor} of low_freq_factor");
        return Err(parameters.unexpected("high_freq_factor", expected));
    }
    Ok(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context })
}

/// The context of pre-training is that of the model unless something says otherwise.
fn original_context(parameters: &Keys<'_>, surroundings: &Surroundings) -> Result<f64, HfError> {
    Ok(match surroundings.original_context {
        Some(outer) => outer,
        None => parameters.positive(ORIGINAL_CONTEXT)?.unwrap_or(surroundings.max_positions as f64),
    })
}

fn reject_partial_rotation(keys: &Keys<'_>) -> Result<(), HfError> {
    let key = "partial_rotary_factor";
    match keys.positive(key)? {
        Some(factor) if factor != 1.0 => Err(keys.unsupported(key, "1")),
        _ => Ok(()),
    }
}
