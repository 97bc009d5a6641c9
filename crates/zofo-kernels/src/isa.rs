//! The instruction sets that hot loops are compiled for, chosen while the program runs.

/// An instruction set that this CPU has.
///
/// Values come only from [`Isa::best`] and [`Isa::available`], so that holding one proves that the
/// CPU has it: that is what makes it sound to call a function compiled for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Set);

/// The sets, each with the features that functions compiled for it may enable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Set {
    /// What every CPU of the architecture has.
    Portable,
    /// `avx2` and `fma`.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// `avx512f` and `avx512dq`.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// Those, `avx512bw` and `avx512bf16`.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
}

impl Set {
    /// All of them, the fastest last.
    const ALL: &[Self] = &[
        Self::Portable,
        #[cfg(target_arch = "x86_64")]
        Self::Avx2,
        #[cfg(target_arch = "x86_64")]
        Self::Avx512,
        #[cfg(target_arch = "x86_64")]
        Self::Avx512Bf16,
    ];

    /// Whether this CPU has it.
    fn is_supported(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => {
                Self::Avx512.is_supported()
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512bf16")
            }
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
            #[cfg(target_arch = "x86_64")]
            Set::Avx512Bf16 => "avx512bf16",
        }
    }

    /// Which one it is. The CPU has its features.
    pub(crate) fn set(self) -> Set {
        self.0
    }
}
