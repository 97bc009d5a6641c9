//! Tensors of a GGUF file: how they are stored and where.

use std::ops::Range;

/// How the values of a tensor are stored: plain floats, or blocks of quantised values that share scales.
///
/// Numbers and block sizes are those of `ggml.h` and `ggml-common.h` of the ggml project.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types, reason = "the names by which these types are known")]
#[allow(missing_docs, reason = "the names say all; quant.rs has the formulas")]
pub enum TensorType {
    F32,
    F16,
    BF16,
    Q8_0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
    IQ4_XS,
}

impl TensorType {
    /// Every supported type.
    pub const ALL: [Self; 15] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q2_K,
        Self::Q3_K,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
        Self::IQ4_NL,
        Self::IQ4_XS,
    ];

    /// The number by which a file names the type, the values of a block, and the bytes of a block.
    const fn layout(self) -> (u32, usize, usize) {
        match self {
            Self::F32 => (0, 1, 4),
            Self::F16 => (1, 1, 2),
            Self::Q4_0 => (2, 32, 18),
            Self::Q4_1 => (3, 32, 20),
            Self::Q5_0 => (6, 32, 22),
            Self::Q5_1 => (7, 32, 24),
            Self::Q8_0 => (8, 32, 34),
            Self::Q2_K => (10, 256, 84),
            Self::Q3_K => (11, 256, 110),
            Self::Q4_K => (12, 256, 144),
            Self::Q5_K => (13, 256, 176),
            Self::Q6_K => (14, 256, 210),
            Self::IQ4_NL => (20, 32, 18),
            Self::IQ4_XS => (23, 256, 136),
            Self::BF16 => (30, 1, 2),
        }
    }

    /// The type with this number in a file, if it is supported.
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.id() == id)
    }

    /// The number by which a file names the type.
    pub const fn id(self) -> u32 {
        self.layout().0
    }

    /// Values in a block.
    pub const fn block_len(self) -> usize {
        self.layout().1
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        self.layout().2
    }

    /// The supported types, for error messages.
    pub(super) fn names() -> String {
        let names: Vec<_> = Self::ALL.iter().map(|kind| format!("{kind:?}")).collect();
        names.join(", ")
    }

    /// What to call the type with this number in a message about a type that is not supported.
    pub(super) fn describe(id: u32) -> String {
        let name = match id {
            4 => "Q4_2",
            5 => "Q4_3",
            9 => "Q8_1",
            15 => "Q8_K",
            16 => "IQ2_XXS",
            17 => "IQ2_XS",
            18 => "IQ3_XXS",
            19 => "IQ1_S",
            21 => "IQ3_S",
            22 => "IQ2_S",
            24 => "I8",
            25 => "I16",
            26 => "I32",
            27 => "I64",
            28 => "F64",
            29 => "IQ1_M",
            34 => "TQ1_0",
            35 => "TQ2_0",
            39 => "MXFP4",
            _ => return format!("number {id}"),
        };
        format!("{name} (number {id})")
    }
}

/// A tensor of the file, under the file's own name for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) kind: TensorType,
    pub(super) bytes: Range<usize>,
}

impl TensorInfo {
    /// The name in the file, as `blk.0.attn_q.weight`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The row-major shape, slowest dimension first (the file lists dimensions the other way round).
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How the values are stored.
    pub fn kind(&self) -> TensorType {
        self.kind
    }

    /// Where in the file the values are, in bytes from its start.
    pub fn byte_range(&self) -> Range<usize> {
        self.bytes.clone()
    }

    /// The length of a row, the fastest dimension.
    pub fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// The number of rows: the product of all dimensions but the fastest; 1 for a vector.
    pub fn rows(&self) -> usize {
        self.shape.iter().rev().skip(1).product()
    }

    /// The bytes of one row; rows consist of whole blocks.
    pub(super) fn row_bytes(&self) -> usize {
        self.columns() / self.kind.block_len() * self.kind.block_bytes()
    }
}
