//! Rotary position embedding: how fast each pair of a head turns (Su et al., 2021), and how that changes for contexts
//! longer than those of pre-training.

/// Rotary positions of a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies: frequency i is theta^(−2i/dim).
    pub theta: f64,
    /// How many elements of a head turn, in pairs (i, i + dim/2); even. The elements behind them stay as they are.
    pub dim: usize,
    /// Change of the frequencies for long contexts.
    pub scaling: RopeScaling,
}

/// The `rope_type` of Hugging Face configurations. Lengths are in tokens.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Frequencies as they are.
    Default,
    /// All frequencies divided by a factor (position interpolation).
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// A base that grows with the sequence beyond the context of pre-training ("NTK-aware" scaling).
    Dynamic {
        /// How fast it grows.
        factor: f64,
        /// Context length of pre-training.
        original_context: f64,
    },
    /// YaRN (Peng et al., 2023): slow pairs interpolated, fast ones kept, a ramp over the pairs between.
    Yarn(Yarn),
    /// Llama 3.1: low frequencies divided by a factor, high ones kept, a ramp over the wavelengths between.
    Llama3 {
        /// Divisor of low frequencies.
        factor: f64,
        /// original context / this is the longest wavelength that is interpolated between.
        low_freq_factor: f64,
        /// original context / this is the shortest wavelength that is changed.
        high_freq_factor: f64,
        /// Context length of pre-training.
        original_context: f64,
    },
    /// LongRoPE (Ding et al., 2024): a divisor for every pair, others in long sequences than in short ones.
    LongRope {
        /// Divisors in sequences up to the context of pre-training, one per pair.
        short: Vec<f32>,
        /// Divisors in longer sequences.
        long: Vec<f32>,
        /// Context length of pre-training.
        original_context: f64,
        /// Factor of cosines and sines: [`long_rope_attention_factor`] unless the model has its own.
        attention_factor: f64,
    },
}

/// Parameters of YaRN.
#[derive(Clone, Debug, PartialEq)]
pub struct Yarn {
    /// Divisor of the frequencies of slow pairs.
    pub factor: f64,
    /// Context length of pre-training.
    pub original_context: f64,
    /// Pairs that turn more often than this within that context are kept.
    pub beta_fast: f64,
    /// Pairs that turn less often than this are interpolated.
    pub beta_slow: f64,
    /// Whether the ramp between begins and ends at whole pairs.
    pub truncate: bool,
    /// Factor of cosines and sines: [`yarn_attention_factor`] unless the model has its own.
    pub attention_factor: f64,
}

/// Turning of the pairs of a head.
#[derive(Clone, Debug, PartialEq)]
pub struct Frequencies {
    /// Radians per position, one value per pair.
    pub per_pair: Vec<f32>,
    /// Factor of cosines and sines.
    pub attention_factor: f32,
}

impl Rope {
    /// The longest sequence, in tokens, where a model's configuration states `max_positions`.
    ///
    /// transformers itself stops nowhere: the limit is what the scaling was made for. Configurations state the length of
    /// pre-training with [`Dynamic`](RopeScaling::Dynamic), and often with [`Yarn`](RopeScaling::Yarn), and the whole
    /// length otherwise.
    pub fn context(&self, max_positions: usize) -> usize {
        let (factor, original_context) = match &self.scaling {
            RopeScaling::Dynamic { factor, original_context } => (*factor, *original_context),
            RopeScaling::Yarn(yarn) => (yarn.factor, yarn.original_context),
            _ => return max_positions,
        };
        max_positions.max((factor * original_context).min(f64::from(i32::MAX)) as usize)
    }

    /// Whether keys that were rotated in a sequence of `past` tokens are of no use once it has `length`, because all
    /// frequencies are others: at the context of pre-training with [`LongRope`](RopeScaling::LongRope).
    pub fn invalidates_keys(&self, past: usize, length: usize) -> bool {
        match &self.scaling {
            RopeScaling::LongRope { original_context, .. } => {
                past as f64 <= *original_context && length as f64 > *original_context
            }
            _ => false,
        }
    }

    /// The frequencies in a sequence of `length` tokens, on which some scalings depend.
    ///
    /// Computed like transformers' `ROPE_INIT_FUNCTIONS`, in f32 where they use f32, so that angles agree at long
    /// positions too. Dynamic frequencies are those of a model that has seen no longer sequence before: transformers
    /// keeps the longest it has seen.
    pub fn frequencies(&self, length: usize) -> Frequencies {
        let attention_factor = match &self.scaling {
            RopeScaling::Yarn(yarn) => yarn.attention_factor,
            RopeScaling::LongRope { attention_factor, .. } => *attention_factor,
            _ => 1.0,
        };
        Frequencies { per_pair: self.per_pair(length), attention_factor: attention_factor as f32 }
    }

    /// Whether frequencies differ between lengths, so that keys of a short sequence are not those of a longer one.
    pub fn depends_on_length(&self) -> bool {
        matches!(self.scaling, RopeScaling::Dynamic { .. } | RopeScaling::LongRope { .. })
    }

    fn per_pair(&self, length: usize) -> Vec<f32> {
        let theta = self.theta as f32;
        match &self.scaling {
            RopeScaling::Default => self.powers(theta).map(f32::recip).collect(),
            RopeScaling::Linear { factor } => self.powers(theta).map(|power| power.recip() / *factor as f32).collect(),
            RopeScaling::Dynamic { factor, original_context } => {
                self.powers(self.stretched_theta(length, *factor, *original_context)).map(f32::recip).collect()
            }
            RopeScaling::Yarn(yarn) => {
                let kept = yarn.kept_shares(self);
                self.powers(theta).zip(kept).map(|(power, kept)| yarn.blend(power, kept)).collect()
            }
            &RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                let divisor = factor as f32;
                let longest = (original_context / low_freq_factor) as f32;
                let shortest = (original_context / high_freq_factor) as f32;
                let scaled = |frequency: f32| {
                    let wavelength = frequency.recip() * std::f32::consts::TAU;
                    if wavelength > longest {
                        frequency / divisor
                    } else if wavelength < shortest {
                        frequency
                    } else {
                        let turns = wavelength.recip() * original_context as f32;
                        let kept = (turns - low_freq_factor as f32) / (high_freq_factor - low_freq_factor) as f32;
                        (1.0 - kept) * frequency / divisor + kept * frequency
                    }
                };
                self.powers(theta).map(|power| scaled(power.recip())).collect()
            }
            RopeScaling::LongRope { short, long, original_context, .. } => {
                let divisors = if length as f64 > *original_context { long } else { short };
                self.powers(theta).zip(divisors).map(|(power, divisor)| (divisor * power).recip()).collect()
            }
        }
    }

    /// base^(2i/dim) for every pair i.
    fn powers(&self, base: f32) -> impl Iterator<Item = f32> {
        let dim = self.dim;
        (0..dim / 2).map(move |pair| base.powf((2 * pair) as f32 / dim as f32))
    }

    fn stretched_theta(&self, length: usize, factor: f64, original_context: f64) -> f32 {
        let length = (length as f64).max(original_context) as f32;
        let stretch = factor as f32 * length / original_context as f32 - (factor - 1.0) as f32;
        let exponent = self.dim as f64 / (self.dim as f64 - 2.0);
        self.theta as f32 * stretch.powf(exponent as f32)
    }
}

impl Yarn {
    /// How much of its own frequency each pair keeps: 1 for fast pairs, 0 for slow ones.
    fn kept_shares(&self, rope: &Rope) -> impl Iterator<Item = f32> {
        let dim = rope.dim as f64;
        // The pair that turns this often within the context of pre-training.
        let pair_of =
            |turns: f64| dim * (self.original_context / (turns * std::f64::consts::TAU)).ln() / (2.0 * rope.theta.ln());
        let [mut first, mut last] = [pair_of(self.beta_fast), pair_of(self.beta_slow)];
        if self.truncate {
            [first, last] = [first.floor(), last.ceil()];
        }
        [first, last] = [first.max(0.0), last.min(dim - 1.0)];
        if first == last {
            last += 0.001;
        }
        let [start, width] = [first as f32, (last - first) as f32];
        (0..rope.dim / 2).map(move |pair| 1.0 - ((pair as f32 - start) / width).clamp(0.0, 1.0))
    }

    fn blend(&self, power: f32, kept: f32) -> f32 {
        let interpolated = (self.factor as f32 * power).recip();
        interpolated * (1.0 - kept) + power.recip() * kept
    }
}

/// Factor of cosines and sines in YaRN; `mscales` are `mscale` and `mscale_all_dim` of a model that has both.
pub fn yarn_attention_factor(factor: f64, mscales: Option<(f64, f64)>) -> f64 {
    let scaled = |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
    match mscales {
        Some((mscale, mscale_all_dim)) => scaled(mscale) / scaled(mscale_all_dim),
        None => scaled(1.0),
    }
}

/// Factor of cosines and sines in LongRoPE: √(1 + ln(factor)/ln(original context)), where `factor` says how many times
/// the context of pre-training the model takes.
pub fn long_rope_attention_factor(factor: f64, original_context: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original_context.ln()).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares with the `inv_freq` and `attention_scaling` that transformers 5.23's `LlamaRotaryEmbedding` has after
    /// positions 0..length, in a model with heads of 16 and theta 10000 unless stated.
    #[track_caller]
    fn assert_frequencies(rope: &Rope, length: usize, expected: [f32; 8], attention_factor: f32) {
        let found = rope.frequencies(length);
        assert_eq!(found.per_pair.len(), 8);
        for (found, expected) in found.per_pair.iter().zip(expected) {
            assert!((found / expected - 1.0).abs() < 4e-7, "{found} is not {expected}");
        }
        assert!((found.attention_factor / attention_factor - 1.0).abs() < 1e-7);
    }

    fn rope(scaling: RopeScaling) -> Rope {
        Rope { theta: 10_000.0, dim: 16, scaling }
    }

    const PLAIN: [f32; 8] = [1.0, 0.31622776, 0.1, 0.03162278, 0.01, 0.0031622779, 0.001, 0.0003162278];

    #[test]
    fn default_and_linear() {
        assert_frequencies(&rope(RopeScaling::Default), 5, PLAIN, 1.0);
        let linear = rope(RopeScaling::Linear { factor: 3.0 });
        assert_frequencies(&linear, 5, PLAIN.map(|frequency| frequency / 3.0), 1.0);
        assert_eq!(linear.context(64), 64);
    }

    #[test]
    fn dynamic_grows_with_the_sequence() {
        let dynamic = rope(RopeScaling::Dynamic { factor: 4.0, original_context: 64.0 });
        assert_frequencies(&dynamic, 3, PLAIN, 1.0);
        assert_frequencies(&dynamic, 64, PLAIN, 1.0);
        let just_beyond =
            [1.0, 0.31350085, 0.098282784, 0.030811736, 0.009659505, 0.003028263, 0.0009493631, 0.00029762613];
        assert_frequencies(&dynamic, 65, just_beyond, 1.0);
        let long =
            [1.0, 0.21921244, 0.048054103, 0.010534058, 0.0023091966, 0.00050620467, 0.00011096637, 2.4325213e-5];
        assert_frequencies(&dynamic, 256, long, 1.0);
        assert_eq!(dynamic.context(64), 256);
    }

    #[test]
    fn yarn() {
        let yarn = Yarn {
            factor: 4.0,
            original_context: 64.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate: true,
            attention_factor: yarn_attention_factor(4.0, None),
        };
        let with_defaults = [1.0, 0.23717082, 0.049999997, 0.007905695, 0.0025, 0.00079056947, 0.00025, 7.905695e-5];
        let defaults = rope(RopeScaling::Yarn(yarn.clone()));
        assert_frequencies(&defaults, 5, with_defaults, 1.138_629_4);
        assert_eq!((defaults.context(64), defaults.context(512)), (256, 512));

        let untruncated =
            Yarn { beta_fast: 4.0, beta_slow: 0.5, truncate: false, attention_factor: 1.25, ..yarn.clone() };
        let expected = [1.0, 0.29152563, 0.050664395, 0.007905695, 0.0025, 0.00079056947, 0.00025, 7.905695e-5];
        assert_frequencies(&rope(RopeScaling::Yarn(untruncated)), 5, expected, 1.25);

        let attention_factor = yarn_attention_factor(8.0, Some((1.0, 0.7)));
        let scaled = Yarn { factor: 8.0, original_context: 4096.0, attention_factor, ..yarn.clone() };
        let expected = [1.0, 0.31622776, 0.1, 0.024705295, 0.0056249998, 0.001087033, 0.000125, 3.9528473e-5];
        assert_frequencies(&rope(RopeScaling::Yarn(scaled)), 5, expected, 1.054_456_5);

        // A context so short that the ramp has no width.
        let attention_factor = yarn_attention_factor(8.0, None);
        let narrow = Yarn { factor: 8.0, original_context: 4.0, attention_factor, ..yarn };
        let expected = [1.0, 0.03952847, 0.0125, 0.0039528473, 0.00125, 0.00039528473, 0.000125, 3.9528473e-5];
        assert_frequencies(&rope(RopeScaling::Yarn(narrow)), 5, expected, 1.207_944_2);
        assert_eq!(yarn_attention_factor(0.5, None), 1.0);
    }

    #[test]
    fn llama3() {
        let scaling =
            RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 64.0 };
        let llama3 = Rope { theta: 500_000.0, dim: 16, scaling };
        let expected =
            [1.0, 0.07940301, 0.004700754, 0.00091158313, 0.00017677668, 3.4281024e-5, 6.6478697e-6, 1.2891732e-6];
        assert_frequencies(&llama3, 5, expected, 1.0);
        assert_eq!(llama3.context(512), 512);
    }

    #[test]
    fn long_rope_has_other_divisors_beyond_the_context_of_pre_training() {
        let long_rope = rope(RopeScaling::LongRope {
            short: vec![1.0, 1.05, 1.1, 1.2, 1.3, 1.5, 1.75, 2.0],
            long: vec![1.0, 1.5, 2.5, 4.0, 8.0, 16.0, 24.0, 32.0],
            original_context: 64.0,
            attention_factor: long_rope_attention_factor(8.0, 64.0),
        });
        let short = [1.0, 0.3011693, 0.09090909, 0.026352312, 0.0076923077, 0.0021081853, 0.00057142857, 0.0001581139];
        assert_frequencies(&long_rope, 64, short, 1.224_744_9);
        let long = [1.0, 0.2108185, 0.04, 0.007905695, 0.00125, 0.00019764237, 4.1666666e-5, 9.882118e-6];
        assert_frequencies(&long_rope, 65, long, 1.224_744_9);
        assert!((long_rope_attention_factor(2.0, 64.0) - 1.080_123_449_734_643_5).abs() < 1e-15);
        assert_eq!(long_rope_attention_factor(1.0, 64.0), 1.0);
        assert_eq!(long_rope.context(512), 512);
        let at = [(63, 64), (64, 65), (65, 66), (1, 300)];
        assert_eq!(at.map(|(past, length)| long_rope.invalidates_keys(past, length)), [false, true, false, true]);
    }
}
