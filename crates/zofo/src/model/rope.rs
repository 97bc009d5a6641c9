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

/// The `rope_type` of Hugging Face configurations.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Frequencies as they are.
    Default,
    /// All frequencies divided by a factor (position interpolation).
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided by a factor, high ones kept, a ramp between.
    Llama3 {
        /// Divisor of low frequencies.
        factor: f64,
        /// original context / this is the longest wavelength that is interpolated between.
        low_freq_factor: f64,
        /// original context / this is the shortest wavelength that is changed.
        high_freq_factor: f64,
        /// Context length of pre-training, in tokens.
        original_context: f64,
    },
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
    /// The frequencies in a sequence of `length` tokens, on which some scalings depend.
    ///
    /// Computed in f32 like transformers' `ROPE_INIT_FUNCTIONS`, so that angles agree at long positions too.
    pub fn frequencies(&self, _length: usize) -> Frequencies {
        let plain = (0..self.dim / 2).map(|i| {
            let exponent = (2 * i) as f32 / self.dim as f32;
            1.0 / (self.theta as f32).powf(exponent)
        });
        let per_pair = plain.map(|frequency| self.scaling.apply(frequency)).collect();
        Frequencies { per_pair, attention_factor: 1.0 }
    }
}

impl RopeScaling {
    fn apply(&self, frequency: f32) -> f32 {
        match *self {
            RopeScaling::Default => frequency,
            RopeScaling::Linear { factor } => frequency / factor as f32,
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                let wavelength = std::f64::consts::TAU / f64::from(frequency);
                let low = original_context / low_freq_factor;
                let high = original_context / high_freq_factor;
                if wavelength > low {
                    frequency / factor as f32
                } else if wavelength < high {
                    frequency
                } else {
                    let smooth =
                        (original_context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    let frequency = f64::from(frequency);
                    ((1.0 - smooth) * frequency / factor + smooth * frequency) as f32
                }
            }
        }
    }
}
