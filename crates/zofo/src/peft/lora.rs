//! LoRA: W·x + (α/r)·B·A·x with A `[r, in]` and B `[out, r]` (Hu et al., 2021).

use crate::hf::{HfError, LoraMatrix, LoraPair, PeftLora, is_target};
use crate::model::DecoderConfig;
use crate::task::SplitMix64;
use burn::tensor::{Device, Tensor, TensorData};
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
    /// Which linear layers, by the last part of their module names (`q_proj`) or by whole names.
    pub targets: Vec<String>,
}

/// No linear layer of the model has the name of a target.
#[derive(Debug, thiserror::Error)]
#[error(
    "`peft.targets` names `{target}`, which is no linear layer of this model; it has {}",
    known.join(", ")
)]
pub struct UnknownTarget {
    /// What was asked for.
    pub target: String,
    /// Last parts of the names of the model's linear layers.
    pub known: Vec<String>,
}

/// A LoRA block: one pair (A, B) per adapted linear layer.
#[derive(Clone)]
pub struct Lora {
    config: Arc<LoraConfig>,
    /// Module names, without `.weight`, in the order of the forward pass.
    modules: Arc<Vec<String>>,
    index: Arc<HashMap<String, usize>>,
    pairs: Vec<(Tensor<2>, Tensor<2>)>,
}

impl Lora {
    /// A new block for `model`: A Kaiming-uniform (a = √5, as PEFT does: uniform in ±1/√in), B = 0, from `seed`.
    ///
    /// # Errors
    ///
    /// If a target matches no linear layer.
    pub fn new(config: LoraConfig, model: &DecoderConfig, seed: u64, device: &Device) -> Result<Self, UnknownTarget> {
        let linear = linear_modules(model);
        for target in &config.targets {
            if !linear.iter().any(|(module, _)| is_target(module, target)) {
                return Err(UnknownTarget { target: target.clone(), known: last_parts(&linear) });
            }
        }
        let chosen =
            linear.into_iter().filter(|(module, _)| config.targets.iter().any(|target| is_target(module, target)));
        let (mut modules, mut pairs) = (Vec::new(), Vec::new());
        for (index, (module, [out, input])) in chosen.enumerate() {
            let mut random = SplitMix64::keyed(seed, "lora", index as u64);
            let bound = 1.0 / (input as f64).sqrt();
            let mut uniform = || {
                let unit = (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
                ((2.0 * unit - 1.0) * bound) as f32
            };
            let a: Vec<f32> = (0..config.rank * input).map(|_| uniform()).collect();
            let a = Tensor::from_data(TensorData::new(a, [config.rank, input]), device);
            pairs.push((a, Tensor::zeros([out, config.rank], device)));
            modules.push(module);
        }
        Ok(Self::assemble(config, modules, pairs))
    }

    /// The block in the PEFT folder `dir`.
    ///
    /// # Errors
    ///
    /// If it cannot be read, is of another kind, or belongs to another model.
    pub fn read(dir: &Path, model: &DecoderConfig, device: &Device) -> Result<Self, HfError> {
        let stored = PeftLora::read(dir)?;
        stored.check_against(model, dir)?;
        let config = LoraConfig {
            rank: stored.r,
            alpha: stored.lora_alpha,
            rank_stabilized: stored.use_rslora,
            targets: stored.target_modules,
        };
        let tensor = |matrix: LoraMatrix| Tensor::from_data(TensorData::new(matrix.values, matrix.shape), device);
        let stored = stored.tensors.into_iter();
        let mut by_module: HashMap<String, _> =
            stored.map(|pair| (pair.module, (tensor(pair.a), tensor(pair.b)))).collect();
        let order = linear_modules(model).into_iter().map(|(name, _)| name);
        let (modules, pairs) = order.filter_map(|name| by_module.remove(&name).map(|pair| (name, pair))).unzip();
        Ok(Self::assemble(config, modules, pairs))
    }

    /// Writes the block as the PEFT folder `dir`, for the base model at `base_model`.
    ///
    /// # Errors
    ///
    /// If a file cannot be written, or `dir` holds something else.
    pub fn write(&self, base_model: &Path, dir: &Path) -> Result<(), HfError> {
        let matrix = |tensor: &Tensor<2>| LoraMatrix {
            shape: tensor.dims(),
            values: tensor.clone().inner().into_data().iter::<f32>().collect(),
        };
        let pairs = self.modules.iter().zip(&self.pairs).map(|(module, (a, b))| LoraPair {
            module: module.clone(),
            a: matrix(a),
            b: matrix(b),
        });
        let stored = PeftLora {
            r: self.config.rank,
            lora_alpha: self.config.alpha,
            use_rslora: self.config.rank_stabilized,
            target_modules: self.config.targets.clone(),
            tensors: pairs.collect(),
            base_model_name_or_path: Some(base_model.display().to_string()),
        };
        stored.write(dir)
    }

    fn assemble(config: LoraConfig, modules: Vec<String>, pairs: Vec<(Tensor<2>, Tensor<2>)>) -> Self {
        let index = modules.iter().enumerate().map(|(i, name)| (format!("{name}.weight"), i));
        let index = Arc::new(index.collect());
        Self { config: Arc::new(config), modules: Arc::new(modules), index, pairs }
    }

    /// Size and place.
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    pub(super) fn tensors(&self) -> Vec<(String, Tensor<2>)> {
        let both = self.modules.iter().zip(&self.pairs).flat_map(|(module, (a, b))| {
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

    pub(super) fn module(&self, weight: &str) -> Option<usize> {
        self.index.get(weight).copied()
    }

    pub(super) fn delta(&self, weight: &str, x: Tensor<2>) -> Option<Tensor<2>> {
        let (a, b) = self.pairs[self.module(weight)?].clone();
        let rank = self.config.rank as f64;
        let scale = self.config.alpha / if self.config.rank_stabilized { rank.sqrt() } else { rank };
        Some(x.matmul(a.transpose()).matmul(b.transpose()) * scale)
    }
}

/// Module name and `[out, in]` of every linear layer inside the blocks, in the order of the forward pass.
fn linear_modules(model: &DecoderConfig) -> Vec<(String, [usize; 2])> {
    model.linears().into_iter().map(|linear| (linear.name, [linear.outputs, linear.inputs])).collect()
}

fn last_parts(linear: &[(String, [usize; 2])]) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    for (module, _) in linear {
        let part = module.rsplit('.').next().unwrap_or(module).to_owned();
        if !parts.contains(&part) {
            parts.push(part);
        }
    }
    parts
}
