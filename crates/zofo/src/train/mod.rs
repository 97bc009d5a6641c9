//! Training methods, each in a file that reads like its algorithm, and what they share.

pub mod bilevel;
mod block;
pub mod first_order;
pub mod full;
pub mod loss;
mod method;
pub mod mezo;
pub mod mezo_peft;
pub mod objective;
mod step;
mod turns;
pub mod two_stage;

pub use block::Block;
pub use method::{Method, Moments};
pub(crate) use step::finite;
pub use step::{Batches, DirectionUpdate, LearningRates, OuterLosses, StepError, StepInput, StepReport};
