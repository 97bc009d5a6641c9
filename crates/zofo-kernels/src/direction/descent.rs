//! What an update does to a weight.

/// w ← `keep`·w − `coefficient`·z.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Descent {
    /// 1, or with weight decay somewhat less.
    pub keep: f32,
    /// What multiplies z.
    pub coefficient: f32,
    /// How often this z was subtracted before; 0 but for momentum. Weights of `bf16` are rounded by other bits in every
    /// turn, since errors of the same bits would add up.
    pub turn: u32,
}

impl Descent {
    /// The updated weight. With `keep` = 1 the bits are those of w − `coefficient`·z.
    #[inline(always)]
    pub(crate) fn of(self, w: f32, z: f32) -> f32 {
        self.keep * w - self.coefficient * z
    }
}

impl From<f32> for Descent {
    /// Without weight decay, the first time.
    fn from(coefficient: f32) -> Self {
        Self { keep: 1.0, coefficient, turn: 0 }
    }
}
