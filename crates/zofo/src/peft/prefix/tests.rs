use super::super::test_model::{backbone, model, values};
use super::super::{Adapter, AdapterConfig, AdapterError, Prompt, PromptConfig, PromptInit};
use super::*;

fn new(init: PrefixInit, seed: u64) -> Adapter {
    Adapter::new(&AdapterConfig::Prefix(PrefixConfig { virtual_tokens: 3, init }), &backbone(), seed).unwrap()
}

fn prompt(init: PromptInit, seed: u64) -> Adapter {
    Adapter::new(&AdapterConfig::Prompt(PromptConfig { virtual_tokens: 3, init }), &backbone(), seed).unwrap()
}

fn all_values(adapter: &Adapter) -> Vec<f32> {
    adapter.tensors().into_iter().flat_map(|(_, tensor)| values(tensor)).collect()
}

/// Writes a block, and reads it again.
fn written(adapter: &Adapter) -> Adapter {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("adapter");
    adapter.write(Path::new("base"), &dir).unwrap();
    Adapter::read(&dir, &model(), &Device::flex()).unwrap()
}

#[test]
fn a_row_holds_keys_then_values_of_each_layer() {
    // 2 layers, and 1 head of 4 for keys and values.
    let count = (0..3 * 16).map(|index| index as f32).collect();
    let block = new(PrefixInit::Random, 1).with_tensors(vec![tensor_of(count, [3, 16], &Device::flex())]);
    let row = |tensor: Tensor<2>, row: usize| values(tensor)[row * 4..][..4].to_vec();
    let (keys, of_values) = block.prefix(0).unwrap();
    assert_eq!(row(keys, 0), [0.0, 1.0, 2.0, 3.0]);
    assert_eq!(row(of_values, 0), [4.0, 5.0, 6.0, 7.0]);
    let (keys, of_values) = block.prefix(1).unwrap();
    assert_eq!(row(keys.clone(), 0), [8.0, 9.0, 10.0, 11.0]);
    assert_eq!(row(keys, 2), [40.0, 41.0, 42.0, 43.0]);
    assert_eq!(row(of_values, 1), [28.0, 29.0, 30.0, 31.0]);
}

#[test]
fn each_kind_answers_for_itself() {
    let prefix = new(PrefixInit::Random, 1);
    assert_eq!(prefix.virtual_tokens(), 3);
    assert!(prefix.prompt().is_none() && !prefix.adapts("model.layers.0.self_attn.q_proj.weight"));
    let prompt = prompt(PromptInit::Random, 1);
    assert_eq!((prompt.virtual_tokens(), prompt.prompt().unwrap().dims()), (3, [3, 8]));
    assert!(prompt.prefix(0).is_none() && prompt.len() == 24);
}

#[test]
fn activations_are_those_of_the_backbone() {
    let given = InitTokens::Given(vec![4, 2]);
    let block = new(PrefixInit::Activations(given.clone()), 1);
    let expected = backbone().keys_and_values(&[4, 2, 4]);
    for (layer, (keys, of_values)) in expected.into_iter().enumerate() {
        let (actual_keys, actual_values) = block.prefix(layer).unwrap();
        assert_eq!((values(actual_keys), values(actual_values)), (values(keys), values(of_values)));
    }
    let start = prompt(PromptInit::Embeddings(given), 1);
    assert_eq!(values(start.prompt().unwrap()), values(backbone().embedding_rows(&[4, 2, 4])));
}

#[test]
fn random_starts_depend_on_the_seed() {
    let starts: [&dyn Fn(u64) -> Adapter; 5] = [
        &|seed| new(PrefixInit::Random, seed),
        &|seed| new(PrefixInit::Activations(InitTokens::Random), seed),
        &|seed| new(PrefixInit::Projection { hidden: 5 }, seed),
        &|seed| prompt(PromptInit::Random, seed),
        &|seed| prompt(PromptInit::Embeddings(InitTokens::Random), seed),
    ];
    for start in starts {
        assert_eq!(all_values(&start(1)), all_values(&start(1)));
        assert_ne!(all_values(&start(1)), all_values(&start(2)));
    }
}

#[test]
fn what_is_written_is_read() {
    for block in [new(PrefixInit::Random, 1), prompt(PromptInit::Random, 1)] {
        assert_eq!(all_values(&written(&block)), all_values(&block));
    }
}

#[test]
fn blocks_that_leave_no_position_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let read = |virtual_tokens: usize| {
        let dir = root.path().join(virtual_tokens.to_string());
        let embeddings = Tensor::zeros([virtual_tokens, 8], &Device::flex());
        Adapter::Prompt(Prompt::from_embeddings(&model(), embeddings)).write(Path::new("base"), &dir).unwrap();
        Adapter::read(&dir, &model(), &Device::flex())
    };
    assert_eq!(read(63).unwrap().virtual_tokens(), 63);
    let text = read(64).err().unwrap().to_string();
    assert!(text.contains("fewer than the 64 positions") && text.contains("found 64"), "{text}");
}

#[test]
fn a_projection_is_trained_as_a_network_and_written_as_its_output() {
    let block = new(PrefixInit::Projection { hidden: 5 }, 1);
    let names: Vec<String> = block.tensors().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, PROJECTION);
    // 3·4 embeddings, 4·5 + 5, 5·16 + 16.
    assert_eq!(block.len(), 12 + 25 + 96);
    let parts: Vec<Vec<f32>> = block.tensors().into_iter().map(|(_, tensor)| values(tensor)).collect();
    let [embedding, first, first_bias, second, second_bias] = parts.as_slice() else { panic!("no projection") };
    let (keys, _) = block.prefix(1).unwrap();
    // Element (2, 1) of the second layer's keys, which are columns 8 to 11 of all.
    let hidden = |unit: usize| {
        let sum: f32 = (0..4).map(|i| embedding[2 * 4 + i] * first[unit * 4 + i]).sum();
        (sum + first_bias[unit]).tanh()
    };
    let expected = (0..5).map(|unit| hidden(unit) * second[9 * 5 + unit]).sum::<f32>() + second_bias[9];
    assert!((values(keys)[2 * 4 + 1] - expected).abs() < 1e-6);

    let again = written(&block);
    assert_eq!(again.tensors()[0].0, "prompt_embeddings");
    for layer in 0..2 {
        let [before, after] = [&block, &again].map(|block| block.prefix(layer).unwrap());
        assert_eq!((values(before.0), values(before.1)), (values(after.0), values(after.1)));
    }
}

#[test]
fn gradients_reach_all_that_is_trained() {
    for init in [PrefixInit::Random, PrefixInit::Projection { hidden: 5 }] {
        let block = new(init, 1);
        let tracked = block.tracked();
        assert!(tracked.is_tracked());
        let loss = |block: &Adapter| {
            let parts = (0..2).flat_map(|layer| <[_; 2]>::from(block.prefix(layer).unwrap()));
            let squares = parts.map(|part| (part.clone() * part).sum());
            squares.reduce(|sum, square| sum + square).unwrap()
        };
        let gradients = tracked.gradients(loss(&tracked).backward());
        let before: f32 = loss(&block).into_scalar();
        for (index, (name, tensor)) in block.tensors().into_iter().enumerate() {
            let length: f32 = values(gradients[index].clone()).iter().map(|value| value * value).sum();
            assert!(length > 0.0, "{name}");
            let mut tensors: Vec<Tensor<2>> = block.tensors().into_iter().map(|(_, tensor)| tensor).collect();
            let step = 1e-2 / length.sqrt();
            tensors[index] = tensor + gradients[index].clone() * step;
            let change = loss(&block.with_tensors(tensors)).into_scalar::<f32>() - before;
            assert!((change / (step * length) - 1.0).abs() < 0.05, "{name}: {change} for {}", step * length);
        }
    }
}

#[test]
fn blocks_of_other_models() {
    let prefix = |change: &dyn Fn(&mut PeftPrefix)| {
        let Adapter::Prefix(prefix) = new(PrefixInit::Random, 1) else { panic!("no prefix") };
        let mut stored = prefix.to_peft(Path::new("base"));
        change(&mut stored);
        let read = Prefix::from_peft(stored, Path::new("dir"), &model(), &Device::flex());
        read.err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert_eq!(prefix(&|_| {}), "");
    let text = prefix(&|stored| stored.num_attention_heads = 2);
    assert!(text.contains("2 layers, 1 heads of keys and values, of width 4 together"), "{text}");
    assert!(text.contains("found one for 2 layers, 2 heads") && text.contains("for another model?"), "{text}");
    assert!(prefix(&|stored| stored.num_layers = 4).contains("one for 4 layers"));

    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("adapter");
    prompt(PromptInit::Random, 1).write(Path::new("base"), &dir).unwrap();
    let mut wider = model();
    wider.embedding.width = 12;
    let text = Adapter::read(&dir, &wider, &Device::flex()).err().unwrap().to_string();
    assert!(text.contains("embeddings of width 12, found one of width 8"), "{text}");
}

#[test]
fn what_the_model_has_no_room_for() {
    let check = |virtual_tokens, init| {
        AdapterConfig::Prefix(PrefixConfig { virtual_tokens, init }).check(&model()).unwrap_err()
    };
    assert!(matches!(check(64, PrefixInit::Random), AdapterError::TooManyVirtualTokens { positions: 64, .. }));
    let given = |tokens: &[u32]| PrefixInit::Activations(InitTokens::Given(tokens.to_vec()));
    assert!(matches!(check(5, given(&[])), AdapterError::EmptyText));
    assert!(matches!(check(5, given(&[5, 6])), AdapterError::ForeignToken { token: 6, vocabulary: 6 }));
}
