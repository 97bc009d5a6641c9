//! LoRA adapters in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`.

mod config;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use self::config::AdapterConfig;
use super::{
    atomic::{replace_dir_atomically, write_file},
    dtype::WeightDtype,
    error::HfError,
    safetensors::{SafetensorsFile, TensorSpec, write_shard},
    weights::WeightFile,
};
use crate::model::DecoderConfig;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// What PEFT puts before the name of a module of the base model.
const PREFIX: &str = "base_model.model.";
const A: &str = ".lora_A.weight";
const B: &str = ".lora_B.weight";

/// A LoRA adapter: to the weight `W [out, in]` of a module it adds `scale · B A` (Hu et al., arXiv 2106.09685).
#[derive(Clone, Debug, PartialEq)]
pub struct PeftLora {
    /// The rank of every pair.
    pub r: usize,
    /// What the rank divides to give the scale.
    pub lora_alpha: f64,
    /// Whether the root of the rank divides it instead (Kalajdzievski, arXiv 2312.03732).
    pub use_rslora: bool,
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
    pub a: LoraMatrix,
    /// `[out, r]`.
    pub b: LoraMatrix,
}

/// A row-major matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraMatrix {
    /// Rows and columns.
    pub shape: [usize; 2],
    /// Row after row.
    pub values: Vec<f32>,
}

impl PeftLora {
    /// What `B A` is multiplied by.
    pub fn scale(&self) -> f64 {
        let r = self.r as f64;
        self.lora_alpha / if self.use_rslora { r.sqrt() } else { r }
    }

    /// Reads the adapter folder `dir`.
    ///
    /// The modules are those that have tensors. `target_modules` is as in the folder if that is a list that nothing
    /// narrows, and otherwise (a pattern, a choice of layers) the paths of these modules.
    ///
    /// # Errors
    /// A file is missing, cannot be read or is wrong; the adapter is of another kind than plain LoRA for causal language
    /// models; half a pair is missing, or a matrix does not have the rank that the configuration says; a module is not
    /// among the targets.
    pub fn read(dir: &Path) -> Result<Self, HfError> {
        for missing in [CONFIG, WEIGHTS] {
            if !dir.join(missing).exists() {
                return Err(HfError::NoAdapter { path: dir.to_owned(), missing });
            }
        }
        let config = AdapterConfig::read(&dir.join(CONFIG))?;
        let path = dir.join(WEIGHTS);
        let tensors = read_pairs(&SafetensorsFile::open(&path)?)?;
        let target_modules =
            config.target_modules.unwrap_or_else(|| tensors.iter().map(|pair| pair.module.clone()).collect());
        let lora = Self {
            r: config.r,
            lora_alpha: config.lora_alpha,
            use_rslora: config.use_rslora,
            target_modules,
            tensors,
            base_model_name_or_path: config.base_model_name_or_path,
        };
        lora.check(&path)?;
        Ok(lora)
    }

    /// Writes the adapter folder `dir`, which PEFT loads. It is replaced whole or not at all, and only if there is nothing
    /// in it but an adapter's two files.
    ///
    /// # Errors
    /// The parts of the adapter contradict each other; `dir` holds something else; a file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<(), HfError> {
        let path = dir.join(WEIGHTS);
        self.check(&path)?;
        let mut matrices = BTreeMap::new();
        for pair in &self.tensors {
            for (matrix, ending) in [(&pair.a, A), (&pair.b, B)] {
                matrices.insert(format!("{PREFIX}{}{ending}", pair.module), matrix);
            }
        }
        let specs: Vec<_> = matrices
            .iter()
            .map(|(name, matrix)| TensorSpec { name, shape: &matrix.shape, dtype: WeightDtype::F32 })
            .collect();
        replace_dir_atomically(
            dir,
            |name| name == CONFIG || name == WEIGHTS,
            |folder| {
                let config = format!("{:#}\n", config::to_json(self));
                write_file(&folder.join(CONFIG), config.as_bytes())?;
                // The names are those of `matrices`.
                write_shard(&folder.join(WEIGHTS), &specs, |name| {
                    Ok::<&[u8], HfError>(bytemuck::cast_slice(&matrices[name].values))
                })
            },
        )
    }

    /// Checks that every module is a matrix of the model `config`, and the pair fits it. `dir`, the adapter's folder, is
    /// for messages.
    ///
    /// # Errors
    /// The first module that the model does not have, or that has another shape, or that is the output matrix.
    pub fn check_against(&self, config: &DecoderConfig, dir: &Path) -> Result<(), HfError> {
        let matrices: BTreeMap<_, _> = config
            .parameters()
            .into_iter()
            .filter(|(name, _)| *name != config.embedding.tokens)
            .filter_map(|(name, shape)| {
                let module = name.strip_suffix(".weight")?.to_owned();
                Some((module, <[usize; 2]>::try_from(shape).ok()?))
            })
            .collect();
        for pair in &self.tensors {
            let module = &pair.module;
            if config.output.head.strip_suffix(".weight") == Some(module) {
                return Err(HfError::Unsupported {
                    path: dir.join(WEIGHTS),
                    what: format!("module \"{module}\""),
                    found: "LoRA on the output matrix".to_owned(),
                    supported: "LoRA on the linear layers inside the blocks".to_owned(),
                });
            }
            let found = [pair.b.shape[0], pair.a.shape[1]];
            let expected = match matrices.get(module) {
                Some(shape) if *shape == found => continue,
                Some(shape) => format!("one for the {shape:?} of the base model"),
                None => "a linear layer of the base model".to_owned(),
            };
            return Err(HfError::Unexpected {
                path: dir.join(WEIGHTS),
                what: format!("module \"{module}\""),
                expected,
                found: format!("one for {found:?} (is the adapter for another model?)"),
            });
        }
        Ok(())
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
        let mut modules = BTreeSet::new();
        for pair in &self.tensors {
            let module = &pair.module;
            let [rows, columns] = [pair.b.shape[0], pair.a.shape[1]];
            for (matrix, ending, expected) in [(&pair.a, A, [self.r, columns]), (&pair.b, B, [rows, self.r])] {
                let what = || format!("shape of tensor \"{PREFIX}{module}{ending}\"");
                if matrix.shape != expected {
                    let expected = format!("{expected:?}, by the r of {CONFIG}");
                    return unexpected(what(), expected, format!("{:?}", matrix.shape));
                }
                if matrix.shape[0].checked_mul(matrix.shape[1]) != Some(matrix.values.len()) {
                    let expected = format!("one of {} values", matrix.values.len());
                    return unexpected(what(), expected, format!("{:?}", matrix.shape));
                }
            }
            if !self.target_modules.iter().any(|target| is_target(module, target)) {
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

/// PEFT's rule for a list of targets: a module is one by its whole path, or the end of it.
pub(crate) fn is_target(module: &str, target: &str) -> bool {
    module.strip_suffix(target).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// The pairs in the file, by the order of their modules' names.
fn read_pairs(file: &SafetensorsFile) -> Result<Vec<LoraPair>, HfError> {
    let mut halves: BTreeMap<&str, [Option<LoraMatrix>; 2]> = BTreeMap::new();
    for name in file.tensors().keys() {
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
    let whole = |(module, halves): (&str, [Option<LoraMatrix>; 2])| match halves {
        [Some(a), Some(b)] => Ok(LoraPair { module: module.to_owned(), a, b }),
        [a, _] => Err(HfError::MissingTensors {
            path: file.path().to_owned(),
            names: vec![format!("{PREFIX}{module}{}", if a.is_none() { A } else { B })],
        }),
    };
    halves.into_iter().map(whole).collect()
}

fn read_matrix(file: &SafetensorsFile, name: &str) -> Result<LoraMatrix, HfError> {
    let bytes = file.load(name, WeightDtype::F32)?;
    let shape = &file.tensors()[name].shape;
    let shape = <[usize; 2]>::try_from(shape.as_slice()).map_err(|_| HfError::Unexpected {
        path: file.path().to_owned(),
        what: format!("shape of tensor \"{name}\""),
        expected: "a matrix".to_owned(),
        found: format!("{shape:?}"),
    })?;
    let values = bytes.as_chunks().0.iter();
    Ok(LoraMatrix { shape, values: values.map(|&value| f32::from_le_bytes(value)).collect() })
}

#[cfg(test)]
mod tests;
