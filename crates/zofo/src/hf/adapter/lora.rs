//! LoRA adapters (peft's `LoraConfig`).

mod config;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use self::config::LoraKeys;
use super::{
    super::{error::HfError, json::Keys, weights::WeightFile},
    AdapterMatrix, BadPattern, CONFIG, Patterns, WEIGHTS,
    names::is_meant,
    read_matrix, write_folder,
};

/// What PEFT puts before the name of a module of the base model.
const PREFIX: &str = "base_model.model.";
const A: &str = ".lora_A.weight";
const B: &str = ".lora_B.weight";

/// A LoRA adapter: to the weight `W [out, in]` of a module it adds `scale · B A` (Hu et al., arXiv 2106.09685).
#[derive(Clone, Debug, PartialEq)]
pub struct PeftLora {
    /// The rank of a pair, where no pattern says otherwise.
    pub r: usize,
    /// What the rank divides to give the scale, where no pattern says otherwise.
    pub lora_alpha: f64,
    /// Whether the root of the rank divides it instead (Kalajdzievski, arXiv 2312.03732).
    pub use_rslora: bool,
    /// Share of the input's elements that training drops.
    pub lora_dropout: f64,
    /// Whether the base model stores the weights as `[in, out]`. The matrices of the adapter do not depend on it.
    pub fan_in_fan_out: bool,
    /// Other ranks, by module.
    pub rank_pattern: Patterns<usize>,
    /// Other values of α, by module.
    pub alpha_pattern: Patterns<f64>,
    /// The modules that have a pair, by the end of their path, as `q_proj`, or the whole of it.
    pub target_modules: Vec<String>,
    /// The matrices, by module.
    pub tensors: Vec<LoraPair>,
    /// Where the base model was found.
    pub base_model_name_or_path: Option<String>,
}

/// The two matrices of a module.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraPair {
    /// The path in the base model, as `model.layers.0.self_attn.q_proj`.
    pub module: String,
    /// `[r, in]`.
    pub a: AdapterMatrix,
    /// `[out, r]`.
    pub b: AdapterMatrix,
}

impl PeftLora {
    /// The modules are those that have tensors. `target_modules` is as in the folder if that is a list that nothing
    /// narrows, and otherwise (a pattern, a choice of layers) the paths of these modules.
    pub(super) fn from_files(keys: &Keys<'_>, file: &WeightFile) -> Result<Self, HfError> {
        let keys = LoraKeys::read(keys)?;
        let tensors = read_pairs(file)?;
        let all = || tensors.iter().map(|pair| pair.module.clone()).collect();
        let lora = Self {
            r: keys.r,
            lora_alpha: keys.lora_alpha,
            use_rslora: keys.use_rslora,
            lora_dropout: keys.lora_dropout,
            fan_in_fan_out: keys.fan_in_fan_out,
            rank_pattern: keys.rank_pattern,
            alpha_pattern: keys.alpha_pattern,
            target_modules: keys.target_modules.unwrap_or_else(all),
            tensors,
            base_model_name_or_path: keys.base_model_name_or_path,
        };
        lora.check(file.path())?;
        Ok(lora)
    }

    pub(super) fn write(&self, dir: &Path) -> Result<(), HfError> {
        self.check(&dir.join(WEIGHTS))?;
        let mut matrices = BTreeMap::new();
        for pair in &self.tensors {
            for (matrix, ending) in [(&pair.a, A), (&pair.b, B)] {
                matrices.insert(format!("{PREFIX}{}{ending}", pair.module), matrix);
            }
        }
        write_folder(dir, &config::to_json(self), &matrices)
    }

    /// Checks the parts against each other; `path` is for messages.
    fn check(&self, path: &Path) -> Result<(), HfError> {
        let unexpected = |what: String, expected: String, found: String| {
            let path = path.to_owned();
            Err(HfError::Unexpected { path, what, expected, found })
        };
        if self.tensors.is_empty() {
            return unexpected("the file".to_owned(), format!("tensors named …{A}"), "none".to_owned());
        }
        let names: Vec<&str> = self.tensors.iter().map(|pair| pair.module.as_str()).collect();
        let in_config = |key| move |error| bad_pattern(&path.with_file_name(CONFIG), key, &error);
        let ranks = self.rank_pattern.values(&names, self.r).map_err(in_config("rank_pattern"))?;
        self.alpha_pattern.places(&names).map_err(in_config("alpha_pattern"))?;
        let mut modules = BTreeSet::new();
        for (pair, r) in self.tensors.iter().zip(ranks) {
            let module = &pair.module;
            let [rows, columns] = [pair.b.shape[0], pair.a.shape[1]];
            for (matrix, ending, expected) in [(&pair.a, A, [r, columns]), (&pair.b, B, [rows, r])] {
                let what = || format!("shape of tensor \"{PREFIX}{module}{ending}\"");
                if matrix.shape != expected {
                    let key = if r == self.r { "r" } else { "rank_pattern" };
                    let expected = format!("{expected:?}, by the {key} of {CONFIG}");
                    return unexpected(what(), expected, format!("{:?}", matrix.shape));
                }
                if !matrix.is_whole() {
                    let expected = format!("one of {} values", matrix.values.len());
                    return unexpected(what(), expected, format!("{:?}", matrix.shape));
                }
            }
            if !self.target_modules.iter().any(|target| is_meant(module, target)) {
                // PEFT would not make a place for its tensors, and leave them out.
                let expected = format!("one of the target_modules of {CONFIG}");
                return unexpected(format!("module \"{module}\""), expected, self.target_modules.join(", "));
            }
            if !modules.insert(module) {
                let what = format!("module \"{module}\"");
                return unexpected(what, "one pair".to_owned(), "another".to_owned());
            }
        }
        Ok(())
    }
}

fn bad_pattern(path: &Path, key: &str, error: &BadPattern) -> HfError {
    HfError::Unexpected {
        path: path.to_owned(),
        what: format!("key \"{key}\""),
        expected: "regular expressions".to_owned(),
        found: format!("`{}`: {}", error.pattern, error.source),
    }
}

/// The pairs in the file, by the order of their modules' names.
fn read_pairs(file: &WeightFile) -> Result<Vec<LoraPair>, HfError> {
    let mut halves: BTreeMap<&str, [Option<AdapterMatrix>; 2]> = BTreeMap::new();
    for name in file.names() {
        let module = name.strip_prefix(PREFIX).and_then(|module| {
            let a = module.strip_suffix(A).map(|module| (module, 0));
            a.or_else(|| module.strip_suffix(B).map(|module| (module, 1)))
        });
        let Some((module, half)) = module else {
            return Err(HfError::Unsupported {
                path: file.path().to_owned(),
                what: "a tensor".to_owned(),
                found: format!("\"{name}\""),
                supported: format!("{PREFIX}MODULE{A} and {PREFIX}MODULE{B}"),
            });
        };
        halves.entry(module).or_default()[half] = Some(read_matrix(file, name)?);
    }
    let whole = |(module, halves): (&str, [Option<AdapterMatrix>; 2])| match halves {
        [Some(a), Some(b)] => Ok(LoraPair { module: module.to_owned(), a, b }),
        [a, _] => Err(HfError::MissingTensors {
            path: file.path().to_owned(),
            names: vec![format!("{PREFIX}{module}{}", if a.is_none() { A } else { B })],
        }),
    };
    halves.into_iter().map(whole).collect()
}

#[cfg(test)]
mod tests;
