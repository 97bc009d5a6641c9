//! LoRA: W·x + (α/r)·B·A·x with A `[r, in]` and B `[out, r]` (Hu et al., 2021).

use super::dropout::dropout;
use super::error::AdapterError;
use super::init::tensor_of;
use super::targets::{Target, peft_targets, resolve, scaled};
use crate::hf::{AdapterMatrix, HfError, LoraPair, ModuleNames, Patterns, PeftLora, adapter_weights_path};
use crate::model::DecoderConfig;
use crate::model::config::{WeightOrder, module_of};
use crate::task::SplitMix64;
use burn::tensor::{Device, Tensor};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// Size and place of a LoRA block.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    /// r.
    pub rank: usize,
    /// α.
    pub alpha: f64,
    /// Scale by α/√r instead of α/r (Kalajdzievski, 2023).
    pub rank_stabilized: bool,
    /// Share of the elements of x that is dropped before A while the block is trained: at least 0 and below 1.
    pub dropout: f64,
    /// Which linear layers: by the last part of their module names (`q_proj`) or by whole names; by a regular expression
    /// that matches whole names; or `all-linear`. By default those that compute queries and values.
    pub targets: Option<ModuleNames>,
    /// Those of them that are left out.
    pub exclude: Option<ModuleNames>,
    /// The blocks, from 0, whose layers are taken. By default all.
    pub layers: Option<Vec<usize>>,
    /// Other ranks, for layers whose names end in what a regular expression matches.
    pub rank_pattern: Patterns<usize>,
    /// Other values of α, likewise.
    pub alpha_pattern: Patterns<f64>,
}

impl Default for LoraConfig {
    /// r = 8 and α = 16 on queries and values.
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 16.0,
            rank_stabilized: false,
            dropout: 0.0,
            targets: None,
            exclude: None,
            layers: None,
            rank_pattern: Patterns::default(),
            alpha_pattern: Patterns::default(),
        }
    }
}

/// A LoRA block: one pair (A, B) per adapted linear layer.
#[derive(Clone)]
pub struct Lora {
    config: Arc<LoraConfig>,
    /// In the order of the forward pass.
    targets: Arc<Vec<Target>>,
    /// Places by the names of the weights.
    index: Arc<HashMap<String, usize>>,
    pairs: Vec<(Tensor<2>, Tensor<2>)>,
    /// Where dropout's masks come from, if there is to be any.
    dropout_seed: Option<u64>,
}

impl Lora {
    /// A new block for `model`: A Kaiming-uniform (a = √5, as PEFT does: uniform in ±1/√in), B = 0, from `seed`.
    ///
    /// # Errors
    ///
    /// If the configuration asks for layers that the model does not have, or for none.
    pub fn new(config: LoraConfig, model: &DecoderConfig, seed: u64, device: &Device) -> Result<Self, AdapterError> {
        let targets = resolve(&config, model)?;
        let pair = |(index, target): (usize, &Target)| {
            let mut random = SplitMix64::keyed(seed, "lora", index as u64);
            let [rank, inputs, outputs] = [target.rank, target.module.inputs, target.module.outputs];
            let bound = 1.0 / (inputs as f64).sqrt();
            let a = (0..rank * inputs).map(|_| ((2.0 * random.next_unit() - 1.0) * bound) as f32).collect();
            (tensor_of(a, [rank, inputs], device), Tensor::zeros([outputs, rank], device))
        };
        let pairs = targets.iter().enumerate().map(pair).collect();
        Ok(Self::assemble(config, targets, pairs))
    }

    /// Checks `config` against `model` without making a block.
    ///
    /// # Errors
    ///
    /// Those of [`new`](Self::new).
    pub(super) fn check(config: &LoraConfig, model: &DecoderConfig) -> Result<(), AdapterError> {
        resolve(config, model).map(|_| ())
    }

    /// The block `stored`, which was read from the folder `dir`, for `model`.
    ///
    /// # Errors
    ///
    /// If it belongs to another model, or adapts the output matrix.
    pub(super) fn from_peft(
        stored: PeftLora,
        dir: &Path,
        model: &DecoderConfig,
        device: &Device,
    ) -> Result<Self, HfError> {
        check_fit(&stored, dir, model)?;
        let config = LoraConfig {
            rank: stored.r,
            alpha: stored.lora_alpha,
            rank_stabilized: stored.use_rslora,
            dropout: stored.lora_dropout,
            targets: Some(ModuleNames::List(stored.target_modules)),
            rank_pattern: stored.rank_pattern,
            alpha_pattern: stored.alpha_pattern,
            ..LoraConfig::default()
        };
        let tensor = |matrix: AdapterMatrix| tensor_of(matrix.values, matrix.shape, device);
        let stored = stored.tensors.into_iter();
        let mut by_module: HashMap<String, _> =
            stored.map(|pair| (pair.module, (tensor(pair.a), tensor(pair.b)))).collect();
        let order = model.linears().into_iter();
        let (modules, pairs) =
            order.filter_map(|module| by_module.remove(&module.name).map(|pair| (module, pair))).unzip();
        let targets = scaled(&config, modules).map_err(|error| HfError::Unexpected {
            path: dir.to_owned(),
            what: "patterns".to_owned(),
            expected: "regular expressions".to_owned(),
            found: error.to_string(),
        })?;
        Ok(Self::assemble(config, targets, pairs))
    }

    /// The block as PEFT keeps it, for the base model at `base_model`.
    pub(super) fn to_peft(&self, base_model: &Path) -> PeftLora {
        let pairs = self.targets.iter().zip(&self.pairs).map(|(target, (a, b))| LoraPair {
            module: target.module.name.clone(),
            a: AdapterMatrix::from(a),
            b: AdapterMatrix::from(b),
        });
        PeftLora {
            r: self.config.rank,
            lora_alpha: self.config.alpha,
            use_rslora: self.config.rank_stabilized,
            lora_dropout: self.config.dropout,
            fan_in_fan_out: self.targets.iter().any(|target| target.module.order == WeightOrder::InputMajor),
            rank_pattern: self.config.rank_pattern.clone(),
            alpha_pattern: self.config.alpha_pattern.clone(),
            target_modules: peft_targets(&self.config, &self.targets),
            tensors: pairs.collect(),
            base_model_name_or_path: Some(base_model.display().to_string()),
        }
    }

    fn assemble(config: LoraConfig, targets: Vec<Target>, pairs: Vec<(Tensor<2>, Tensor<2>)>) -> Self {
        let index = targets.iter().enumerate().map(|(i, target)| (format!("{}.weight", target.module.name), i));
        let index = Arc::new(index.collect());
        Self { config: Arc::new(config), targets: Arc::new(targets), index, pairs, dropout_seed: None }
    }

    /// Size and place.
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    pub(super) fn tensors(&self) -> Vec<(String, Tensor<2>)> {
        let both = self.targets.iter().zip(&self.pairs).flat_map(|(target, (a, b))| {
            let module = &target.module.name;
            [
                (format!("base_model.model.{module}.lora_A.weight"), a.clone()),
                (format!("base_model.model.{module}.lora_B.weight"), b.clone()),
            ]
        });
        both.collect()
    }

    pub(super) fn with_tensors(&self, tensors: Vec<Tensor<2>>) -> Self {
        let mut tensors = tensors.into_iter();
        let mut pairs = Vec::with_capacity(self.pairs.len());
        while let (Some(a), Some(b)) = (tensors.next(), tensors.next()) {
            pairs.push((a, b));
        }
        debug_assert_eq!(pairs.len(), self.pairs.len());
        Self { pairs, ..self.clone() }
    }

    pub(super) fn with_dropout(&self, seed: u64) -> Self {
        Self { dropout_seed: self.has_dropout().then_some(seed), ..self.clone() }
    }

    pub(super) fn has_dropout(&self) -> bool {
        self.config.dropout > 0.0
    }

    pub(super) fn adapts(&self, weight: &str) -> bool {
        self.index.contains_key(weight)
    }

    pub(super) fn delta(&self, weight: &str, x: Tensor<2>) -> Option<Tensor<2>> {
        let index = *self.index.get(weight)?;
        let (a, b) = self.pairs[index].clone();
        let Target { module, scale, .. } = &self.targets[index];
        let x = match self.dropout_seed {
            Some(seed) => dropout(x, self.config.dropout, seed, &module.name),
            None => x,
        };
        // Scaled where it is small.
        Some((x.matmul(a.transpose()) * *scale).matmul(b.transpose()))
    }

    /// The `values` of the weight of this name with the block's addition merged in: W + (α/r)·B·A, computed in f32, in
    /// the layout in which the model stores the weight. A weight that the block does not adapt stays as it is.
    pub fn merged(&self, weight: &str, values: Tensor<2>) -> Tensor<2> {
        let Some(&index) = self.index.get(weight) else { return values };
        let (a, b) = self.pairs[index].clone();
        let Target { module, scale, .. } = &self.targets[index];
        let addition = b.matmul(a) * *scale;
        values
            + match module.order {
                WeightOrder::OutputMajor => addition,
                WeightOrder::InputMajor => addition.transpose(),
            }
    }
}

/// Checks that every module of `stored` is a linear layer of `model`, and that the pair fits it.
fn check_fit(stored: &PeftLora, dir: &Path, model: &DecoderConfig) -> Result<(), HfError> {
    let linear = model.linears();
    let shapes: HashMap<&str, [usize; 2]> =
        linear.iter().map(|module| (module.name.as_str(), [module.outputs, module.inputs])).collect();
    for pair in &stored.tensors {
        let module = &pair.module;
        if module_of(&model.output.head) == module {
            return Err(HfError::Unsupported {
                path: adapter_weights_path(dir),
                what: format!("module \"{module}\""),
                found: "LoRA on the output matrix".to_owned(),
                supported: "LoRA on the linear layers inside the blocks".to_owned(),
            });
        }
        let found = [pair.b.shape[0], pair.a.shape[1]];
        let expected = match shapes.get(module.as_str()) {
            Some(shape) if *shape == found => continue,
            Some(shape) => format!("one for the {shape:?} (out, in) of the base model"),
            None => "a linear layer of the base model".to_owned(),
        };
        return Err(HfError::Unexpected {
            path: adapter_weights_path(dir),
            what: format!("module \"{module}\""),
            expected,
            found: format!("one for {found:?} (is the adapter for another model?)"),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
