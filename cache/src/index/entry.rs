//! One entry of the index: a record, without its document.
//!
//! ```text
//! entry   = key (32 bytes) ++ u64 file bytes ++ u64 inode ++ i64 mtime ns ++ i64 ctime ns
//!           ++ u64 started unix ms ++ u64 elapsed ms ++ u32 refs ++ u32 outputs ++ text(stage) ++ text(metrics)
//!           ++ refs × (digest (32 bytes) ++ u64 bytes) ++ outputs × (text(name) ++ text(kind) ++ u32 place in refs)
//! text(t) = u32(length of t in bytes) ++ t in UTF-8          all integers little-endian
//! ```

use std::fmt;
use std::sync::Arc;

use crate::catalog::Identity;
use crate::digest::Digest;
use crate::key::ActionKey;
use crate::mapped::Mapped;
use crate::record::Stored;

const HEAD_BYTES: usize = 88;
const REF_BYTES: usize = 40;

/// An action that was done and whose blobs are there: what a plan and a report need of its record.
///
/// The whole record, with the document of its key, is [`crate::Store::lookup`]'s.
#[derive(Clone)]
pub struct Found {
    bytes: Bytes,
    /// Where the refs begin; before them lie stage and metrics.
    refs_at: usize,
    stage_bytes: usize,
    refs: usize,
}

#[derive(Clone)]
enum Bytes {
    Mapped { map: Mapped, start: usize, len: usize },
    Owned(Arc<[u8]>),
}

/// One output of a [`Found`] action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundOutput<'a> {
    /// Its name.
    pub name: &'a str,
    /// What kind of artifact it is.
    pub kind: &'a str,
    /// Content of its root blob.
    pub digest: Digest,
    /// Size of its root blob, bytes.
    pub bytes: u64,
}

impl Found {
    /// The action.
    pub fn key(&self) -> ActionKey {
        ActionKey::from_digest(digest_at(self.bytes(), 0))
    }

    /// The stage type, or the type of a unit of work.
    pub fn stage(&self) -> &str {
        let at = self.refs_at - self.metrics_bytes() - 4 - self.stage_bytes;
        str::from_utf8(&self.bytes()[at..at + self.stage_bytes]).unwrap_or_default()
    }

    /// When it began, milliseconds since the Unix epoch.
    pub fn started_unix_ms(&self) -> u64 {
        u64_at(self.bytes(), 64)
    }

    /// How long it took, milliseconds; what the hit saves.
    pub fn elapsed_ms(&self) -> u64 {
        u64_at(self.bytes(), 72)
    }

    /// What was measured, as JSON text.
    pub fn metrics(&self) -> &str {
        str::from_utf8(&self.bytes()[self.refs_at - self.metrics_bytes()..self.refs_at]).unwrap_or_default()
    }

    /// Every blob the outputs reach, with its size in bytes.
    pub fn refs(&self) -> impl Iterator<Item = (Digest, u64)> + '_ {
        (0..self.refs).map(|n| self.reference(n))
    }

    /// The outputs, by name.
    pub fn outputs(&self) -> impl Iterator<Item = FoundOutput<'_>> + '_ {
        let mut rest = &self.bytes()[self.refs_at + REF_BYTES * self.refs..];
        std::iter::from_fn(move || {
            let (name, kind, place) = next_output(&mut rest)?;
            let (digest, bytes) = self.reference(place);
            Some(FoundOutput { name, kind, digest, bytes })
        })
    }

    /// One output.
    pub fn output(&self, name: &str) -> Option<FoundOutput<'_>> {
        self.outputs().find(|output| output.name == name)
    }

    /// The record file it was made from.
    pub(crate) fn identity(&self) -> Identity {
        let bytes = self.bytes();
        Identity {
            bytes: u64_at(bytes, 32),
            inode: u64_at(bytes, 40),
            mtime_ns: u64_at(bytes, 48) as i64,
            ctime_ns: u64_at(bytes, 56) as i64,
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped { map, start, len } => &map[*start..*start + *len],
            Bytes::Owned(bytes) => bytes,
        }
    }

    /// What is known of a record that was read from the file `identity`; `None` beyond 4 GiB.
    pub(crate) fn of(stored: &Stored, identity: &Identity) -> Option<Self> {
        let record = &stored.record;
        let mut out = Vec::with_capacity(256 + REF_BYTES * record.refs.len());
        out.extend(record.key.digest().as_bytes());
        for number in [identity.bytes, identity.inode, identity.mtime_ns as u64, identity.ctime_ns as u64] {
            out.extend(number.to_le_bytes());
        }
        out.extend(record.started_unix_ms.to_le_bytes());
        out.extend(record.elapsed_ms.to_le_bytes());
        out.extend(u32::try_from(record.refs.len()).ok()?.to_le_bytes());
        out.extend(u32::try_from(record.outputs.len()).ok()?.to_le_bytes());
        put_text(&mut out, &record.doc.kind)?;
        put_text(&mut out, &serde_json::to_string(&record.metrics).ok()?)?;
        for (digest, bytes) in record.refs.iter().zip(&stored.sizes) {
            out.extend(digest.as_bytes());
            out.extend(bytes.to_le_bytes());
        }
        for (name, output) in &record.outputs {
            put_text(&mut out, name)?;
            put_text(&mut out, &output.kind)?;
            let place = record.refs.iter().position(|digest| *digest == output.digest)?;
            out.extend(u32::try_from(place).ok()?.to_le_bytes());
        }
        Self::parse(Bytes::Owned(out.into()))
    }

    /// The entry in a part of a map.
    pub(crate) fn mapped(map: &Mapped, start: usize, len: usize) -> Option<Self> {
        map.get(start..start.checked_add(len)?)?;
        Self::parse(Bytes::Mapped { map: map.clone(), start, len })
    }

    /// Checks every length, so that no reader needs to.
    fn parse(bytes: Bytes) -> Option<Self> {
        let mut found = Self { bytes, refs_at: 0, stage_bytes: 0, refs: 0 };
        let all = found.bytes();
        let mut rest = all.get(HEAD_BYTES..)?;
        let (refs, outputs) = (u32_at(all, 80), u32_at(all, 84));
        let stage_bytes = next_text(&mut rest)?.len();
        next_text(&mut rest)?;
        let refs_at = all.len() - rest.len();
        rest = rest.get(refs.checked_mul(REF_BYTES)?..)?;
        for _ in 0..outputs {
            next_output(&mut rest).filter(|(_, _, place)| *place < refs)?;
        }
        if !rest.is_empty() {
            return None;
        }
        (found.refs_at, found.stage_bytes, found.refs) = (refs_at, stage_bytes, refs);
        Some(found)
    }

    fn metrics_bytes(&self) -> usize {
        u32_at(self.bytes(), HEAD_BYTES + 4 + self.stage_bytes)
    }

    fn reference(&self, n: usize) -> (Digest, u64) {
        let at = self.refs_at + REF_BYTES * n;
        (digest_at(self.bytes(), at), u64_at(self.bytes(), at + 32))
    }
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outputs: Vec<_> = self.outputs().collect();
        f.debug_struct("Found").field("key", &self.key()).field("outputs", &outputs).finish_non_exhaustive()
    }
}

impl PartialEq for Found {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) -> Option<()> {
    out.extend(u32::try_from(text.len()).ok()?.to_le_bytes());
    out.extend(text.as_bytes());
    Some(())
}

fn next_u32(rest: &mut &[u8]) -> Option<usize> {
    let (number, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(u32::from_le_bytes(*number) as usize)
}

fn next_text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let len = next_u32(rest)?;
    let (text, after) = rest.split_at_checked(len)?;
    *rest = after;
    str::from_utf8(text).ok()
}

fn next_output<'a>(rest: &mut &'a [u8]) -> Option<(&'a str, &'a str, usize)> {
    Some((next_text(rest)?, next_text(rest)?, next_u32(rest)?))
}

/// The eight bytes at a place that was checked to be there.
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |eight| u64::from_le_bytes(*eight))
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    bytes[at..].first_chunk().map_or(0, |four| u32::from_le_bytes(*four) as usize)
}

fn digest_at(bytes: &[u8], at: usize) -> Digest {
    Digest::from_bytes(bytes[at..].first_chunk().copied().unwrap_or_default())
}
