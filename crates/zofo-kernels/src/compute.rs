//! The precision of matrix products.

/// In what precision activations are multiplied with weights. Everything else is f32 either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Compute {
    /// 32-bit floats.
    #[default]
    F32,
    /// Both factors, the activation x and the weight w or w ± ε·z, are rounded to the nearest bfloat16 (ties to even) before
    /// they are multiplied; products are added up in f32. Along a direction of low rank w alone is rounded: what ±ε·z adds to
    /// the product is computed apart, in f32.
    Bf16,
}
