//! Parquet, as far as data sets of text are made of it: a bounded reader of our own, since those of the registry
//! panic on damaged files (or are an engine for tables) and this needs a small part of the format.
//!
//! | part | read | refused by name |
//! |---|---|---|
//! | physical types | boolean, int32, int64, float, double, byte array | int96, fixed-length byte array |
//! | meanings | text, integers of any width, lists, structs; dates and times as the integers stored | decimals, maps, binary that is not UTF-8 |
//! | encodings | plain, dictionary, RLE | delta, byte stream split, bit-packed levels |
//! | compression | none, snappy, zstd | gzip, lz4, brotli, lzo |
//! | pages | data v1, data v2, dictionary | – |
//!
//! | limit | value |
//! |---|---|
//! | footer | 16 MiB |
//! | schema elements, nesting | 10,000, 16 |
//! | bytes of a page, decompressed | 256 MiB |
//! | values of a row group, in all columns | 2²⁶ |
//! | bytes of text of a row group | 4 GiB |
//!
//! A row group is decoded column by column, then its rows are put together (Melnik et al., Dremel, VLDB 2010).

mod assemble;
mod column;
mod encoding;
mod error;
mod schema;
mod thrift;

pub use error::ParquetError;

use super::{MAX_ROWS, Row, bad_row};
use crate::error::FormatError;
use assemble::Assembler;
use column::{Budget, Chunk};
use schema::Schema;
use thrift::Item;

/// At both ends of a file.
pub(super) const MAGIC: &[u8] = b"PAR1";

const MAX_FOOTER: usize = 16 << 20;

/// The rows of a file, a row group at a time.
pub(super) fn rows<'a>(
    name: &'a str,
    bytes: &'a [u8],
) -> Result<impl Iterator<Item = Result<Row, FormatError>> + use<'a>, FormatError> {
    let in_file = move |source| FormatError::Parquet { file: name.to_owned(), source };
    let file = File::parse(bytes).map_err(in_file)?;
    let mut rows = file.groups().scan(0, move |count, row| {
        *count += 1;
        Some(match row {
            Ok(_) if *count > MAX_ROWS => {
                Err(bad_row(name, "row", *count, &format!("more than {MAX_ROWS} rows")))
            }
            Ok(row) => Ok(row),
            Err(source) => Err(in_file(source)),
        })
    });
    let mut failed = false;
    Ok(std::iter::from_fn(move || {
        let row = if failed { None } else { rows.next() };
        failed = matches!(row, Some(Err(_)));
        row
    }))
}

/// A file with its footer read.
struct File<'a> {
    bytes: &'a [u8],
    schema: Schema,
    groups: Vec<Item<'a>>,
}

impl<'a> File<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, ParquetError> {
        let footer = footer(bytes)?;
        let metadata = thrift::parse(footer, "the footer")?.0;
        let elements = metadata.list(2).ok_or_else(|| ParquetError::missing("the footer", "schema"))?;
        let schema = Schema::parse(elements)?;
        let groups = metadata.list(4).unwrap_or_default().to_vec();
        Ok(Self { bytes, schema, groups })
    }

    /// Every row of every group; the first error of a group stands in place of its remaining rows.
    fn groups(self) -> impl Iterator<Item = Result<Row, ParquetError>> + use<'a> {
        let Self { bytes, schema, groups } = self;
        let schema = std::rc::Rc::new(schema);
        groups.into_iter().flat_map(move |group| {
            let rows = rows_of(bytes, &schema, &group);
            let (rows, error) = match rows {
                Ok(rows) => (Some(rows), None),
                Err(error) => (None, Some(Err(error))),
            };
            rows.into_iter().flatten().chain(error)
        })
    }
}

/// The footer's bytes: before the last eight, which hold its length and the magic.
fn footer(bytes: &[u8]) -> Result<&[u8], ParquetError> {
    let truncated = || ParquetError::Truncated { what: "the footer".into() };
    let body = bytes.strip_prefix(MAGIC).and_then(|rest| rest.strip_suffix(MAGIC)).ok_or_else(truncated)?;
    let (body, length) = body.split_last_chunk::<4>().ok_or_else(truncated)?;
    let length = u32::from_le_bytes(*length) as usize;
    if length > MAX_FOOTER {
        let (what, limit) = ("the footer".into(), MAX_FOOTER as u64);
        return Err(ParquetError::TooLarge { what, found: length as u64, limit });
    }
    body.len().checked_sub(length).map(|start| &body[start..]).ok_or_else(truncated)
}

fn rows_of<'a>(
    bytes: &'a [u8],
    schema: &std::rc::Rc<Schema>,
    group: &Item<'a>,
) -> Result<impl Iterator<Item = Result<Row, ParquetError>> + use<'a>, ParquetError> {
    let chunks = group.list(1).unwrap_or_default();
    if chunks.len() != schema.leaves.len() {
        let reason = format!("a row group has {} of {} columns", chunks.len(), schema.leaves.len());
        return Err(ParquetError::Invalid { what: "the footer".into(), reason });
    }
    let rows = group.size(3).ok_or_else(|| ParquetError::missing("a row group", "num_rows"))?;
    let mut budget = Budget::default();
    let columns = schema
        .leaves
        .iter()
        .zip(chunks)
        .map(|(leaf, chunk)| Chunk::parse(bytes, leaf, chunk)?.decode(&mut budget));
    let columns = columns.collect::<Result<_, _>>()?;
    Ok(Assembler::new(std::rc::Rc::clone(schema), columns, rows))
}

#[cfg(test)]
mod tests;
