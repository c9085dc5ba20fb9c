//! A column of a row group: pages, decompressed and decoded into levels and values.

use std::borrow::Cow;
use std::io::Read;

use serde_json::Value;

use super::ParquetError;
use super::encoding::{self, Fault, hybrid, plain, take};
use super::schema::{Leaf, Physical};
use super::thrift::{self, Item};

const MAX_PAGE: usize = 256 << 20;
const MAX_VALUES: usize = 1 << 26;
const MAX_TEXT: usize = 4 << 30;

const PLAIN: i64 = 0;
const PLAIN_DICTIONARY: i64 = 2;
const RLE: i64 = 3;
const RLE_DICTIONARY: i64 = 8;

/// What the columns of one row group may still take.
pub(super) struct Budget {
    values: usize,
    text: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { values: MAX_VALUES, text: MAX_TEXT }
    }
}

/// A decoded column: a level of each kind per entry, a value per entry whose definition level is the leaf's.
#[derive(Default)]
pub(super) struct Column {
    pub(super) repetitions: Vec<u16>,
    pub(super) definitions: Vec<u16>,
    pub(super) values: Vec<Value>,
}

/// A column's place in the file.
pub(super) struct Chunk<'a, 's> {
    leaf: &'s Leaf,
    bytes: &'a [u8],
    codec: i64,
    entries: usize,
}

impl<'a, 's> Chunk<'a, 's> {
    pub(super) fn parse(file: &'a [u8], leaf: &'s Leaf, chunk: &Item<'a>) -> Result<Self, ParquetError> {
        let what = format!("column `{}`", leaf.path);
        if chunk.has(1) {
            return Err(ParquetError::invalid(what, "it lies in another file"));
        }
        let metadata = chunk.structure(3).ok_or_else(|| ParquetError::missing(&what, "meta_data"))?;
        let size = |id, field| metadata.size(id).ok_or_else(|| ParquetError::missing(&what, field));
        let (length, data) = (size(7, "total_compressed_size")?, size(9, "data_page_offset")?);
        // some writers give a dictionary's offset as 0 where there is none
        let start = metadata.size(11).filter(|at| *at > 0).map_or(data, |dictionary| dictionary.min(data));
        let bytes = start.checked_add(length).and_then(|end| file.get(start..end));
        Ok(Self {
            leaf,
            bytes: bytes.ok_or_else(|| ParquetError::Truncated { what: what.clone() })?,
            codec: metadata.int(4).ok_or_else(|| ParquetError::missing(&what, "codec"))?,
            entries: size(5, "num_values")?,
        })
    }

    pub(super) fn decode(&self, budget: &mut Budget) -> Result<Column, ParquetError> {
        let values = budget.values.checked_sub(self.entries);
        budget.values = values.ok_or_else(|| self.too_large("values", self.entries, MAX_VALUES))?;
        let (mut rest, mut column, mut dictionary) = (self.bytes, Column::default(), None);
        while column.definitions.len() < self.entries {
            let (header, length) = thrift::parse(rest, &self.what())?;
            rest = &rest[length..];
            let sizes = header.size(2).zip(header.size(3));
            let (size, stored) = sizes.ok_or_else(|| ParquetError::missing(&self.what(), "page sizes"))?;
            if size > MAX_PAGE {
                return Err(self.too_large("bytes in a page", size, MAX_PAGE));
            }
            self.spend(size, budget)?;
            let page = take(&mut rest, stored).map_err(|fault| self.fault(fault))?;
            match header.int(1) {
                Some(0) => self.data(&header, page, size, dictionary.as_deref(), &mut column, budget)?,
                Some(3) => self.data_v2(&header, page, size, dictionary.as_deref(), &mut column, budget)?,
                Some(2) => dictionary = Some(self.dictionary(&header, page, size)?),
                _ => {} // an index: read over
            }
        }
        Ok(column)
    }

    fn dictionary(&self, header: &Item<'_>, page: &[u8], size: usize) -> Result<Vec<Value>, ParquetError> {
        let page = self.decompress(page, size)?;
        let count = header.structure(7).and_then(|about| about.size(1));
        let count = count.ok_or_else(|| ParquetError::missing(&self.what(), "dictionary_page_header"))?;
        plain(self.leaf, &page, count).map_err(|fault| self.fault(fault))
    }

    /// Levels and values in one compressed whole, levels with their lengths before them.
    fn data(
        &self,
        header: &Item<'_>,
        page: &[u8],
        size: usize,
        dictionary: Option<&[Value]>,
        column: &mut Column,
        budget: &mut Budget,
    ) -> Result<(), ParquetError> {
        let about =
            header.structure(5).ok_or_else(|| ParquetError::missing(&self.what(), "data_page_header"))?;
        let count = self.count(about, column)?;
        for id in [3, 4] {
            self.check_levels(about.int(id))?;
        }
        let page = self.decompress(page, size)?;
        let mut rest = page.as_ref();
        let mut levels = |most: u16| {
            if most == 0 {
                return Ok(vec![0; count]);
            }
            let length = take(&mut rest, 4)?;
            let length = length.iter().rev().fold(0, |length, byte| length << 8 | usize::from(*byte));
            Self::levels(take(&mut rest, length)?, most, count)
        };
        let repetitions = levels(self.leaf.repetition).map_err(|fault| self.fault(fault))?;
        let definitions = levels(self.leaf.definition).map_err(|fault| self.fault(fault))?;
        self.values(about.int(2), rest, &definitions, dictionary, column, budget)?;
        column.repetitions.extend(repetitions);
        column.definitions.extend(definitions);
        Ok(())
    }

    /// Levels first, not compressed; their lengths are in the header.
    fn data_v2(
        &self,
        header: &Item<'_>,
        page: &[u8],
        size: usize,
        dictionary: Option<&[Value]>,
        column: &mut Column,
        budget: &mut Budget,
    ) -> Result<(), ParquetError> {
        let about =
            header.structure(8).ok_or_else(|| ParquetError::missing(&self.what(), "data_page_header_v2"))?;
        let count = self.count(about, column)?;
        let (repetition, definition) = (about.size(6).unwrap_or(0), about.size(5).unwrap_or(0));
        let mut rest = page;
        let mut levels = |most: u16, length: usize| {
            let bytes = take(&mut rest, length)?;
            if most == 0 { Ok(vec![0; count]) } else { Self::levels(bytes, most, count) }
        };
        let repetitions = levels(self.leaf.repetition, repetition).map_err(|fault| self.fault(fault))?;
        let definitions = levels(self.leaf.definition, definition).map_err(|fault| self.fault(fault))?;
        let values = match about.bool(7) {
            Some(false) => Cow::Borrowed(rest),
            _ => self.decompress(rest, size.saturating_sub(page.len() - rest.len()))?,
        };
        self.values(about.int(4), &values, &definitions, dictionary, column, budget)?;
        column.repetitions.extend(repetitions);
        column.definitions.extend(definitions);
        Ok(())
    }

    /// How many entries a page has: at most as many as the column still lacks.
    fn count(&self, about: &Item<'_>, column: &Column) -> Result<usize, ParquetError> {
        let count = about.size(1).ok_or_else(|| ParquetError::missing(&self.what(), "num_values"))?;
        if count > self.entries - column.definitions.len() {
            return Err(ParquetError::invalid(self.what(), "its pages have more values than the column"));
        }
        Ok(count)
    }

    fn check_levels(&self, encoding: Option<i64>) -> Result<(), ParquetError> {
        match encoding {
            None | Some(RLE) => Ok(()),
            Some(other) => Err(self.unsupported("levels in encoding", other, "3 (RLE)")),
        }
    }

    fn levels(bytes: &[u8], most: u16, count: usize) -> Result<Vec<u16>, Fault> {
        let width = u16::BITS - most.leading_zeros();
        let levels = hybrid(bytes, width, count)?;
        match levels.iter().find(|level| **level > u32::from(most)) {
            Some(level) => Err(Fault::Bad(format!("a level of {level} where {most} is the most"))),
            None => Ok(levels.into_iter().map(|level| level as u16).collect()),
        }
    }

    fn values(
        &self,
        encoding: Option<i64>,
        bytes: &[u8],
        definitions: &[u16],
        dictionary: Option<&[Value]>,
        column: &mut Column,
        budget: &mut Budget,
    ) -> Result<(), ParquetError> {
        let count = definitions.iter().filter(|level| **level == self.leaf.definition).count();
        let values = match encoding {
            Some(PLAIN) => plain(self.leaf, bytes, count),
            Some(PLAIN_DICTIONARY | RLE_DICTIONARY) => {
                let dictionary = dictionary.ok_or_else(|| {
                    ParquetError::invalid(self.what(), "a page needs a dictionary that is not there")
                })?;
                return self.looked_up(bytes, count, dictionary, column, budget);
            }
            Some(RLE) if self.leaf.physical == Physical::Boolean => booleans(bytes, count),
            other => {
                let supported = "plain, dictionary, and RLE of booleans";
                return Err(self.unsupported("encoding", other.unwrap_or(-1), supported));
            }
        };
        column.values.extend(values.map_err(|fault| self.fault(fault))?);
        Ok(())
    }

    fn looked_up(
        &self,
        bytes: &[u8],
        count: usize,
        dictionary: &[Value],
        column: &mut Column,
        budget: &mut Budget,
    ) -> Result<(), ParquetError> {
        let Some((width, rest)) = bytes.split_first().filter(|_| count > 0) else {
            return if count == 0 { Ok(()) } else { Err(self.fault(Fault::End)) };
        };
        for index in hybrid(rest, u32::from(*width), count).map_err(|fault| self.fault(fault))? {
            let value = dictionary.get(index as usize);
            let value =
                value.ok_or_else(|| ParquetError::invalid(self.what(), "an index outside the dictionary"))?;
            // one entry may stand for any number of rows, so what a page decodes to is not bounded by its size
            self.spend(value.as_str().map_or(0, str::len), budget)?;
            column.values.push(value.clone());
        }
        Ok(())
    }

    fn decompress<'p>(&self, page: &'p [u8], size: usize) -> Result<Cow<'p, [u8]>, ParquetError> {
        let bad = |reason: String| ParquetError::invalid(self.what(), reason);
        let bytes = match self.codec {
            0 => return Ok(Cow::Borrowed(page)),
            _ if page.is_empty() && size == 0 => return Ok(Cow::Borrowed(page)),
            1 => {
                let claimed = snap::raw::decompress_len(page).map_err(|e| bad(e.to_string()))?;
                if claimed != size {
                    return Err(bad(format!("a page of {size} bytes decompresses to {claimed}")));
                }
                snap::raw::Decoder::new().decompress_vec(page).map_err(|e| bad(e.to_string()))?
            }
            6 => zstd(page, size).map_err(bad)?,
            other => {
                return Err(self.unsupported("compression", other, "0 (none), 1 (snappy), 6 (zstd)"));
            }
        };
        if bytes.len() == size { Ok(Cow::Owned(bytes)) } else { Err(self.fault(Fault::End)) }
    }

    fn spend(&self, text: usize, budget: &mut Budget) -> Result<(), ParquetError> {
        let left = budget.text.checked_sub(text);
        budget.text = left.ok_or_else(|| self.too_large("bytes of text", MAX_TEXT + 1, MAX_TEXT))?;
        Ok(())
    }

    fn what(&self) -> String {
        format!("column `{}`", self.leaf.path)
    }

    fn fault(&self, fault: Fault) -> ParquetError {
        match fault {
            Fault::End => ParquetError::Truncated { what: self.what() },
            Fault::Bad(reason) => ParquetError::invalid(self.what(), reason),
        }
    }

    fn too_large(&self, what: &str, found: usize, limit: usize) -> ParquetError {
        let what = format!("{what} of {}", self.what());
        ParquetError::TooLarge { what, found: found as u64, limit: limit as u64 }
    }

    fn unsupported(&self, what: &'static str, value: i64, supported: &'static str) -> ParquetError {
        ParquetError::Unsupported {
            column: self.leaf.path.clone(),
            what,
            value: value.to_string(),
            supported,
        }
    }
}

/// Booleans as runs: their length comes first.
fn booleans(bytes: &[u8], count: usize) -> Result<Vec<Value>, Fault> {
    let mut rest = bytes;
    encoding::take(&mut rest, 4)?;
    Ok(hybrid(rest, 1, count)?.into_iter().map(|bit| Value::Bool(bit == 1)).collect())
}

/// At most one byte more than `size`, so that a frame cannot grow without bound.
fn zstd(page: &[u8], size: usize) -> Result<Vec<u8>, String> {
    let decoder = ruzstd::decoding::StreamingDecoder::new(page).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    decoder.take(size as u64 + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes)
}
