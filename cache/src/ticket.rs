//! Tickets: notes that a caller leaves to itself under a digest, to save work the next time.
//!
//! ```text
//! index/<64 hex>.ticket = "qpipe-ticket 1\n\0" ++ BLAKE3 of the body (32 bytes) ++ body
//! ```
//!
//! The body is the caller's. A ticket is advice: written whole and renamed, never synced, gone after a gc, and no more
//! than [`MOST`] or [`MOST_BYTES`] of them are kept, the newest. One that is damaged or of another version is none.
//! Whoever acts on one checks first that what it says still holds: [`Store::confirm`] does so for records and blobs,
//! [`Store::memory_stamp`] for the memory of nodes.

use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use crate::batch::Answer;
use crate::digest::Digest;
use crate::error::StoreError;
use crate::index::Found;
use crate::key::ActionKey;
use crate::layout;
use crate::marks;
use crate::store::Store;

const MAGIC: &[u8; 16] = b"qpipe-ticket 1\n\0";
const DIGEST: usize = 32;
const SUFFIX: &str = "ticket";
const HASHED_AT_ONCE: usize = 64 << 10;

/// Most tickets of a store.
const MOST: usize = 64;
/// Most bytes of all tickets of a store.
const MOST_BYTES: u64 = 256 << 20;

/// Results of several actions, as one digest: equal only if every record is the same file with the same content.
#[derive(Clone, Debug, Default)]
pub struct Results {
    hasher: blake3::Hasher,
    /// Not hashed yet: many results at once take a fraction of what they take one by one.
    waiting: Vec<u8>,
}

impl Results {
    /// Adds the result of the next action.
    pub fn add(&mut self, result: &Found) {
        let bytes = result.bytes();
        self.waiting.extend((bytes.len() as u64).to_le_bytes());
        self.waiting.extend(bytes);
        if self.waiting.len() >= HASHED_AT_ONCE {
            self.hasher.update(&self.waiting);
            self.waiting.clear();
        }
    }

    /// The digest of all that was added, in order.
    pub fn digest(&self) -> Digest {
        let mut hasher = self.hasher.clone();
        hasher.update(&self.waiting);
        Digest::finish(&hasher)
    }
}

impl Store {
    /// The body of a ticket; `None` where there is none, or none that is whole.
    pub fn ticket(&self, name: &Digest) -> Option<Vec<u8>> {
        let mut text = fs::read(self.ticket_path(name)).ok()?;
        let (digest, body) = text.strip_prefix(MAGIC)?.split_first_chunk::<DIGEST>()?;
        (Digest::of_bytes_here(body).as_bytes() == digest).then_some(())?;
        text.drain(..MAGIC.len() + DIGEST);
        Some(text)
    }

    /// Leaves a ticket, in place of an older one of the same name, and takes away the oldest of too many.
    ///
    /// # Errors
    /// Those of writing to the store.
    pub fn keep_ticket(&self, name: &Digest, body: &[u8]) -> Result<(), StoreError> {
        let mut text = Vec::with_capacity(MAGIC.len() + DIGEST + body.len());
        text.extend(MAGIC);
        text.extend(Digest::of_bytes_here(body).as_bytes());
        text.extend(body);
        self.publish_advisory(&text, &self.ticket_path(name))?;
        let mut tickets = self.tickets()?;
        tickets.sort_unstable_by(|a, b| b.cmp(a));
        let mut bytes = 0;
        for (kept, (_, size, path)) in tickets.iter().enumerate() {
            bytes += size;
            if kept >= MOST || bytes > MOST_BYTES {
                self.fs().remove(path)?;
            }
        }
        Ok(())
    }

    /// Takes all tickets away.
    pub(crate) fn remove_tickets(&self) -> Result<(), StoreError> {
        self.tickets()?.iter().try_for_each(|(_, _, path)| self.fs().remove(path))
    }

    /// The digest of what these actions made, if every one of them is a hit as [`Self::lookup_many`] says.
    pub fn confirm(&self, keys: &[ActionKey]) -> Option<Digest> {
        let mut results = Results::default();
        for answer in self.lookup_many(keys) {
            let Answer::Hit(found) = answer else { return None };
            results.add(&found);
        }
        Some(results.digest())
    }

    /// Which memories of nodes there are: while it stays the same, [`Self::remember`] has remembered nothing new. `None`
    /// where that cannot be said.
    pub fn memory_stamp(&self) -> Option<Digest> {
        self.flush_marks().ok()?;
        marks::stamp(&self.layout().marks())
    }

    fn ticket_path(&self, name: &Digest) -> PathBuf {
        self.layout().index.join(format!("{name}.{SUFFIX}"))
    }

    /// When each ticket was written, its size and place.
    fn tickets(&self) -> Result<Vec<(SystemTime, u64, PathBuf)>, StoreError> {
        let mut paths = layout::list(&self.layout().index)?;
        paths.retain(|path| path.extension().is_some_and(|extension| extension == SUFFIX));
        let entry = |path: PathBuf| {
            // one that is gone was taken away by another process
            let meta = fs::metadata(&path).ok()?;
            Some((meta.modified().ok()?, meta.len(), path))
        };
        Ok(paths.into_iter().filter_map(entry).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::KeyDoc;
    use crate::testing::{overwrite, store};

    #[test]
    fn a_ticket_is_found_by_its_name_and_a_damaged_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir);
        let (name, other) = (Digest::of_bytes(b"a"), Digest::of_bytes(b"b"));
        assert_eq!(store.ticket(&name), None);
        store.keep_ticket(&name, b"old").unwrap();
        store.keep_ticket(&name, b"body").unwrap();
        assert_eq!((store.ticket(&name).as_deref(), store.ticket(&other)), (Some(&b"body"[..]), None));
        let path = store.ticket_path(&name);
        let text = fs::read(&path).unwrap();
        for at in 0..text.len() {
            let mut altered = text.clone();
            altered[at] ^= 1;
            overwrite(&path, &altered);
            assert_eq!(store.ticket(&name), None, "byte {at}");
            overwrite(&path, &text[..at]);
            assert_eq!(store.ticket(&name), None, "{at} bytes");
        }
    }

    #[test]
    fn only_the_newest_tickets_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir);
        let name = |n: usize| Digest::of_bytes(&n.to_le_bytes());
        let then = SystemTime::now() - std::time::Duration::from_secs(1000);
        for n in 0..MOST + 3 {
            store.keep_ticket(&name(n), b"x").unwrap();
            let file = fs::File::open(store.ticket_path(&name(n))).unwrap();
            file.set_modified(then + std::time::Duration::from_secs(n as u64)).unwrap();
        }
        assert_eq!(store.tickets().unwrap().len(), MOST);
        assert_eq!((store.ticket(&name(2)), store.ticket(&name(3))), (None, Some(b"x".to_vec())));
        store.remove_tickets().unwrap();
        assert_eq!(store.tickets().unwrap().len(), 0);
    }

    #[test]
    fn the_memorys_stamp_changes_with_what_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir);
        assert_eq!(store.memory_stamp(), None);
        store.remember("a", &KeyDoc::new("q", 1)).unwrap();
        let stamp = store.memory_stamp();
        assert!(stamp.is_some());
        store.remember("a", &KeyDoc::new("q", 1)).unwrap();
        assert_eq!(store.memory_stamp(), stamp);
        // several within a tick of the clock
        let mut last = stamp;
        for semantics in 2..50 {
            store.remember("a", &KeyDoc::new("q", semantics)).unwrap();
            let stamp = store.memory_stamp();
            assert_ne!(stamp, last, "{semantics}");
            last = stamp;
        }
    }
}
