//! Files of tensors, and the batches in them.

use burn::tensor::Tensor;
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zofo::model::{Backbone, Batch, Parameter};
use zofo::zo::BackboneDirection;

/// The tensors of a safetensors file: real ones in F32, integer ones in I64.
pub struct Tensors {
    path: PathBuf,
    real: BTreeMap<String, Vec<f32>>,
    integer: BTreeMap<String, Vec<i64>>,
    shapes: BTreeMap<String, Vec<usize>>,
}

/// A sequence with the labels of its tokens: `labels[t]` is the target of the token before t.
pub struct Row {
    pub ids: Vec<u32>,
    pub labels: Vec<Option<u32>>,
}

impl Row {
    /// This sequence alone, counting in every token but the first.
    pub fn every_token(&self) -> Batch {
        let labels: Vec<Option<u32>> = self.ids.iter().copied().map(Some).collect();
        Batch::labelled([(self.ids.as_slice(), labels.as_slice())])
    }
}

/// The rows as a batch that counts where they have labels.
pub fn labelled(rows: &[Row]) -> Batch {
    Batch::labelled(rows.iter().map(|row| (row.ids.as_slice(), row.labels.as_slice())))
}

/// All values of a tensor, row-major.
pub fn values(tensor: Tensor<2>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

impl Tensors {
    /// Reads the file.
    pub fn read(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let file = SafeTensors::deserialize(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let (mut real, mut integer, mut shapes) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for (name, tensor) in file.iter() {
            shapes.insert(name.to_owned(), tensor.shape().to_vec());
            match tensor.dtype() {
                Dtype::F32 => {
                    let values = tensor.data().as_chunks().0;
                    real.insert(name.to_owned(), values.iter().map(|value| f32::from_le_bytes(*value)).collect());
                }
                Dtype::I64 => {
                    let values = tensor.data().as_chunks().0;
                    integer.insert(name.to_owned(), values.iter().map(|value| i64::from_le_bytes(*value)).collect());
                }
                other => panic!("{}: {name} is of type {other:?}", path.display()),
            }
        }
        Self { path: path.to_owned(), real, integer, shapes }
    }

    /// The values of a real tensor.
    pub fn real(&self, name: &str) -> &[f32] {
        self.real.get(name).unwrap_or_else(|| panic!("{} has no tensor {name}", self.path.display()))
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> &[usize] {
        self.shapes.get(name).unwrap_or_else(|| panic!("{} has no tensor {name}", self.path.display()))
    }

    /// The names of the real tensors, sorted.
    pub fn names(&self) -> Vec<&str> {
        self.real.keys().map(String::as_str).collect()
    }

    fn integer(&self, name: &str) -> &[i64] {
        self.integer.get(name).unwrap_or_else(|| panic!("{} has no tensor {name}", self.path.display()))
    }

    /// The right-padded batch in `input_ids`, `attention_mask` and, if there are any, `labels`, all after `prefix`.
    pub fn rows(&self, prefix: &str) -> Vec<Row> {
        let name = |part: &str| format!("{prefix}{part}");
        let width = self.shape(&name("input_ids"))[1];
        let ids = self.integer(&name("input_ids")).chunks_exact(width);
        let mask = self.integer(&name("attention_mask")).chunks_exact(width);
        let rows = ids.zip(mask).enumerate().map(|(row, (ids, mask))| {
            let len = mask.iter().filter(|&&is_real| is_real == 1).count();
            assert!(mask[..len].iter().all(|&is_real| is_real == 1), "the padding is not on the right");
            let labels = match self.integer.get(&name("labels")) {
                // −100 marks what does not count.
                Some(labels) => labels[row * width..][..len].iter().map(|&label| u32::try_from(label).ok()).collect(),
                None => vec![None; len],
            };
            Row { ids: ids[..len].iter().map(|&id| u32::try_from(id).unwrap()).collect(), labels }
        });
        rows.collect()
    }

    /// The tensors as a direction.
    pub fn direction(&self) -> BackboneDirection {
        let z = self.real.iter().map(|(name, values)| (name.clone(), Arc::from(values.as_slice())));
        BackboneDirection::Stored(Arc::new(z.collect()))
    }
}

/// A direction along which only the weight `name` moves, by `z`.
pub fn along(backbone: &Backbone, name: &str, z: Arc<[f32]>) -> BackboneDirection {
    let of = |weight: &Parameter| {
        let rest = || Arc::from(vec![0.0; weight.shape().iter().product()]);
        (weight.name().to_owned(), if weight.name() == name { z.clone() } else { rest() })
    };
    BackboneDirection::Stored(Arc::new(backbone.parameters().iter().map(of).collect()))
}
