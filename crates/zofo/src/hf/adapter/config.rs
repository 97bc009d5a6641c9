//! `adapter_config.json` of LoRA (peft's `LoraConfig`).

use std::path::Path;

use serde_json::{Value, json};

use super::{
    super::{
        error::HfError,
        json::{Keys, read_object},
    },
    PeftLora,
};

/// Ways to begin that leave the base model as it is; others change its weights when the adapter is made.
const HARMLESS_INITS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// Options that change what is computed, and that have to be absent, false or empty.
const UNSUPPORTED: [&str; 16] = [
    "use_dora",
    "lora_bias",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
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
pub(super) struct AdapterConfig {
    pub(super) r: usize,
    pub(super) lora_alpha: f64,
    pub(super) use_rslora: bool,
    /// Absent if it is not a list, or not the whole rule.
    pub(super) target_modules: Option<Vec<String>>,
    pub(super) base_model_name_or_path: Option<String>,
}

impl AdapterConfig {
    pub(super) fn read(path: &Path) -> Result<Self, HfError> {
        let object = read_object(path)?;
        let keys = Keys::new(path, &object);
        if keys.required("peft_type", Keys::string)? != "LORA" {
            return Err(keys.unsupported("peft_type", "\"LORA\""));
        }
        if keys.string("task_type")?.is_some_and(|task| task != "CAUSAL_LM") {
            return Err(keys.unsupported("task_type", "\"CAUSAL_LM\""));
        }
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
            target_modules,
            base_model_name_or_path: keys.string("base_model_name_or_path")?.map(str::to_owned),
        })
    }
}

/// Whether Python would take the value for true.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(object) => !object.is_empty(),
        Value::String(text) => !text.is_empty(),
        // 0 is the first layer in `layers_to_transform`.
        Value::Bool(true) | Value::Number(_) => true,
    }
}

/// The configuration for PEFT: the keys that its versions from 0.10 have in common.
pub(super) fn to_json(lora: &PeftLora) -> Value {
    let mut target_modules = lora.target_modules.clone();
    target_modules.sort();
    // PEFT writes a whole number, and so do most programs that read it.
    let lora_alpha = match lora.lora_alpha {
        whole if whole.fract() == 0.0 && whole <= f64::from(u32::MAX) => json!(whole as u32),
        fraction => json!(fraction),
    };
    json!({
        "alpha_pattern": {},
        "auto_mapping": null,
        "base_model_name_or_path": lora.base_model_name_or_path,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "layer_replication": null,
        "layers_pattern": null,
        "layers_to_transform": null,
        "loftq_config": {},
        "lora_alpha": lora_alpha,
        "lora_dropout": 0.0,
        "megatron_config": null,
        "megatron_core": "megatron.core",
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": lora.r,
        "rank_pattern": {},
        "revision": null,
        "target_modules": target_modules,
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": lora.use_rslora,
    })
}
