//! The instruction sets that the generator is compiled for, chosen while the program runs.

use super::stream::{GROUP, Piece, Stream, pieces};

/// An instruction set that this CPU has. All of them give the same bits.
///
/// Values come only from [`Isa::best`] and [`Isa::available`], so that holding one proves that the
/// CPU has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Set);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Set {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Set {
    /// All of them, the fastest last.
    const ALL: &[Self] = &[
        Self::Portable,
        #[cfg(target_arch = "x86_64")]
        Self::Avx2,
        #[cfg(target_arch = "x86_64")]
        Self::Avx512,
    ];

    /// Whether this CPU has it.
    fn is_supported(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq"),
        }
    }
}

impl Isa {
    /// The fastest instruction set of this CPU.
    pub fn best() -> Self {
        let supported = Set::ALL.iter().copied().rfind(|set| set.is_supported());
        Self(supported.unwrap_or(Set::Portable))
    }

    /// Every instruction set of this CPU, the portable one first and the best one last: for tests
    /// and measurements.
    pub fn available() -> impl Iterator<Item = Self> {
        Set::ALL.iter().copied().filter(|set| set.is_supported()).map(Self)
    }

    /// Its name in messages and measurements.
    pub fn name(self) -> &'static str {
        match self.0 {
            Set::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => "avx512",
        }
    }

    /// Runs a kernel over elements `start` to `start + len` of a stream, compiled for this
    /// instruction set.
    #[allow(unsafe_code, reason = "functions compiled for an instruction set can only be called so")]
    pub(super) fn run(self, stream: &Stream, start: u64, len: usize, kernel: impl Kernel) {
        match self.0 {
            Set::Portable => run(stream, start, len, kernel),
            // SAFETY: an `Isa` is only made of a set that `is_supported` confirmed: AVX2.
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => unsafe { run_avx2(stream, start, len, kernel) },
            // SAFETY: an `Isa` is only made of a set that `is_supported` confirmed: AVX-512 F and DQ.
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => unsafe { run_avx512(stream, start, len, kernel) },
        }
    }
}

/// What is done with the bits of each piece of a slice. Implementations are `#[inline(always)]`:
/// they become part of the function that is compiled for an instruction set.
pub(super) trait Kernel {
    /// Handles one piece; pieces come in the order of the slice and cover it once.
    fn piece(&mut self, stream: &Stream, piece: Piece);
}

#[inline(always)]
fn run(stream: &Stream, start: u64, len: usize, mut kernel: impl Kernel) {
    for piece in pieces(start, len) {
        if piece.in_group.len() == GROUP {
            // The same piece with a length that the compiler knows: its loops need no remainder.
            let first = piece.in_slice.start;
            kernel.piece(stream, Piece { in_group: 0..GROUP, in_slice: first..first + GROUP, ..piece });
        } else {
            kernel.piece(stream, piece);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn run_avx2(stream: &Stream, start: u64, len: usize, kernel: impl Kernel) {
    run(stream, start, len, kernel);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq")]
fn run_avx512(stream: &Stream, start: u64, len: usize, kernel: impl Kernel) {
    run(stream, start, len, kernel);
}
