//! `adapter_config.json` of LoRA.

use serde_json::{Value, json};

use super::{
    super::{
        super::{error::HfError, json::Keys},
        Patterns, config_json, is_set,
    },
    PeftLora,
};

/// Ways to begin that leave the base model as it is; others change its weights when the adapter is made.
const HARMLESS_INITS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// Options that change what is computed, and that have to be absent, false or empty.
const UNSUPPORTED: [&str; 14] = [
    "use_dora",
    "lora_bias",
    "modules_to_save",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "megatron_config",
    "alora_invocation_tokens",
    "arrow_config",
    "use_qalora",
    "use_bdlora",
    "kasa_config",
    "monteclora_config",
    "velora_config",
];

/// Options that narrow `target_modules` down.
const NARROWING: [&str; 3] = ["layers_to_transform", "layers_pattern", "exclude_modules"];

/// What the configuration says, checked.
pub(super) struct LoraKeys {
    pub(super) r: usize,
    pub(super) lora_alpha: f64,
    pub(super) use_rslora: bool,
    pub(super) lora_dropout: f64,
    pub(super) fan_in_fan_out: bool,
    pub(super) rank_pattern: Patterns<usize>,
    pub(super) alpha_pattern: Patterns<f64>,
    /// Absent if it is not a list, or not the whole rule.
    pub(super) target_modules: Option<Vec<String>>,
    pub(super) base_model_name_or_path: Option<String>,
}

impl LoraKeys {
    pub(super) fn read(keys: &Keys<'_>) -> Result<Self, HfError> {
        if keys.string("bias")?.is_some_and(|bias| bias != "none") {
            return Err(keys.unsupported("bias", "\"none\""));
        }
        for key in UNSUPPORTED {
            if keys.get(key).is_some_and(is_set) {
                return Err(keys.unsupported(key, "plain LoRA, with use_rslora or without"));
            }
        }
        match keys.get("init_lora_weights") {
            None | Some(Value::Bool(_)) => {}
            Some(Value::String(name)) if HARMLESS_INITS.contains(&name.as_str()) => {}
            Some(_) => {
                let supported = format!("true, false, {}", HARMLESS_INITS.join(", "));
                return Err(keys.unsupported("init_lora_weights", supported));
            }
        }
        let narrowed = NARROWING.iter().any(|key| keys.get(key).is_some_and(is_set));
        let target_modules = match keys.get("target_modules") {
            None | Some(Value::String(_)) => None,
            Some(_) if narrowed => None,
            Some(_) => keys.strings("target_modules")?,
        };
        Ok(Self {
            r: keys.required("r", Keys::size)?,
            lora_alpha: keys.required("lora_alpha", Keys::positive)?,
            use_rslora: keys.boolean("use_rslora")?.unwrap_or(false),
            lora_dropout: keys.share("lora_dropout")?.unwrap_or(0.0),
            fan_in_fan_out: keys.boolean("fan_in_fan_out")?.unwrap_or(false),
            rank_pattern: patterns(keys, "rank_pattern", Keys::size)?,
            alpha_pattern: patterns(keys, "alpha_pattern", Keys::positive)?,
            target_modules,
            base_model_name_or_path: keys.string("base_model_name_or_path")?.map(str::to_owned),
        })
    }
}

/// The patterns under `key`, whose values `read` reads.
fn patterns<'a, T>(
    keys: &Keys<'a>,
    key: &'a str,
    read: impl Fn(&Keys<'a>, &str) -> Result<Option<T>, HfError>,
) -> Result<Patterns<T>, HfError> {
    let Some(patterns) = keys.object(key)? else { return Ok(Patterns::default()) };
    let entry = |pattern: &String| Ok((pattern.clone(), patterns.required(pattern, &read)?));
    Ok(Patterns::new(patterns.names().map(entry).collect::<Result<_, HfError>>()?))
}

/// The configuration for PEFT: the keys that its versions from 0.10 have in common.
pub(super) fn to_json(lora: &PeftLora) -> Value {
    let mut target_modules = lora.target_modules.clone();
    target_modules.sort();
    let alpha_pattern = lora.alpha_pattern.entries().iter().map(|(pattern, alpha)| (pattern.clone(), number(*alpha)));
    let own = json!({
        "alpha_pattern": Value::Object(alpha_pattern.collect()),
        "bias": "none",
        "fan_in_fan_out": lora.fan_in_fan_out,
        "init_lora_weights": true,
        "layer_replication": null,
        "layers_pattern": null,
        "layers_to_transform": null,
        "loftq_config": {},
        "lora_alpha": number(lora.lora_alpha),
        "lora_dropout": lora.lora_dropout,
        "megatron_config": null,
        "megatron_core": "megatron.core",
        "modules_to_save": null,
        "r": lora.r,
        "rank_pattern": lora.rank_pattern,
        "target_modules": target_modules,
        "use_dora": false,
        "use_rslora": lora.use_rslora,
    });
    config_json("LORA", lora.base_model_name_or_path.as_deref(), own)
}

/// PEFT writes an α that is whole as a whole number, and so do most programs that read it.
fn number(alpha: f64) -> Value {
    if alpha.fract() == 0.0 && alpha <= f64::from(u32::MAX) { json!(alpha as u32) } else { json!(alpha) }
}
