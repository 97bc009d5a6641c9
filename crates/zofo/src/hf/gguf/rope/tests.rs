use super::super::TensorType;
use super::super::test_file::{TestFile, assert_says, f32_bytes, message};
use super::*;

const TYPE: &str = "llama.rope.scaling.type";
const FACTOR: &str = "llama.rope.scaling.factor";
const LINEAR: &str = "llama.rope.scale_linear";

fn parameters(file: &TestFile) -> Result<Value, GgufError> {
    Ok(file.open().unwrap().hf_config()?["rope_parameters"].clone())
}

#[test]
fn without_scaling() {
    let plain = json!({ "rope_theta": 50000.0, "rope_type": "default" });
    assert_eq!(parameters(&TestFile::llama()).unwrap(), plain);
    for unscaled in [
        TestFile::llama().string(TYPE, "none").f32(FACTOR, 4.0),
        TestFile::llama().string(TYPE, "linear").f32(FACTOR, 1.0),
        TestFile::llama().f32(LINEAR, 1.0),
        TestFile::llama().f32(FACTOR, 0.0),
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
        TestFile::llama().string(TYPE, "linear").f32(FACTOR, 4.0),
        TestFile::llama().f32(FACTOR, 4.0),
        TestFile::llama().f32(LINEAR, 4.0),
    ] {
        assert_eq!(parameters(&scaled).unwrap(), linear);
    }
}

#[test]
fn scaling_that_is_not_supported() {
    let text = message(parameters(&TestFile::llama().string(TYPE, "longrope")));
    assert_says(&text, &[TYPE, "\"longrope\"", "none, linear and yarn"]);
    let text = message(parameters(&TestFile::llama().f32(FACTOR, f32::NAN)));
    assert_says(&text, &[FACTOR, "NaN", "finite"]);
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

/// Scaled by Llama 3's formula from another context, which a key states.
#[test]
fn factors_of_llama_3_from_another_context() {
    // 4096/4442.9 = 0.92193 turns are less than one, so that only the second, of 24.5, keeps its frequency.
    let file = with_factors(&[1.0, 1.0, 8.0, 8.0]).u32("llama.rope.scaling.original_context_length", 4096);
    let read = parameters(&file).unwrap();
    assert_eq!((&read["rope_type"], &read["original_max_position_embeddings"]), (&json!("llama3"), &json!(4096)));
}

#[test]
fn factors_of_another_scheme() {
    let divisors = [1.0, 1.5, 2.0, 8.0];
    let expected = json!({
        "attention_factor": 1.0,
        "long_factor": divisors,
        "original_max_position_embeddings": 64,
        "rope_theta": 500000.0,
        "rope_type": "longrope",
        "short_factor": divisors,
    });
    assert_eq!(parameters(&with_factors(&divisors)).unwrap(), expected);
    for impossible in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let text = message(parameters(&with_factors(&[1.0, impossible, 2.6945, 8.0])));
        assert_says(&text, &[ROPE_FACTORS, "divisor 1 ", "above zero"]);
    }
    let text = message(parameters(&with_factors(&[1.0; 3])));
    assert_says(&text, &[ROPE_FACTORS, "[3]", "[4]"]);
    let both = with_factors(&[1.0, 1.0, 2.6945, 8.0]).f32(FACTOR, 2.0);
    assert_says(&message(parameters(&both)), &[FACTOR, "together", ROPE_FACTORS]);
}

#[test]
fn yarn() {
    let file = TestFile::llama().string(TYPE, "yarn").f32(FACTOR, 4.0);
    let mut expected = json!({
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "rope_theta": 50000.0,
        "rope_type": "yarn",
    });
    assert_eq!(parameters(&file).unwrap(), expected);
    let stated = file
        .clone()
        .u32("llama.rope.scaling.original_context_length", 16)
        .f32("llama.rope.scaling.yarn_beta_fast", 8.0)
        .f32("llama.rope.scaling.yarn_beta_slow", 2.0)
        .f32("llama.rope.scaling.attn_factor", 0.5);
    expected["original_max_position_embeddings"] = 16.into();
    expected["beta_fast"] = 8.0.into();
    expected["beta_slow"] = 2.0.into();
    // 0.1 ln 4 + 1 = 1.13863.
    let mut read = parameters(&stated).unwrap();
    let factor = read.as_object_mut().unwrap().remove("attention_factor").unwrap().as_f64().unwrap();
    assert!((factor - 0.569_314_7).abs() < 1e-6, "{factor}");
    assert_eq!(read, expected);

    let text = message(parameters(&TestFile::llama().string(TYPE, "yarn")));
    assert_says(&text, &[FACTOR, "missing"]);
    let text = message(parameters(&file.f32("llama.rope.scaling.yarn_ext_factor", 0.0)));
    assert_says(&text, &["yarn_ext_factor", "is 0", "only 1"]);
}

#[test]
fn a_part_of_a_head_as_a_share() {
    for head_dim in [6, 10, 80, 96, 98, 128, 256] {
        for dim in (2..=head_dim).step_by(2) {
            assert_eq!((head_dim as f64 * partial_rotary_factor(dim, head_dim)) as usize, dim, "{dim} of {head_dim}");
        }
    }
}
