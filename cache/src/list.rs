//! What a person asks of the records: which there are, how large, how old, and whether gc would keep them.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::catalog::Catalog;
use crate::error::{RecordFault, StoreError};
use crate::key::ActionKey;
use crate::store::Store;

/// One record, as a list shows it.
#[derive(Clone, Debug)]
pub struct RecordInfo {
    /// The action.
    pub key: ActionKey,
    /// Stage type, or the type of a unit of work; empty for a record that cannot be read.
    pub stage: String,
    /// Sum of the sizes of the blobs it reaches, bytes; shared ones count in each record.
    pub bytes: u64,
    /// When it was committed, milliseconds since the Unix epoch.
    pub committed_unix_ms: u64,
    /// When it was last looked up or committed by a process that has ended, milliseconds since the Unix epoch.
    pub last_use_unix_ms: u64,
    /// How long the action took, milliseconds.
    pub elapsed_ms: u64,
    /// The names that pin it.
    pub pins: Vec<String>,
    /// Why it cannot be read, where it cannot.
    pub fault: Option<RecordFault>,
}

impl RecordInfo {
    /// The time since it was committed.
    pub fn age(&self) -> Duration {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        now.saturating_sub(Duration::from_millis(self.committed_unix_ms))
    }
}

impl Store {
    /// Every record, the last used first.
    ///
    /// # Errors
    /// [`StoreError::DamagedPin`], and [`StoreError::Io`] where the store cannot be listed.
    pub fn ls(&self) -> Result<Vec<RecordInfo>, StoreError> {
        let mut catalog = Catalog::new();
        catalog.refresh(self)?;
        let (uses, mut pinned) = (self.last_uses(), BTreeMap::<ActionKey, Vec<String>>::new());
        for pin in self.pins()? {
            for key in pin.keys {
                pinned.entry(key).or_default().push(pin.name.clone());
            }
        }
        let info = |(key, entry): (ActionKey, crate::catalog::Entry)| {
            let committed_unix_ms = u64::try_from(entry.identity.mtime_ns).unwrap_or(0) / 1_000_000;
            let used = uses.get(key.digest()).copied().unwrap_or(0);
            let (brief, fault) = match entry.brief {
                Ok(brief) => (Some(brief), None),
                Err(fault) => (None, Some(fault)),
            };
            RecordInfo {
                key,
                bytes: brief.iter().flat_map(|b| &b.refs).map(|(_, bytes)| bytes).sum(),
                elapsed_ms: brief.as_ref().map_or(0, |b| b.elapsed_ms),
                stage: brief.map_or_else(String::new, |b| b.kind),
                committed_unix_ms,
                last_use_unix_ms: used.max(committed_unix_ms),
                pins: pinned.remove(&key).unwrap_or_default(),
                fault,
            }
        };
        let mut all: Vec<RecordInfo> = catalog.into_entries().map(info).collect();
        all.sort_unstable_by_key(|r| (std::cmp::Reverse(r.last_use_unix_ms), r.key));
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{committed, overwrite, store};

    #[test]
    fn records_are_listed_with_size_pins_use_and_damage() {
        let dir = tempfile::tempdir().unwrap();
        let made = store(&dir);
        let (a, b, c) =
            (committed(&made, "a", b"12345"), committed(&made, "b", b"1"), committed(&made, "c", b"22"));
        made.pin("best", &[a.key].into()).unwrap();
        made.pin("paper", &[a.key].into()).unwrap();
        overwrite(&made.layout().action(&c.key), b"garbage");
        drop(made);
        std::thread::sleep(std::time::Duration::from_millis(30));
        let reader = store(&dir);
        reader.lookup(&b.key);
        drop(reader);
        let listed = store(&dir).ls().unwrap();
        assert_eq!(listed.len(), 3);
        assert_eq!(listed[0].key, b.key, "the last used first");
        assert!(listed[0].last_use_unix_ms > listed[0].committed_unix_ms);
        let of = |key| listed.iter().find(|info| info.key == key).unwrap();
        assert_eq!((of(a.key).stage.as_str(), of(a.key).bytes, of(a.key).elapsed_ms), ("a", 5, 2));
        assert_eq!(of(a.key).pins, ["best", "paper"]);
        assert!(of(a.key).age() < std::time::Duration::from_mins(1));
        assert!(of(b.key).pins.is_empty() && of(b.key).fault.is_none());
        assert!(of(c.key).fault.is_some());
    }
}
