//! The blocks p and s of a run, as its configuration has them.

use super::config::{BlockInit, Config, PeftConfig, PeftKind, ShadowInit};
use super::error::RunError;
use super::inputs::Inputs;
use crate::model::Backbone;
use crate::peft::{Adapter, AdapterConfig, InitTokens, LoraConfig, PrefixConfig, PrefixInit, PromptConfig, PromptInit};
use crate::task::SplitMix64;
use tokenizers::Tokenizer;

/// What `[peft]` asks for. `tokenizer` reads its text.
///
/// # Errors
///
/// If the tokenizer fails on the text.
pub(super) fn configured(peft: &PeftConfig, tokenizer: &Tokenizer) -> Result<AdapterConfig, RunError> {
    let tokens = || match &peft.init_text {
        Some(text) => tokens_of(text, tokenizer).map(InitTokens::Given),
        None => Ok(InitTokens::Random),
    };
    let virtual_tokens = peft.virtual_tokens;
    Ok(match peft.kind {
        PeftKind::Lora => AdapterConfig::Lora(LoraConfig {
            rank: peft.rank,
            alpha: peft.alpha,
            rank_stabilized: peft.rank_stabilized,
            dropout: peft.dropout,
            targets: peft.targets.clone(),
            exclude: peft.exclude.clone(),
            layers: peft.layers.clone(),
            rank_pattern: peft.rank_pattern.clone(),
            alpha_pattern: peft.alpha_pattern.clone(),
        }),
        PeftKind::Prefix => {
            let init = match peft.init {
                BlockInit::Random => PrefixInit::Random,
                BlockInit::Projection => PrefixInit::Projection { hidden: peft.projection_hidden },
                // The configuration refuses tokens for this kind.
                BlockInit::Activations | BlockInit::Tokens => PrefixInit::Activations(tokens()?),
            };
            AdapterConfig::Prefix(PrefixConfig { virtual_tokens, init })
        }
        PeftKind::Prompt => {
            let init = match peft.init {
                BlockInit::Random => PromptInit::Random,
                // The configuration refuses the last two for this kind.
                BlockInit::Tokens | BlockInit::Activations | BlockInit::Projection => PromptInit::Embeddings(tokens()?),
            };
            AdapterConfig::Prompt(PromptConfig { virtual_tokens, init })
        }
    })
}

/// p₀.
pub(super) fn adapter(config: &Config, inputs: &Inputs, backbone: &Backbone) -> Result<Adapter, RunError> {
    new(config, inputs, backbone, "adapter")
}

/// s₀, beside a p₀.
pub(super) fn shadow(
    config: &Config,
    inputs: &Inputs,
    backbone: &Backbone,
    adapter: &Adapter,
) -> Result<Adapter, RunError> {
    match config.peft.shadow_init {
        ShadowInit::Copy => Ok(adapter.clone()),
        ShadowInit::Independent => new(config, inputs, backbone, "shadow"),
    }
}

fn new(config: &Config, inputs: &Inputs, backbone: &Backbone, purpose: &str) -> Result<Adapter, RunError> {
    let seed = SplitMix64::keyed(config.run.seed, purpose, 0).next_u64();
    Ok(Adapter::new(&inputs.block, backbone, seed)?)
}

/// The tokens of a text, with those that the tokenizer puts around every text, as PEFT takes them.
fn tokens_of(text: &str, tokenizer: &Tokenizer) -> Result<Vec<u32>, RunError> {
    let encode = || {
        let mut tokenizer = tokenizer.clone();
        // A tokenizer.json may ask for either; how many tokens there are to be is the block's matter.
        tokenizer.with_padding(None).with_truncation(None)?;
        Ok(tokenizer.encode_fast(text, true)?.get_ids().to_vec())
    };
    encode().map_err(|error: tokenizers::Error| {
        RunError::Conflict(format!("the tokenizer failed on `peft.init_text`: {error}"))
    })
}
