//! A small model for the tests of blocks.

use crate::hf::{ModelFiles, WeightDtype, test_model};
use crate::model::{Backbone, DecoderConfig};
use burn::tensor::{Device, Tensor};

/// 2 layers, hidden size 8, 2 query heads and 1 key-value head of 4, a vocabulary of 6, 64 positions.
pub(super) fn model() -> DecoderConfig {
    backbone().config().clone()
}

/// The same with weights.
pub(super) fn backbone() -> Backbone {
    let folder = test_model::TestModel::new().write();
    Backbone::load(&ModelFiles::open(folder.root()).unwrap(), WeightDtype::F32, &Device::flex()).unwrap()
}

pub(super) fn values(tensor: Tensor<2>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}
