//! A model on disk: what it is, and its weights as tensor storage.

mod backbone;
mod dequantize;
mod names;
mod random;
mod tokens;

use std::{
    collections::HashSet,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use burn_std::Bytes;
use serde_json::{Map, Value};
use tokenizers::Tokenizer;

use self::{dequantize::GgufWeights, names::StoredNames, random::RandomWeights, tokens::NamedTokens};
use super::{
    atomic::failed_to,
    dtype::{StoredDtype, WeightDtype},
    error::HfError,
    family::{Family, HEAD, family},
    gguf::GgufFile,
    json::{JsonFile, Keys, read_object},
    tokenizer_file::parse_tokenizer,
    weights::ShardedWeights,
};
use crate::model::DecoderConfig;

const CONFIG: &str = "config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// A model folder as Hugging Face keeps it, or a GGUF file, mapped and checked: every weight that the configuration asks
/// for is there once, in the right shape, and no other.
#[derive(Debug)]
pub struct ModelFiles {
    path: PathBuf,
    config: DecoderConfig,
    /// `config.json` as it is, or as it would be for a GGUF file.
    config_json: Map<String, Value>,
    named_tokens: NamedTokens,
    weights: Weights,
    stored_names: StoredNames,
    parameters: Vec<(String, Vec<usize>)>,
}

/// Where weights come from.
#[derive(Debug)]
enum Weights {
    Folder(ShardedWeights),
    Gguf(GgufWeights),
    Random(RandomWeights),
}

impl ModelFiles {
    /// Opens the folder or `.gguf` file at `path` and checks all of it but the tokenizer and the values of the weights.
    ///
    /// The files must not change while the model is in use: weights are mapped, not read.
    ///
    /// # Errors
    /// A file is missing, cannot be read, or contradicts itself or another; the family, an option in `config.json`, or
    /// the type of a weight is not supported.
    pub fn open(path: &Path) -> Result<Self, HfError> {
        let kind = fs::metadata(path).map_err(failed_to("open", path))?;
        if kind.is_dir() {
            Self::open_folder(path)
        } else if is_gguf(path)? {
            Self::open_gguf(path)
        } else {
            Err(HfError::NotAModel { path: path.to_owned() })
        }
    }

    /// A model of random weights in the sizes that the `config.json` in `folder` describes: matrices are normal with
    /// standard deviation 0.02, norms the identity, biases 0, all a function of `seed`. Its time and memory are those of
    /// any other of its sizes. A tokenizer in the folder is the model's.
    ///
    /// # Errors
    /// The file cannot be read or describes no supported model.
    pub fn with_random_weights(folder: &Path, seed: u64) -> Result<Self, HfError> {
        let path = &folder.join(CONFIG);
        let config_json = read_object(path)?;
        let keys = Keys::new(path, &config_json);
        let family = family(&keys)?;
        let config = family.decoder(&keys)?;
        let named_tokens = NamedTokens::of_config(&keys, family.default_eos, config.vocabulary)?;
        let parameters = config.parameters();
        Ok(Self {
            path: folder.to_owned(),
            weights: Weights::Random(RandomWeights::new(&config, &parameters, seed)),
            config,
            config_json,
            named_tokens,
            stored_names: StoredNames::default(),
            parameters,
        })
    }

    fn open_folder(path: &Path) -> Result<Self, HfError> {
        let config_path = path.join(CONFIG);
        if !config_path.exists() {
            return Err(HfError::NoModel { path: path.to_owned(), missing: CONFIG, hint: "" });
        }
        let config_json = read_object(&config_path)?;
        let keys = Keys::new(&config_path, &config_json);
        let family = family(&keys)?;
        let config = family.decoder(&keys)?;
        let mut named_tokens = NamedTokens::of_config(&keys, family.default_eos, config.vocabulary)?;
        let generation_path = path.join(GENERATION_CONFIG);
        if generation_path.exists() {
            let generation = read_object(&generation_path)?;
            named_tokens.add_generation(&Keys::new(&generation_path, &generation), config.vocabulary)?;
        }

        let weights = ShardedWeights::open(path)?;
        let parameters = config.parameters();
        let stored_names = StoredNames::find(family, &config, weights.names());
        check_weights(path, family, &config, &parameters, &stored_names, &weights)?;
        Ok(Self {
            path: path.to_owned(),
            config,
            config_json,
            named_tokens,
            weights: Weights::Folder(weights),
            stored_names,
            parameters,
        })
    }

    fn open_gguf(path: &Path) -> Result<Self, HfError> {
        let file = GgufFile::open(path)?;
        let config_json = file.hf_config()?;
        let keys = Keys::new(path, &config_json);
        let config = family(&keys)?.decoder(&keys)?;
        let named = file.hf_tensors(&config)?.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
        let named_tokens = NamedTokens::of_config(&keys, None, config.vocabulary)?;
        let parameters = config.parameters();
        let opened = File::open(path).map_err(failed_to("open", path))?;
        Ok(Self {
            path: path.to_owned(),
            weights: Weights::Gguf(GgufWeights::new(file, opened, named)),
            config,
            config_json,
            named_tokens,
            stored_names: StoredNames::default(),
            parameters,
        })
    }

    /// The path that the model was opened by.
    pub fn source_path(&self) -> &Path {
        &self.path
    }

    /// Sizes, constants and names of the model.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// The tokens at which generation stops; none if the model's files name none.
    pub fn eos_token_ids(&self) -> &[u32] {
        self.named_tokens.eos()
    }

    /// The model's tokenizer, which fits the model: text becomes tokens that the embedding has rows for, and it has the
    /// tokens that the configurations name.
    ///
    /// # Errors
    /// `tokenizer.json` is missing or not a tokenizer, or that of another model; that in a GGUF file is of a kind that is
    /// not supported.
    pub fn tokenizer(&self) -> Result<Tokenizer, HfError> {
        let (tokenizer, path) = match &self.weights {
            Weights::Gguf(weights) => (weights.file().tokenizer()?, self.path.clone()),
            Weights::Folder(_) | Weights::Random(_) => self.read_tokenizer()?,
        };
        tokens::check_rows(&tokenizer, &path, self.config.vocabulary)?;
        self.named_tokens.check_all_in(&tokenizer, &path)?;
        Ok(tokenizer)
    }

    /// The folder's tokenizer, and the file that it is from.
    fn read_tokenizer(&self) -> Result<(Tokenizer, PathBuf), HfError> {
        let path = self.path.join(TOKENIZER);
        if !path.exists() {
            return Err(HfError::NoModel {
                path: self.path.clone(),
                missing: TOKENIZER,
                hint: ", which transformers writes for AutoTokenizer.from_pretrained(…).save_pretrained(…)",
            });
        }
        let text = fs::read(&path).map_err(failed_to("read", &path))?;
        match parse_tokenizer(&text) {
            Ok(tokenizer) => Ok((tokenizer, path)),
            Err(reason) => Err(HfError::Tokenizer { path, reason }),
        }
    }

    /// The model's GGUF file, if it is from one.
    pub(super) fn gguf(&self) -> Option<&GgufFile> {
        match &self.weights {
            Weights::Gguf(weights) => Some(weights.file()),
            Weights::Folder(_) | Weights::Random(_) => None,
        }
    }

    /// `config.json` as it is, or as it would be for a GGUF file.
    pub(super) fn config_json(&self) -> &Map<String, Value> {
        &self.config_json
    }

    /// The class of transformers that the model is one of.
    pub(super) fn class(&self) -> Result<&'static str, HfError> {
        Ok(family(&Keys::new(&self.path, &self.config_json))?.architecture)
    }

    /// `tokenizer_config.json` as it is, or as it would be for a GGUF file, with the file to name in messages; none if the
    /// folder has none.
    pub(super) fn tokenizer_config(&self) -> Result<Option<JsonFile>, HfError> {
        if let Weights::Gguf(weights) = &self.weights {
            let config = weights.file().hf_tokenizer_config()?;
            return Ok(config.as_object().map(|object| JsonFile { path: self.path.clone(), object: object.clone() }));
        }
        JsonFile::read_if_there(self.path.join(TOKENIZER_CONFIG))
    }

    /// Names and shapes of the weights, in the order of [`DecoderConfig::parameters`].
    pub fn parameters(&self) -> impl ExactSizeIterator<Item = (&str, &[usize])> {
        let parameters = self.parameters.iter();
        parameters.map(|(name, shape)| (name.as_str(), shape.as_slice()))
    }

    /// How the files store the weight `name`.
    ///
    /// # Errors
    /// The model has no such weight.
    pub fn stored_dtype(&self, name: &str) -> Result<StoredDtype, HfError> {
        let stored = self.stored_names.of(name);
        match &self.weights {
            Weights::Folder(weights) => match weights.find(stored) {
                Some((file, _)) => file.stored_dtype(stored),
                None => Err(self.no_weight(name)),
            },
            Weights::Gguf(weights) => weights.stored_dtype(name).ok_or_else(|| self.no_weight(name)),
            // They can be had in either type; this one loses nothing.
            Weights::Random(_) => Ok(StoredDtype::F32),
        }
    }

    /// How much of the files is read to [`load`](Self::load) all weights as `dtype`: the stored bytes of those that have
    /// to be converted. Their pages stay mapped beside the weights that were made of them.
    ///
    /// # Errors
    /// As [`stored_dtype`](Self::stored_dtype).
    pub fn converted_bytes(&self, dtype: WeightDtype) -> Result<usize, HfError> {
        if let Weights::Random(_) = self.weights {
            return Ok(0);
        }
        let mut bytes = 0;
        for (name, shape) in self.parameters() {
            let stored = self.stored_dtype(name)?;
            if !stored.is_stored_as(dtype) {
                bytes += stored.bytes_of(shape.iter().product());
            }
        }
        Ok(bytes)
    }

    /// The type that a copy of the model is kept in if nothing else is asked for: bf16 where all matrices are stored so,
    /// and else f32, which has every value of half precision and of the quantised blocks of GGUF files. Norms and
    /// biases, which some files keep in f32 beside bf16 matrices, do not decide.
    ///
    /// # Errors
    /// As [`stored_dtype`](Self::stored_dtype).
    pub fn usual_dtype(&self) -> Result<WeightDtype, HfError> {
        for (name, shape) in self.parameters() {
            if shape.len() > 1 && self.stored_dtype(name)? != StoredDtype::Bf16 {
                return Ok(WeightDtype::F32);
            }
        }
        Ok(WeightDtype::Bf16)
    }

    /// The weight `name`, row-major in the order of Hugging Face, as tensor storage of type `dtype`.
    ///
    /// A weight that the file stores in that type and order, at a place as aligned as its values need, is mapped: its
    /// pages are read when they are touched, and copied when they are written; the file stays as it is. Any other is
    /// converted: wider exactly, narrower to the nearest value, ties to even.
    ///
    /// # Errors
    /// The model has no such weight, or the mapping fails.
    pub fn load(&self, name: &str, dtype: WeightDtype) -> Result<Bytes, HfError> {
        let stored = self.stored_names.of(name);
        match &self.weights {
            Weights::Folder(weights) => match weights.find(stored) {
                Some((file, _)) => file.load(stored, dtype),
                None => Err(self.no_weight(name)),
            },
            Weights::Gguf(weights) => match weights.load(name, dtype) {
                Some(loaded) => loaded,
                None => Err(self.no_weight(name)),
            },
            Weights::Random(weights) => weights.load(name, dtype).ok_or_else(|| self.no_weight(name)),
        }
    }

    fn no_weight(&self, name: &str) -> HfError {
        HfError::MissingTensors { path: self.path.clone(), names: vec![name.to_owned()] }
    }
}

/// Whether the file at `path` claims to be a GGUF file, by its name or its first bytes.
fn is_gguf(path: &Path) -> Result<bool, HfError> {
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")) {
        return Ok(true);
    }
    let mut start = Vec::new();
    File::open(path).and_then(|file| file.take(4).read_to_end(&mut start)).map_err(failed_to("read", path))?;
    Ok(start == b"GGUF")
}

/// Checks that the files have every parameter in a usable type and the right shape, and nothing that would change the
/// model if it were left out.
fn check_weights(
    folder: &Path,
    family: &Family,
    config: &DecoderConfig,
    parameters: &[(String, Vec<usize>)],
    stored_names: &StoredNames,
    weights: &ShardedWeights,
) -> Result<(), HfError> {
    let mut missing = Vec::new();
    for (name, shape) in parameters {
        let name = stored_names.of(name);
        match weights.find(name) {
            None => missing.push(name.to_owned()),
            Some((file, stored)) if stored != shape => {
                return Err(wrong_shape(file.path(), name, shape, stored));
            }
            Some((file, _)) => {
                file.stored_dtype(name)?;
            }
        }
    }
    if !missing.is_empty() {
        let path = folder.to_owned();
        return Err(HfError::MissingTensors { path, names: missing });
    }
    check_tied_head(config, stored_names, weights)?;
    let known: HashSet<_> = parameters.iter().map(|(name, _)| stored_names.of(name)).collect();
    let extra = weights.names().filter(|name| !known.contains(name) && !family.is_redundant(config, name));
    let names: Vec<_> = extra.map(str::to_owned).collect();
    if names.is_empty() { Ok(()) } else { Err(HfError::ExtraTensors { path: folder.to_owned(), names }) }
}

/// Checks that a head which is stored although it is tied is the embedding: with another, transformers 4 would leave it
/// out, and transformers 5 would leave it untied.
fn check_tied_head(
    config: &DecoderConfig,
    stored_names: &StoredNames,
    weights: &ShardedWeights,
) -> Result<(), HfError> {
    let embedding = stored_names.of(&config.embedding.tokens);
    let (Some((embedding_file, _)), Some((head_file, _))) = (weights.find(embedding), weights.find(HEAD)) else {
        return Ok(());
    };
    if !config.is_tied() || embedding == HEAD {
        return Ok(());
    }
    let dtype = match head_file.stored_dtype(HEAD)? {
        StoredDtype::Bf16 => WeightDtype::Bf16,
        _ => WeightDtype::F32,
    };
    if head_file.is_same(HEAD, embedding_file, embedding, dtype)? {
        return Ok(());
    }
    Err(HfError::Unexpected {
        path: head_file.path().to_owned(),
        what: format!("tensor \"{HEAD}\""),
        expected: format!(
            "the values of \"{embedding}\", to which tie_word_embeddings ties it; set that to false in {CONFIG} if \
             the two differ on purpose"
        ),
        found: "others".to_owned(),
    })
}

fn wrong_shape(path: &Path, name: &str, expected: &[usize], found: &[usize]) -> HfError {
    HfError::Unexpected {
        path: path.to_owned(),
        what: format!("shape of tensor \"{name}\""),
        expected: format!("{expected:?} from {CONFIG}"),
        found: format!("{found:?}"),
    }
}

#[cfg(test)]
mod tests;
