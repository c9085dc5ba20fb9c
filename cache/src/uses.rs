//! When a key was last used: the leases of ended processes, kept as a history.
//!
//! Touching a file per hit would cost a write per key and run. The list of a process's keys exists anyway, as its
//! lease; when the process ends, the list is moved to `uses/`, and its time of change is the time of use of every key
//! in it. Once there are many, they are folded into one. All of it is advice: a lost history makes results look unused
//! since they were made.
//!
//! ```text
//! folded history = "qpipe-uses 1\n" ++ rows, keys ascending      row = key (32 bytes) ++ u64 unix ms, little-endian
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::digest::Digest;
use crate::digests::DigestMap;
use crate::error::StoreError;
use crate::fs::fresh_name;
use crate::layout;
use crate::lease::{self, KEY_TAG};
use crate::store::Store;

const FOLDED: &[u8] = b"qpipe-uses 1\n";
const ROW_BYTES: usize = 40;

/// More files than this are folded when a process ends.
const FOLD_ABOVE: usize = 32;

/// Key to the time of its last use, milliseconds since the Unix epoch.
pub(crate) type LastUses = DigestMap<u64>;

impl Store {
    /// The last use of every key that the history knows.
    pub(crate) fn last_uses(&self) -> LastUses {
        let files = layout::list(&self.layout().uses).unwrap_or_default();
        files.iter().fold(LastUses::default(), |mut all, path| {
            read_history(path, &mut all);
            all
        })
    }

    /// Folds the history when it has many files; whatever fails is left for the next.
    pub(crate) fn fold_uses_if_many(&self) {
        let files = layout::list(&self.layout().uses).unwrap_or_default();
        if files.len() > FOLD_ABOVE {
            let _later = self.fold_uses(&files, |_| true);
        }
    }

    /// Folds the whole history and forgets keys that are not wanted.
    pub(crate) fn fold_all_uses(&self, wanted: impl Fn(&Digest) -> bool) -> Result<(), StoreError> {
        self.fold_uses(&layout::list(&self.layout().uses)?, wanted)
    }

    /// Two that fold at once write the same rows twice, which the next folding mends.
    fn fold_uses(&self, files: &[PathBuf], wanted: impl Fn(&Digest) -> bool) -> Result<(), StoreError> {
        if files.is_empty() {
            return Ok(());
        }
        let mut all = LastUses::default();
        for path in files {
            read_history(path, &mut all);
        }
        let mut rows: Vec<_> = all.into_iter().filter(|(key, _)| wanted(key)).collect();
        rows.sort_unstable();
        let mut text = FOLDED.to_vec();
        for (key, unix_ms) in rows {
            text.extend(key.as_bytes());
            text.extend(unix_ms.to_le_bytes());
        }
        self.publish_advisory(&text, &self.layout().uses.join(fresh_name()))?;
        files.iter().try_for_each(|path| self.fs().remove(path))
    }
}

/// Adds what one file of the history says; one that cannot be read says nothing.
fn read_history(path: &Path, all: &mut LastUses) {
    let Ok(text) = fs::read(path) else { return };
    if let Some(rows) = text.strip_prefix(FOLDED) {
        for row in rows.chunks_exact(ROW_BYTES) {
            if let (Some(key), Some(time)) = (row.first_chunk(), row.last_chunk()) {
                note(all, Digest::from_bytes(*key), u64::from_le_bytes(*time));
            }
        }
    } else if let Some(rows) = text.strip_prefix(lease::HEADER) {
        let unix_ms = modified_unix_ms(path);
        for (tag, key) in rows.chunks_exact(lease::ROW_BYTES).filter_map(lease::row) {
            if tag == KEY_TAG {
                note(all, key, unix_ms);
            }
        }
    }
}

fn note(all: &mut LastUses, key: Digest, unix_ms: u64) {
    let last = all.entry(key).or_default();
    *last = unix_ms.max(*last);
}

fn modified_unix_ms(path: &Path) -> u64 {
    let modified = fs::metadata(path).and_then(|meta| meta.modified()).ok();
    modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0, |d| d.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{committed, count, store};

    #[test]
    fn a_folded_history_says_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let keys: Vec<_> =
            (0..5).map(|n| *committed(&store(&dir), &n.to_string(), b"x").key.digest()).collect();
        let last = store(&dir);
        let before = last.last_uses();
        assert_eq!(before.len(), 5);
        last.fold_all_uses(|_| true).unwrap();
        assert_eq!(count(&last.layout().uses), 1);
        assert_eq!(last.last_uses(), before);
        last.fold_all_uses(|key| *key == keys[2]).unwrap();
        assert_eq!(last.last_uses().into_keys().collect::<Vec<_>>(), [keys[2]]);
    }

    #[test]
    fn many_runs_leave_few_files() {
        let dir = tempfile::tempdir().unwrap();
        let record = committed(&store(&dir), "a", b"x");
        for _ in 0..2 * FOLD_ABOVE {
            store(&dir).lookup(&record.key);
        }
        assert!(count(&store(&dir).layout().uses) <= FOLD_ABOVE + 1);
    }

    #[test]
    fn a_damaged_history_says_less_and_never_fails() {
        let dir = tempfile::tempdir().unwrap();
        let record = committed(&store(&dir), "a", b"x");
        let last = store(&dir);
        last.fold_all_uses(|_| true).unwrap();
        let path = layout::list(&last.layout().uses).unwrap().remove(0);
        let text = fs::read(&path).unwrap();
        for len in 0..text.len() {
            crate::testing::overwrite(&path, &text[..len]);
            assert!(!last.last_uses().contains_key(record.key.digest()), "{len}");
        }
    }
}
