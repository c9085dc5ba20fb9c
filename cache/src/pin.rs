//! Pins: keys that gc keeps, under a name a person chose.
//!
//! A pin keeps the records of its keys and every blob they refer to. It is a root that outlives processes, so it is
//! written like a record: sealed and synced. A pin that cannot be read stops gc, since nobody knows what it protects.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::commit::Lookup;
use crate::error::StoreError;
use crate::key::ActionKey;
use crate::layout;
use crate::sealed::{self, Format};
use crate::store::Store;

const PIN: Format = Format { name: "qpipe-pin", version: 1 };
const NAME_BYTES: usize = 100;

/// A named root of gc.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// The name it was given.
    pub name: String,
    /// The keys it keeps.
    pub keys: BTreeSet<ActionKey>,
    /// When it was set, milliseconds since the Unix epoch.
    pub unix_ms: u64,
}

impl Store {
    /// Keeps the records of `keys` under `name`; replaces what the name held.
    ///
    /// # Errors
    /// [`StoreError::BadPinName`], [`StoreError::MissingRecord`] for a key that is no hit (the name then keeps what it
    /// held before), and the errors of writing.
    pub fn pin(&self, name: &str, keys: &BTreeSet<ActionKey>) -> Result<(), StoreError> {
        check_name(name)?;
        let all: Vec<ActionKey> = keys.iter().copied().collect();
        self.lease().protect(self.layout(), self.fs(), &all, &mut std::iter::empty())?;
        for key in keys {
            match self.lookup(key) {
                Lookup::Hit(_) => {}
                Lookup::Absent | Lookup::Damaged(_) => return Err(StoreError::MissingRecord { key: *key }),
            }
        }
        let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        let pin = Pin { name: name.to_owned(), keys: keys.clone(), unix_ms };
        let to = self.layout().pin(name);
        self.publish(&sealed::seal_for(PIN, &pin, &to)?, &to).map(drop)
    }

    /// Forgets a pin; tells whether there was one. Also a damaged pin can be forgotten.
    pub fn unpin(&self, name: &str) -> Result<bool, StoreError> {
        check_name(name)?;
        let path = self.layout().pin(name);
        if !path.exists() {
            return Ok(false);
        }
        self.fs().remove(&path)?;
        self.fs().sync_dir(&self.layout().pins)?;
        Ok(true)
    }

    /// Every pin, by name.
    ///
    /// # Errors
    /// [`StoreError::DamagedPin`], and [`StoreError::Io`] where the file system does not say.
    pub fn pins(&self) -> Result<Vec<Pin>, StoreError> {
        let mut pins = Vec::new();
        for path in layout::list(&self.layout().pins)? {
            pins.extend(read_pin(&path)?);
        }
        pins.sort_unstable_by(|a: &Pin, b| a.name.cmp(&b.name));
        Ok(pins)
    }
}

/// The pin in a file; `None` when it was forgotten meanwhile.
fn read_pin(path: &Path) -> Result<Option<Pin>, StoreError> {
    let damaged = |reason: String| StoreError::DamagedPin { path: path.to_owned(), reason };
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(StoreError::reading("read", path)(e)),
    };
    let pin: Pin = sealed::open(PIN, &text).map_err(|fault| damaged(fault.to_string()))?;
    if path.file_stem().is_some_and(|stem| stem == pin.name.as_str()) {
        return Ok(Some(pin));
    }
    Err(damaged(format!("it is the pin `{}`", pin.name)))
}

fn check_name(name: &str) -> Result<(), StoreError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if (1..=NAME_BYTES).contains(&name.len()) && !name.starts_with('.') && name.chars().all(plain) {
        return Ok(());
    }
    Err(StoreError::BadPinName { name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KeyDoc;
    use crate::testing::{committed, overwrite, store};

    #[test]
    fn a_pin_is_set_listed_replaced_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir);
        let (a, b) = (committed(&store, "a", b"1").key, committed(&store, "b", b"2").key);
        store.pin("paper-v1", &[a, b].into()).unwrap();
        store.pin("best", &[b].into()).unwrap();
        store.pin("paper-v1", &[a].into()).unwrap();
        let pins = store.pins().unwrap();
        let named: Vec<_> = pins.iter().map(|p| (p.name.as_str(), p.keys.clone())).collect();
        assert_eq!(named, [("best", [b].into()), ("paper-v1", [a].into())]);
        assert!(store.unpin("best").unwrap());
        assert!(!store.unpin("best").unwrap());
        assert_eq!(store.pins().unwrap().len(), 1);
    }

    #[test]
    fn what_was_never_committed_cannot_be_pinned() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir);
        let key = KeyDoc::new("never", 1).key();
        let error = store.pin("p", &[key].into()).unwrap_err();
        assert!(matches!(error, StoreError::MissingRecord { key: k } if k == key), "{error}");
        assert!(store.pins().unwrap().is_empty());
    }

    #[test]
    fn names_stay_within_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir);
        for name in ["", ".", "..", ".hidden", "a/b", "ä", &"x".repeat(101)] {
            assert!(
                matches!(store.pin(name, &BTreeSet::new()), Err(StoreError::BadPinName { .. })),
                "{name}"
            );
            assert!(matches!(store.unpin(name), Err(StoreError::BadPinName { .. })), "{name}");
        }
    }

    #[test]
    fn a_damaged_pin_is_an_error_and_can_be_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir);
        store.pin("p", &BTreeSet::new()).unwrap();
        overwrite(&store.layout().pin("p"), b"{");
        assert!(matches!(store.pins(), Err(StoreError::DamagedPin { .. })));
        assert!(store.unpin("p").unwrap());
        assert!(store.pins().unwrap().is_empty());
    }
}
