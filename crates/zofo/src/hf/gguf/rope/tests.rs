use super::super::TensorType;
use super::super::test_file::{TestFile, assert_says, f32_bytes, message};
use super::*;

fn parameters(file: &TestFile) -> Result<Value, GgufError> {
    Ok(file.open().unwrap().hf_config()?["rope_parameters"].clone())
}

#[test]
fn without_scaling() {
    let plain = json!({ "rope_theta": 50000.0, "rope_type": "default" });
    assert_eq!(parameters(&TestFile::llama()).unwrap(), plain);
    for unscaled in [
        TestFile::llama().string(SCALING_TYPE, "none").f32(SCALING_FACTOR, 4.0),
        TestFile::llama().string(SCALING_TYPE, "linear").f32(SCALING_FACTOR, 1.0),
        TestFile::llama().f32(SCALE_LINEAR, 1.0),
        TestFile::llama().f32(SCALING_FACTOR, 0.0),
    ] {
        assert_eq!(parameters(&unscaled).unwrap(), plain);
    }
    let theta = TestFile::llama().without("llama.rope.freq_base");
    assert_eq!(parameters(&theta).unwrap()["rope_theta"], 10000.0);
}

#[test]
fn linear_scaling() {
    let linear = json!({ "factor": 4.0, "rope_theta": 50000.0, "rope_type": "linear" });
    for scaled in [
        TestFile::llama().string(SCALING_TYPE, "linear").f32(SCALING_FACTOR, 4.0),
        TestFile::llama().f32(SCALING_FACTOR, 4.0),
        TestFile::llama().f32(SCALE_LINEAR, 4.0),
    ] {
        assert_eq!(parameters(&scaled).unwrap(), linear);
    }
}

#[test]
fn scaling_that_is_not_supported() {
    let text = message(parameters(&TestFile::llama().string(SCALING_TYPE, "yarn")));
    assert_says(&text, &[SCALING_TYPE, "\"yarn\"", "none and linear"]);
    let text = message(parameters(&TestFile::llama().f32(SCALING_FACTOR, f32::NAN)));
    assert_says(&text, &[SCALING_FACTOR, "NaN", "finite"]);
    let text = message(parameters(&TestFile::llama().f32("llama.rope.freq_base", 0.0)));
    assert_says(&text, &["llama.rope.freq_base", "above zero"]);
}

/// A model with heads of 8, theta 500 000, and these factors for its four frequencies, whose wavelengths are 6.3, 167,
/// 4443 and 118 000 tokens.
fn with_factors(factors: &[f32]) -> TestFile {
    TestFile::llama()
        .u32("llama.attention.head_count", 1)
        .u32("llama.rope.dimension_count", 8)
        .f32("llama.rope.freq_base", 500_000.0)
        .tensor(ROPE_FACTORS, &[factors.len() as u64], TensorType::F32, f32_bytes(factors))
}

#[test]
fn factors_of_llama_3() {
    // 8192/4442.9 = 1.8438 turns in the original context, of which a share of 0.84385/3 = 0.28128 keeps its
    // frequency: 1/(0.71872/8 + 0.28128) = 2.6945.
    let expected = json!({
        "factor": 8.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_theta": 500000.0,
        "rope_type": "llama3",
    });
    let llama3 = [1.0, 1.0, 2.6945, 8.0];
    assert_eq!(parameters(&with_factors(&llama3)).unwrap(), expected);

    let ones = parameters(&with_factors(&[1.0; 4])).unwrap();
    assert_eq!(ones["rope_type"], "default");
}

#[test]
fn factors_of_another_scheme() {
    for (factors, index) in [([1.0, 1.0, 2.0, 8.0], 2), ([2.0, 1.0, 2.6945, 8.0], 0), ([1.0, f32::NAN, 2.6945, 8.0], 1)]
    {
        let text = message(parameters(&with_factors(&factors)));
        assert_says(&text, &[ROPE_FACTORS, &format!("factor {index} ")]);
    }
    let text = message(parameters(&with_factors(&[1.0; 3])));
    assert_says(&text, &[ROPE_FACTORS, "[3]", "[4]"]);
    let both = with_factors(&[1.0, 1.0, 2.6945, 8.0]).f32(SCALING_FACTOR, 2.0);
    assert_says(&message(parameters(&both)), &[SCALING_FACTOR, "together", ROPE_FACTORS]);
}
