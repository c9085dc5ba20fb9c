//! A cursor that cannot run past its bytes.

use super::GgufError;

const MAX_STRING: u64 = 64 << 20;

pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    pub(super) fn position(&self) -> usize {
        self.position
    }

    /// Bytes not yet read.
    pub(super) fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    /// The next `count` bytes; `what` names them should they be missing.
    pub(super) fn take(&mut self, count: u64, what: &str) -> Result<&'a [u8], GgufError> {
        let end = usize::try_from(count).ok().and_then(|count| self.position.checked_add(count));
        let taken = end.and_then(|end| self.bytes.get(self.position..end));
        let taken = taken.ok_or_else(|| GgufError::Truncated {
            what: format!("`{what}`"),
            needed: (self.position as u64).saturating_add(count),
            available: self.bytes.len() as u64,
        })?;
        self.position += taken.len();
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], GgufError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64, what)?);
        Ok(array)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, GgufError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, GgufError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A u64 count, refused above `limit`.
    pub(super) fn count(&mut self, what: &str, limit: u64) -> Result<u64, GgufError> {
        let count = self.u64(what)?;
        if count > limit {
            return Err(GgufError::TooMany { what: format!("`{what}`"), count, limit });
        }
        Ok(count)
    }

    /// A length-prefixed UTF-8 string of at most `limit` bytes.
    pub(super) fn string(&mut self, what: &str, limit: u64) -> Result<&'a str, GgufError> {
        let length = self.count(what, limit)?;
        let offset = self.position;
        let bytes = self.take(length, what)?;
        std::str::from_utf8(bytes).map_err(|_| GgufError::InvalidUtf8 { what: format!("`{what}`"), offset })
    }

    /// A string value of metadata.
    pub(super) fn text(&mut self, key: &str) -> Result<&'a str, GgufError> {
        self.string(key, MAX_STRING)
    }
}
