//! The tensors of a llama model under their Hugging Face names.

use std::{collections::HashSet, ops::Range};

use super::{
    GgufFile,
    config::Sizes,
    error::{GgufError, GgufProblem},
};

pub(super) const EMBEDDING: &str = "token_embd.weight";
pub(super) const OUTPUT: &str = "output.weight";
/// Not a weight: becomes part of `rope_parameters`.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// A tensor as Hugging Face names, shapes and orders it, and what it is in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HfTensor {
    /// The name, as `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// The row-major shape; of a matrix `[out, in]`.
    pub shape: Vec<usize>,
    /// The name in the file.
    pub gguf_name: String,
    /// Of query and key projections, whose rows the file has in another order: the rows of a head.
    permuted_head_dim: Option<usize>,
}

impl HfTensor {
    /// Whether the file has the rows in another order than Hugging Face.
    pub fn is_reordered(&self) -> bool {
        self.permuted_head_dim.is_some()
    }

    /// The row of the file's tensor that is row `row` of this one.
    ///
    /// Rotary positions turn pairs of values. Hugging Face pairs value i of a head with value i + head_dim/2; the file
    /// has the two side by side, at 2i and 2i + 1.
    fn stored_row(&self, row: usize) -> usize {
        match self.permuted_head_dim {
            None => row,
            Some(head_dim) => {
                let (head, in_head) = (row / head_dim, row % head_dim);
                let (side, pair) = (in_head / (head_dim / 2), in_head % (head_dim / 2));
                head * head_dim + 2 * pair + side
            }
        }
    }
}

impl GgufFile {
    /// The tensors of the model under their Hugging Face names, in the order of the layers. All of them are there and
    /// have the shapes that the metadata say, and there are no others.
    ///
    /// # Errors
    /// The architecture is not llama, or a tensor is missing, has another shape, or does not belong to the model.
    pub fn hf_tensors(&self) -> Result<Vec<HfTensor>, GgufError> {
        let sizes = Sizes::read(self)?;
        let Sizes { hidden, intermediate, head_dim, vocabulary, .. } = sizes;
        // 32-bit numbers each, so the products fit.
        let (queries, keys) = (sizes.heads * head_dim, sizes.kv_heads * head_dim);
        let mut list = List { file: self, tensors: Vec::new() };

        list.add(EMBEDDING, "model.embed_tokens.weight", &[vocabulary, hidden])?;
        for layer in 0..sizes.layers {
            // (part of the file's name, part of Hugging Face's name, shape, rows in rotary pairs)
            let parts: [(&str, &str, &[usize], bool); 9] = [
                ("attn_norm", "input_layernorm", &[hidden], false),
                ("attn_q", "self_attn.q_proj", &[queries, hidden], true),
                ("attn_k", "self_attn.k_proj", &[keys, hidden], true),
                ("attn_v", "self_attn.v_proj", &[keys, hidden], false),
                ("attn_output", "self_attn.o_proj", &[hidden, queries], false),
                ("ffn_norm", "post_attention_layernorm", &[hidden], false),
                ("ffn_gate", "mlp.gate_proj", &[intermediate, hidden], false),
                ("ffn_up", "mlp.up_proj", &[intermediate, hidden], false),
                ("ffn_down", "mlp.down_proj", &[hidden, intermediate], false),
            ];
            for (stored, name, shape, permuted) in parts {
                let tensor = list.add(
                    &format!("blk.{layer}.{stored}.weight"),
                    &format!("model.layers.{layer}.{name}.weight"),
                    shape,
                )?;
                tensor.permuted_head_dim = permuted.then_some(head_dim);
            }
        }
        list.add("output_norm.weight", "model.norm.weight", &[hidden])?;
        // Without a head of its own the model uses the embedding's matrix (`tie_word_embeddings`).
        if self.tensor(OUTPUT).is_some() {
            list.add(OUTPUT, "lm_head.weight", &[vocabulary, hidden])?;
        }

        let tensors = list.tensors;
        let known: HashSet<_> = tensors.iter().map(|tensor| tensor.gguf_name.as_str()).chain([ROPE_FACTORS]).collect();
        match self.tensors().iter().find(|info| !known.contains(info.name())) {
            None => Ok(tensors),
            Some(unknown) => Err(self.error(GgufProblem::UnknownTensor {
                tensor: unknown.name().to_owned(),
                shape: unknown.shape().to_owned(),
                layers: sizes.layers,
            })),
        }
    }

    /// Writes `rows` of `tensor`, one of [`hf_tensors`](Self::hf_tensors), to `out` as row-major f32 in Hugging Face's
    /// order. `out` is `[rows.len(), shape[1]]`; a vector has one row.
    ///
    /// # Errors
    /// [`GgufProblem::Rows`] if the tensor has no such rows or `out` has another length.
    pub fn read_f32(&self, tensor: &HfTensor, rows: Range<usize>, out: &mut [f32]) -> Result<(), GgufError> {
        let stored = self
            .tensor(&tensor.gguf_name)
            .ok_or_else(|| self.error(GgufProblem::MissingTensor { tensor: tensor.gguf_name.clone() }))?;
        let fits = rows.len().checked_mul(stored.columns()) == Some(out.len());
        if tensor.permuted_head_dim.is_none() || !fits || rows.end > stored.rows() {
            // In the file's order; or not readable at all, for which this has the message.
            return self.dequantize(stored, rows, out);
        }
        for (row, out) in rows.zip(out.chunks_exact_mut(stored.columns())) {
            let row = tensor.stored_row(row);
            self.dequantize(stored, row..row + 1, out)?;
        }
        Ok(())
    }
}

/// The tensors found so far.
struct List<'a> {
    file: &'a GgufFile,
    tensors: Vec<HfTensor>,
}

impl List<'_> {
    /// Adds the tensor that the file calls `gguf_name`, which must be there in this shape.
    fn add(&mut self, gguf_name: &str, name: &str, shape: &[usize]) -> Result<&mut HfTensor, GgufError> {
        match self.file.tensor(gguf_name) {
            None => Err(self.file.error(GgufProblem::MissingTensor { tensor: gguf_name.to_owned() })),
            Some(info) if info.shape() != shape => Err(self.file.error(GgufProblem::TensorShape {
                tensor: gguf_name.to_owned(),
                expected: shape.to_owned(),
                found: info.shape().to_owned(),
            })),
            Some(_) => Ok(self.tensors.push_mut(HfTensor {
                name: name.to_owned(),
                shape: shape.to_owned(),
                gguf_name: gguf_name.to_owned(),
                permuted_head_dim: None,
            })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_file::{TestFile, assert_says, message};
    use super::*;

    #[test]
    fn all_tensors_of_a_model() {
        let file = TestFile::llama().counting(OUTPUT, &[6, 8], 0.0).open().unwrap();
        let tensors = file.hf_tensors().unwrap();
        let listed: Vec<_> = tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.shape.as_slice())).collect();
        assert_eq!(
            listed[..11],
            [
                ("model.embed_tokens.weight", &[6, 8][..]),
                ("model.layers.0.input_layernorm.weight", &[8]),
                ("model.layers.0.self_attn.q_proj.weight", &[8, 8]),
                ("model.layers.0.self_attn.k_proj.weight", &[4, 8]),
                ("model.layers.0.self_attn.v_proj.weight", &[4, 8]),
                ("model.layers.0.self_attn.o_proj.weight", &[8, 8]),
                ("model.layers.0.post_attention_layernorm.weight", &[8]),
                ("model.layers.0.mlp.gate_proj.weight", &[12, 8]),
                ("model.layers.0.mlp.up_proj.weight", &[12, 8]),
                ("model.layers.0.mlp.down_proj.weight", &[8, 12]),
                ("model.layers.1.input_layernorm.weight", &[8]),
            ]
        );
        assert_eq!(listed[19..], [("model.norm.weight", &[8][..]), ("lm_head.weight", &[6, 8]),]);
    }

    #[test]
    fn query_and_key_rows_are_put_back_in_order() {
        let file = TestFile::llama().open().unwrap();
        let tensors = file.hf_tensors().unwrap();
        // Rows of 8 that count up, so the first value of a row tells which row of the file it was. Heads have 4 rows:
        // row h·4 + 2i + j of the file is row h·4 + j·2 + i of the model.
        for (name, order) in [
            ("model.layers.1.self_attn.q_proj.weight", &[0, 2, 1, 3, 4, 6, 5, 7][..]),
            ("model.layers.1.self_attn.k_proj.weight", &[0, 2, 1, 3]),
            ("model.layers.1.self_attn.v_proj.weight", &[0, 1, 2, 3]),
        ] {
            let tensor = tensors.iter().find(|tensor| tensor.name == name).unwrap();
            let mut values = vec![0.0; order.len() * 8];
            file.read_f32(tensor, 0..order.len(), &mut values).unwrap();
            let expected = order.iter().flat_map(|row| (0..8).map(move |column| (1000 + row * 8 + column) as f32));
            assert_eq!(values, expected.collect::<Vec<_>>(), "{name}");

            let mut part = vec![0.0; 16];
            file.read_f32(tensor, 1..3, &mut part).unwrap();
            assert_eq!(part, values[8..24], "{name}");

            let text = message(file.read_f32(tensor, 0..9, &mut vec![0.0; 72]));
            assert_says(&text, &[&tensor.gguf_name, "rows 0..9"]);
            let text = message(file.read_f32(tensor, 0..2, &mut [0.0; 8]));
            assert_says(&text, &[&tensor.gguf_name, "rows 0..2 into 8 values"]);
        }
    }

    #[test]
    fn the_permutation_of_a_head() {
        let tensor =
            HfTensor { name: String::new(), shape: Vec::new(), gguf_name: String::new(), permuted_head_dim: Some(16) };
        for (head, side, pair) in [(0, 0, 0), (0, 1, 0), (0, 0, 7), (2, 1, 5)] {
            let row = head * 16 + side * 8 + pair;
            assert_eq!(tensor.stored_row(row), head * 16 + 2 * pair + side);
        }
    }

    #[test]
    fn tensors_that_do_not_fit_the_metadata() {
        let tensors = |file: TestFile| message(file.open().unwrap().hf_tensors());
        let text = tensors(TestFile::llama().without_tensor("blk.1.ffn_up.weight"));
        assert_says(&text, &["tensor \"blk.1.ffn_up.weight\" is missing"]);
        let text = tensors(TestFile::llama().counting("blk.0.attn_k.weight", &[8, 8], 0.0));
        assert_says(&text, &["blk.0.attn_k.weight", "[8, 8]", "[4, 8]"]);
        let text = tensors(TestFile::llama().counting("blk.2.attn_norm.weight", &[8], 0.0));
        assert_says(&text, &["blk.2.attn_norm.weight", "2 layers"]);
        let text = tensors(TestFile::llama().counting("blk.0.attn_q.bias", &[8], 0.0));
        assert_says(&text, &["blk.0.attn_q.bias", "does not belong"]);
        let text = tensors(TestFile::llama().u32("llama.block_count", u32::MAX));
        assert_says(&text, &["tensor \"blk.2.attn_norm.weight\" is missing"]);
        let text = tensors(TestFile::llama().string("general.architecture", "qwen2"));
        assert_says(&text, &["architecture \"qwen2\"", "llama"]);
    }
}
