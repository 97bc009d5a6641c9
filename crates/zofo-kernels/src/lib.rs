//! The hot operations of zofo, as a [Burn](burn) backend extension.
//!
//! Every operation of the decoder is a method of [`DecoderOps`]. Its default body calls a free
//! function in [`mod@reference`] made of plain Burn operations, so it runs on every device; that function
//! is the specification and the test oracle. The `Flex` (CPU) back end overrides it with SIMD kernels,
//! and `Autodiff` with a hand-written backward pass that computes only what an adapter needs: weights
//! of the backbone are constants.
//!
//! Three ideas hold the crate together:
//!
//! - [`direction`]: a random direction z is a pure function of (seed, parameter name, element index).
//! - [`WeightView`]: a perturbed weight w ± ε·z is a *view* that a kernel applies while it reads w.
//!   Nothing is ever written back, so there is nothing to restore.
//! - [`AttentionLayout`]: batches are ragged, and a row may attend to keys that another row computed.
//!
//! This crate is the place of the workspace's `unsafe` code.

#![allow(unsafe_code)]

mod activation;
mod autodiff;
mod compute;
pub mod direction;
pub mod flex;
mod isa;
mod layout;
mod mapped;
mod ops;
pub mod reference;
pub mod tensor;
mod view;

pub use activation::Activation;
pub use compute::Compute;
pub use layout::{AttentionLayout, RotaryAngles, Segment};
pub use mapped::{MappedFile, copy_to_disk, map_private};
pub use ops::DecoderOps;
pub use view::{Noise, WeightView};
