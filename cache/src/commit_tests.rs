//! Lookups: a hit, an absence, and every reason for damage.

use super::*;
use crate::Digest;
use crate::testing::{committed, overwrite, record, store};

fn fault(store: &Store, record: &ActionRecord) -> RecordFault {
    match store.lookup(&record.key) {
        Lookup::Damaged(fault) => fault,
        other => panic!("expected damage, found {other:?}"),
    }
}

#[test]
fn a_committed_action_is_a_hit_also_for_a_new_handle() {
    let dir = tempfile::tempdir().unwrap();
    let first = store(&dir);
    assert_eq!(first.lookup(&record("k", &[]).key), Lookup::Absent);
    let record = committed(&first, "k", b"content");
    assert_eq!(first.lookup(&record.key), Lookup::Hit(Box::new(record.clone())));
    assert_eq!(store(&dir).lookup(&record.key), Lookup::Hit(Box::new(record)));
}

#[test]
fn an_action_without_outputs_is_a_hit() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let record = record("k", &[]);
    store.commit(&record).unwrap();
    assert_eq!(store.lookup(&record.key), Lookup::Hit(Box::new(record)));
}

#[test]
fn a_missing_blob_is_a_miss_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let record = committed(&store, "k", b"content");
    let digest = Digest::of_bytes(b"content");
    std::fs::remove_file(store.blob_path(&digest).unwrap()).unwrap();
    let fault = fault(&store, &record);
    assert_eq!(fault, RecordFault::BlobMissing { digest });
    assert_eq!(fault.to_string(), format!("blob `{}` is missing", digest.short()));
    let again = committed(&store, "k", b"content");
    assert_eq!(store.lookup(&record.key), Lookup::Hit(Box::new(again)));
}

#[test]
fn a_truncated_blob_is_a_miss_even_when_it_is_only_reached() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let shard = store.put_bytes(b"a shard").unwrap();
    let root = store.put_bytes(b"root").unwrap();
    let mut record = record("k", &[("out", root, 4)]);
    record.refs.insert(shard);
    store.commit(&record).unwrap();
    overwrite(&store.blob_path(&shard).unwrap(), b"a sh");
    let fault = fault(&store, &record);
    assert!(
        matches!(fault, RecordFault::Blob(BlobFault::WrongSize { expected: 7, found: 4, .. })),
        "{fault}"
    );
}

#[test]
fn every_truncation_of_a_record_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let record = committed(&store, "k", b"content");
    let path = store.layout().action(&record.key);
    let text = std::fs::read(&path).unwrap();
    for len in 0..text.len() - 1 {
        overwrite(&path, &text[..len]);
        let fault = fault(&store, &record);
        assert!(matches!(fault, RecordFault::Unparsable { .. }), "{len}: {fault}");
    }
}

#[test]
fn a_flipped_bit_never_changes_what_a_hit_says() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let record = committed(&store, "k", b"content");
    let path = store.layout().action(&record.key);
    let text = std::fs::read(&path).unwrap();
    for bit in (0..text.len() * 8).step_by(3) {
        let mut altered = text.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        overwrite(&path, &altered);
        match store.lookup(&record.key) {
            Lookup::Hit(found) => assert_eq!(*found, record),
            Lookup::Damaged(_) => {}
            Lookup::Absent => panic!("bit {bit}: the record is there"),
        }
    }
}

#[test]
fn a_newer_record_is_refused_by_its_version() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let record = committed(&store, "k", b"content");
    let path = store.layout().action(&record.key);
    overwrite(&path, br#"{"format":"qpipe-action","version":2,"unknown":[]}"#);
    let fault = fault(&store, &record);
    assert_eq!(fault, RecordFault::NewerVersion { path, found: 2, supported: 1 });
}

#[test]
fn a_record_under_another_name_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let (a, b) = (committed(&store, "a", b"content"), committed(&store, "b", b"other"));
    std::fs::copy(store.layout().action(&a.key), dir.path().join("copy")).unwrap();
    std::fs::rename(dir.path().join("copy"), store.layout().action(&b.key)).unwrap();
    assert!(matches!(fault(&store, &b), RecordFault::KeyMismatch { found, .. } if found == a.key));
}

#[test]
fn inconsistent_records_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let digest = store.put_bytes(b"content").unwrap();
    let absent = record("k", &[("out", Digest::of_bytes(b"nowhere"), 7)]);
    assert!(matches!(store.commit(&absent), Err(StoreError::MissingBlob { .. })));
    let error = store.commit(&record("k", &[("out", digest, 8)])).unwrap_err();
    assert!(error.to_string().contains("states 8 bytes, its blob has 7"), "{error}");
    let mut unreached = record("k", &[("out", digest, 7)]);
    unreached.refs.clear();
    assert!(matches!(store.commit(&unreached), Err(StoreError::InconsistentRecord { .. })));
    assert_eq!(store.lookup(&absent.key), Lookup::Absent);
}
