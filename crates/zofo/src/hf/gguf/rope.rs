//! `rope_parameters`: how positions turn queries and keys.

use std::f64::consts::TAU;

use serde_json::{Value, json};

use super::{
    GgufFile, Metadata,
    config::positive_float,
    error::{GgufError, GgufProblem},
    names::ROPE_FACTORS,
};

/// The format's default for `llama.rope.freq_base`, and transformers' for `rope_theta`.
const DEFAULT_THETA: f64 = 10_000.0;

const SCALING_TYPE: &str = "llama.rope.scaling.type";
const SCALING_FACTOR: &str = "llama.rope.scaling.factor";
/// An older name of [`SCALING_FACTOR`] for linear scaling.
const SCALE_LINEAR: &str = "llama.rope.scale_linear";

/// The constants of Llama 3.1, 3.2 and 3.3, of which only the factor differs from model to model. A GGUF file has the
/// factors of the frequencies, not these constants.
const LLAMA3_LOW_FREQ_FACTOR: f64 = 1.0;
const LLAMA3_HIGH_FREQ_FACTOR: f64 = 4.0;
const LLAMA3_ORIGINAL_CONTEXT: f64 = 8192.0;
/// Converters compute the factors in f32.
const FACTOR_TOLERANCE: f64 = 1e-4;

/// The value of `rope_parameters` in `config.json`.
pub(super) fn rope_parameters(file: &GgufFile, head_dim: usize) -> Result<Value, GgufError> {
    let metadata = file.metadata();
    let theta_key = "llama.rope.freq_base";
    let theta = metadata.float(theta_key)?.unwrap_or(DEFAULT_THETA);
    let theta = positive_float(&metadata, theta_key, theta)?;
    let linear = linear_factor(&metadata)?;
    let llama3 = llama3_factor(file, theta, head_dim)?;
    match (linear, llama3) {
        (None, None) => Ok(json!({ "rope_theta": theta, "rope_type": "default" })),
        (Some((_, factor)), None) => Ok(json!({
            "factor": factor,
            "rope_theta": theta,
            "rope_type": "linear",
        })),
        (None, Some(factor)) => Ok(json!({
            "factor": factor,
            "high_freq_factor": LLAMA3_HIGH_FREQ_FACTOR,
            "low_freq_factor": LLAMA3_LOW_FREQ_FACTOR,
            "original_max_position_embeddings": LLAMA3_ORIGINAL_CONTEXT as u32,
            "rope_theta": theta,
            "rope_type": "llama3",
        })),
        (Some((key, factor)), Some(_)) => Err(metadata.bad_value(
            key,
            factor,
            format!("that is not supported together with tensor \"{ROPE_FACTORS}\""),
        )),
    }
}

/// The factor of linear scaling and the key that it stands under, unless it is 1.
fn linear_factor(metadata: &Metadata<'_>) -> Result<Option<(&'static str, f64)>, GgufError> {
    // As llama.cpp reads it: without a type, a factor means linear scaling; the newer name counts.
    match metadata.string(SCALING_TYPE)? {
        Some("none") => return Ok(None),
        None | Some("linear") => {}
        Some(other) => {
            return Err(metadata.bad_value(
                SCALING_TYPE,
                format!("\"{other}\""),
                "supported are none and linear; use the model's Hugging Face directory instead",
            ));
        }
    }
    for key in [SCALING_FACTOR, SCALE_LINEAR] {
        // Zero is how some writers say "not scaled".
        if let Some(factor) = metadata.float(key)?.filter(|&factor| factor != 0.0) {
            let factor = positive_float(metadata, key, factor)?;
            return Ok((factor != 1.0).then_some((key, factor)));
        }
    }
    Ok(None)
}

/// The factor of Llama 3's scaling, if the file has factors of the frequencies and they are those of that scheme;
/// nothing if there are none or all are 1.
fn llama3_factor(file: &GgufFile, theta: f64, head_dim: usize) -> Result<Option<f64>, GgufError> {
    let Some(tensor) = file.tensor(ROPE_FACTORS) else {
        return Ok(None);
    };
    let pairs = head_dim / 2;
    if tensor.shape() != [pairs] {
        return Err(file.error(GgufProblem::TensorShape {
            tensor: tensor.name().to_owned(),
            expected: vec![pairs],
            found: tensor.shape().to_owned(),
        }));
    }
    let mut factors = vec![0.0; pairs];
    file.dequantize(tensor, 0..1, &mut factors)?;
    let largest = factors.iter().copied().fold(1.0, f32::max);
    for (index, &found) in factors.iter().enumerate() {
        let frequency = theta.powf(-((2 * index) as f64) / head_dim as f64);
        let expected = llama3_frequency_factor(TAU / frequency, f64::from(largest));
        // Written so that a NaN fails.
        let close = (f64::from(found) - expected).abs() <= FACTOR_TOLERANCE * expected;
        if !close {
            return Err(file.error(GgufProblem::RopeFactors { index, found, expected: expected as f32, largest }));
        }
    }
    Ok((largest != 1.0).then_some(f64::from(largest)))
}

/// By how much Llama 3's scaling divides the frequency of this wavelength, in tokens: not at all for short
/// waves, by `factor` for long ones, and in between by the inverse of a blend of the two inverses (transformers,
/// `_compute_llama3_parameters`).
fn llama3_frequency_factor(wavelength: f64, factor: f64) -> f64 {
    let turns = LLAMA3_ORIGINAL_CONTEXT / wavelength;
    let share = (turns - LLAMA3_LOW_FREQ_FACTOR) / (LLAMA3_HIGH_FREQ_FACTOR - LLAMA3_LOW_FREQ_FACTOR);
    let share = share.clamp(0.0, 1.0);
    1.0 / ((1.0 - share) / factor + share)
}

#[cfg(test)]
mod tests {
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
        for (factors, index) in
            [([1.0, 1.0, 2.0, 8.0], 2), ([2.0, 1.0, 2.6945, 8.0], 0), ([1.0, f32::NAN, 2.6945, 8.0], 1)]
        {
            let text = message(parameters(&with_factors(&factors)));
            assert_says(&text, &[ROPE_FACTORS, &format!("factor {index} ")]);
        }
        let text = message(parameters(&with_factors(&[1.0; 3])));
        assert_says(&text, &[ROPE_FACTORS, "[3]", "[4]"]);
        let both = with_factors(&[1.0, 1.0, 2.6945, 8.0]).f32(SCALING_FACTOR, 2.0);
        assert_says(&message(parameters(&both)), &[SCALING_FACTOR, "together", ROPE_FACTORS]);
    }
}
