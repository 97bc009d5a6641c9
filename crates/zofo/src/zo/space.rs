//! Which weights directions cover, and how their elements are distributed.

use super::BackboneDirection;
use crate::model::{Backbone, Parameter};
use fancy_regex::Regex;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use zofo_kernels::Noise;
use zofo_kernels::direction::{Direction, Distribution, LowRank, Mask, ParameterId};

/// Elements that are summed, or compared, by one task.
const CHUNK: usize = 1 << 16;

/// What directions are: the part of a run's settings that a replay has to know.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirectionKind {
    /// Of the elements.
    pub distribution: ElementDistribution,
    /// r, if directions over matrices are products of two thin ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<NonZeroUsize>,
    /// A regular expression that has to match a whole name of a weight. Empty: all weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<String>,
    /// The blocks of the model, from 0, whose weights are covered; others that are in no block are then not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<Vec<usize>>,
    /// Which elements of the weights that remain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elements: Option<ElementMask>,
}

/// Distributions of a direction's elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ElementDistribution {
    /// Standard normals.
    #[default]
    Gaussian,
    /// +1 or −1.
    Rademacher,
    /// Standard normals over ‖z‖, times √d: uniform on the sphere whose radius is the root mean square length of normals.
    Sphere,
}

impl ElementDistribution {
    /// All of them, with the words for them in configurations and journals.
    pub const ALL: &'static [(&'static str, Self)] =
        &[("gaussian", Self::Gaussian), ("rademacher", Self::Rademacher), ("sphere", Self::Sphere)];
}

impl fmt::Display for ElementDistribution {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        word_of(Self::ALL, *self, formatter)
    }
}

/// A choice among the elements of every weight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ElementMask {
    /// How they are chosen.
    pub by: ElementChoice,
    /// The share that is covered. Above 0 and at most 1. In JSON a string, since parsers of numbers may lose the last bit.
    #[serde(with = "super::journal::decimal")]
    pub share: f64,
    /// Of a random choice.
    pub seed: u64,
}

/// How elements are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ElementChoice {
    /// The smallest magnitudes of every weight (Sparse-MeZO; Liu et al., arXiv 2402.15751): those up to the quantile of the
    /// base model, whichever they are in each step.
    Smallest,
    /// The largest, likewise.
    Largest,
    /// A random share, the same in all steps.
    Random,
}

impl ElementChoice {
    /// All of them, with the words for them in configurations and journals.
    pub const ALL: &'static [(&'static str, Self)] =
        &[("smallest", Self::Smallest), ("largest", Self::Largest), ("random", Self::Random)];
}

impl fmt::Display for ElementChoice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        word_of(Self::ALL, *self, formatter)
    }
}

fn word_of<T: Copy + PartialEq>(
    all: &[(&'static str, T)],
    value: T,
    formatter: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    formatter.write_str(all.iter().find(|(_, known)| *known == value).map_or("", |(word, _)| word))
}

/// Why there are no directions.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpaceError {
    /// The pattern cannot be read.
    #[error("the regular expression for weights' names cannot be read: {0}")]
    Pattern(String),
    /// Nothing would be trained.
    #[error("no weight of the model has a name, or is in a layer, that the mask leaves: it covers none")]
    Empty,
}

/// A [`DirectionKind`] for one base model.
#[derive(Clone, Debug, PartialEq)]
pub struct DirectionSpace {
    kind: DirectionKind,
    /// The weights that are covered, by name.
    covered: BTreeMap<String, Covered>,
}

/// What a direction is over one parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Covered {
    /// All elements, or those that a mask leaves.
    Elements(Option<Mask>),
    /// A matrix of this shape, along a direction of this rank.
    LowRank([usize; 2], usize),
}

impl DirectionKind {
    /// Whether directions are standard normals over all weights.
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }

    /// Those of the weights of these names that directions cover.
    ///
    /// # Errors
    ///
    /// [`SpaceError`].
    pub fn covered<'n>(&self, names: impl Iterator<Item = &'n str>) -> Result<BTreeSet<&'n str>, SpaceError> {
        let unreadable = |error: fancy_regex::Error| SpaceError::Pattern(error.to_string());
        let pattern = self.names.as_ref().map(|pattern| Regex::new(&format!("^(?:{pattern})$")));
        let pattern = pattern.transpose().map_err(unreadable)?;
        let mut covered = BTreeSet::new();
        for name in names {
            let is_named = pattern.as_ref().map_or(Ok(true), |pattern| pattern.is_match(name)).map_err(unreadable)?;
            let layer = layer_of(name);
            let in_layer = |layers: &Vec<usize>| layer.is_some_and(|layer| layers.contains(&layer));
            if is_named && self.layers.as_ref().is_none_or(in_layer) {
                covered.insert(name);
            }
        }
        if covered.is_empty() { Err(SpaceError::Empty) } else { Ok(covered) }
    }
}

impl DirectionSpace {
    /// The space over the weights of `base`, which have to be those of the untouched base model.
    ///
    /// # Errors
    ///
    /// [`SpaceError`].
    pub fn new(kind: DirectionKind, base: &Backbone) -> Result<Self, SpaceError> {
        let covered = kind.covered(base.parameters().iter().map(Parameter::name))?;
        let over = |parameter: &Parameter| match (kind.rank, parameter.shape()) {
            // A thinner matrix would gain nothing.
            (Some(rank), &[rows, columns]) if rank.get() < rows.min(columns) => {
                Covered::LowRank([rows, columns], rank.get())
            }
            _ => Covered::Elements(kind.elements.as_ref().map(|mask| mask.over(parameter))),
        };
        let parameters = base.parameters().iter().filter(|parameter| covered.contains(parameter.name()));
        let covered = parameters.map(|parameter| (parameter.name().to_owned(), over(parameter))).collect();
        Ok(Self { kind, covered })
    }

    /// The space over the tensors of a PEFT block, of which nothing is masked.
    pub fn of_block(kind: DirectionKind) -> Self {
        Self { kind, covered: BTreeMap::new() }
    }

    /// What it was made of.
    pub fn kind(&self) -> &DirectionKind {
        &self.kind
    }

    /// Whether any of a parameter's elements may move.
    pub fn covers(&self, name: &str) -> bool {
        // Only that of a block lists no weights.
        self.covered.is_empty() || self.covered.contains_key(name)
    }

    /// The direction of a seed. On a sphere it has its length: a pass over all of z, without a weight being written.
    pub fn direction(self: &Arc<Self>, seed: u64, backbone: &Backbone) -> BackboneDirection {
        if self.kind.is_plain() {
            return BackboneDirection::Seeded(seed);
        }
        let unscaled = BackboneDirection::Within { seed, space: self.clone(), scale: 1.0 };
        match self.kind.distribution {
            ElementDistribution::Gaussian | ElementDistribution::Rademacher => unscaled,
            ElementDistribution::Sphere => {
                let (count, squares) = self.length(seed, backbone);
                let scale = if squares > 0.0 { (count / squares).sqrt() as f32 } else { 1.0 };
                BackboneDirection::Within { seed, space: self.clone(), scale }
            }
        }
    }

    /// As [`direction`](Self::direction), without the scale that the coefficients of a journal contain.
    pub(super) fn recorded(self: &Arc<Self>, seed: u64) -> BackboneDirection {
        if self.kind.is_plain() {
            return BackboneDirection::Seeded(seed);
        }
        BackboneDirection::Within { seed, space: self.clone(), scale: 1.0 }
    }

    /// The values of z that belong to a parameter that is covered; of another one, as if it were.
    pub(super) fn noise(&self, seed: u64, name: &str, id: ParameterId) -> Noise {
        let distribution = match self.kind.distribution {
            ElementDistribution::Gaussian | ElementDistribution::Sphere => Distribution::Gaussian,
            ElementDistribution::Rademacher => Distribution::Rademacher,
        };
        let direction = Direction::new(seed, id).with_distribution(distribution);
        match self.covered.get(name) {
            Some(Covered::LowRank(shape, rank)) => Noise::LowRank(Arc::new(LowRank::new(seed, name, *shape, *rank))),
            Some(Covered::Elements(Some(mask))) => Noise::Masked(direction, *mask),
            Some(Covered::Elements(None)) | None => Noise::Generated(direction),
        }
    }

    /// How many elements z has that are not masked, and the sum of their squares: in an order that threads do not change.
    fn length(&self, seed: u64, backbone: &Backbone) -> (f64, f64) {
        let of_parameter = |parameter: &Parameter| {
            let noise = self.noise(seed, parameter.name(), parameter.id());
            let values = parameter.values();
            let sums: Vec<(f64, f64)> = (0..values.len().div_ceil(CHUNK))
                .into_par_iter()
                .map(|chunk| {
                    let start = chunk * CHUNK;
                    let mut z = vec![0.0f32; CHUNK.min(values.len() - start)];
                    values.fill_noise(&noise, start, &mut z);
                    let squares = z.iter().map(|&z| f64::from(z) * f64::from(z)).sum::<f64>();
                    (z.iter().filter(|&&z| z != 0.0).count() as f64, squares)
                })
                .collect();
            sums.into_iter().fold((0.0, 0.0), |sum, own| (sum.0 + own.0, sum.1 + own.1))
        };
        let covered = backbone.parameters().iter().filter(|parameter| self.covers(parameter.name()));
        covered.map(of_parameter).fold((0.0, 0.0), |sum, own| (sum.0 + own.0, sum.1 + own.1))
    }
}

impl ElementMask {
    /// The mask over one parameter of the base model.
    fn over(&self, parameter: &Parameter) -> Mask {
        match self.by {
            ElementChoice::Random => Mask::random(self.seed, self.share),
            ElementChoice::Smallest => Mask::Smallest(self.quantile(parameter, self.share)),
            ElementChoice::Largest => Mask::Largest(self.quantile(parameter, 1.0 - self.share)),
        }
    }

    /// The magnitude below which this share of a parameter's elements lies.
    fn quantile(&self, parameter: &Parameter, share: f64) -> f32 {
        let mut magnitudes = parameter.values().to_f32();
        magnitudes.iter_mut().for_each(|value| *value = value.abs());
        let place = (share * magnitudes.len() as f64).round() as usize;
        // Up to the place itself for the smallest; from it on for the largest.
        let place = if self.by == ElementChoice::Smallest { place.saturating_sub(1) } else { place };
        let place = place.min(magnitudes.len() - 1);
        *magnitudes.select_nth_unstable_by(place, f32::total_cmp).1
    }
}

/// The number of the block that a weight belongs to: the first part of its name that is a number, which follows the name
/// of the list of blocks.
fn layer_of(name: &str) -> Option<usize> {
    name.split('.').find_map(|part| part.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_layers_choose_among_weights() {
        let names =
            ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.layers.10.mlp.up_proj.bias"];
        let covered = |pattern: Option<&str>, layers: Option<&[usize]>| {
            let (names_pattern, layers) = (pattern.map(str::to_owned), layers.map(<[usize]>::to_vec));
            let kind = DirectionKind { names: names_pattern, layers, ..DirectionKind::default() };
            kind.covered(names.into_iter()).map(|covered| covered.into_iter().collect::<Vec<_>>())
        };
        assert_eq!(covered(None, None).unwrap(), names);
        assert_eq!(covered(Some(".*weight"), None).unwrap(), names[..2]);
        assert_eq!(covered(None, Some(&[10, 3])).unwrap(), names[2..]);
        assert_eq!(covered(Some(".*up_proj.*"), Some(&[0])).unwrap(), names[1..2]);
        // The whole name, not a part of it.
        assert_eq!(covered(Some("mlp"), None), Err(SpaceError::Empty));
        assert_eq!(covered(None, Some(&[1])), Err(SpaceError::Empty));
        assert!(matches!(covered(Some("("), None), Err(SpaceError::Pattern(_))));
    }

    #[test]
    fn a_kind_survives_json() {
        let elements = Some(ElementMask { by: ElementChoice::Largest, share: 0.1 + 0.2, seed: u64::MAX });
        let kind = DirectionKind {
            distribution: ElementDistribution::Sphere,
            rank: NonZeroUsize::new(4),
            names: Some("a.*".to_owned()),
            layers: Some(vec![3]),
            elements,
        };
        let json = serde_json::to_string(&kind).unwrap();
        assert_eq!(serde_json::from_str::<DirectionKind>(&json).unwrap(), kind);
        assert!(
            json.contains(r#""distribution":"sphere""#)
                && json.contains(r#""by":"largest","share":"0.30000000000000004""#),
            "{json}"
        );
    }
}
