//! Which linear layers a LoRA block adapts, and with which rank and scale.

use super::error::AdapterError;
use super::lora::LoraConfig;
use crate::hf::{BadPattern, ModuleNames, Patterns, is_meant};
use crate::model::DecoderConfig;
use crate::model::config::{LinearModule, Qkv, module_of};

/// The targets that are all linear layers inside the blocks, in any case of letters.
const ALL_LINEAR: &str = "all-linear";

/// An adapted layer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Target {
    pub(super) module: LinearModule,
    /// r.
    pub(super) rank: usize,
    /// What B A is multiplied by.
    pub(super) scale: f64,
}

/// The layers that `config` chooses in `model`, in the order of the forward pass.
///
/// # Errors
///
/// If a name, a block or a pattern is not there, or cannot be used, or nothing is chosen.
pub(super) fn resolve(config: &LoraConfig, model: &DecoderConfig) -> Result<Vec<Target>, AdapterError> {
    let linear = model.linears();
    let names: Vec<&str> = linear.iter().map(|module| module.name.as_str()).collect();
    let wanted = wanted(config, model, &linear, &names)?;
    let excluded = match &config.exclude {
        Some(exclude) => exclude.mean(&names).map_err(pattern("exclude"))?,
        None => vec![false; names.len()],
    };
    if let Some(&layer) = config.layers.iter().flatten().find(|&&layer| layer >= model.layers.len()) {
        return Err(AdapterError::UnknownLayer { layer, last: model.layers.len() - 1 });
    }
    let is_in = |layer| config.layers.as_ref().is_none_or(|layers| layers.contains(&layer));
    let known = last_parts(&linear);
    let choices = linear.into_iter().zip(wanted).zip(excluded);
    let chosen = choices.filter(|((module, wanted), excluded)| *wanted && !excluded && is_in(module.layer));
    let chosen: Vec<LinearModule> = chosen.map(|((module, _), _)| module).collect();
    if chosen.is_empty() {
        return Err(AdapterError::NoTarget { known });
    }
    check_used(&config.rank_pattern, "rank_pattern", &chosen)?;
    check_used(&config.alpha_pattern, "alpha_pattern", &chosen)?;
    scaled(config, chosen)
}

/// Rank and scale of each of `modules`.
///
/// # Errors
///
/// If a pattern cannot be used.
pub(super) fn scaled(config: &LoraConfig, modules: Vec<LinearModule>) -> Result<Vec<Target>, AdapterError> {
    let names: Vec<&str> = modules.iter().map(|module| module.name.as_str()).collect();
    let ranks = config.rank_pattern.values(&names, config.rank).map_err(pattern("rank_pattern"))?;
    let alphas = config.alpha_pattern.values(&names, config.alpha).map_err(pattern("alpha_pattern"))?;
    let target = |((module, rank), alpha): ((LinearModule, usize), f64)| {
        let divisor = if config.rank_stabilized { (rank as f64).sqrt() } else { rank as f64 };
        Target { module, rank, scale: alpha / divisor }
    };
    Ok(modules.into_iter().zip(ranks).zip(alphas).map(target).collect())
}

/// What PEFT has to be told to adapt the same layers: the names that were given, if they are the whole rule, and else
/// every layer's path.
pub(super) fn peft_targets(config: &LoraConfig, targets: &[Target]) -> Vec<String> {
    match &config.targets {
        Some(ModuleNames::List(names)) if config.exclude.is_none() && config.layers.is_none() => names.clone(),
        None if config.exclude.is_none() && config.layers.is_none() => {
            last_parts(targets.iter().map(|target| &target.module))
        }
        _ => targets.iter().map(|target| target.module.name.clone()).collect(),
    }
}

/// Whether each of the model's linear layers is among the targets.
fn wanted(
    config: &LoraConfig,
    model: &DecoderConfig,
    linear: &[LinearModule],
    names: &[&str],
) -> Result<Vec<bool>, AdapterError> {
    match &config.targets {
        None => {
            let default = query_and_value_modules(model);
            Ok(names.iter().map(|name| default.contains(name)).collect())
        }
        Some(ModuleNames::Pattern(text)) if text.eq_ignore_ascii_case(ALL_LINEAR) => Ok(vec![true; names.len()]),
        Some(targets @ ModuleNames::Pattern(text)) => {
            let wanted = targets.mean(names).map_err(pattern("targets"))?;
            match linear.first() {
                Some(first) if !wanted.contains(&true) => Err(AdapterError::UnmatchedTarget {
                    pattern: text.clone(),
                    example: first.name.clone(),
                    last: last_part(first).to_owned(),
                }),
                _ => Ok(wanted),
            }
        }
        Some(targets @ ModuleNames::List(list)) => {
            let is_known = |target: &str| names.iter().any(|name| is_meant(name, target));
            if let Some(target) = list.iter().find(|target| !is_known(target)) {
                return Err(AdapterError::UnknownTarget { target: target.clone(), known: last_parts(linear) });
            }
            targets.mean(names).map_err(pattern("targets"))
        }
    }
}

/// The modules that compute queries and values, of every block: PEFT's default targets. Where one computes both, it is
/// that.
fn query_and_value_modules(model: &DecoderConfig) -> Vec<&str> {
    let linears = model.layers.iter().flat_map(|layer| match &layer.attention.qkv {
        Qkv::Separate { q, v, .. } => vec![q, v],
        Qkv::Fused(qkv) => vec![qkv],
    });
    linears.map(|linear| module_of(&linear.weight)).collect()
}

/// The last part of a module's path.
fn last_part(module: &LinearModule) -> &str {
    module.name.rsplit('.').next().unwrap_or(&module.name)
}

/// The last parts of the modules' paths, each once.
fn last_parts<'a>(modules: impl IntoIterator<Item = &'a LinearModule>) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    for part in modules.into_iter().map(last_part) {
        if !parts.iter().any(|known| known == part) {
            parts.push(part.to_owned());
        }
    }
    parts
}

/// Checks that every pattern decides something for one of `modules`.
fn check_used<T>(patterns: &Patterns<T>, key: &'static str, modules: &[LinearModule]) -> Result<(), AdapterError> {
    let names: Vec<&str> = modules.iter().map(|module| module.name.as_str()).collect();
    let places = patterns.places(&names).map_err(pattern(key))?;
    for (place, (text, _)) in patterns.entries().iter().enumerate() {
        if !places.contains(&Some(place)) {
            return Err(AdapterError::UnusedPattern { key, pattern: text.clone(), adapted: last_parts(modules) });
        }
    }
    Ok(())
}

fn pattern(key: &'static str) -> impl FnOnce(BadPattern) -> AdapterError {
    move |source| AdapterError::Pattern { key, source }
}
