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
                return Err(
                    parameters.unexpected("rope_theta", "more than 1 with yarn, which divides by its logarithm")
                );
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
        let expected = format!("more than 1, not {original_context}, with longrope, which divides by its logarithm");
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::super::test_model::{assert_refused, changed, llama_config, read_decoder};
    use super::*;
    use crate::model::DecoderConfig;

    fn decoder(changes: &Value) -> DecoderConfig {
        read_decoder(&changed(&llama_config(), changes)).unwrap()
    }

    fn rope(changes: &Value) -> Rope {
        decoder(changes).ropes.remove(0)
    }

    /// Reads `parameters` in the spelling of transformers 5 and in both of transformers 4, which must agree.
    fn scaling(parameters: Value) -> RopeScaling {
        let new = changed(&parameters, &json!({ "rope_theta": 500 }));
        let mut oldest = parameters.clone();
        oldest["type"] = oldest.as_object_mut().unwrap().remove("rope_type").unwrap();
        let old = [parameters, oldest]
            .map(|scaling| rope(&json!({ "rope_theta": 500.0, "rope_scaling": scaling, "rope_parameters": null })));
        let new = rope(&json!({ "rope_parameters": new }));
        assert_eq!((new.theta, new.dim), (500.0, 4));
        assert_eq!(old, [new.clone(), new.clone()]);
        new.scaling
    }

    #[test]
    fn every_type_in_every_spelling() {
        assert_eq!(scaling(json!({ "rope_type": "default" })), RopeScaling::Default);
        assert_eq!(scaling(json!({ "rope_type": "linear", "factor": 2 })), RopeScaling::Linear { factor: 2.0 });
        assert_eq!(
            scaling(json!({ "rope_type": "dynamic", "factor": 2.5 })),
            RopeScaling::Dynamic { factor: 2.5, original_context: 64.0 }
        );
        let llama3 = json!({
            "factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
            "original_max_position_embeddings": 32, "rope_type": "llama3",
        });
        let expected =
            RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 32.0 };
        assert_eq!(scaling(llama3), expected);
        let defaults = Yarn {
            factor: 4.0,
            original_context: 64.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate: true,
            attention_factor: 0.1 * 4.0_f64.ln() + 1.0,
        };
        assert_eq!(scaling(json!({ "rope_type": "yarn", "factor": 4.0 })), RopeScaling::Yarn(defaults));
        let stated = json!({
            "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16,
            "beta_fast": 8, "beta_slow": 2, "truncate": false, "attention_factor": 1.5, "mscale": 1.0,
        });
        let expected = Yarn {
            factor: 4.0,
            original_context: 16.0,
            beta_fast: 8.0,
            beta_slow: 2.0,
            truncate: false,
            attention_factor: 1.5,
        };
        assert_eq!(scaling(stated), RopeScaling::Yarn(expected));
        let long_rope = json!({
            "rope_type": "longrope", "short_factor": [1.0, 2.0], "long_factor": [3.0, 4.0],
            "original_max_position_embeddings": 16,
        });
        let expected = |attention_factor| RopeScaling::LongRope {
            short: vec![1.0, 2.0],
            long: vec![3.0, 4.0],
            original_context: 16.0,
            attention_factor,
        };
        // The context of 64 is 4 times that of pre-training.
        assert_eq!(scaling(long_rope.clone()), expected(1.5_f64.sqrt()));
        let factor = changed(&long_rope, &json!({ "factor": 16.0 }));
        assert_eq!(scaling(factor), expected(2.0_f64.sqrt()));
        let stated = changed(&long_rope, &json!({ "factor": 16.0, "attention_factor": 1.25 }));
        assert_eq!(scaling(stated), expected(1.25));
    }

    #[test]
    fn the_mscales_of_yarn() {
        let attention_factor = |mscales| {
            let yarn = changed(&json!({ "rope_type": "yarn", "factor": 8.0 }), &mscales);
            match scaling(yarn) {
                RopeScaling::Yarn(yarn) => yarn.attention_factor,
                other => panic!("{other:?}"),
            }
        };
        let plain = attention_factor(json!({}));
        assert_eq!(attention_factor(json!({ "mscale": 1.0, "mscale_all_dim": 1.0 })), 1.0);
        assert_eq!(attention_factor(json!({ "mscale": 2.0, "mscale_all_dim": 0 })), plain);
        assert_eq!(attention_factor(json!({ "mscale": 2.0 })), plain);
    }

    #[test]
    fn the_context_of_pre_training() {
        let context = |changes: Value| match rope(&changes).scaling {
            RopeScaling::Llama3 { original_context, .. } => original_context,
            other => panic!("{other:?}"),
        };
        let llama3 = json!({ "rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4 });
        assert_eq!(context(json!({ "rope_parameters": llama3 })), 64.0);
        let inner = changed(&llama3, &json!({ "original_max_position_embeddings": 32 }));
        assert_eq!(context(json!({ "rope_parameters": inner })), 32.0);
        let outer = json!({ "rope_parameters": inner, "original_max_position_embeddings": 16 });
        assert_eq!(context(outer), 16.0);
    }

    #[test]
    fn the_longest_sequence() {
        let longest = |parameters| decoder(&json!({ "rope_parameters": parameters })).max_positions;
        assert_eq!(longest(json!({ "rope_type": "linear", "factor": 4 })), 64);
        assert_eq!(longest(json!({ "rope_type": "dynamic", "factor": 4 })), 256);
        assert_eq!(longest(json!({ "rope_type": "yarn", "factor": 4 })), 256);
        let whole = json!({ "rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 8 });
        assert_eq!(longest(whole), 64);
    }

    #[test]
    fn the_older_spelling_precedes() {
        let both = json!({
            "rope_scaling": { "type": "linear", "factor": 2.0 },
            "rope_parameters": { "rope_type": "default", "rope_theta": 7.0 },
        });
        let expected = Rope { theta: DEFAULT_THETA, dim: 4, scaling: RopeScaling::Linear { factor: 2.0 } };
        assert_eq!(rope(&both), expected);
        let inner = json!({ "rope_parameters": { "rope_theta": 7.0 }, "rope_theta": 8.0, "rope_scaling": {} });
        assert_eq!(rope(&inner).theta, 7.0);
    }

    #[test]
    fn impossible_values() {
        let parameters = |parameters| json!({ "rope_parameters": parameters });
        let cases: [(_, &[&str]); 12] = [
            (json!({ "rope_parameters": 3 }), &["\"rope_parameters\"", "an object"]),
            (parameters(json!({ "rope_type": "linear" })), &["\"rope_parameters.factor\"", "found none"]),
            (parameters(json!({ "rope_type": "linear", "factor": 0 })), &["\"rope_parameters.factor\"", "above zero"]),
            (
                parameters(json!({
                    "rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4,
                })),
                &["\"rope_parameters.high_freq_factor\"", "more than the 4"],
            ),
            (
                parameters(json!({ "rope_type": "yarn", "factor": 2, "rope_theta": 1.0 })),
                &["\"rope_parameters.rope_theta\"", "more than 1"],
            ),
            (
                parameters(json!({ "rope_type": "longrope", "long_factor": [1.0, 1.0] })),
                &["\"rope_parameters.short_factor\"", "found none"],
            ),
            (
                parameters(json!({ "rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0, 1.0] })),
                &["\"rope_parameters.short_factor\"", "each of the 2 pairs", "not 1"],
            ),
            (
                parameters(json!({ "rope_type": "longrope", "short_factor": [1, 0], "long_factor": [1, 1] })),
                &["\"rope_parameters.short_factor\"", "numbers above zero"],
            ),
            (
                parameters(json!({
                    "rope_type": "longrope", "original_max_position_embeddings": 1,
                    "short_factor": [1, 1], "long_factor": [1, 1],
                })),
                &["\"rope_parameters.original_max_position_embeddings\"", "more than 1"],
            ),
            (
                json!({ "head_dim": 2, "rope_parameters": { "rope_type": "dynamic", "factor": 2.0 } }),
                &["\"rope_parameters.rope_type\"", "two elements"],
            ),
            (parameters(json!({ "rope_type": 3 })), &["\"rope_parameters.rope_type\"", "a string"]),
            (json!({ "original_max_position_embeddings": 0 }), &["\"original_max_position_embeddings\""]),
        ];
        assert_refused(&llama_config(), &cases);
    }

    #[test]
    fn what_is_not_computed() {
        let cases: [(_, &[&str]); 5] = [
            (
                json!({ "rope_parameters": { "rope_type": "proportional", "factor": 4.0 } }),
                &["\"rope_parameters.rope_type\" is \"proportional\"", "default, linear, dynamic, yarn"],
            ),
            (json!({ "rope_scaling": { "type": "su" } }), &["\"rope_scaling.type\" is \"su\""]),
            (
                json!({ "rope_parameters": { "partial_rotary_factor": 0.5 } }),
                &["\"rope_parameters.partial_rotary_factor\" is 0.5", "not supported"],
            ),
            (json!({ "partial_rotary_factor": 0.5 }), &["\"partial_rotary_factor\" is 0.5", "not supported"]),
            (
                json!({ "rope_parameters": { "full_attention": { "rope_theta": 1e4 } } }),
                &["\"rope_parameters.full_attention\"", "not supported"],
            ),
        ];
        assert_refused(&llama_config(), &cases);
    }
}
