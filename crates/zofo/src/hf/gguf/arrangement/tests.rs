use super::super::test_file::{TestFile, assert_says, message};
use super::super::{GgufFile, names::EMBEDDING};
use super::*;

fn tensors(file: &GgufFile) -> Vec<HfTensor> {
    file.hf_tensors(&file.decoder_config().unwrap()).unwrap()
}

fn tensor(shape: &[usize], gguf_name: &str, arrangement: Arrangement) -> HfTensor {
    HfTensor { name: String::new(), shape: shape.to_owned(), gguf_name: gguf_name.to_owned(), arrangement }
}

#[test]
fn query_and_key_rows_are_put_back_in_order() {
    let file = TestFile::llama().open().unwrap();
    let tensors = tensors(&file);
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
fn the_order_of_the_rows_of_a_head() {
    for (head, side, pair) in [(0, 0, 0), (0, 1, 0), (0, 0, 7), (2, 1, 5)] {
        let (row, stored) = (head * 16 + side * 8 + pair, head * 16 + 2 * pair + side);
        assert_eq!(paired_row(row, 16), stored);
        assert_eq!(unpaired_row(stored, 16), row);
    }
}

#[test]
fn every_arrangement_is_read_in_parts() {
    // 3 rows of 130 are transposed in several steps.
    let file = TestFile::llama().counting("wide", &[130, 3], 0.0).counting("line", &[8], 0.0).open().unwrap();
    let transposed = tensor(&[3, 130], "wide", Arrangement::Transposed);
    assert_eq!(transposed.stored_shape(), [130, 3]);
    let mut values = vec![f32::NAN; 260];
    file.read_f32(&transposed, 1..3, &mut values).unwrap();
    let expected = (1..3).flat_map(|row| (0..130).map(move |column| (column * 3 + row) as f32));
    assert_eq!(values, expected.collect::<Vec<_>>());
    let text = message(file.read_f32(&transposed, 1..4, &mut vec![0.0; 390]));
    assert_says(&text, &["\"wide\"", "rows 1..4", "3 rows of 130"]);

    let mut line = [f32::NAN; 8];
    file.read_f32(&tensor(&[8], "line", Arrangement::PlusOne), 0..1, &mut line).unwrap();
    assert_eq!(line, [-1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    file.read_f32(&tensor(&[8], "line", Arrangement::Paired { head_dim: 4 }), 0..1, &mut line).unwrap();
    assert_eq!(line, [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
}

/// What is stored is what is read back, in whatever pieces.
#[test]
fn storing_is_the_inverse_of_reading() {
    let paired = Arrangement::Paired { head_dim: 4 };
    for (shape, arrangement) in [
        (&[8, 3][..], Arrangement::Same),
        (&[8, 3], paired),
        (&[8], paired),
        (&[5, 7], Arrangement::Transposed),
        (&[6], Arrangement::PlusOne),
    ] {
        let tensor = tensor(shape, "x", arrangement);
        let values: Vec<f32> = (0..shape.iter().product::<usize>()).map(|value| value as f32).collect();
        let stored_shape = tensor.stored_shape();
        let columns = *stored_shape.last().unwrap();
        let mut stored = vec![f32::NAN; values.len()];
        for (row, out) in stored.chunks_exact_mut(columns).enumerate() {
            tensor.store(&values, row..row + 1, out);
        }
        let mut whole = vec![f32::NAN; values.len()];
        tensor.store(&values, 0..values.len() / columns, &mut whole);
        assert_eq!(stored, whole, "{arrangement:?}");
        assert_eq!(stored == values, arrangement == Arrangement::Same, "{arrangement:?}");

        let dimensions: Vec<u64> = stored_shape.iter().map(|&size| size as u64).collect();
        let bytes = super::super::test_file::f32_bytes(&stored);
        let file = TestFile::llama().tensor("x", &dimensions, super::super::TensorType::F32, bytes).open().unwrap();
        let mut read = vec![f32::NAN; values.len()];
        let rows = if shape.len() == 1 { 1 } else { shape[0] };
        file.read_f32(&tensor, 0..rows, &mut read).unwrap();
        assert_eq!(read, values, "{arrangement:?}");
    }
}

#[test]
fn tensors_that_do_not_fit_the_metadata() {
    let tensors = |file: TestFile| {
        let file = file.open().unwrap();
        message(file.hf_tensors(&file.decoder_config().unwrap()))
    };
    let text = tensors(TestFile::llama().without_tensor("blk.1.ffn_up.weight"));
    assert_says(&text, &["tensor \"blk.1.ffn_up.weight\" is missing"]);
    let text = tensors(TestFile::llama().counting("blk.0.attn_k.weight", &[8, 8], 0.0));
    assert_says(&text, &["blk.0.attn_k.weight", "[8, 8]", "[4, 8]"]);
    let text = tensors(TestFile::llama().counting("blk.2.attn_norm.weight", &[8], 0.0));
    assert_says(&text, &["blk.2.attn_norm.weight", "llama model", "2 layers"]);
    let text = tensors(TestFile::llama().counting("blk.0.attn_k.bias", &[4], 0.0));
    assert_says(&text, &["blk.0.attn_k.bias", "does not belong"]);
    let text = tensors(TestFile::llama().counting("blk.0.attn_q.bias", &[8], 0.0));
    assert_says(&text, &["blk.0.attn_k.bias", "is missing"]);
    let text = tensors(TestFile::llama().u32("llama.block_count", 3));
    assert_says(&text, &["tensor \"blk.2.attn_norm.weight\" is missing"]);
    let text = tensors(TestFile::llama().counting("rope_factors_long.weight", &[2], 1.0));
    assert_says(&text, &["rope_factors_long.weight", "does not belong"]);
}

/// Llama has its own output matrix even if it is the embedding; GPT-2's is one that converters wrote twice.
#[test]
fn an_output_matrix_that_is_the_embedding() {
    let twice = TestFile::llama().counting("output.weight", &[6, 8], 0.0).open().unwrap();
    assert_eq!(twice.tensor(EMBEDDING).unwrap().rows(), 6);
    assert_eq!(tensors(&twice).last().unwrap().name, "lm_head.weight");
}
