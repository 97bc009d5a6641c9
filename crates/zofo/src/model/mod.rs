//! The decoder: sizes and names from data, weights as tensors, one forward pass for every family.

mod backbone;
mod batch;
mod config;
mod decoder;

pub use backbone::{Backbone, Parameter};
pub use batch::{Batch, Label};
pub use config::{DecoderConfig, LayerNames, ParameterNames, Rope, RopeScaling};
pub use decoder::{KeyValueCache, Part};
