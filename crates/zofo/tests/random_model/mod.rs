//! A model of random weights on disk, large enough that kernels split their work: several tiles of a product, several
//! chunks of an update, lengths that are multiples of nothing.

#![allow(dead_code, reason = "every test program uses a part of this")]

use burn::tensor::{Device, Tensor, TensorData};
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::json;
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;
use zofo::hf::{ModelFiles, ModuleNames, WeightDtype, read_decoder_config};
use zofo::model::{Backbone, DecoderConfig};
use zofo::peft::{Adapter, AdapterConfig, Lora, LoraConfig};
use zofo::zo::BackboneDirection;
use zofo_kernels::direction::ParameterId;

/// A model folder that is removed in the end.
pub struct RandomModel {
    folder: TempDir,
    config: DecoderConfig,
}

impl RandomModel {
    /// Tokens are below this.
    pub const VOCABULARY: u32 = 2003;

    /// Writes the model: two blocks, grouped heads, a tied head; always the same weights.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": Self::VOCABULARY,
            "hidden_size": 72,
            "intermediate_size": 200,
            "num_hidden_layers": 2,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "head_dim": 12,
            "hidden_act": "silu",
            "max_position_embeddings": 256,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": true,
            "torch_dtype": "float32"
        });
        fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let config = read_decoder_config(&folder.path().join("config.json")).unwrap();
        let weights: Vec<(String, Vec<usize>, Vec<u8>)> = config
            .parameters()
            .into_iter()
            .map(|(name, shape)| {
                // Outputs of the same size as inputs; norms near 1.
                let (mean, deviation) = match shape[..] {
                    [_, columns] => (0.0, 1.0 / (columns as f32).sqrt()),
                    _ => (1.0, 0.1),
                };
                let values = noise(0, &name, shape.iter().product());
                let bytes = values.iter().flat_map(|z| (mean + deviation * z).to_le_bytes()).collect();
                (name, shape, bytes)
            })
            .collect();
        let views = weights
            .iter()
            .map(|(name, shape, bytes)| (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
        serialize_to_file(views, None, &folder.path().join("model.safetensors")).unwrap();
        Self { folder, config }
    }

    /// The file of the weights.
    pub fn weights(&self) -> PathBuf {
        self.folder.path().join("model.safetensors")
    }

    /// The weights as stored, or rounded to bfloat16.
    pub fn load(&self, dtype: WeightDtype) -> Backbone {
        let files = ModelFiles::open(self.folder.path()).unwrap();
        Backbone::load(&files, dtype, &Device::flex()).unwrap()
    }

    /// A LoRA block, neither of whose matrices is 0.
    pub fn adapter(&self, seed: u64) -> Adapter {
        self.adapter_with_dropout(seed, 0.0)
    }

    /// The same with dropout.
    pub fn adapter_with_dropout(&self, seed: u64, dropout: f64) -> Adapter {
        let targets = ["q_proj", "v_proj", "down_proj"].map(str::to_owned).to_vec();
        let targets = Some(ModuleNames::List(targets));
        let config = LoraConfig { rank: 4, alpha: 8.0, dropout, targets, ..LoraConfig::default() };
        let adapter = Adapter::Lora(Lora::new(config, &self.config, seed, &Device::flex()).unwrap());
        let noise = self.noise_like(&adapter, seed);
        adapter.with_tensors(noise.into_iter().map(|tensor| tensor * 0.1).collect())
    }

    /// A block of another kind than LoRA.
    pub fn virtual_tokens(&self, config: &AdapterConfig, seed: u64) -> Adapter {
        let adapter = Adapter::new(config, &self.load(WeightDtype::F32), seed).unwrap();
        let noise = self.noise_like(&adapter, seed);
        adapter.with_tensors(noise)
    }

    /// Standard normals in the shapes of an adapter.
    pub fn noise_like(&self, adapter: &Adapter, seed: u64) -> Vec<Tensor<2>> {
        let tensor = |(name, tensor): (String, Tensor<2>)| {
            let values = noise(seed, &name, tensor.shape().num_elements());
            Tensor::from_data(TensorData::new(values, tensor.dims()), &tensor.device())
        };
        adapter.tensors().into_iter().map(tensor).collect()
    }
}

fn noise(seed: u64, name: &str, len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    BackboneDirection::Seeded(seed).of(name, ParameterId::from_name(name)).fill(0, &mut values);
    values
}
