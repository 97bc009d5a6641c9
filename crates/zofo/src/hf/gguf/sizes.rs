//! The sizes that the metadata of a model state.

use super::{
    error::{GgufError, GgufProblem},
    keys::ModelKeys,
    names::EMBEDDING,
};

/// The sizes of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) layers: usize,
    pub(super) hidden: usize,
    pub(super) intermediate: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) vocabulary: usize,
    pub(super) context: usize,
}

impl Sizes {
    /// Reads the sizes and checks that they fit together.
    pub(super) fn read(keys: &ModelKeys<'_>) -> Result<Self, GgufError> {
        let hidden = keys.required_size("embedding_length")?;
        let heads = keys.required_size("attention.head_count")?;
        // Both defaults are the format's: heads are not shared, and divide the hidden size, unless keys say otherwise.
        let kv_heads = keys.size("attention.head_count_kv")?.unwrap_or(heads);
        if !heads.is_multiple_of(kv_heads) {
            let expected = format!("expected a divisor of the {heads} heads");
            return Err(keys.bad_value("attention.head_count_kv", kv_heads, expected));
        }
        let key_length = "attention.key_length";
        let head_dim = keys.size(key_length)?.unwrap_or(hidden / heads);
        if !keys.contains(key_length) && !hidden.is_multiple_of(heads) {
            let expected = format!("without {}, expected a multiple of the {heads} heads", keys.name(key_length));
            return Err(keys.bad_value("embedding_length", hidden, expected));
        }
        let value_length = "attention.value_length";
        let found = keys.size(value_length)?.unwrap_or(head_dim);
        if found != head_dim {
            let expected = format!("values must be as long as the {head_dim} of keys");
            return Err(keys.bad_value(value_length, found, expected));
        }

        let metadata = keys.metadata();
        let embedding = keys
            .file
            .tensor(EMBEDDING)
            .ok_or_else(|| metadata.error(GgufProblem::MissingTensor { tensor: EMBEDDING.to_owned() }))?;
        let vocabulary = embedding.rows();
        let stated = keys.size("vocab_size")?.unwrap_or(vocabulary);
        if stated != vocabulary {
            let expected = format!("tensor \"{EMBEDDING}\" has {vocabulary} rows");
            return Err(keys.bad_value("vocab_size", stated, expected));
        }
        let layers = keys.required_size("block_count")?;
        // Every layer has several; a lying number must not have the names of as many made.
        let tensors = keys.file.tensors().len();
        if layers > tensors {
            return Err(keys.bad_value("block_count", layers, format!("the file has only {tensors} tensors")));
        }
        Ok(Self {
            layers,
            hidden,
            intermediate: keys.required_size("feed_forward_length")?,
            heads,
            kv_heads,
            head_dim,
            vocabulary,
            context: keys.required_size("context_length")?,
        })
    }

    /// How many elements of a head turn, by the key or all of them.
    pub(super) fn rotary_dim(&self, keys: &ModelKeys<'_>) -> Result<usize, GgufError> {
        let key = "rope.dimension_count";
        let dim = keys.size(key)?.unwrap_or(self.head_dim);
        if dim > self.head_dim || !dim.is_multiple_of(2) {
            let expected = format!(
                "expected an even number up to the {} of its heads: rotary positions turn pairs of values",
                self.head_dim
            );
            return Err(keys.bad_value(key, dim, expected));
        }
        Ok(dim)
    }

    /// Checks that all of every head turns.
    pub(super) fn check_whole_rotation(&self, keys: &ModelKeys<'_>) -> Result<(), GgufError> {
        let dim = self.rotary_dim(keys)?;
        if dim == self.head_dim {
            return Ok(());
        }
        let expected = format!("a {} model turns all {} of its heads", keys.architecture.name, self.head_dim);
        Err(keys.bad_value("rope.dimension_count", dim, expected))
    }
}
