//! The decoder: sizes and names from data, weights as tensors, one forward pass for every family.

mod backbone;
mod batch;
pub mod config;
mod decoder;
mod leaves;
mod rope;
mod rows;

pub use backbone::{Backbone, Parameter};
pub(crate) use batch::common_len;
pub use batch::{Batch, Choice, Label};
pub use config::DecoderConfig;
pub use decoder::KeyValueCache;
pub(crate) use decoder::{Operands, checkpointed_backward};
pub(crate) use leaves::{LeafGradients, leaf};
pub use rope::{Frequencies, Rope, RopeScaling, Yarn, long_rope_attention_factor, yarn_attention_factor};
pub use rows::Part;
