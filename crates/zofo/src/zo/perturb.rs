//! θ ± ε·z as a view of θ.

use std::collections::BTreeMap;
use std::sync::Arc;
use zofo_kernels::direction::{Direction, ParameterId};
use zofo_kernels::{Noise, WeightView};

/// A direction z over all weights of a backbone.
#[derive(Clone, Debug)]
pub enum BackboneDirection {
    /// Standard normals, a pure function of this seed and of each weight's name and index.
    Seeded(u64),
    /// Stored values by parameter name, row-major. For comparisons with a recorded direction.
    Stored(Arc<BTreeMap<String, Arc<[f32]>>>),
}

impl BackboneDirection {
    /// The part of z that belongs to one parameter.
    ///
    /// # Panics
    ///
    /// If a stored direction lacks the parameter.
    pub fn of(&self, name: &str, id: ParameterId) -> Noise {
        match self {
            Self::Seeded(seed) => Noise::Generated(Direction::new(*seed, id)),
            Self::Stored(z) => match z.get(name) {
                Some(values) => Noise::Stored(values.clone()),
                None => panic!("the stored direction has no values for {name}"),
            },
        }
    }
}

/// Which backbone a forward pass sees. The weights themselves are never written.
#[derive(Clone, Debug)]
pub enum Perturbation {
    /// θ.
    None,
    /// θ + `scale`·z.
    One {
        /// z.
        direction: BackboneDirection,
        /// Factor of z.
        scale: f32,
    },
    /// θ + `eps`·z and θ − `eps`·z, in one pass over the weights.
    Pair {
        /// z.
        direction: BackboneDirection,
        /// ε.
        eps: f32,
    },
}

impl Perturbation {
    /// How many backbones are evaluated at once: 2 for a pair, else 1.
    pub fn signs(&self) -> usize {
        match self {
            Self::Pair { .. } => 2,
            _ => 1,
        }
    }

    /// How a kernel is to read one parameter.
    pub fn view(&self, name: &str, id: ParameterId) -> WeightView {
        match self {
            Self::None => WeightView::Exact,
            Self::One { direction, scale } => WeightView::One { noise: direction.of(name, id), scale: *scale },
            Self::Pair { direction, eps } => WeightView::Pair { noise: direction.of(name, id), eps: *eps },
        }
    }
}
