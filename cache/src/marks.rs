//! Marks: which key is remembered under each node's name, so that remembering the same again asks no file.
//!
//! A run in which everything is cached remembers what is remembered already, a file per node. One file of marks, read
//! once and written when the store is closed, answers for all of them. A mark is as advisory as the memory it stands
//! for ([`crate::memory`]): a lost file of marks costs time, and a mark whose memory is gone costs the reason of a miss.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::digest::Digest;
use crate::error::StoreError;
use crate::key::ActionKey;
use crate::store::Disk;

const MAGIC: &[u8; 16] = b"qpipe-marks 1\n\0\0";
const DIGEST: usize = 32;

/// The digest at the end of a file of marks: of all that is remembered. Times would not do, since a file may be written
/// twice within the clock's tick.
pub(crate) fn stamp(path: &Path) -> Option<Digest> {
    let mut file = fs::File::open(path).ok()?;
    let mut tail = [0; DIGEST];
    file.seek(SeekFrom::End(-(DIGEST as i64))).ok()?;
    file.read_exact(&mut tail).ok()?;
    Some(Digest::from_bytes(tail))
}

type Map = HashMap<[u8; DIGEST], [u8; DIGEST]>;

/// Name → key, both as digests.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    state: Mutex<Option<State>>,
}

#[derive(Debug, Default)]
struct State {
    known: Map,
    /// What is new since it was read.
    added: Map,
}

impl Marks {
    /// Whether this key is remembered under this name.
    pub(crate) fn has(&self, disk: &Disk, node: &str, key: &ActionKey) -> bool {
        self.with(disk, |state| state.known.get(&tag(node)) == Some(key.digest().as_bytes()))
    }

    /// Notes that it is, from now on.
    pub(crate) fn add(&self, disk: &Disk, node: &str, key: &ActionKey) {
        self.with(disk, |state| {
            state.known.insert(tag(node), *key.digest().as_bytes());
            state.added.insert(tag(node), *key.digest().as_bytes());
        });
    }

    /// Writes what is new into the file, beside what other processes wrote meanwhile.
    pub(crate) fn flush(&self, disk: &Disk) -> Result<(), StoreError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(added) = state.as_mut().map(|state| std::mem::take(&mut state.added)) else { return Ok(()) };
        if added.is_empty() {
            return Ok(());
        }
        let mut all = read(disk);
        all.extend(added);
        let mut bytes = MAGIC.to_vec();
        bytes.extend(all.iter().flat_map(|(name, key)| [*name, *key]).flatten());
        bytes.extend(Digest::of_bytes(&bytes).as_bytes());
        disk.publish_advisory(&bytes, &disk.layout.marks())
    }

    fn with<T>(&self, disk: &Disk, act: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        act(state.get_or_insert_with(|| State { known: read(disk), added: Map::new() }))
    }
}

fn tag(node: &str) -> [u8; DIGEST] {
    *Digest::of_bytes(node.as_bytes()).as_bytes()
}

/// The marks of the file; none where it is missing or damaged.
fn read(disk: &Disk) -> Map {
    let Ok(bytes) = fs::read(disk.layout.marks()) else { return Map::new() };
    let Some((body, checksum)) = bytes.split_last_chunk::<DIGEST>() else { return Map::new() };
    if Digest::of_bytes(body).as_bytes() != checksum {
        return Map::new();
    }
    let Some(pairs) = body.strip_prefix(MAGIC) else { return Map::new() };
    let (pairs, _) = pairs.as_chunks::<{ 2 * DIGEST }>();
    pairs.iter().filter_map(|pair| Some((*pair.first_chunk()?, *pair.last_chunk()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::KeyDoc;
    use crate::testing::{overwrite, store};

    #[test]
    fn marks_are_kept_across_processes_and_a_damaged_file_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let doc = |semantics| KeyDoc::new("q", semantics);
        let (first, second) = (store(&dir), store(&dir));
        first.remember("a", &doc(1)).unwrap();
        second.remember("b", &doc(2)).unwrap();
        assert!(!second.is_marked("a", &doc(1).key()), "it read the marks before");
        drop((first, second));
        let reader = store(&dir);
        assert!(reader.is_marked("a", &doc(1).key()) && reader.is_marked("b", &doc(2).key()));
        assert!(!reader.is_marked("a", &doc(2).key()));
        let marks = reader.layout().marks();
        drop(reader);
        let mut bytes = fs::read(&marks).unwrap();
        bytes[20] ^= 1;
        overwrite(&marks, &bytes);
        let reader = store(&dir);
        assert!(!reader.is_marked("a", &doc(1).key()));
        reader.remember("a", &doc(1)).unwrap();
        assert!(reader.is_marked("a", &doc(1).key()));
        assert_eq!(reader.last_doc("a").unwrap().key, doc(1).key());
    }
}
