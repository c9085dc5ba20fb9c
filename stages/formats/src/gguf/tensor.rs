//! One tensor of a GGUF file, and its values as f32.

use std::ops::Range;

use rayon::prelude::*;

use super::blocks::dequantize_row;
use super::{GgmlType, GgufError};

/// A tensor as stored: borrowed bytes with their description.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufTensor<'a> {
    /// The GGUF name (`blk.0.attn_q.weight`).
    pub name: &'a str,
    /// The shape in Hugging Face order, `[out, in]` for a linear weight.
    pub shape: Vec<usize>,
    /// How elements are stored.
    pub ggml_type: GgmlType,
    /// Exactly the tensor's bytes.
    pub bytes: &'a [u8],
}

impl GgufTensor<'_> {
    /// Elements per row: the last dimension.
    pub fn row_len(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// The number of rows: the product of all dimensions but the last.
    pub fn rows(&self) -> usize {
        let outer = self.shape.len().saturating_sub(1);
        self.shape[..outer].iter().product()
    }

    /// The stored bytes of one row.
    fn row(&self, row: usize) -> &[u8] {
        let stride = self.ggml_type.row_bytes(self.row_len());
        &self.bytes[row * stride..][..stride]
    }

    /// The values of some rows, row-major: `[rows.len(), row_len]`. Rows are converted in parallel;
    /// memory is what the result takes.
    ///
    /// # Errors
    /// [`GgufError::RowsOutOfRange`].
    pub fn dequantize_rows(&self, rows: Range<usize>) -> Result<Vec<f32>, GgufError> {
        self.dequantize_mapped(rows, |row| row)
    }

    /// All values, row-major.
    pub fn dequantize(&self) -> Vec<f32> {
        self.gather(0..self.rows(), |row| row)
    }

    /// As [`Self::dequantize_rows`], where row `r` of the result is stored at row `source(r)`, which
    /// must be a permutation of the tensor's rows.
    pub(super) fn dequantize_mapped(
        &self,
        rows: Range<usize>,
        source: impl Fn(usize) -> usize + Sync,
    ) -> Result<Vec<f32>, GgufError> {
        if rows.start > rows.end || rows.end > self.rows() {
            return Err(GgufError::RowsOutOfRange {
                tensor: self.name.to_owned(),
                start: rows.start,
                end: rows.end,
                rows: self.rows(),
            });
        }
        Ok(self.gather(rows, source))
    }

    fn gather(&self, rows: Range<usize>, source: impl Fn(usize) -> usize + Sync) -> Vec<f32> {
        let row_len = self.row_len();
        let mut values = vec![0.0; rows.len() * row_len];
        if row_len > 0 {
            values.par_chunks_mut(row_len).enumerate().for_each(|(index, row)| {
                dequantize_row(self.ggml_type, self.row(source(rows.start + index)), row);
            });
        }
        values
    }
}
