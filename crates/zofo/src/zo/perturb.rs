//! θ ± ε·z as a view of θ.

use super::space::DirectionSpace;
use std::collections::BTreeMap;
use std::sync::Arc;
use zofo_kernels::direction::{Direction, ParameterId};
use zofo_kernels::{Noise, WeightView};

/// A direction z over all weights of a backbone.
#[derive(Clone, Debug)]
pub enum BackboneDirection {
    /// Standard normals, a pure function of this seed and of each weight's name and index.
    Seeded(u64),
    /// The same of another distribution, or over a part of the weights.
    Within {
        /// Of the bits.
        seed: u64,
        /// Which weights, and how their elements are distributed.
        space: Arc<DirectionSpace>,
        /// What z is multiplied with: 1, or what gives it the length of the sphere.
        scale: f32,
    },
    /// Stored values by parameter name, row-major. For comparisons with a recorded direction.
    Stored(Arc<BTreeMap<String, Arc<[f32]>>>),
}

impl BackboneDirection {
    /// The part of z that belongs to one parameter, before its [scale](Self::scale) and as if it had one.
    ///
    /// # Panics
    ///
    /// If a stored direction lacks the parameter.
    pub fn of(&self, name: &str, id: ParameterId) -> Noise {
        match self {
            Self::Seeded(seed) => Noise::Generated(Direction::new(*seed, id)),
            Self::Within { seed, space, .. } => space.noise(*seed, name, id),
            Self::Stored(z) => match z.get(name) {
                Some(values) => Noise::Stored(values.clone()),
                None => panic!("the stored direction has no values for {name}"),
            },
        }
    }

    /// Whether any of a parameter's elements may move.
    pub fn covers(&self, name: &str) -> bool {
        match self {
            Self::Within { space, .. } => space.covers(name),
            Self::Seeded(_) | Self::Stored(_) => true,
        }
    }

    /// What the values of [`of`](Self::of) are multiplied with.
    pub fn scale(&self) -> f32 {
        match self {
            Self::Within { scale, .. } => *scale,
            Self::Seeded(_) | Self::Stored(_) => 1.0,
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
    /// Several of the others, of as many signs each and along directions that cover the same weights, in one pass over the
    /// weights.
    Together(Vec<Perturbation>),
}

impl Perturbation {
    /// How many backbones are evaluated at once: 2 for a pair, 1 for one.
    pub fn signs(&self) -> usize {
        match self {
            Self::None | Self::One { .. } => 1,
            Self::Pair { .. } => 2,
            Self::Together(parts) => parts.iter().map(Self::signs).sum(),
        }
    }

    /// One view per sign.
    pub fn by_sign(&self) -> Vec<Self> {
        match self {
            Self::Pair { direction, eps } => {
                [*eps, -*eps].map(|scale| Self::One { direction: direction.clone(), scale }).to_vec()
            }
            Self::None | Self::One { .. } => vec![self.clone()],
            Self::Together(parts) => parts.iter().flat_map(Self::by_sign).collect(),
        }
    }

    /// Plain values as this view has them, once per sign: for objectives that are not made of a backbone.
    pub fn sides_of(&self, name: &str, values: &[f32]) -> Vec<Vec<f32>> {
        let moved = |direction: &BackboneDirection, scale: f32| {
            let mut moved = values.to_vec();
            if direction.covers(name) {
                let noise = direction.of(name, ParameterId::from_name(name));
                noise.perturb(0, values, scale * direction.scale(), &mut moved);
            }
            moved
        };
        match self {
            Self::None => vec![values.to_vec()],
            Self::One { direction, scale } => vec![moved(direction, *scale)],
            Self::Pair { direction, eps } => vec![moved(direction, *eps), moved(direction, -*eps)],
            Self::Together(parts) => parts.iter().flat_map(|part| part.sides_of(name, values)).collect(),
        }
    }

    /// How kernels are to read one parameter, one after the other: as it is where a direction does not cover it, also under
    /// a pair.
    pub fn views(&self, name: &str, id: ParameterId) -> Vec<WeightView> {
        let view = match self {
            Self::Together(parts) => return parts.iter().flat_map(|part| part.views(name, id)).collect(),
            Self::One { direction, scale } if direction.covers(name) => {
                WeightView::One { noise: direction.of(name, id), scale: scale * direction.scale() }
            }
            Self::Pair { direction, eps } if direction.covers(name) => {
                WeightView::Pair { noise: direction.of(name, id), eps: eps * direction.scale() }
            }
            Self::None | Self::One { .. } | Self::Pair { .. } => WeightView::Exact,
        };
        vec![view]
    }
}
