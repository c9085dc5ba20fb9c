//! The thorough check finds what `stat` cannot, and its repair makes room for a new attempt.

use super::*;
use crate::Lookup;
use crate::testing::{committed, count, overwrite, store};

#[test]
fn a_sound_store_is_clean() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    committed(&store, "a", b"content");
    committed(&store, "b", b"more");
    let file = dir.path().join("f");
    fs::write(&file, b"linked").unwrap();
    store.link_file(&file).unwrap();
    let report = store.verify(Repair::Nothing);
    assert!(report.is_clean(), "{:?}", report.faults);
    assert_eq!((report.blobs, report.links, report.records, report.bytes), (2, 1, 2, 7 + 4 + 6));
}

#[test]
fn altered_bytes_of_equal_size_are_found_and_healed() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let record = committed(&store, "a", b"content");
    let digest = Digest::of_bytes(b"content");
    overwrite(&store.blob_path(&digest).unwrap(), b"CONTENT");
    assert!(matches!(store.lookup(&record.key), Lookup::Hit(_)), "stat cannot see it");

    let report = store.verify(Repair::Nothing);
    assert!(
        matches!(report.faults[..], [VerifyFault::Blob(BlobFault::Damaged { .. })]),
        "{:?}",
        report.faults
    );
    store.contains(&digest).unwrap();

    let report = store.verify(Repair::SetAside);
    assert_eq!(report.faults.len(), 2, "the blob, and the record that needs it: {:?}", report.faults);
    assert!(matches!(store.lookup(&record.key), Lookup::Damaged(_)));
    committed(&store, "a", b"content");
    assert!(store.verify(Repair::Nothing).is_clean());
}

#[test]
fn a_garbage_record_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let record = committed(&store, "a", b"content");
    overwrite(&store.layout().action(&record.key), b"garbage");
    let report = store.verify(Repair::SetAside);
    assert!(matches!(report.faults[..], [VerifyFault::Record { key, .. }] if key == record.key));
    assert_eq!(store.lookup(&record.key), Lookup::Absent);
    assert_eq!(count(&store.layout().damaged), 1);
    assert!(store.verify(Repair::Nothing).is_clean());
}

#[test]
fn changed_links_and_strays_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let file = dir.path().join("f");
    fs::write(&file, b"linked").unwrap();
    store.link_file(&file).unwrap();
    fs::write(&file, b"changed").unwrap();
    let bucket = store.layout().blob_bucket(0xab);
    fs::create_dir_all(&bucket).unwrap();
    fs::write(bucket.join("notes.txt"), b"").unwrap();
    let faults = store.verify(Repair::Nothing).faults;
    assert!(
        matches!(faults[..], [VerifyFault::Stray { .. }, VerifyFault::Blob(BlobFault::Changed { .. })]),
        "{faults:?}"
    );
}

#[test]
fn a_link_whose_bytes_changed_unseen_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let file = dir.path().join("f");
    fs::write(&file, b"linked").unwrap();
    let digest = store.link_file(&file).unwrap();
    // a link that claims the right times for the wrong bytes
    let wrong = Digest::of_bytes(b"else");
    let text = fs::read_to_string(store.layout().link(&digest)).unwrap();
    let body = text.split_once("\"body\":").unwrap().1.trim_end().strip_suffix('}').unwrap();
    let body: serde_json::Value =
        serde_json::from_str(&body.replace(&digest.to_string(), &wrong.to_string())).unwrap();
    let format = crate::sealed::Format { name: "qpipe-link", version: 1 };
    store.publish(&crate::sealed::seal(format, &body).unwrap(), &store.layout().link(&wrong)).unwrap();
    store.contains(&wrong).unwrap();
    let faults = store.verify(Repair::SetAside).faults;
    assert!(matches!(faults[..], [VerifyFault::Blob(BlobFault::Damaged { .. })]), "{faults:?}");
    assert!(store.contains(&wrong).is_err());
    assert!(file.exists(), "an owner's file is never touched");
}
