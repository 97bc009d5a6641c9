//! Writing a model as a GGUF file.
//!
//! The file is what llama.cpp's converter would write, and it is only there once it has been read back: the same decoder,
//! the same tokens of some texts, and nearly the same logits.

mod check;
mod decoder;
mod metadata;
mod sources;

use std::{collections::HashMap, fs, ops::Range, path::Path};

use burn::tensor::{Device, Tensor, TensorData};

use self::{check::check, decoder::Expressible, metadata::RopeTensor};
use super::{
    HfError, ModelFiles, StoredDtype, WeightDtype,
    atomic::failed_to,
    gguf::{Architecture, HfTensor, NewMetadata, NewTensor, POSITIONS, WrittenType, model_tensors, write_checked_gguf},
};
use crate::peft::{Adapter, Lora};

/// How a GGUF file is to be written.
#[derive(Clone, Copy, Debug)]
pub struct GgufOptions<'a> {
    /// How matrices are stored. Norms and biases are F32, and matrices whose rows are no whole blocks F16. None stands for
    /// BF16 if the model has its first matrix so, and for F16 otherwise.
    pub matrices: Option<WrittenType>,
    /// The model's name in the file.
    pub name: &'a str,
}

/// What was written.
#[derive(Clone, Debug, PartialEq)]
pub struct ExportedGguf {
    /// `general.architecture`.
    pub architecture: &'static str,
    /// How matrices are stored.
    pub matrices: WrittenType,
    /// The number of tensors.
    pub tensors: usize,
    /// The size of the file.
    pub bytes: u64,
    /// What of the model the file cannot say, in sentences for the user.
    pub losses: Vec<String>,
    /// By how much logits of the file differ from those of the model: the largest of some texts, as root mean square of
    /// the differences over that of the logits about their mean.
    pub logit_error: f64,
}

/// Writes a model, with a LoRA merged in if there is one, to the GGUF file `path`.
///
/// One tensor after the other is in memory. Before the file appears under its name it is read back: its decoder must be
/// that of the model, its tokenizer must make the same tokens of some texts, and its logits must be those of the model
/// with the adapter beside it, but for rounding: [`ExportedGguf::logit_error`] may be 0.0001 for F32, 0.02 for F16,
/// 0.1 for BF16 and 0.2 for Q8_0. For this both models are loaded, one after the other. `progress` is told how many tensors are
/// written, of how many.
///
/// # Errors
/// GGUF has no architecture for the model, or cannot express something in it; the tokenizer is of a kind that the format
/// does not have; a value is too large for the type; a file cannot be read or written; what is read back differs. In all
/// cases `path` stays as it was.
pub fn export_gguf(
    source: &ModelFiles,
    lora: Option<&Lora>,
    path: &Path,
    options: &GgufOptions<'_>,
    mut progress: impl FnMut(usize, usize),
) -> Result<ExportedGguf, HfError> {
    let architecture = architecture(source)?;
    let matrices = match options.matrices {
        Some(matrices) => matrices,
        None => usual_type(source)?,
    };
    let Expressible { decoder, mut losses } = Expressible::of(source.config(), source.source_path(), architecture)?;

    let mut metadata = NewMetadata::new();
    metadata::set_general(&mut metadata, architecture, matrices, options.name);
    sources::set_license(source, &mut metadata)?;
    let rope_tensors = metadata::set_model(&mut metadata, &decoder, architecture);
    losses.extend(sources::set_tokenizer(source, &mut metadata)?);

    let mut values = Values::new(source, lora);
    let mut tensors = Vec::new();
    for RopeTensor { name, divisors } in rope_tensors {
        tensors.push(NewTensor { name: name.to_owned(), shape: vec![divisors.len()], kind: WrittenType::F32 });
        values.rope.insert(name, divisors);
    }
    for tensor in model_tensors(&decoder, architecture) {
        let shape = tensor.stored_shape();
        let kind = if tensor.gguf_name == POSITIONS { WrittenType::F32 } else { matrices.of_tensor(&shape) };
        tensors.push(NewTensor { name: tensor.gguf_name.clone(), shape, kind });
        values.weights.insert(tensor.gguf_name.clone(), tensor);
    }

    let count = tensors.len();
    let mut done = 0;
    let (mut bytes, mut logit_error) = (0, 0.0);
    let read = |tensor: &NewTensor, rows: Range<usize>, out: &mut [f32]| {
        if rows.start == 0 {
            progress(done, count);
            done += 1;
        }
        values.read(tensor, rows, out)
    };
    write_checked_gguf(path, &metadata, &tensors, read, |written| {
        bytes = fs::metadata(written).map_err(failed_to("read", written))?.len();
        let checked = check(source, lora, &decoder, matrices, written, path)?;
        logit_error = checked.logit_error;
        losses.extend(checked.losses);
        Ok(())
    })?;
    Ok(ExportedGguf { architecture: architecture.name, matrices, tensors: count, bytes, losses, logit_error })
}

fn architecture(source: &ModelFiles) -> Result<&'static Architecture, HfError> {
    let class = source.class()?;
    Architecture::of_class(class).ok_or_else(|| {
        let classes: Vec<_> = Architecture::all().flat_map(|architecture| architecture.classes).copied().collect();
        HfError::Unsupported {
            path: source.source_path().to_owned(),
            what: "in a GGUF file, the architecture".to_owned(),
            found: class.to_owned(),
            supported: format!(
                "{}; any model can be kept as a Hugging Face folder, with an adapter merged in by `zofo merge`",
                classes.join(", ")
            ),
        }
    })
}

/// That of the model's first matrix if it has as few bits.
fn usual_type(source: &ModelFiles) -> Result<WrittenType, HfError> {
    Ok(match source.stored_dtype(&source.config().embedding.tokens)? {
        StoredDtype::Bf16 => WrittenType::BF16,
        _ => WrittenType::F16,
    })
}

/// What the tensors of the file are made of.
struct Values<'a> {
    source: &'a ModelFiles,
    adapter: Option<(&'a Lora, Adapter)>,
    /// By their names in the file.
    weights: HashMap<String, HfTensor>,
    rope: HashMap<&'static str, Vec<f32>>,
    /// The weight that is being written, by its name in the file, whole and as Hugging Face has it.
    current: Option<(String, Vec<f32>)>,
}

impl<'a> Values<'a> {
    fn new(source: &'a ModelFiles, lora: Option<&'a Lora>) -> Self {
        let adapter = lora.map(|lora| (lora, Adapter::Lora(lora.clone())));
        Self { source, adapter, weights: HashMap::new(), rope: HashMap::new(), current: None }
    }

    /// Some rows of a tensor as they are to be stored.
    fn read(&mut self, tensor: &NewTensor, rows: Range<usize>, out: &mut [f32]) -> Result<(), HfError> {
        if let Some(divisors) = self.rope.get(tensor.name.as_str()) {
            out.copy_from_slice(divisors);
            return Ok(());
        }
        let no_weight =
            || HfError::MissingTensors { path: self.source.source_path().to_owned(), names: vec![tensor.name.clone()] };
        let weight = self.weights.get(&tensor.name).ok_or_else(no_weight)?;
        let values = match self.current.take() {
            Some((name, values)) if name == tensor.name => values,
            // The one before is gone when the next is loaded.
            _ => self.load(weight)?,
        };
        weight.store(&values, rows, out);
        self.current = Some((tensor.name.clone(), values));
        Ok(())
    }

    /// A weight, with the adapter merged in.
    fn load(&self, weight: &HfTensor) -> Result<Vec<f32>, HfError> {
        let bytes = self.source.load(&weight.name, WeightDtype::F32)?;
        let values: &[f32] = bytemuck::cast_slice(&bytes);
        match (&self.adapter, &weight.shape[..]) {
            (Some((lora, adapter)), &[rows, columns]) if adapter.adapts(&weight.name) => {
                let data = TensorData::new(values.to_vec(), [rows, columns]);
                drop(bytes);
                let merged = lora.merged(&weight.name, Tensor::<2>::from_data(data, &Device::flex()));
                Ok(merged.into_data().iter::<f32>().collect())
            }
            _ => Ok(values.to_vec()),
        }
    }
}

#[cfg(test)]
mod tests;
