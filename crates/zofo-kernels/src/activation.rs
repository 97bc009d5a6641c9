//! The elementwise functions of feed-forward layers.

/// An elementwise function of the hidden units of a feed-forward layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x·σ(x) with σ(x) = 1/(1 + e⁻ˣ) (Elfwing et al., 2017; Llama's `silu`, also called swish).
    Silu,
    /// ½x·(1 + tanh(√(2/π)·(x + 0.044715·x³))): the approximation of GELU that Hendrycks and Gimpel
    /// (2016) give; `gelu_new` and `gelu_pytorch_tanh` of transformers.
    GeluTanh,
    /// x·Φ(x) = ½x·(1 + erf(x/√2)), Φ the cumulative normal distribution (Hendrycks and Gimpel, 2016);
    /// `gelu` of transformers.
    Gelu,
    /// max(x, 0), with slope 0 at 0.
    Relu,
}

impl Activation {
    /// Every activation, for tests and measurements.
    pub const ALL: [Self; 4] = [Self::Silu, Self::GeluTanh, Self::Gelu, Self::Relu];

    /// √(2/π) and the factor of x³ in [`GeluTanh`](Self::GeluTanh).
    pub(crate) const GELU_TANH: [f32; 2] = [0.797_884_6, 0.044715];
}
