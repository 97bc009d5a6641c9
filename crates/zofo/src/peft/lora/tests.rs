use super::super::test_model::{model, values};
use super::super::{Adapter, AdapterConfig};
use super::*;

const Q0: &str = "model.layers.0.self_attn.q_proj";

fn names(list: &[&str]) -> Option<ModuleNames> {
    Some(ModuleNames::List(list.iter().map(|&name| name.to_owned()).collect()))
}

fn pattern(text: &str) -> Option<ModuleNames> {
    Some(ModuleNames::Pattern(text.to_owned()))
}

/// The adapted layers of the two blocks, without what their names have in common.
fn chosen(config: LoraConfig) -> Result<Vec<String>, AdapterError> {
    let targets = resolve(&config, &model())?;
    let short = |target: &Target| target.module.name.strip_prefix("model.layers.").unwrap().to_owned();
    Ok(targets.iter().map(short).collect())
}

/// A block whose matrices are both random.
fn random(config: LoraConfig) -> Lora {
    let lora = Lora::new(config, &model(), 3, &Device::flex()).unwrap();
    let other =
        |(name, tensor): (String, Tensor<2>)| super::super::init::normal(7, &name, tensor.dims(), &Device::flex());
    lora.with_tensors(lora.tensors().into_iter().map(other).collect())
}

#[test]
fn the_default_is_queries_and_values() {
    let expected = ["0.self_attn.q_proj", "0.self_attn.v_proj", "1.self_attn.q_proj", "1.self_attn.v_proj"];
    assert_eq!(chosen(LoraConfig::default()).unwrap(), expected);
}

#[test]
fn targets_are_names_or_patterns_narrowed_by_exclusions_and_layers() {
    let of = |targets, exclude, layers: Option<&[usize]>| {
        chosen(LoraConfig { targets, exclude, layers: layers.map(<[usize]>::to_vec), ..LoraConfig::default() }).unwrap()
    };
    assert_eq!(
        of(names(&["o_proj", Q0]), None, None),
        ["0.self_attn.q_proj", "0.self_attn.o_proj", "1.self_attn.o_proj"]
    );
    assert_eq!(of(pattern(r".*\.1\.mlp\..*"), None, None), ["1.mlp.gate_proj", "1.mlp.up_proj", "1.mlp.down_proj"]);
    assert_eq!(of(pattern("All-Linear"), None, None).len(), 14);
    assert_eq!(of(pattern("all-linear"), pattern(".*(attn|gate|up).*"), Some(&[1])), ["1.mlp.down_proj"]);
    assert_eq!(of(None, names(&["v_proj"]), Some(&[0, 1])), ["0.self_attn.q_proj", "1.self_attn.q_proj"]);
}

#[test]
fn targets_that_are_not_there() {
    let message = |config| chosen(config).unwrap_err().to_string();
    let text = message(LoraConfig { targets: names(&["q_proj", "c_attn"]), ..LoraConfig::default() });
    assert!(text.contains("`c_attn`") && text.contains("it has q_proj, k_proj, v_proj, o_proj"), "{text}");
    let text = message(LoraConfig { targets: pattern("q_proj"), ..LoraConfig::default() });
    assert!(text.contains(Q0) && text.contains("write a list: [\"q_proj\"]"), "{text}");
    let text = message(LoraConfig { targets: pattern("q_proj("), ..LoraConfig::default() });
    assert!(text.contains("`peft.targets`: the regular expression `q_proj(`"), "{text}");
    let text = message(LoraConfig { exclude: names(&["q_proj", "v_proj"]), ..LoraConfig::default() });
    assert!(text.contains("leaves no linear layer"), "{text}");
    let text = message(LoraConfig { layers: Some(vec![0, 2]), ..LoraConfig::default() });
    assert!(text.contains("`peft.layers` names block 2; this model has the blocks 0 to 1"), "{text}");
    let rank_pattern = Patterns::new(vec![("o_proj".to_owned(), 2)]);
    let text = message(LoraConfig { rank_pattern, ..LoraConfig::default() });
    assert!(
        text.contains("`peft.rank_pattern` has the pattern `o_proj`") && text.ends_with("q_proj, v_proj"),
        "{text}"
    );
}

#[test]
fn ranks_and_scales_follow_the_patterns() {
    let config = LoraConfig {
        rank: 4,
        alpha: 8.0,
        rank_pattern: Patterns::new(vec![("layers.1.*q_proj".to_owned(), 16)]),
        alpha_pattern: Patterns::new(vec![("v_proj".to_owned(), 2.0)]),
        ..LoraConfig::default()
    };
    let of = |config: &LoraConfig| -> Vec<(usize, f64)> {
        resolve(config, &model()).unwrap().iter().map(|target| (target.rank, target.scale)).collect()
    };
    assert_eq!(of(&config), [(4, 2.0), (4, 0.5), (16, 0.5), (4, 0.5)]);
    let stabilized = LoraConfig { rank_stabilized: true, ..config };
    assert_eq!(of(&stabilized), [(4, 4.0), (4, 1.0), (16, 2.0), (4, 1.0)]);
}

#[test]
fn a_new_block_adds_nothing_and_depends_on_the_seed() {
    let new = |seed| Lora::new(LoraConfig::default(), &model(), seed, &Device::flex()).unwrap();
    let block = new(1);
    let x = Tensor::ones([3, 8], &Device::flex());
    let added = values(block.delta(&format!("{Q0}.weight"), x).unwrap());
    assert!(added.iter().all(|&value| value == 0.0));
    let a = |lora: &Lora| values(lora.tensors()[0].1.clone());
    assert_eq!(a(&block), a(&new(1)));
    assert_ne!(a(&block), a(&new(2)));
    let bound = 1.0 / 8f32.sqrt();
    assert!(a(&block).iter().all(|value| value.abs() <= bound));
}

#[test]
fn what_is_written_is_read_with_the_same_effect() {
    let narrowed = LoraConfig {
        rank: 2,
        alpha: 3.0,
        dropout: 0.5,
        targets: pattern("all-linear"),
        exclude: names(&["mlp.up_proj"]),
        layers: Some(vec![1]),
        rank_pattern: Patterns::new(vec![("k_proj".to_owned(), 3)]),
        alpha_pattern: Patterns::new(vec![("[qk]_proj".to_owned(), 6.0)]),
        ..LoraConfig::default()
    };
    for config in [LoraConfig::default(), narrowed] {
        let block = Adapter::Lora(random(config.clone()));
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("adapter");
        block.write(Path::new("base"), &dir).unwrap();
        let again = Adapter::read(&dir, &model(), &Device::flex()).unwrap();
        for ((name, written), (name_again, read)) in block.tensors().into_iter().zip(again.tensors()) {
            assert_eq!((name, values(written)), (name_again, values(read)));
        }
        let x = Tensor::ones([2, 8], &Device::flex());
        for module in model().linears().iter().filter(|module| module.inputs == 8) {
            let weight = format!("{}.weight", module.name);
            let [before, after] = [&block, &again].map(|block| block.delta(&weight, x.clone()).map(values));
            assert_eq!(before, after, "{weight}");
        }
        let Adapter::Lora(again) = again else { panic!("no LoRA") };
        assert_eq!(again.config().dropout, config.dropout);
    }
}

#[test]
fn merging_adds_what_the_block_adds() {
    let block = random(LoraConfig { rank: 2, alpha: 3.0, targets: names(&["v_proj"]), ..LoraConfig::default() });
    let weight = "model.layers.1.self_attn.v_proj.weight";
    let device = Device::flex();
    let w = super::super::init::normal(1, "w", [4, 8], &device);
    let x = super::super::init::normal(1, "x", [5, 8], &device);
    let merged = values(x.clone().matmul(block.merged(weight, w.clone()).transpose()));
    let apart = values(x.clone().matmul(w.clone().transpose()) + block.delta(weight, x).unwrap());
    for (merged, apart) in merged.iter().zip(apart) {
        assert!((merged - apart).abs() < 1e-4, "{merged} {apart}");
    }
    // Another weight stays as it is.
    assert_eq!(values(block.merged(&format!("{Q0}.weight"), w.clone())), values(w));
}

/// GPT-2 stores its weights as `[in, out]`, which changes nothing but the merged values' layout and a flag in the file.
#[test]
fn weights_that_are_stored_by_input() {
    let mut block = random(LoraConfig { targets: names(&["v_proj"]), ..LoraConfig::default() });
    let weight = "model.layers.0.self_attn.v_proj.weight";
    let w = Tensor::<2>::zeros([4, 8], &Device::flex());
    let merged = block.merged(weight, w.clone());
    let mut targets = (*block.targets).clone();
    for target in &mut targets {
        target.module.order = WeightOrder::InputMajor;
    }
    block.targets = Arc::new(targets);
    assert_eq!(values(block.merged(weight, w.transpose())), values(merged.transpose()));
    assert!(block.to_peft(Path::new("base")).fan_in_fan_out);
}

#[test]
fn dropout_is_for_training_only_and_keeps_the_mean() {
    let config = LoraConfig { dropout: 0.25, rank: 2, ..LoraConfig::default() };
    let block = Adapter::Lora(random(config));
    let weight = format!("{Q0}.weight");
    let x = super::super::init::normal(1, "x", [4, 8], &Device::flex());
    let delta = |block: &Adapter| values(block.delta(&weight, x.clone()).unwrap());
    let plain = delta(&block);
    let masked = |seed| delta(&block.with_dropout(seed));
    assert_eq!(masked(1), masked(1));
    assert_ne!(masked(1), masked(2));
    assert_ne!(masked(1), plain);
    let draws = 4000;
    let mut mean = vec![0.0; plain.len()];
    let mut square = vec![0.0; plain.len()];
    for seed in 0..draws {
        for (index, value) in masked(seed).into_iter().enumerate() {
            mean[index] += f64::from(value) / draws as f64;
            square[index] += f64::from(value).powi(2) / draws as f64;
        }
    }
    for ((mean, square), plain) in mean.into_iter().zip(square).zip(plain) {
        let deviation = (square - mean * mean).sqrt() / (draws as f64).sqrt();
        assert!((mean - f64::from(plain)).abs() < 5.0 * deviation, "{mean} {plain} {deviation}");
    }
    // Without dropout in the configuration there are no masks.
    let without = Adapter::Lora(random(LoraConfig { rank: 2, ..LoraConfig::default() }));
    assert_eq!(delta(&without.with_dropout(1)), delta(&without));
}

#[test]
fn gradients_pass_through_the_same_masks() {
    let block = Adapter::Lora(random(LoraConfig { dropout: 0.5, rank: 2, ..LoraConfig::default() }));
    let weight = format!("{Q0}.weight");
    let x = super::super::init::normal(1, "x", [4, 8], &Device::flex());
    let tracked = block.tracked();
    let loss = tracked.with_dropout(9).delta(&weight, x.clone().autodiff()).unwrap().sum();
    let gradients = tracked.gradients(loss.backward());
    // The loss is linear in B: its change along its gradient is the gradient's squared length.
    let with = |step: f32| {
        let mut tensors: Vec<Tensor<2>> = block.tensors().into_iter().map(|(_, tensor)| tensor).collect();
        tensors[1] = tensors[1].clone() + gradients[1].clone() * step;
        values(block.with_tensors(tensors).with_dropout(9).delta(&weight, x.clone()).unwrap()).iter().sum::<f32>()
    };
    let length: f32 = values(gradients[1].clone()).iter().map(|value| value * value).sum();
    assert!((with(1.0) - with(0.0) - length).abs() < 1e-3 * length, "{} {length}", with(1.0) - with(0.0));
}

#[test]
fn adapters_of_other_models() {
    let lora = |change: &dyn Fn(&mut PeftLora)| {
        let mut stored = random(LoraConfig { rank: 2, ..LoraConfig::default() }).to_peft(Path::new("base"));
        change(&mut stored);
        let read = Lora::from_peft(stored, Path::new("dir"), &model(), &Device::flex());
        read.err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert_eq!(lora(&|_| {}), "");
    let has = |text: &str, parts: &[&str]| assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    for module in ["model.layers.2.self_attn.q_proj", "model.norm", "model.embed_tokens"] {
        let text = lora(&|stored| stored.tensors[1].module = module.to_owned());
        has(&text, &["dir/adapter_model.safetensors", module, "a linear layer of the base model", "another model"]);
    }
    let text = lora(&|stored| stored.tensors[0].a.shape = [2, 16]);
    has(&text, &[Q0, "the [8, 8] (out, in) of the base model", "for [8, 16]"]);
    let text = lora(&|stored| stored.tensors[1].module = "lm_head".to_owned());
    has(&text, &["\"lm_head\" is LoRA on the output matrix, which is not supported", "inside the blocks"]);
}

#[test]
fn a_configuration_is_checked_without_weights() {
    AdapterConfig::Lora(LoraConfig::default()).check(&model()).unwrap();
    let wrong = LoraConfig { targets: names(&["nothing"]), ..LoraConfig::default() };
    assert!(AdapterConfig::Lora(wrong).check(&model()).is_err());
}
