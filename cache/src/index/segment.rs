//! A segment: many entries in one file that is written once, mapped, and never changed.
//!
//! ```text
//! segment = "qpipeidx" ++ u32 version ++ u32 zero ++ u64 slots ++ slots × slot ++ entries
//! slot    = u64 first 8 bytes of the key, big-endian ++ u64 place of its entry in the file, 0 for none
//! entry   = u64 first 8 bytes of the BLAKE3 of the rest ++ u32 length ++ bytes
//! ```
//!
//! A key's slot is its first eight bytes scaled to the number of slots, or the next free one after it: keys are uniform,
//! and half of the slots are free. Slots are not protected by a checksum, since they cannot lie: an entry says itself
//! which key it is of.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use super::entry::Found;
use crate::digest::Digest;
use crate::mapped::Mapped;

const MAGIC: &[u8; 8] = b"qpipeidx";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 24;
const SLOT_BYTES: usize = 16;
const ENTRY_HEAD_BYTES: usize = 12;

/// Longer runs of taken slots do not occur unless the file is damaged.
const PROBES: usize = 256;

#[derive(Debug)]
pub(crate) struct Segment {
    map: Mapped,
    slots: usize,
}

impl Segment {
    /// The segment in a file; `None` for one that is gone, torn, or of another version.
    pub(crate) fn open(path: &Path) -> Option<Self> {
        let map = Mapped::of(&File::open(path).ok()?).ok()?;
        let head = map.get(..HEAD_BYTES)?;
        if &head[..8] != MAGIC || head[8..12] != VERSION.to_le_bytes() {
            return None;
        }
        let slots = usize::try_from(u64_at(head, 16)?).ok()?;
        map.get(HEAD_BYTES..slots.checked_mul(SLOT_BYTES)?.checked_add(HEAD_BYTES)?)?;
        Some(Self { map, slots })
    }

    /// The entry of a key that a reader accepts.
    pub(crate) fn find(&self, key: &Digest, accept: impl Fn(&Found) -> bool) -> Option<Found> {
        let tag = tag(key);
        let mut slot = home(tag, self.slots);
        for _ in 0..PROBES.min(self.slots) {
            let (slot_tag, place) = self.slot(slot)?;
            if place == 0 {
                return None;
            }
            if slot_tag == tag
                && let Some(found) = self.entry(place)
                && found.key().digest() == key
            {
                return accept(&found).then_some(found);
            }
            slot = (slot + 1) % self.slots;
        }
        None
    }

    /// Shows every sound entry.
    pub(crate) fn for_each(&self, mut show: impl FnMut(Found)) {
        let places = (0..self.slots).filter_map(|n| self.slot(n)).filter(|(_, place)| *place != 0);
        places.filter_map(|(_, place)| self.entry(place)).for_each(&mut show);
    }

    /// The file of these entries.
    pub(crate) fn encode(entries: &BTreeMap<Digest, Found>) -> Vec<u8> {
        let slots = 2 * entries.len().max(1);
        let mut table = vec![(0_u64, 0_u64); slots];
        let mut text = vec![0; HEAD_BYTES + SLOT_BYTES * slots];
        for (key, found) in entries {
            let mut slot = home(tag(key), slots);
            while table[slot].1 != 0 {
                slot = (slot + 1) % slots;
            }
            table[slot] = (tag(key), text.len() as u64);
            let bytes = found.bytes();
            text.extend(check(bytes).to_le_bytes());
            text.extend((bytes.len() as u32).to_le_bytes());
            text.extend(bytes);
        }
        text[..8].copy_from_slice(MAGIC);
        text[8..12].copy_from_slice(&VERSION.to_le_bytes());
        text[16..HEAD_BYTES].copy_from_slice(&(slots as u64).to_le_bytes());
        for (slot, (tag, place)) in text[HEAD_BYTES..].chunks_exact_mut(SLOT_BYTES).zip(table) {
            slot[..8].copy_from_slice(&tag.to_le_bytes());
            slot[8..].copy_from_slice(&place.to_le_bytes());
        }
        text
    }

    fn slot(&self, n: usize) -> Option<(u64, u64)> {
        let at = HEAD_BYTES + SLOT_BYTES * n;
        Some((u64_at(&self.map, at)?, u64_at(&self.map, at + 8)?))
    }

    fn entry(&self, place: u64) -> Option<Found> {
        let at = usize::try_from(place).ok()?;
        let expected = u64_at(&self.map, at)?;
        let len = u32::from_le_bytes(*self.map.get(at.checked_add(8)?..)?.first_chunk()?) as usize;
        let start = at + ENTRY_HEAD_BYTES;
        let bytes = self.map.get(start..start.checked_add(len)?)?;
        if check(bytes) != expected {
            return None;
        }
        Found::mapped(&self.map, start, len)
    }
}

fn tag(key: &Digest) -> u64 {
    key.as_bytes().first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

fn home(tag: u64, slots: usize) -> usize {
    ((u128::from(tag) * slots as u128) >> 64) as usize
}

pub(super) fn check(bytes: &[u8]) -> u64 {
    blake3::hash(bytes).as_bytes().first_chunk().map_or(0, |first| u64::from_le_bytes(*first))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
