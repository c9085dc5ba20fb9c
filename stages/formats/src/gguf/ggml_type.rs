//! The element types of GGUF tensors that can be read, and the names of those that cannot.

use std::fmt;

use super::GgufError;

/// A tensor's element type; quantized types store blocks of several elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[expect(non_camel_case_types, missing_docs, reason = "the names are the format's own")]
pub enum GgmlType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4_K,
    Q5_K,
    Q6_K,
}

impl GgmlType {
    /// All readable types, for messages.
    pub const NAMES: &str =
        "`F32`, `F16`, `BF16`, `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1`, `Q8_0`, `Q4_K`, `Q5_K`, `Q6_K`";

    /// The type of this code in the file, if it can be read.
    pub fn from_code(code: u32) -> Option<Self> {
        Some(match code {
            0 => GgmlType::F32,
            1 => GgmlType::F16,
            2 => GgmlType::Q4_0,
            3 => GgmlType::Q4_1,
            6 => GgmlType::Q5_0,
            7 => GgmlType::Q5_1,
            8 => GgmlType::Q8_0,
            12 => GgmlType::Q4_K,
            13 => GgmlType::Q5_K,
            14 => GgmlType::Q6_K,
            30 => GgmlType::BF16,
            _ => return None,
        })
    }

    /// Elements per block.
    pub const fn block_len(self) -> usize {
        match self {
            GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 => 1,
            GgmlType::Q4_0 | GgmlType::Q4_1 | GgmlType::Q5_0 | GgmlType::Q5_1 | GgmlType::Q8_0 => 32,
            GgmlType::Q4_K | GgmlType::Q5_K | GgmlType::Q6_K => 256,
        }
    }

    /// Bytes per block.
    pub const fn block_bytes(self) -> usize {
        match self {
            GgmlType::F32 => 4,
            GgmlType::F16 | GgmlType::BF16 => 2,
            GgmlType::Q4_0 => 18,
            GgmlType::Q4_1 => 20,
            GgmlType::Q5_0 => 22,
            GgmlType::Q5_1 => 24,
            GgmlType::Q8_0 => 34,
            GgmlType::Q4_K => 144,
            GgmlType::Q5_K => 176,
            GgmlType::Q6_K => 210,
        }
    }

    /// Bytes of one row of `row` elements; `row` is a whole number of blocks.
    pub(super) const fn row_bytes(self, row: usize) -> usize {
        row / self.block_len() * self.block_bytes()
    }

    /// Bytes of a tensor of this shape (Hugging Face order: the last dimension is contiguous).
    pub(super) fn byte_count(self, tensor: &str, shape: &[usize]) -> Result<usize, GgufError> {
        let row = shape.last().copied().unwrap_or(1);
        if !row.is_multiple_of(self.block_len()) {
            let (tensor, block) = (tensor.to_owned(), self.block_len());
            return Err(GgufError::RaggedRow { tensor, row, block, ggml_type: self });
        }
        // also bounds the dequantized size, which callers allocate
        let elements = shape.iter().try_fold(4usize, |bytes, &dim| bytes.checked_mul(dim));
        elements
            .map(|bytes| bytes / 4 / self.block_len() * self.block_bytes())
            .ok_or_else(|| GgufError::ShapeOverflow { tensor: tensor.to_owned() })
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The name of any type code, readable or not.
pub(super) fn type_name(code: u32) -> String {
    let name = match code {
        4 => "Q4_2",
        5 => "Q4_3",
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => return GgmlType::from_code(code).map_or_else(|| format!("code {code}"), |t| t.to_string()),
    };
    name.to_owned()
}
