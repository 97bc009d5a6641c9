use std::collections::BTreeSet;
use std::path::PathBuf;

use super::keys::{Belongs, sections};
use super::*;
use crate::hf::{ModuleNames, Patterns, WeightDtype};
use crate::task::TemplateName;
use crate::zo::optimizer::BackboneOptimizer;

const MINIMAL: &str =
    "[model]\npath = \"m\"\n[data]\ntask = \"sst2\"\ndir = \"d\"\n[run]\noutput = \"o\"\nmax_steps = 5\n";

/// Every key, with a value that is not its default.
const FULL: &str = r#"
[model]
path = "/models/m.gguf"
dtype = "bf16"
compute = "bf16"
storage = "disk"
[data]
task = "copa"
dir = "d"
train = "t.csv"
validation = "v.csv"
hub_train = "train[:50]"
hub_validation = "test"
skip_bad_rows = 3
template = "none"
train_examples = 300
few_shot = 16
validation_examples = 60
eval_examples = 40
max_length = 64
inner_fraction = 0.5
stratify = true
overlap = "keep"
seed = 3
shots = 2
[method]
name = "bilevel"
on = "peft"
penalty = 100
penalty_normalized = true
penalty_warmup = 5
inner_steps = 4
warm_start = 60
keep = "s"
first_stage_steps = 3
first_stage_minutes = 1.5
loss = "candidates"
[peft]
kind = "lora"
rank = 4
alpha = 8
rank_stabilized = true
dropout = 0.1
targets = ["q_proj", "k_proj", "v_proj"]
exclude = "model.layers.0.*"
layers = [1, 0]
virtual_tokens = 7
init = "tokens"
init_text = "It was"
projection_hidden = 64
shadow_init = "independent"
rank_pattern = { "layers.1.*" = 2, "a_proj" = 3 }
alpha_pattern = { q_proj = 1 }
[inner]
optimizer = "adam"
lr = 2e-4
batch_size = 16
accumulate = 2
gradient_checkpointing = true
[outer]
adapter_optimizer = "sgd"
adapter_lr = 1e-5
optimizer = "sign"
lr = 3e-7
momentum = 0.0
momentum_window = 4
weight_decay = 0.1
conservative = false
objective = "metric"
eps = 1e-4
eps_final = 1e-5
sides = 1
directions = 3
directions_at_once = 2
distribution = "sphere"
mask_names = ".*proj.*"
mask_layers = [1]
mask_elements = "smallest"
mask_share = 0.5
batch_size = 32
accumulate = 4
[run]
output = "o"
max_steps = 7
max_minutes = 2.5
eval_every = 9
keep = "last"
lr_schedule = "linear"
lr_warmup = 3
patience = 6
seed = 9223372036854775807
device = "cpu"
threads = 2
tensorboard = true
"#;

fn parse(text: &str, overlays: &[&str]) -> Result<Config, ConfigError> {
    let overlays: Vec<String> = overlays.iter().map(|&overlay| overlay.to_owned()).collect();
    Config::parse(text, "run.toml", &overlays)
}

fn error(text: &str, overlays: &[&str]) -> String {
    parse(text, overlays).unwrap_err().to_string()
}

/// The error that an overlay causes.
fn overlay_error(overlay: &str) -> String {
    error(MINIMAL, &[overlay])
}

#[test]
fn defaults() {
    let config = parse(MINIMAL, &[]).unwrap();
    let expected = Config {
        model: ModelConfig {
            path: "m".into(),
            dtype: WeightDtype::F32,
            compute: Compute::F32,
            storage: Storage::Memory,
        },
        data: DataConfig {
            task: "sst2".into(),
            dir: Some("d".into()),
            train: None,
            validation: None,
            hub_train: None,
            hub_validation: None,
            skip_bad_rows: 0,
            template: TemplateName::PROMPT,
            train_examples: 1000,
            few_shot: None,
            validation_examples: 200,
            eval_examples: None,
            max_length: None,
            inner_fraction: 0.3333,
            stratify: false,
            overlap: Overlap::Drop,
            seed: 0,
            shots: 8,
        },
        method: MethodConfig {
            name: MethodName::Bilevel,
            on: MezoTarget::Backbone,
            penalty: 1e4,
            penalty_normalized: false,
            penalty_warmup: 0,
            inner_steps: 10,
            warm_start: 0,
            keep: KeepAdapter::P,
            first_stage_steps: None,
            first_stage_minutes: None,
            loss: Loss::Answer,
        },
        peft: PeftConfig {
            kind: PeftKind::Lora,
            rank: 8,
            alpha: 16.0,
            rank_stabilized: false,
            dropout: 0.0,
            targets: None,
            exclude: None,
            layers: None,
            virtual_tokens: 5,
            init: BlockInit::Activations,
            init_text: None,
            projection_hidden: 512,
            shadow_init: ShadowInit::Copy,
            rank_pattern: Patterns::default(),
            alpha_pattern: Patterns::default(),
        },
        inner: InnerConfig {
            optimizer: Optimizer::AdamW,
            lr: 1e-3,
            batch_size: 8,
            accumulate: 1,
            gradient_checkpointing: false,
        },
        outer: OuterConfig {
            adapter_optimizer: Optimizer::AdamW,
            adapter_lr: 1e-3,
            optimizer: BackboneOptimizer::Rms,
            lr: 1e-6,
            momentum: 0.0,
            momentum_window: 10,
            weight_decay: 0.0,
            conservative: false,
            objective: ObjectiveKind::Loss,
            eps: 1e-3,
            eps_final: None,
            sides: 2,
            directions: 1,
            directions_at_once: 1,
            distribution: ElementDistribution::Gaussian,
            rank: None,
            mask_names: None,
            mask_layers: None,
            mask_elements: None,
            mask_share: 0.25,
            batch_size: 8,
            accumulate: 1,
        },
        run: RunConfig {
            output: "o".into(),
            max_steps: Some(5),
            max_minutes: None,
            eval_every: 50,
            keep: Keep::Best,
            lr_schedule: LrSchedule::Constant,
            lr_warmup: 0,
            patience: None,
            seed: 0,
            device: Device::Cpu,
            threads: None,
            tensorboard: false,
        },
        unused: Vec::new(),
    };
    assert_eq!(config, expected);
}

#[test]
fn the_adapter_follows_the_inner_level() {
    let outer = |overlays: &[&str]| parse(MINIMAL, overlays).unwrap().outer;
    let followed = outer(&["inner.optimizer=adam", "inner.lr=5e-4"]);
    assert_eq!((followed.adapter_optimizer, followed.adapter_lr), (Optimizer::Adam, 5e-4));
    let sgd = outer(&["inner.optimizer=sgd", "inner.lr=0.5", "method.penalty=99"]);
    assert_eq!((sgd.adapter_optimizer, sgd.adapter_lr), (Optimizer::Sgd, 0.5 / 100.0));
    let own = outer(&["outer.adapter_optimizer=sgd", "outer.adapter_lr=0.25"]);
    assert_eq!((own.adapter_optimizer, own.adapter_lr), (Optimizer::Sgd, 0.25));
}

#[test]
fn the_resolved_form_parses_back() {
    let all: [(&str, &[&str]); 4] = [
        (MINIMAL, &[]),
        (FULL, &[]),
        (MINIMAL, &["peft.kind=prefix"]),
        (MINIMAL, &["peft.kind=prompt", "peft.rank=3"]),
    ];
    for (text, overlays) in all {
        let config = parse(text, overlays).unwrap();
        let resolved = config.to_toml().unwrap();
        let again = parse(&resolved, &[]).unwrap();
        assert_eq!(again, config);
        assert_eq!(again.to_toml().unwrap(), resolved);
        assert_eq!(again.fingerprint().unwrap(), config.fingerprint().unwrap());
    }
}

#[test]
fn the_resolved_form_has_no_keys_of_another_block() {
    let peft = |kind| parse(MINIMAL, &[kind]).unwrap().to_toml().unwrap();
    for (kind, there, not_there) in [
        ("peft.kind=lora", "\nrank = 8\n", "virtual_tokens"),
        ("peft.kind=prefix", "\nvirtual_tokens = 5\n", "rank"),
        ("peft.kind=prompt", "\nvirtual_tokens = 10\n", "projection_hidden"),
    ] {
        let text = peft(kind);
        assert!(text.contains(there) && !text.contains(not_there), "{text}");
        assert!(parse(&text, &[]).unwrap().unused_keys().is_empty());
    }
}

#[test]
fn the_list_of_keys_is_exactly_what_is_read_and_written() {
    let written: toml::Table = parse(FULL, &[]).unwrap().to_toml().unwrap().parse().unwrap();
    let full: toml::Table = FULL.parse().unwrap();
    let names = |table: &toml::Table| -> Vec<String> {
        table
            .iter()
            .flat_map(|(section, keys)| keys.as_table().unwrap().keys().map(move |key| format!("{section}.{key}")))
            .collect()
    };
    // A rank excludes masks of elements, which the file has.
    let listed: Vec<&str> = KEYS.iter().map(|key| key.name).filter(|name| *name != "outer.rank").collect();
    assert_eq!(names(&written), listed);
    assert_eq!(names(&full), listed);
    assert_eq!(sections(), written.keys().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn every_key_of_the_file_is_obeyed() {
    let config = parse(FULL, &[]).unwrap();
    let defaults = parse(MINIMAL, &[]).unwrap();
    let table = |config: &Config| toml::Table::try_from(config).unwrap();
    let (config, defaults) = (table(&config), table(&defaults));
    // The last three exclude what the file has: masks of elements, several directions, and another optimizer.
    let fixed = [
        "method.name",
        "peft.kind",
        "run.device",
        "run.output",
        "data.dir",
        "outer.rank",
        "outer.conservative",
        "outer.momentum",
    ];
    for key in KEYS {
        let (section, name) = key.parts();
        let same = config[section].get(name) == defaults[section].get(name);
        assert_eq!(same, fixed.contains(&key.name), "{}", key.name);
    }
    assert_eq!(parse(MINIMAL, &["outer.rank=3"]).unwrap().outer.rank, Some(3));
    let sgd = parse(MINIMAL, &["outer.optimizer=sgd", "outer.momentum=0.9"]).unwrap().outer;
    assert_eq!((sgd.momentum, sgd.momentum_window), (0.9, 10));
}

#[test]
fn overlays_win_and_need_no_quotes() {
    let overlays = [
        "run.output=runs/a b",
        "run.max_minutes = 3",
        "inner.lr=1e-2",
        "inner.lr=2e-2",
        "peft.targets=[\"o_proj\"]",
        "data.dir=2024-01-01",
        "model.path=\"q\"",
    ];
    let config = parse(MINIMAL, &overlays).unwrap();
    assert_eq!(config.run.output, PathBuf::from("runs/a b"));
    assert_eq!(config.run.max_minutes, Some(3.0));
    assert_eq!(config.inner.lr, 2e-2);
    assert_eq!(config.peft.targets, Some(ModuleNames::List(vec!["o_proj".into()])));
    assert_eq!(config.data.dir, Some(PathBuf::from("2024-01-01")));
    assert_eq!(config.model.path, PathBuf::from("q"));
    // A section that the file lacks may come from overlays alone.
    let all = ["model.path=m", "data.task=sst2", "data.dir=d", "run.output=o", "run.max_steps=5"];
    assert_eq!(parse("", &all).unwrap(), parse(MINIMAL, &[]).unwrap());
}

#[test]
fn a_malformed_overlay_is_refused() {
    for overlay in ["inner.lr", "=3", "inner.lr="] {
        let expected = format!("--set {overlay}: expected key=value, such as --set inner.lr=1e-3");
        assert_eq!(overlay_error(overlay), expected);
    }
}

#[test]
fn unknown_keys_name_the_nearest_and_their_place() {
    let message = error(&format!("{MINIMAL}[inner]\nbatchsize = 4\n"), &[]);
    assert_eq!(message, "run.toml:10: unknown key `inner.batchsize`; the nearest known one is `inner.batch_size`");
    let message = overlay_error("outer.penalty=3");
    assert_eq!(
        message,
        "--set outer.penalty=3: unknown key `outer.penalty`; the nearest known one is `method.penalty`"
    );
    assert!(overlay_error("model.dtpye=f32").ends_with("`model.dtype`"));
    assert!(overlay_error("rank=3").ends_with("`peft.rank`"));
    let message = error(&format!("eval_evry = 3\n{MINIMAL}"), &[]);
    assert_eq!(message, "run.toml:1: unknown key `eval_evry`; the nearest known one is `run.eval_every`");
    let message = error(&format!("{MINIMAL}\n[Outter]\nlr = 1\n"), &[]);
    assert_eq!(message, "run.toml:10: unknown section [Outter]; the nearest known one is [outer]");
}

#[test]
fn wrong_types_name_key_expected_and_found() {
    let message = error(&MINIMAL.replace("max_steps = 5", "max_steps = \"5\""), &[]);
    assert_eq!(message, "run.toml:8: `run.max_steps` must be an integer of at least 1, found the string \"5\"");
    let message = error(&MINIMAL.replace("\"d\"", "[1]"), &[]);
    assert_eq!(message, "run.toml:5: `data.dir` must be a string, found a list");
    let message = overlay_error("peft.targets=3");
    assert!(
        message.contains("must be a list of different names") && message.contains("found the integer"),
        "{message}"
    );
    let message = overlay_error("peft.rank_stabilized=1");
    assert!(message.contains("`peft.rank_stabilized` must be true or false, found the integer 1"), "{message}");
    let message = overlay_error("peft.layers=3");
    assert!(message.contains("`peft.layers` must be a list of different integers"), "{message}");
    let message = overlay_error("peft.rank_pattern=3");
    assert!(message.contains("`peft.rank_pattern` must be a table from regular expressions to numbers"), "{message}");
    let message = error("model = 3\n", &[]);
    assert_eq!(message, "run.toml:1: `model` must be a section [model], found the integer 3");
    let message = error(&format!("{MINIMAL}[inner.lr]\nx = 1\n"), &[]);
    assert_eq!(message, "run.toml:9: `inner.lr` must be a finite number above 0, found a table");
}

#[test]
fn values_out_of_range_are_refused() {
    for key in [
        "inner.lr",
        "outer.lr",
        "outer.adapter_lr",
        "outer.eps",
        "peft.alpha",
        "run.max_minutes",
        "method.first_stage_minutes",
    ] {
        for value in ["0", "0.0", "-1e-3", "nan", "inf", "-inf", "true", "one"] {
            let message = overlay_error(&format!("{key}={value}"));
            let expected = format!("--set {key}={value}: `{key}` must be a finite number above 0, found ");
            assert!(message.starts_with(&expected), "{message}");
        }
    }
    for value in ["1e-50", "1e50"] {
        let message = overlay_error(&format!("outer.lr={value}"));
        assert!(message.contains("must be a finite number above 0 as a 32-bit float too"), "{message}");
    }
    for value in ["-1", "nan", "inf"] {
        for key in ["method.penalty", "outer.weight_decay"] {
            let message = overlay_error(&format!("{key}={value}"));
            assert!(message.contains("must be a finite number of at least 0"), "{message}");
        }
    }
    for value in ["0", "3", "2.0", "two"] {
        let message = overlay_error(&format!("outer.sides={value}"));
        assert!(message.contains("`outer.sides` must be an integer from 1 to 2, found "), "{message}");
    }
    assert_eq!(parse(MINIMAL, &["method.penalty=0"]).unwrap().method.penalty, 0.0);
    for value in ["0", "1", "-0.1", "nan"] {
        for key in ["data.inner_fraction", "outer.mask_share"] {
            let message = overlay_error(&format!("{key}={value}"));
            assert!(message.contains("must be a number above 0 and below 1"), "{message}");
        }
    }
    for key in [
        "inner.batch_size",
        "inner.accumulate",
        "outer.batch_size",
        "outer.accumulate",
        "outer.directions",
        "outer.rank",
        "outer.momentum_window",
        "method.inner_steps",
        "method.first_stage_steps",
        "data.shots",
        "run.patience",
        "peft.rank",
        "peft.virtual_tokens",
        "peft.projection_hidden",
        "run.max_steps",
        "run.eval_every",
        "run.threads",
        "data.validation_examples",
        "data.eval_examples",
    ] {
        for value in ["0", "-1", "1.0", "many"] {
            let message = overlay_error(&format!("{key}={value}"));
            assert!(message.contains(&format!("`{key}` must be an integer of at least 1, found ")), "{message}");
        }
    }
    for key in ["data.train_examples", "data.max_length"] {
        assert!(overlay_error(&format!("{key}=1")).contains("at least 2"));
    }
    for key in ["method.warm_start", "method.penalty_warmup", "run.lr_warmup"] {
        assert!(overlay_error(&format!("{key}=-1")).contains("at least 0"));
    }
    for key in ["run.seed", "data.seed"] {
        assert!(overlay_error(&format!("{key}=-1")).contains("an integer of at least 0, found the integer -1"));
    }
    for value in ["[]", "[\"a\", \"a\"]", "[\"\"]", "[1]"] {
        for key in ["peft.targets", "peft.exclude"] {
            let message = overlay_error(&format!("{key}={value}"));
            assert!(message.contains("must be a list of different names"), "{message}");
        }
    }
    for value in ["[]", "[1, 1]", "[-1]", "[0.5]"] {
        for key in ["peft.layers", "outer.mask_layers"] {
            let message = overlay_error(&format!("{key}={value}"));
            assert!(message.contains("must be a list of different integers of at least 0"), "{message}");
        }
    }
    // What is below 1, and as a 32-bit float is 1, is no share either.
    for value in ["1", "1.5", "-0.1", "nan", "0.99999999999"] {
        for key in ["peft.dropout", "outer.momentum"] {
            let message = overlay_error(&format!("{key}={value}"));
            assert!(message.contains("must be a number of at least 0 and below 1"), "{message}");
        }
    }
    assert!(overlay_error("peft.rank_pattern={ q_proj = 0 }").contains("integers of at least 1, found the integer 0"));
    assert!(overlay_error("peft.alpha_pattern={ q_proj = -1 }").contains("above 0, found the integer -1"));
    assert!(overlay_error("run.output=\"\"").contains("must be a string, found an empty one"));
    assert_eq!(
        overlay_error("data.template=a.b"),
        "--set data.template=a.b: `data.template` must be a template's name (letters, digits, - and _), found the string \"a.b\""
    );
    assert_eq!(parse(MINIMAL, &["data.template=my-own_2"]).unwrap().data.template.as_str(), "my-own_2");
}

#[test]
fn unknown_words_list_the_valid_ones() {
    assert_eq!(
        overlay_error("inner.optimizer=adamv"),
        "--set inner.optimizer=adamv: `inner.optimizer` must be one of \"adamw\", \"adam\", \"sgd\", found \"adamv\" \
         (did you mean \"adamw\"?)"
    );
    for (key, valid) in [
        ("model.dtype", "\"f32\", \"bf16\""),
        ("method.name", "\"bilevel\", \"mezo\", \"first-order\", \"two-stage\", \"full\", \"zero-shot\", \"icl\""),
        ("method.on", "\"backbone\", \"peft\""),
        ("outer.distribution", "\"gaussian\", \"rademacher\", \"sphere\""),
        ("outer.mask_elements", "\"smallest\", \"largest\", \"random\""),
        ("method.keep", "\"p\", \"s\""),
        ("method.loss", "\"answer\", \"all\", \"candidates\""),
        ("peft.kind", "\"lora\", \"prefix\", \"prompt\""),
        ("peft.init", "\"random\", \"tokens\", \"activations\", \"projection\""),
        ("peft.shadow_init", "\"copy\", \"independent\""),
        ("outer.adapter_optimizer", "\"adamw\", \"adam\", \"sgd\""),
        ("outer.optimizer", "\"rms\", \"sgd\", \"sign\", \"adam\""),
        ("run.keep", "\"best\", \"last\""),
        ("run.lr_schedule", "\"constant\", \"linear\", \"cosine\""),
        ("run.device", "\"cpu\""),
        ("model.compute", "\"f32\", \"bf16\""),
    ] {
        let message = overlay_error(&format!("{key}=1"));
        assert!(message.contains(&format!("must be one of {valid}, found \"1\"")), "{message}");
    }
}

#[test]
fn virtual_tokens_begin_as_their_kind_allows() {
    let peft = |overlays: &[&str]| parse(MINIMAL, overlays).map(|config| config.peft);
    let prefix = peft(&["peft.kind=prefix", "peft.init_text=It was"]).unwrap();
    assert_eq!((prefix.virtual_tokens, prefix.init), (5, BlockInit::Activations));
    let prompt = peft(&["peft.kind=prompt", "peft.virtual_tokens=3"]).unwrap();
    assert_eq!((prompt.virtual_tokens, prompt.init), (3, BlockInit::Tokens));
    for (kind, init, valid) in [
        ("prefix", "tokens", "\"random\", \"activations\", \"projection\""),
        ("prompt", "projection", "\"random\", \"tokens\""),
    ] {
        let message = peft(&[&format!("peft.kind={kind}"), &format!("peft.init={init}")]).unwrap_err().to_string();
        assert!(message.contains(&format!("must be one of {valid}, found \"{init}\"")), "{message}");
    }
    for (kind, init) in [("prefix", "random"), ("prefix", "projection"), ("prompt", "random")] {
        let overlays = [&format!("peft.kind={kind}"), &format!("peft.init={init}"), "peft.init_text=3"];
        let message = peft(&overlays.map(|overlay: &str| overlay)).unwrap_err().to_string();
        let expected = format!(
            "--set peft.init_text=3: `peft.init_text` = \"3\" is not supported with peft.init = \"{init}\", which begins \
             with no tokens: leave one of the two out"
        );
        assert_eq!(message, expected);
    }
}

#[test]
fn what_this_build_lacks_is_said() {
    for device in ["cuda", "cuda:1", "vulkan", "metal", "rocm:0"] {
        let message = overlay_error(&format!("run.device={device}"));
        assert!(message.ends_with("is not supported by this build, which supports: cpu"), "{message}");
    }
}

#[test]
fn required_keys_and_limits() {
    for (line, key) in [
        ("path = \"m\"\n", "model.path"),
        ("task = \"sst2\"\n", "data.task"),
        ("output = \"o\"\n", "run.output"),
        ("max_steps = 5\n", "run.max_steps"),
    ] {
        let message = error(&MINIMAL.replace(line, ""), &[]);
        assert!(message.starts_with(&format!("run.toml: `{key}` is not set: ")), "{message}");
    }
    let minutes = MINIMAL.replace("max_steps = 5", "max_minutes = 1");
    assert_eq!(parse(&minutes, &[]).unwrap().run.max_steps, None);
    let message = error(&minutes, &["run.lr_schedule=linear"]);
    assert!(message.contains("`run.max_steps` is not set: run.lr_schedule = \"linear\" needs"), "{message}");
}

#[test]
fn a_file_that_is_not_toml_or_not_there() {
    let message = error("[model\npath = 3", &[]);
    assert!(message.starts_with("run.toml: ") && message.contains("line 1"), "{message}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.toml");
    let message = Config::load(&path, &[]).unwrap_err().to_string();
    assert_eq!(message, format!("cannot read the configuration {}", path.display()));
    fs::write(&path, MINIMAL).unwrap();
    assert_eq!(Config::load(&path, &[]).unwrap(), parse(MINIMAL, &[]).unwrap());
}

#[test]
fn tilde_expands_in_paths() {
    let Ok(home) = std::env::var("HOME") else {
        return;
    };
    let overlays = ["model.path=~/m", "data.dir=~/d", "run.output=~/o", "data.task=~/t.toml"];
    let config = parse(MINIMAL, &overlays).unwrap();
    let inside = |name: &str| PathBuf::from(format!("{}/{name}", home.trim_end_matches('/')));
    assert_eq!(config.model.path, inside("m"));
    assert_eq!(config.data.dir, Some(inside("d")));
    assert_eq!(config.run.output, inside("o"));
    assert_eq!(PathBuf::from(config.data.task), inside("t.toml"));
}

#[test]
fn the_fingerprint_changes_with_what_is_computed_and_with_nothing_else() {
    let fingerprint = |overlays: &[&str]| parse(FULL, overlays).unwrap().fingerprint().unwrap();
    let base = fingerprint(&[]);
    assert_eq!(base.len(), 64);
    let free = [
        "model.path=elsewhere",
        "model.storage=memory",
        "data.eval_examples=3",
        "run.output=x",
        "data.skip_bad_rows=4",
        "inner.gradient_checkpointing=false",
        "outer.directions_at_once=3",
        "run.max_minutes=99",
        "run.eval_every=1",
        "run.keep=best",
        "run.patience=2",
        "run.threads=7",
        "run.tensorboard=false",
    ];
    for overlay in free {
        assert_eq!(fingerprint(&[overlay]), base, "{overlay}");
    }
    let fixed = [
        "model.dtype=f32",
        "model.compute=f32",
        "data.task=sst2",
        "data.dir=e",
        "data.train=u.csv",
        "data.validation=w.csv",
        "data.hub_train=train",
        "data.hub_validation=train[50:]",
        "data.template=prompt",
        "data.train_examples=301",
        "data.few_shot=17",
        "data.validation_examples=61",
        "data.max_length=63",
        "data.inner_fraction=0.4",
        "data.stratify=false",
        "data.overlap=drop",
        "data.seed=4",
        "method.penalty=101",
        "method.penalty_normalized=false",
        "method.penalty_warmup=6",
        "method.inner_steps=5",
        "method.warm_start=0",
        "method.keep=p",
        "method.loss=all",
        "peft.rank=5",
        "peft.alpha=9",
        "peft.rank_stabilized=false",
        "peft.dropout=0.2",
        "peft.targets=[\"q_proj\"]",
        "peft.targets=all-linear",
        "peft.exclude=[\"q_proj\"]",
        "peft.layers=[0]",
        "peft.shadow_init=copy",
        "peft.rank_pattern={ a_proj = 3, \"layers.1.*\" = 2 }",
        "peft.alpha_pattern={ q_proj = 2 }",
        "peft.kind=prompt",
        "inner.optimizer=sgd",
        "inner.lr=3e-4",
        "inner.batch_size=17",
        "inner.accumulate=3",
        "outer.adapter_optimizer=adam",
        "outer.adapter_lr=2e-5",
        "outer.optimizer=rms",
        "outer.lr=4e-7",
        "outer.momentum_window=5",
        "outer.weight_decay=0.2",
        "outer.objective=loss",
        "outer.eps_final=1e-6",
        "outer.eps=2e-4",
        "outer.sides=2",
        "outer.directions=4",
        "outer.distribution=rademacher",
        "outer.mask_names=.*",
        "outer.mask_layers=[0]",
        "outer.mask_elements=largest",
        "outer.mask_share=0.4",
        "outer.batch_size=33",
        "outer.accumulate=5",
        "run.lr_schedule=constant",
        "run.lr_schedule=cosine",
        "run.lr_warmup=4",
        "run.seed=1",
        "run.max_steps=8",
    ];
    let mut seen = vec![base];
    for overlay in fixed {
        let changed = fingerprint(&[overlay]);
        assert!(!seen.contains(&changed), "{overlay}");
        seen.push(changed);
    }
    // Without a schedule, the number of steps is only a limit.
    let limit = |steps| parse(MINIMAL, &[steps]).unwrap().fingerprint().unwrap();
    assert_eq!(limit("run.max_steps=8"), limit("run.max_steps=9"));
    // A prefix has other keys.
    let prefix = |overlay| fingerprint(&["peft.kind=prefix", "peft.init=activations", overlay]);
    let of_prefix = ["peft.virtual_tokens=6", "peft.init_text=was", "peft.projection_hidden=65"];
    let mut seen = vec![prefix("peft.rank=4")];
    for overlay in of_prefix {
        let changed = prefix(overlay);
        assert!(!seen.contains(&changed), "{overlay}");
        seen.push(changed);
    }
    let init = |init| parse(MINIMAL, &["peft.kind=prefix", init]).unwrap().fingerprint().unwrap();
    assert_ne!(init("peft.init=activations"), init("peft.init=random"));
    for overlay in ["peft.rank=5", "peft.targets=[\"q_proj\"]", "peft.dropout=0.2"] {
        assert_eq!(prefix(overlay), seen[0], "{overlay}");
    }
    // Other methods have other keys.
    let of_methods =
        [("mezo", "method.on=backbone"), ("two-stage", "method.first_stage_steps=4"), ("icl", "data.shots=3")];
    for (name, overlay) in of_methods {
        let name = format!("method.name={name}");
        let of = |overlays: &[&str]| parse(MINIMAL, overlays).unwrap().fingerprint().unwrap();
        let needed = if overlay.starts_with("method.f") { "method.first_stage_steps=9" } else { "method.on=peft" };
        assert_ne!(of(&[&name, needed]), of(&[&name, needed, overlay]), "{overlay}");
        assert_ne!(of(&[&name, needed]), of(&[]));
    }
    let minutes = |minutes| parse(MINIMAL, &["method.name=two-stage", minutes]).unwrap().fingerprint().unwrap();
    assert_ne!(minutes("method.first_stage_minutes=1"), minutes("method.first_stage_minutes=2"));
    let minimal = |overlay| parse(MINIMAL, &[overlay]).unwrap().fingerprint().unwrap();
    assert_ne!(minimal("outer.rank=1"), minimal("outer.rank=2"));
    assert_ne!(minimal("outer.conservative=true"), minimal("outer.conservative=false"));
    // Gradients of θ itself round in other places.
    let full = |overlay| parse(MINIMAL, &["method.name=full", overlay]).unwrap().fingerprint().unwrap();
    assert_ne!(full("inner.gradient_checkpointing=true"), full("inner.gradient_checkpointing=false"));
    let sgd = |overlay| parse(MINIMAL, &["outer.optimizer=sgd", overlay]).unwrap().fingerprint().unwrap();
    assert_ne!(sgd("outer.momentum=0.5"), sgd("outer.momentum=0"));
    // Where ε is on its way to another value, the way's length counts.
    assert_ne!(
        parse(MINIMAL, &["outer.eps_final=1e-4", "run.max_steps=5"]).unwrap().fingerprint().unwrap(),
        parse(MINIMAL, &["outer.eps_final=1e-4", "run.max_steps=6"]).unwrap().fingerprint().unwrap()
    );
    // Together the lists, and what is tried apart, are all keys but those that have one value only.
    let apart = [
        "peft.init",
        "outer.rank",
        "outer.conservative",
        "outer.momentum",
        "method.name",
        "run.device",
        "method.first_stage_minutes",
    ];
    let of_methods = of_methods.map(|(_, overlay)| overlay);
    let tried = free.into_iter().chain(fixed).chain(of_prefix).chain(of_methods).chain(apart);
    let tried: BTreeSet<&str> = tried.filter_map(|overlay| overlay.split('=').next()).collect();
    assert_eq!(tried, KEYS.iter().map(|key| key.name).collect());
}

/// Computed by a second implementation. It changes when a key is added that changes what is
/// computed, and then runs of the version before cannot be resumed: that is meant, as their
/// configuration leaves that key open.
#[test]
fn the_fingerprint_is_pinned() {
    let fingerprint = parse(MINIMAL, &[]).unwrap().fingerprint().unwrap();
    assert_eq!(fingerprint, "2582776bb47736ed9a11a611f74ec23f770e184ede60fa329136fd56a163d212");
}

#[test]
fn keys_of_another_choice_are_listed_as_unused() {
    let known = [
        Key { name: "peft.rank", belongs: Belongs::Blocks(&[PeftKind::Lora]), effect: Effect::Trajectory },
        Key { name: "peft.length", belongs: Belongs::Blocks(&[PeftKind::Prefix]), effect: Effect::Trajectory },
        Key { name: "inner.lr", belongs: Belongs::Methods(&[MethodName::Bilevel]), effect: Effect::Trajectory },
        Key { name: "stage.steps", belongs: Belongs::Methods(&[]), effect: Effect::Trajectory },
        Key { name: "run.seed", belongs: Belongs::Always, effect: Effect::Trajectory },
    ];
    let written = ["run.seed", "stage.steps", "peft.rank", "inner.lr", "peft.length"];
    let bilevel = parse(MINIMAL, &[]).unwrap().method;
    let choices = Choices { method: &bilevel, block: PeftKind::Lora };
    assert_eq!(unused_keys(&known, written.into_iter(), choices), ["stage.steps", "peft.length"]);
    let of_methods = ["data.shots", "method.on", "method.first_stage_steps", "method.first_stage_minutes"];
    let unused = [&of_methods[..], &["peft.virtual_tokens", "peft.init", "peft.init_text", "peft.projection_hidden"]];
    assert_eq!(parse(FULL, &[]).unwrap().unused_keys(), unused.concat());
    let prefix = parse(FULL, &["peft.kind=prefix", "peft.init=activations"]).unwrap();
    let unused = [
        "peft.rank",
        "peft.alpha",
        "peft.rank_stabilized",
        "peft.dropout",
        "peft.targets",
        "peft.exclude",
        "peft.layers",
        "peft.rank_pattern",
        "peft.alpha_pattern",
    ];
    assert_eq!(prefix.unused_keys(), [&of_methods[..], &unused[..]].concat());
}

/// For each method the sections and keys that it does not use.
#[test]
fn every_method_uses_its_own_keys() {
    let written = [
        "data.inner_fraction=0.5",
        "data.shots=2",
        "method.penalty=1",
        "peft.kind=lora",
        "peft.rank=2",
        "peft.shadow_init=copy",
        "inner.optimizer=sgd",
        "inner.lr=1",
        "outer.adapter_lr=1",
        "outer.lr=1",
        "outer.mask_layers=[0]",
        "run.eval_every=3",
    ];
    let bilevel = ["data.inner_fraction", "method.penalty", "peft.shadow_init", "outer.adapter_lr"];
    let block = ["peft.kind", "peft.rank"];
    let inner = ["inner.optimizer", "inner.lr"];
    let outer = ["outer.lr", "outer.mask_layers"];
    let cases: [(&[&str], &[&[&str]]); 8] = [
        (&["method.name=bilevel"], &[&["data.shots"]]),
        (&["method.name=mezo"], &[&bilevel, &["data.shots"], &block, &inner]),
        (&["method.name=mezo", "method.on=peft"], &[&bilevel, &["data.shots", "outer.mask_layers"], &inner]),
        (&["method.name=first-order"], &[&bilevel, &["data.shots"], &outer]),
        (&["method.name=two-stage", "method.first_stage_steps=1"], &[&bilevel, &["data.shots"]]),
        (&["method.name=full"], &[&bilevel, &["data.shots", "inner.optimizer"], &block, &outer]),
        (&["method.name=zero-shot"], &[&bilevel, &["data.shots", "run.eval_every"], &block, &inner, &outer]),
        (&["method.name=icl"], &[&bilevel, &["run.eval_every"], &block, &inner, &outer]),
    ];
    for (method, unused) in cases {
        let config = parse(MINIMAL, &[method, &written].concat()).unwrap();
        let found: BTreeSet<&str> =
            config.unused_keys().iter().map(String::as_str).filter(|key| *key != "run.max_steps").collect();
        assert_eq!(found, unused.concat().into_iter().collect(), "{method:?}");
        let again = parse(&config.to_toml().unwrap(), &[]).unwrap();
        assert_eq!(again.fingerprint().unwrap(), config.fingerprint().unwrap(), "{method:?}");
    }
}

#[test]
fn settings_that_do_not_go_together_are_refused() {
    let refused = |overlays: &[&str]| parse(MINIMAL, overlays).unwrap_err().to_string();
    let message = refused(&["method.name=two-stage"]);
    assert!(message.starts_with("run.toml: `method.first_stage_steps` is not set: "), "{message}");
    let message = refused(&["method.name=two-stage", "method.first_stage_steps=3", "method.first_stage_minutes=1"]);
    assert!(message.contains("together with method.first_stage_minutes: leave one of the two out"), "{message}");
    let message = refused(&["outer.optimizer=adam", "outer.mask_elements=smallest"]);
    assert!(
        message.contains("`outer.mask_elements` = \"smallest\" is not supported with outer.optimizer"),
        "{message}"
    );
    let message = refused(&["method.name=mezo", "method.on=peft", "outer.distribution=sphere"]);
    assert!(message.contains("`outer.distribution` = \"sphere\" is not supported with method.on"), "{message}");
    for other in ["outer.distribution=sphere", "outer.mask_elements=random"] {
        let message = refused(&["outer.rank=2", other]);
        assert!(message.contains("`outer.rank` = \"2\" is not supported with outer."), "{message}");
    }
    for optimizer in ["rms", "sign", "adam"] {
        let message = refused(&["outer.momentum=0.9", &format!("outer.optimizer={optimizer}")]);
        let expected = format!(
            "--set outer.momentum=0.9: `outer.momentum` = \"0.9\" is not supported with outer.optimizer = \"{optimizer}\": \
             use \"sgd\""
        );
        assert_eq!(message, expected);
    }
    let sgd = ["outer.momentum=0.9", "outer.optimizer=sgd"];
    for (others, words) in [
        (&["outer.conservative=true"][..], "with outer.conservative"),
        (&["method.name=mezo", "method.on=peft"][..], "with method.on = \"peft\""),
    ] {
        let message = refused(&[&sgd[..], others].concat());
        assert!(message.contains(&format!("`outer.momentum` = \"0.9\" is not supported {words}")), "{message}");
    }
    // Without momentum its keys say nothing; where nothing is estimated they are not used.
    assert!(parse(MINIMAL, &["outer.momentum=0", "outer.momentum_window=3", "outer.conservative=true"]).is_ok());
    let exact = parse(MINIMAL, &["method.name=first-order", "outer.momentum=0.9"]).unwrap();
    assert_eq!(exact.unused_keys(), ["outer.momentum"]);
    // What trains nothing needs no end.
    let endless = MINIMAL.replace("max_steps = 5\n", "");
    assert!(parse(&endless, &["method.name=zero-shot"]).is_ok());
    assert!(parse(&endless, &["method.name=mezo"]).is_err());
    // Defaults that fit the method.
    let config = |overlays: &[&str]| parse(MINIMAL, overlays).unwrap();
    assert_eq!(config(&["method.name=full"]).inner.lr, 1e-5);
    assert_eq!(config(&["model.compute=bf16"]).outer.eps, 3e-3);
    let block = config(&["method.name=mezo", "method.on=peft", "model.compute=bf16"]).outer;
    assert_eq!((block.lr, block.eps), (1e-4, 1e-2));
}
