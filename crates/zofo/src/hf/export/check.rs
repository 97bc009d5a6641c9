//! Reading back what was written.

use std::path::Path;

use burn::tensor::Device;
use tokenizers::Tokenizer;

use super::super::{HfError, ModelFiles, StoredDtype, WeightDtype, gguf::WrittenType};
use crate::{
    model::{Backbone, Batch, DecoderConfig, Rope},
    peft::{Adapter, Lora},
};

/// Texts on which the two models must agree: prose, a list with numbers, code, and other scripts.
const PROBES: [&str; 4] = [
    "The old lighthouse keeper climbed the 142 steps once more, because nobody else knew how to light the lamp.",
    "Shopping list:\n- 3 apples (not 12!)\n- bread, 0.5 kg\n- \"dark\" chocolate & tea\n\nDone?",
    "def area(r):\n    # of a circle\n    return 3.14159 * r ** 2\n\nprint(area(2))",
    "Grüße aus Köln, señora! Привет, 世界 – naïve café №7 🌻",
];

/// Tokens of a probe that are compared.
const PROBE_TOKENS: usize = 48;

/// What reading back found.
pub(super) struct Checked {
    pub(super) logit_error: f64,
    pub(super) losses: Vec<String>,
}

/// Checks the file at `written`, which is to become `path`, against the model that it was made of. `decoder` is what it is
/// to describe.
pub(super) fn check(
    source: &ModelFiles,
    lora: Option<&Lora>,
    decoder: &DecoderConfig,
    matrices: WrittenType,
    written: &Path,
    path: &Path,
) -> Result<Checked, HfError> {
    let differs = |difference: String| HfError::ReadBack { path: path.to_owned(), difference };
    let file = ModelFiles::open(written)?;
    compare_decoders(decoder, file.config()).map_err(differs)?;

    let tokens = probe_tokens(&source.tokenizer()?, source)?;
    let read_back = probe_tokens(&file.tokenizer()?, &file)?;
    for ((probe, expected), found) in PROBES.iter().zip(&tokens).zip(&read_back) {
        if expected != found {
            return Err(differs(format!("{probe:?} becomes the tokens {found:?} instead of {expected:?}")));
        }
    }

    let tokens: Vec<_> =
        tokens.iter().map(|ids| &ids[..ids.len().min(PROBE_TOKENS).min(decoder.max_positions)]).collect();
    let adapter = lora.map(|lora| Adapter::Lora(lora.clone()));
    let dtype = match source.stored_dtype(&source.config().embedding.tokens)? {
        StoredDtype::Bf16 => WeightDtype::Bf16,
        _ => WeightDtype::F32,
    };
    let expected = logits(source, dtype, adapter.as_ref(), &tokens)?;
    let dtype = if matrices == WrittenType::BF16 { WeightDtype::Bf16 } else { WeightDtype::F32 };
    let found = logits(&file, dtype, None, &tokens)?;
    let tolerance = tolerance(matrices);
    let mut logit_error = 0.0_f64;
    for ((probe, expected), found) in PROBES.iter().zip(&expected).zip(&found) {
        let error = relative_error(expected, found);
        if error.is_nan() || error > tolerance {
            return Err(differs(format!(
                "the logits of {probe:?} are off by {error:.2e} of their size, and {} allows for {tolerance:.0e}",
                matrices.as_str()
            )));
        }
        logit_error = logit_error.max(error);
    }
    Ok(Checked { logit_error, losses: lost_ends(source.eos_token_ids(), file.eos_token_ids()).into_iter().collect() })
}

/// By how much logits may differ: root mean square of the differences over that of the logits about their mean. Only the
/// weights are rounded, by up to 2⁻¹², 2⁻⁹ and, of the largest of a block, 2⁻⁸ in F16, BF16 and Q8_0, and layers add
/// that up: to 0.001 and 0.04 in a SmolLM2 of 30 layers in F16 and Q8_0. A tensor in the wrong arrangement makes it 1.
fn tolerance(matrices: WrittenType) -> f64 {
    match matrices {
        WrittenType::F32 => 1e-4,
        WrittenType::F16 => 2e-2,
        WrittenType::BF16 => 1e-1,
        WrittenType::Q8_0 => 2e-1,
    }
}

fn probe_tokens(tokenizer: &Tokenizer, model: &ModelFiles) -> Result<Vec<Vec<u32>>, HfError> {
    let encode = |probe: &str| match tokenizer.encode(probe, true) {
        Ok(encoding) => Ok(encoding.get_ids().to_vec()),
        Err(cause) => {
            Err(HfError::Tokenizer { path: model.source_path().to_owned(), reason: format!("{probe:?}: {cause}") })
        }
    };
    PROBES.into_iter().map(encode).collect()
}

/// `[tokens · vocabulary]` for each of `rows`.
fn logits(
    files: &ModelFiles,
    dtype: WeightDtype,
    adapter: Option<&Adapter>,
    rows: &[&[u32]],
) -> Result<Vec<Vec<f32>>, HfError> {
    let backbone = Backbone::load(files, dtype, &Device::flex())?;
    let of_row = |row: &&[u32]| {
        if row.is_empty() {
            return Vec::new();
        }
        let batch = Batch::labelled([(*row, &[][..])]);
        backbone.logits(&batch, adapter).into_data().iter::<f32>().collect()
    };
    Ok(rows.iter().map(of_row).collect())
}

/// √(Σ(found − expected)² / Σ(expected − mean)²); 0 of nothing.
fn relative_error(expected: &[f32], found: &[f32]) -> f64 {
    let mean = expected.iter().map(|&x| f64::from(x)).sum::<f64>() / expected.len().max(1) as f64;
    let spread: f64 = expected.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum();
    let error: f64 = expected.iter().zip(found).map(|(&x, &y)| (f64::from(x) - f64::from(y)).powi(2)).sum();
    if error == 0.0 { 0.0 } else { (error / spread).sqrt() }
}

/// What of the decoder differs.
fn compare_decoders(expected: &DecoderConfig, found: &DecoderConfig) -> Result<(), String> {
    let without_ropes = |decoder: &DecoderConfig| DecoderConfig { ropes: Vec::new(), ..decoder.clone() };
    let [expected_rest, found_rest] = [expected, found].map(without_ropes);
    if expected_rest != found_rest {
        let [expected, found] = [expected_rest, found_rest].map(|decoder| format!("{decoder:#?}"));
        let lines = expected.lines().zip(found.lines());
        let first = lines.map(|(expected, found)| (expected.trim(), found.trim())).find(|(a, b)| a != b);
        return Err(match first {
            Some((expected, found)) => format!("the decoder has `{found}` instead of `{expected}`"),
            None => "the decoder has other parts".to_owned(),
        });
    }
    let lengths = [1, expected.max_positions];
    let same = |expected: &Rope, found: &Rope| lengths.iter().all(|&length| turns_alike(expected, found, length));
    let alike = expected.ropes.len() == found.ropes.len();
    if alike && expected.ropes.iter().zip(&found.ropes).all(|(expected, found)| same(expected, found)) {
        return Ok(());
    }
    Err(format!("rotary positions are {:?} instead of {:?}", found.ropes, expected.ropes))
}

/// Whether two rotations are the same in sequences of this length, but for the rounding of their constants to f32.
fn turns_alike(expected: &Rope, found: &Rope, length: usize) -> bool {
    const ROUNDING: f32 = 1e-6;
    let close = |a: f32, b: f32| (a - b).abs() <= ROUNDING * a.abs();
    let [a, b] = [expected, found].map(|rope| rope.frequencies(length));
    expected.dim == found.dim
        && close(a.attention_factor, b.attention_factor)
        && a.per_pair.len() == b.per_pair.len()
        && a.per_pair.iter().zip(&b.per_pair).all(|(&a, &b)| close(a, b))
}

/// The tokens at which the original stops and the file does not, of which a file can name one.
fn lost_ends(expected: &[u32], found: &[u32]) -> Option<String> {
    let lost: Vec<_> = expected.iter().filter(|id| !found.contains(id)).map(u32::to_string).collect();
    (!lost.is_empty()).then(|| {
        format!(
            "generation also ends at the token{} {}, and a GGUF file names only one such token",
            if lost.len() == 1 { "" } else { "s" },
            lost.join(", ")
        )
    })
}
