//! A kernel over a stretch of a stream, compiled for every instruction set. All of them give the same bits.

use super::stream::{GROUP, Piece, Stream, pieces};
use crate::isa::{Isa, Set};

/// Runs a kernel over elements `start` to `start + len` of a stream, compiled for an instruction set.
pub(super) fn run_with(isa: Isa, stream: &Stream, start: u64, len: usize, kernel: impl Kernel) {
    match isa.set() {
        Set::Portable => run(stream, start, len, kernel),
        // SAFETY: an `Isa` proves that the CPU has the features of its set: AVX2 among them.
        #[cfg(target_arch = "x86_64")]
        Set::Avx2 => unsafe { run_avx2(stream, start, len, kernel) },
        // SAFETY: as above: AVX-512 F and DQ.
        #[cfg(target_arch = "x86_64")]
        Set::Avx512 | Set::Avx512Bf16 => unsafe { run_avx512(stream, start, len, kernel) },
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
