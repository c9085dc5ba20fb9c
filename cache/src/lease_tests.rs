//! Leases: what is announced, who is living, and what an empty one means.

use std::sync::Arc;

use super::*;
use crate::fault::{Fault, Faults};
use crate::testing::{committed, count, store};
use crate::{KeyDoc, Lookup};

#[test]
fn whatever_a_process_relies_on_is_announced_before_it_is_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    let first = store(&dir);
    let record = committed(&first, "a", b"content");
    drop(first);
    let reader = store(&dir);
    let absent = KeyDoc::new("absent", 1).key();
    assert_eq!(reader.lookup(&absent), Lookup::Absent);
    assert!(matches!(reader.lookup(&record.key), Lookup::Hit(_)));
    reader.map(&Digest::of_bytes(b"content")).unwrap();
    let put = reader.put_bytes(b"new").unwrap();
    let all = reader.protected().unwrap();
    assert_eq!(all.keys, [*absent.digest(), *record.key.digest()].into_iter().collect());
    assert_eq!(all.blobs, [Digest::of_bytes(b"content"), put].into_iter().collect());
    assert_eq!(all.whole, None);
}

#[test]
fn a_lease_ends_with_its_handle_and_leaves_a_history() {
    let dir = tempfile::tempdir().unwrap();
    let watcher = store(&dir);
    let first = store(&dir);
    let record = committed(&first, "a", b"content");
    assert!(watcher.protected().unwrap().keys.contains(record.key.digest()));
    assert!(!watcher.last_uses().contains_key(record.key.digest()));
    drop(first);
    assert!(watcher.protected().unwrap().keys.is_empty());
    assert!(watcher.last_uses()[record.key.digest()] > 0);
    assert_eq!(count(&watcher.layout().leases), 0);
}

#[test]
fn a_lease_without_a_lock_protects_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let mut text = HEADER.to_vec();
    text.push(KEY_TAG);
    text.extend(Digest::of_bytes(b"k").as_bytes());
    fs::write(store.layout().leases.join("dead"), &text).unwrap();
    fs::write(store.layout().leases.join("dead-newborn"), b"").unwrap();
    let all = store.protected().unwrap();
    assert!(all.keys.is_empty() && all.whole.is_none());
}

#[test]
fn half_a_row_is_not_announced_yet() {
    let mut all = Protected::default();
    let mut rows = vec![KEY_TAG];
    rows.extend(Digest::of_bytes(b"k").as_bytes());
    rows.extend([BLOB_TAG, 1, 2, 3]);
    all.add(&rows);
    assert_eq!((all.keys.len(), all.blobs.len()), (1, 0));
}

#[test]
fn a_lease_that_cannot_be_written_protects_everything() {
    let dir = tempfile::tempdir().unwrap();
    store(&dir);
    for torn in [Fault::Error(io::ErrorKind::StorageFull), Fault::TornError(io::ErrorKind::StorageFull)] {
        let probe = Faults::none();
        drop(Store::open_with_faults(dir.path(), probe.clone()).unwrap());
        // creating the lease is the first step after the opening, writing it the second
        let faults = Faults::at(probe.steps() + 2, torn);
        let full = Store::open_with_faults(dir.path(), faults.clone()).unwrap();
        full.put_bytes(b"x").unwrap();
        assert!(full.protected().unwrap().whole.is_some(), "{:?}", faults.journal());
        let report = full.gc(&crate::GcOptions { grace: Duration::ZERO, ..Default::default() }).unwrap();
        assert!(report.held_by.is_some());
        assert_eq!(report.freed_bytes(), 0);
    }
}

#[test]
fn on_a_read_only_store_readers_go_on_without_a_lease() {
    let dir = tempfile::tempdir().unwrap();
    let record = committed(&store(&dir), "a", b"content");
    let faults = Faults::from(1, Fault::Error(io::ErrorKind::ReadOnlyFilesystem));
    let read_only = Store::open_with_faults(dir.path(), Arc::clone(&faults)).unwrap();
    assert!(matches!(read_only.lookup(&record.key), Lookup::Hit(_)));
    assert_eq!(read_only.read(&Digest::of_bytes(b"content")).unwrap(), b"content");
    let error = read_only.put_bytes(b"new").unwrap_err();
    assert!(matches!(error, StoreError::ReadOnly { op: "create", .. }), "{error}");
    assert!(matches!(read_only.commit(&record), Err(StoreError::ReadOnly { .. })));
    assert!(matches!(read_only.gc(&crate::GcOptions::default()), Err(StoreError::ReadOnly { .. })));
    assert!(faults.journal().is_empty(), "{:?}", faults.journal());
}

#[test]
fn each_thing_is_announced_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let record = committed(&store, "a", b"content");
    let size = || store.du().bookkeeping.bytes;
    let before = size();
    for _ in 0..3 {
        store.lookup(&record.key);
        store.put_bytes(b"content").unwrap();
    }
    assert_eq!(size(), before);
}
