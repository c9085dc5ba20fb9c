//! Rows of a data set: JSON lines or parquet, told apart by content, each row a JSON object.
//!
//! | limit | value |
//! |---|---|
//! | bytes of one line | 64 MiB |
//! | rows | 2²⁴ |
//!
//! Values come as they are stored: JSON's own for JSON lines, and for parquet as the module `parquet` says. Empty
//! lines are passed over; anything else that is not an object is an error that names the file and the line.

mod lines;
mod parquet;

use serde_json::{Map, Value};

use crate::error::FormatError;
pub use parquet::ParquetError;

/// One row: its columns by name.
pub type Row = Map<String, Value>;

/// Most rows of one file.
pub(crate) const MAX_ROWS: usize = 1 << 24;

/// All rows of a file. `name` is what errors call it.
///
/// # Errors
/// [`FormatError::Row`] for a line that cannot be read, [`FormatError::Parquet`] for a parquet file; the first error
/// ends the reading.
pub fn read(name: &str, bytes: &[u8]) -> Result<Vec<Row>, FormatError> {
    rows(name, bytes)?.collect()
}

/// The rows of a file one at a time, so that the first ones cost only themselves.
///
/// # Errors
/// As [`read`]: of the file's footer at once, of rows in what the iterator gives.
pub fn rows<'a>(name: &'a str, bytes: &'a [u8]) -> Result<Rows<'a>, FormatError> {
    if bytes.starts_with(parquet::MAGIC) {
        return Ok(Rows(Box::new(parquet::rows(name, bytes)?)));
    }
    Ok(Rows(Box::new(lines::rows(name, bytes))))
}

/// The rows of one file, in its order. Ends after the first error.
pub struct Rows<'a>(Box<dyn Iterator<Item = Result<Row, FormatError>> + 'a>);

impl Iterator for Rows<'_> {
    type Item = Result<Row, FormatError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}

/// An error of row or line `number`, counted from 1.
pub(crate) fn bad_row(name: &str, unit: &'static str, number: usize, reason: &str) -> FormatError {
    FormatError::Row { file: name.to_owned(), unit, number, reason: reason.to_owned() }
}

#[cfg(test)]
mod tests;
