//! The micro-kernels of x·W, and how they want their operands packed.

use crate::direction::Weight;
use crate::flex::round;
use crate::isa::{Isa, Set};
use half::bf16;
#[cfg(target_arch = "x86_64")]
use {
    bytemuck::{Pod, Zeroable},
    std::arch::x86_64::*,
};

/// What a packed panel holds for every row or column: one step of the reduction, or several.
pub(in crate::flex) trait Packed: Copy + Default + Send + Sync {
    /// Steps of the reduction in one value.
    const STEPS: usize;
    /// Writes the factors of one row. Its last value has a zero where the reduction ends before its last step.
    fn convert(row: &[f32], out: &mut [Self]);
    /// Writes one value per column from the factors of its steps. The second step has none where the reduction ends before
    /// it, and in a format of one step.
    fn pack<W: Factor>(steps: [&[W]; 2], out: &mut [Self]);
}

/// A format of what is packed.
pub(in crate::flex) trait Factor: Weight {
    /// The bits of the nearest bf16.
    fn narrow_bits(self) -> u16;
}

impl Factor for f32 {
    #[inline(always)]
    fn narrow_bits(self) -> u16 {
        round::nearest_bits(self)
    }
}

impl Factor for bf16 {
    #[inline(always)]
    fn narrow_bits(self) -> u16 {
        self.to_bits()
    }
}

impl Packed for f32 {
    const STEPS: usize = 1;

    #[inline(always)]
    fn convert(row: &[f32], out: &mut [Self]) {
        out.copy_from_slice(row);
    }

    #[inline(always)]
    fn pack<W: Factor>([factors, _]: [&[W]; 2], out: &mut [Self]) {
        for (out, factor) in out.iter_mut().zip(factors) {
            *out = factor.widen();
        }
    }
}

/// Two bf16, the first step in the lower half. Only the kernel for AVX512-BF16 takes them.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
#[repr(transparent)]
pub(super) struct Bf16Pair(u32);

#[cfg(target_arch = "x86_64")]
impl Packed for Bf16Pair {
    const STEPS: usize = 2;

    fn convert(row: &[f32], out: &mut [Self]) {
        if let Some(last) = out.last_mut() {
            *last = Self::default();
        }
        // On a little-endian machine neighbours in a row lie as a pair does.
        round::to_bf16(row, &mut bytemuck::cast_slice_mut(out)[..row.len()]);
    }

    fn pack<W: Factor>([first, second]: [&[W]; 2], out: &mut [Self]) {
        if second.is_empty() {
            for (out, first) in out.iter_mut().zip(first) {
                *out = Self(u32::from(first.narrow_bits()));
            }
        } else {
            // SAFETY: pairs are made only where the CPU has AVX512-BF16, and with it the features.
            unsafe { pack_pairs(first, second, out) };
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
fn pack_pairs<W: Factor>(first: &[W], second: &[W], out: &mut [Bf16Pair]) {
    let pair = |first: W, second: W| Bf16Pair(u32::from(first.narrow_bits()) | u32::from(second.narrow_bits()) << 16);
    // In pieces of a length that the compiler knows.
    let ((first, first_rest), (second, second_rest)) = (first.as_chunks::<16>(), second.as_chunks::<16>());
    let (out, out_rest) = out.as_chunks_mut::<16>();
    for ((out, first), second) in out.iter_mut().zip(first).zip(second) {
        for lane in 0..16 {
            out[lane] = pair(first[lane], second[lane]);
        }
    }
    for ((out, first), second) in out_rest.iter_mut().zip(first_rest).zip(second_rest) {
        *out = pair(*first, *second);
    }
}

/// Σₖ x\[k\]ᵀ·w\[k\] of an `[depth][R]` and a `[depth][C]` panel.
pub(in crate::flex) struct Kernel<P, const R: usize, const C: usize>(
    pub(in crate::flex) fn(&[P], &[P]) -> [[f32; C]; R],
);

/// What is done with a micro-kernel in f32, whatever its block is.
pub(in crate::flex) trait KernelTask {
    /// The result.
    type Output;
    /// Does it.
    fn run<const R: usize, const C: usize>(self, kernel: &Kernel<f32, R, C>) -> Self::Output;
}

/// Runs a task with the micro-kernel of an instruction set.
pub(in crate::flex) fn with_kernel<T: KernelTask>(isa: Isa, task: T) -> T::Output {
    match isa.set() {
        Set::Portable => task.run(&Kernel::<f32, 4, 8>(portable)),
        // SAFETY: an `Isa` proves that the CPU has the features of its set.
        #[cfg(target_arch = "x86_64")]
        Set::Avx2 => task.run(&Kernel::<f32, 6, 16>(|x, w| unsafe { avx2(x, w) })),
        #[cfg(target_arch = "x86_64")]
        Set::Avx512 | Set::Avx512Bf16 => {
            // SAFETY: as above.
            task.run(&Kernel::<f32, 12, 32>(|x, w| unsafe { avx512(x, w) }))
        }
    }
}

fn portable(x: &[f32], weight: &[f32]) -> [[f32; 8]; 4] {
    multiply::<4, 8, false>(x, weight)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2(x: &[f32], weight: &[f32]) -> [[f32; 16]; 6] {
    multiply::<6, 16, true>(x, weight)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn avx512(x: &[f32], weight: &[f32]) -> [[f32; 32]; 12] {
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
        let weight: [__m512bh; 2] =
            std::array::from_fn(|j| bf16(unsafe { _mm512_loadu_si512(weight[j * LANES..].as_ptr().cast()) }));
        for i in 0..12 {
            let x = bf16(_mm512_set1_epi32(x[i].0 as i32));
            for j in 0..2 {
                sum[i][j] = _mm512_dpbf16_ps(sum[i][j], x, weight[j]);
            }
        }
    }
    // Not by `map`: its closure would not be compiled for the features, and would have the sums in memory.
    let mut out = [[0.0f32; 2 * LANES]; 12];
    for i in 0..12 {
        for j in 0..2 {
            // SAFETY: the half of the row holds the vector.
            unsafe { _mm512_storeu_ps(out[i][j * LANES..].as_mut_ptr(), sum[i][j]) };
        }
    }
    out
}
