//! Zeroth-order optimisation of the backbone: a perturbed view of the weights, the slope along a random direction, the
//! update, and the record of all updates.

pub mod adam;
pub mod estimator;
pub mod journal;
pub mod momentum;
pub mod optimizer;
mod perturb;
pub mod space;
pub mod update;

pub use perturb::{BackboneDirection, Perturbation};
