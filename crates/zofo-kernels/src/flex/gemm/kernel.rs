//! The micro-kernels of x·W, and how they want their operands packed.

#[cfg(target_arch = "x86_64")]
use {crate::flex::round, std::arch::x86_64::*};

/// What a packed panel holds for every row or column: one step of the reduction, or several.
pub(super) trait Packed: Copy + Default + Send + Sync {
    /// Steps of the reduction in one value.
    const STEPS: usize;
    /// Puts a factor at a step.
    fn set(&mut self, step: usize, factor: f32);
}

impl Packed for f32 {
    const STEPS: usize = 1;

    #[inline(always)]
    fn set(&mut self, _: usize, factor: f32) {
        *self = factor;
    }
}

/// Two bf16, the first step in the lower half.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Default)]
#[repr(transparent)]
pub(super) struct Bf16Pair(u32);

#[cfg(target_arch = "x86_64")]
impl Packed for Bf16Pair {
    const STEPS: usize = 2;

    #[inline(always)]
    fn set(&mut self, step: usize, factor: f32) {
        // Panels are zero before they are packed.
        self.0 |= u32::from(round::nearest_bits(factor)) << (16 * step);
    }
}

/// Σₖ x\[k\]ᵀ·w\[k\] of an `[depth][R]` and a `[depth][C]` panel.
pub(super) struct Kernel<P, const R: usize, const C: usize>(pub(super) fn(&[P], &[P]) -> [[f32; C]; R]);

pub(super) fn portable(x: &[f32], weight: &[f32]) -> [[f32; 8]; 4] {
    multiply::<4, 8, false>(x, weight)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
pub(super) fn avx2(x: &[f32], weight: &[f32]) -> [[f32; 16]; 6] {
    multiply::<6, 16, true>(x, weight)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
pub(super) fn avx512(x: &[f32], weight: &[f32]) -> [[f32; 32]; 12] {
    multiply::<12, 32, true>(x, weight)
}

/// The body of the micro-kernels in f32. The compiler unrolls it fully and keeps the sums in vector registers.
#[inline(always)]
fn multiply<const R: usize, const C: usize, const FMA: bool>(x: &[f32], weight: &[f32]) -> [[f32; C]; R] {
    let mut sum = [[0.0f32; C]; R];
    let (x, _) = x.as_chunks::<R>();
    let (weight, _) = weight.as_chunks::<C>();
    for (x, weight) in x.iter().zip(weight) {
        for i in 0..R {
            for j in 0..C {
                sum[i][j] = if FMA { x[i].mul_add(weight[j], sum[i][j]) } else { sum[i][j] + x[i] * weight[j] };
            }
        }
    }
    sum
}

/// By instructions that multiply pairs of bf16 and add in f32.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) fn avx512_bf16(x: &[Bf16Pair], weight: &[Bf16Pair]) -> [[f32; 32]; 12] {
    const LANES: usize = 16;
    // SAFETY: both are 512 bits without invalid values; the one is read as the other's 32 bf16.
    let bf16 = |pairs: __m512i| unsafe { std::mem::transmute::<__m512i, __m512bh>(pairs) };
    let mut sum = [[_mm512_setzero_ps(); 2]; 12];
    let (x, _) = x.as_chunks::<12>();
    let (weight, _) = weight.as_chunks::<32>();
    for (x, weight) in x.iter().zip(weight) {
        // SAFETY: 32 pairs are two vectors of 16; a pair is its 32 bits.
        let weight = [0, LANES].map(|lane| bf16(unsafe { _mm512_loadu_si512(weight[lane..].as_ptr().cast()) }));
        for i in 0..12 {
            let x = bf16(_mm512_set1_epi32(x[i].0 as i32));
            for j in 0..2 {
                sum[i][j] = _mm512_dpbf16_ps(sum[i][j], x, weight[j]);
            }
        }
    }
    sum.map(|sum| {
        let mut out = [0.0f32; 2 * LANES];
        for (out, sum) in out.as_chunks_mut::<LANES>().0.iter_mut().zip(sum) {
            // SAFETY: the chunk holds the vector.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), sum) };
        }
        out
    })
}
