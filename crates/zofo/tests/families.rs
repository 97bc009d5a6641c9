//! What holds for every family with every kind of block: a cache, a batch of several parts, and both signs of a
//! perturbation change nothing but the time that it takes.

use burn::tensor::{Device, Tensor};
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zofo::hf::{ModelFiles, ModuleNames, WeightDtype};
use zofo::model::{Backbone, Batch, KeyValueCache, Part, RopeScaling};
use zofo::peft::{Adapter, AdapterConfig, InitTokens, LoraConfig, PrefixConfig, PrefixInit, PromptConfig, PromptInit};
use zofo::task::{EncodedCandidate, EncodedExample};
use zofo::train::loss::{mean_backbone_gradients, mean_gradients};
use zofo::zo::space::{DirectionKind, DirectionSpace};
use zofo::zo::{BackboneDirection, Perturbation};

/// Longer than the sliding windows and the contexts of pre-training of all these models.
const TOKENS: u32 = 40;
const VIRTUAL_TOKENS: usize = 3;

/// The names and weights of the small models of all families.
fn models() -> Vec<(String, Backbone)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let folders = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<_> = folders.filter(|path| path.join("model/config.json").exists()).collect();
    folders.sort();
    assert!(folders.len() >= 12, "{} models", folders.len());
    let load = |path: &PathBuf| {
        let files = ModelFiles::open(&path.join("model")).unwrap();
        let backbone = Backbone::load(&files, WeightDtype::F32, &Device::flex()).unwrap();
        (path.file_name().unwrap().display().to_string(), backbone)
    };
    folders.iter().map(load).collect()
}

/// A block of every kind, none of which begins as nothing.
fn blocks(backbone: &Backbone) -> Vec<Adapter> {
    let virtual_tokens = VIRTUAL_TOKENS;
    let lora = LoraConfig { targets: Some(ModuleNames::Pattern("all-linear".to_owned())), ..LoraConfig::default() };
    let prefix = PrefixConfig { virtual_tokens, init: PrefixInit::Activations(InitTokens::Given(vec![9, 4, 7])) };
    let prompt = PromptConfig { virtual_tokens, init: PromptInit::Embeddings(InitTokens::Given(vec![3, 8])) };
    moved(backbone, &[AdapterConfig::Lora(lora), AdapterConfig::Prefix(prefix), AdapterConfig::Prompt(prompt)])
}

/// Blocks whose gradients have a way of their own: through masks, not through the lower blocks of the model, and to a
/// network.
fn other_blocks(backbone: &Backbone) -> Vec<Adapter> {
    let masked = LoraConfig {
        targets: Some(ModuleNames::Pattern("all-linear".to_owned())),
        dropout: 0.3,
        ..LoraConfig::default()
    };
    let upper = LoraConfig { layers: Some(vec![backbone.config().layers.len() - 1]), ..LoraConfig::default() };
    let network = PrefixConfig { virtual_tokens: VIRTUAL_TOKENS, init: PrefixInit::Projection { hidden: 6 } };
    moved(backbone, &[AdapterConfig::Lora(masked), AdapterConfig::Lora(upper), AdapterConfig::Prefix(network)])
}

fn moved(backbone: &Backbone, configs: &[AdapterConfig]) -> Vec<Adapter> {
    let new = |config: &AdapterConfig| {
        let block = Adapter::new(config, backbone, 5).unwrap();
        let moved = block.tensors().into_iter().map(|(_, tensor)| tensor + 0.02).collect();
        block.with_tensors(moved)
    };
    configs.iter().map(new).collect()
}

fn batch(lengths: &[u32]) -> Batch {
    let ids: Vec<Vec<u32>> =
        lengths.iter().map(|&length| (0..length).map(|i| (i * 7 + length) % 60).collect()).collect();
    let labels: Vec<Vec<Option<u32>>> = ids.iter().map(|ids| ids.iter().copied().map(Some).collect()).collect();
    Batch::labelled(ids.iter().map(Vec::as_slice).zip(labels.iter().map(Vec::as_slice)))
}

/// Two examples of which the right candidate is to be chosen.
fn choices() -> Batch {
    let candidate = |answer: &[u32]| EncodedCandidate::new([&[5, 11, 2, 30], answer].concat(), answer.len());
    let candidates = vec![candidate(&[7]), candidate(&[8, 9, 3]), candidate(&[8, 1])];
    let example = EncodedExample { candidates, golds: vec![1], line: 1 };
    Batch::choices(&[example.clone(), EncodedExample { golds: vec![0], ..example }])
}

fn values(tensor: Tensor<2>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

#[track_caller]
fn assert_close(found: &[f32], expected: &[f32], place: &str) {
    assert_eq!(found.len(), expected.len(), "{place}");
    let largest = expected.iter().fold(1.0f32, |largest, x| largest.max(x.abs()));
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= 2e-5 * largest, "{place}: {found} for {expected}");
    }
}

#[test]
fn a_cache_gives_what_the_whole_gives() {
    for (name, backbone) in models() {
        let blocks = blocks(&backbone);
        // Beyond that, keys keep the frequencies of the sequence as it was, here as in transformers.
        let unchanged = backbone.config().ropes.iter().filter_map(|rope| match rope.scaling {
            RopeScaling::Dynamic { original_context, .. } => Some(original_context as u32 - VIRTUAL_TOKENS as u32),
            _ => None,
        });
        let tokens = unchanged.min().unwrap_or(TOKENS);
        let ids: Vec<u32> = (0..tokens).map(|i| (i * 11 + 5) % 60).collect();
        for (kind, block) in blocks.iter().map(Some).chain([None]).enumerate() {
            let mut cache = KeyValueCache::default();
            for (from, to) in [(0, 4)].into_iter().chain((4..ids.len()).map(|at| (at, at + 1))) {
                let next = values(backbone.next_logits(&ids[from..to], block, &mut cache));
                let whole = values(backbone.logits(&Batch::continuation(&ids[..to], 0), block));
                let last = &whole[whole.len() - next.len()..];
                assert_close(&next, last, &format!("{name}, block {kind}, {to} tokens"));
            }
        }
    }
}

#[test]
fn parts_with_blocks_of_all_kinds_are_as_alone() {
    for (name, backbone) in models() {
        let batches = [&[13, 29][..], &[17], &[2, 5, 21], &[8]].map(batch);
        let blocks = blocks(&backbone);
        let adapters = [Some(&blocks[2]), None, Some(&blocks[1]), Some(&blocks[0])];
        let parts = batches.iter().zip(adapters).map(|(batch, adapter)| Part { batch, adapter });
        let parts: Vec<Part> = parts.collect();
        let together = values(backbone.token_nll(&parts, &Perturbation::None));
        let alone = parts.iter().flat_map(|part| values(backbone.token_nll(&[*part], &Perturbation::None)));
        assert_close(&together, &alone.collect::<Vec<_>>(), &name);

        let direction = || BackboneDirection::Seeded(3);
        let one = |scale| {
            let nll = values(backbone.token_nll(&parts, &Perturbation::One { direction: direction(), scale }));
            assert_ne!(nll, together, "{name}");
            nll
        };
        let both = values(backbone.token_nll(&parts, &Perturbation::Pair { direction: direction(), eps: 1e-2 }));
        assert!(both == [one(1e-2), one(-1e-2)].concat(), "{name}");

        let pair = |seed, eps| Perturbation::Pair { direction: BackboneDirection::Seeded(seed), eps };
        let pairs = [pair(3, 1e-2), pair(4, 2e-2), pair(5, 1e-3)];
        let alone = pairs.iter().flat_map(|pair| values(backbone.token_nll(&parts, pair))).collect::<Vec<_>>();
        assert!(values(backbone.token_nll(&parts, &Perturbation::Together(pairs.to_vec()))) == alone, "{name}");
    }
}

/// Every kind of weight: matrices of both orders, biases, norms, tables of positions, tied heads.
#[test]
fn weights_are_seen_as_an_update_would_leave_them() {
    for (name, mut backbone) in models() {
        let batches = [&[13, 29][..], &[17]].map(batch);
        let blocks = blocks(&backbone);
        let parts: Vec<Part> = batches
            .iter()
            .zip([&blocks[2], &blocks[1]])
            .map(|(batch, block)| Part { batch, adapter: Some(block) })
            .collect();
        let low_rank = DirectionKind { rank: NonZeroUsize::new(2), ..DirectionKind::default() };
        let low_rank = Arc::new(DirectionSpace::new(low_rank, &backbone).unwrap()).direction(8, &backbone);
        for direction in [BackboneDirection::Seeded(8), low_rank] {
            let view = Perturbation::One { direction: direction.clone(), scale: 1e-2 };
            let seen = values(backbone.token_nll(&parts, &view));
            backbone.descend(&direction, -1e-2);
            let moved = values(backbone.token_nll(&parts, &Perturbation::None));
            assert_close(&seen, &moved, &name);
        }
    }
}

/// Every kind of weight, left out of a pair: the rows of both signs then see it as it is.
#[test]
fn a_pair_over_some_of_the_weights_is_both_signs_alone() {
    for (name, backbone) in models() {
        let batches = [&[13, 29][..], &[17]].map(batch);
        let blocks = blocks(&backbone);
        let parts: Vec<Part> = batches
            .iter()
            .zip([&blocks[2], &blocks[1]])
            .map(|(batch, block)| Part { batch, adapter: Some(block) })
            .collect();
        let untouched = values(backbone.token_nll(&parts, &Perturbation::None));
        // Neither tables nor heads; then nothing else.
        for names in [".*[0-9].*", "[^0-9]*"] {
            let kind = DirectionKind { names: Some(names.to_owned()), ..DirectionKind::default() };
            let direction = Arc::new(DirectionSpace::new(kind, &backbone).unwrap()).direction(3, &backbone);
            let covered = backbone.parameters().iter().filter(|parameter| direction.covers(parameter.name())).count();
            assert!(covered > 0 && covered < backbone.parameters().len(), "{name}, {names}");
            let one = |scale| {
                let view = Perturbation::One { direction: direction.clone(), scale };
                let nll = values(backbone.token_nll(&parts, &view));
                assert_ne!(nll, untouched, "{name}, {names}");
                nll
            };
            let both =
                values(backbone.token_nll(&parts, &Perturbation::Pair { direction: direction.clone(), eps: 1e-2 }));
            assert!(both == [one(1e-2), one(-1e-2)].concat(), "{name}, {names}");
        }
    }
}

#[test]
fn gradients_with_checkpointing_are_the_same_bits() {
    for (name, backbone) in models() {
        let blocks = [blocks(&backbone), other_blocks(&backbone)].concat();
        let [a, b, c, d] = [batch(&[13, 29]), choices(), batch(&[17]), batch(&[8, 5])];
        let sets = [vec![(1.0, &a), (1e4, &b)], vec![(0.5, &c), (2.0, &d)]];
        let bits = |backbone: &Backbone, block: &Adapter| {
            let (losses, gradients) = mean_gradients(backbone, block, &sets, 3);
            let bits = |tensor| values(tensor).into_iter().map(f32::to_bits).collect::<Vec<_>>();
            (losses, gradients.into_iter().map(bits).collect::<Vec<_>>())
        };
        let expected: Vec<_> = blocks.iter().map(|block| bits(&backbone, block)).collect();
        let mut backbone = backbone.with_gradient_checkpointing(true);
        for (index, (block, expected)) in blocks.iter().zip(expected).enumerate() {
            let (losses, gradients) = bits(&backbone, block);
            assert_eq!(losses, expected.0, "{name}, block {index}");
            assert!(gradients.iter().flatten().any(|&bits| f32::from_bits(bits) != 0.0), "{name}, block {index}");
            for ((tensor, _), (found, expected)) in block.tensors().iter().zip(gradients.iter().zip(&expected.1)) {
                assert!(found == expected, "{name}, block {index}: {tensor}");
            }
        }
        // Nothing holds the weights, which move in place.
        backbone.descend(&BackboneDirection::Seeded(4), 1e-3);
    }
}

/// Without checkpointing the whole pass is made of operations whose gradients reach the weights, with it one block of a
/// pass: the others round in the order of the kernels.
#[test]
fn gradients_of_the_weights_with_checkpointing_differ_by_rounding() {
    for (name, backbone) in models() {
        let batches = [batch(&[13, 29]), choices()];
        let (loss, expected) = mean_backbone_gradients(&backbone, &batches);
        let backbone = backbone.with_gradient_checkpointing(true);
        let (found_loss, found) = mean_backbone_gradients(&backbone, &batches);
        assert!((found_loss - loss).abs() <= 1e-5 * loss, "{name}: {found_loss} for {loss}");
        let [expected, found] = [expected, found].map(|all| all.into_iter().map(values).collect::<Vec<_>>());
        let largest = expected.iter().flatten().fold(0.0f32, |largest, x| largest.max(x.abs()));
        assert!(largest > 0.0);
        for (weight, (found, expected)) in backbone.parameters().iter().zip(found.iter().zip(&expected)) {
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(expected) {
                let place = weight.name();
                assert!((found - expected).abs() <= 1e-4 * largest, "{name}, {place}: {found} for {expected}");
            }
        }
    }
}
