//! Thrift's compact protocol, which parquet's descriptions are written in, as a tree of items.
//!
//! Each item takes at least one byte of the input, so the tree is bounded by it; nesting is capped.

use std::collections::BTreeMap;

use super::ParquetError;

const MAX_DEPTH: usize = 24;

/// One value. Integers of all widths are one kind, and so are lists and sets.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Item<'a> {
    Bool(bool),
    Int(i64),
    Double,
    Binary(&'a [u8]),
    List(Vec<Item<'a>>),
    Map,
    Struct(BTreeMap<i16, Item<'a>>),
}

impl<'a> Item<'a> {
    fn field(&self, id: i16) -> Option<&Item<'a>> {
        match self {
            Item::Struct(fields) => fields.get(&id),
            _ => None,
        }
    }

    pub(super) fn int(&self, id: i16) -> Option<i64> {
        match self.field(id)? {
            Item::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// A number that counts or places something.
    pub(super) fn size(&self, id: i16) -> Option<usize> {
        self.int(id).and_then(|value| usize::try_from(value).ok())
    }

    pub(super) fn bool(&self, id: i16) -> Option<bool> {
        match self.field(id)? {
            Item::Bool(value) => Some(*value),
            _ => None,
        }
    }

    pub(super) fn binary(&self, id: i16) -> Option<&'a [u8]> {
        match self.field(id)? {
            Item::Binary(bytes) => Some(bytes),
            _ => None,
        }
    }

    pub(super) fn list(&self, id: i16) -> Option<&[Item<'a>]> {
        match self.field(id)? {
            Item::List(items) => Some(items),
            _ => None,
        }
    }

    pub(super) fn structure(&self, id: i16) -> Option<&Item<'a>> {
        self.field(id).filter(|item| matches!(item, Item::Struct(_)))
    }

    /// Whether the field is there, whatever it holds: how a union says which it is.
    pub(super) fn has(&self, id: i16) -> bool {
        self.field(id).is_some()
    }
}

/// The struct at the beginning of `bytes`, and how many bytes it takes. `what` is what errors call it.
pub(super) fn parse<'a>(bytes: &'a [u8], what: &str) -> Result<(Item<'a>, usize), ParquetError> {
    let mut reader = Reader { bytes, at: 0 };
    match reader.structure(MAX_DEPTH) {
        Ok(item) => Ok((item, reader.at)),
        Err(Fault::End) => Err(ParquetError::Truncated { what: what.to_owned() }),
        Err(Fault::Bad(reason)) => Err(ParquetError::invalid(what, reason)),
    }
}

enum Fault {
    End,
    Bad(&'static str),
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Result<u8, Fault> {
        let byte = *self.bytes.get(self.at).ok_or(Fault::End)?;
        self.at += 1;
        Ok(byte)
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8], Fault> {
        let end = usize::try_from(count).ok().and_then(|count| self.at.checked_add(count));
        let taken = end.and_then(|end| self.bytes.get(self.at..end)).ok_or(Fault::End)?;
        self.at += taken.len();
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, Fault> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Fault::Bad("a number has more than 64 bits"))
    }

    fn zigzag(&mut self) -> Result<i64, Fault> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn structure(&mut self, depth: usize) -> Result<Item<'a>, Fault> {
        let depth = depth.checked_sub(1).ok_or(Fault::Bad("it is nested too deeply"))?;
        let (mut fields, mut id) = (BTreeMap::new(), 0_i16);
        loop {
            let header = self.byte()?;
            if header == 0 {
                return Ok(Item::Struct(fields));
            }
            let delta = i64::from(header >> 4);
            let next = if delta == 0 { self.zigzag()? } else { i64::from(id) + delta };
            id = i16::try_from(next).map_err(|_| Fault::Bad("a field's id is out of range"))?;
            let item = match header & 15 {
                1 => Item::Bool(true),
                2 => Item::Bool(false),
                kind => self.item(kind, depth)?,
            };
            fields.insert(id, item);
        }
    }

    fn item(&mut self, kind: u8, depth: usize) -> Result<Item<'a>, Fault> {
        match kind {
            1 | 2 => Ok(Item::Bool(self.byte()? == 1)),
            3 => Ok(Item::Int((self.byte()? as i8).into())),
            4..=6 => Ok(Item::Int(self.zigzag()?)),
            7 => self.take(8).map(|_| Item::Double),
            8 => {
                let length = self.varint()?;
                self.take(length).map(Item::Binary)
            }
            9 | 10 => self.list(depth),
            11 => self.map(depth),
            12 => self.structure(depth),
            _ => Err(Fault::Bad("a field has an unknown type")),
        }
    }

    fn list(&mut self, depth: usize) -> Result<Item<'a>, Fault> {
        let depth = depth.checked_sub(1).ok_or(Fault::Bad("it is nested too deeply"))?;
        let header = self.byte()?;
        let count = if header >> 4 == 15 { self.varint()? } else { u64::from(header >> 4) };
        // no capacity from the claim: the list grows with the bytes that are really read
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(self.item(header & 15, depth)?);
        }
        Ok(Item::List(items))
    }

    /// Read over: nothing that matters here is a map.
    fn map(&mut self, depth: usize) -> Result<Item<'a>, Fault> {
        let depth = depth.checked_sub(1).ok_or(Fault::Bad("it is nested too deeply"))?;
        let count = self.varint()?;
        if count > 0 {
            let kinds = self.byte()?;
            for _ in 0..count {
                self.item(kinds >> 4, depth)?;
                self.item(kinds & 15, depth)?;
            }
        }
        Ok(Item::Map)
    }
}
