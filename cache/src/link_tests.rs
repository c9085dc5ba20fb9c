//! Links: an unchanged file is not read again, a changed one is never used.

use std::time::Duration;

use super::*;
use crate::testing::{record, store};
use crate::{Lookup, RecordFault};

struct Fixture {
    _dir: tempfile::TempDir,
    store: Store,
    file: PathBuf,
    digest: Digest,
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("model.safetensors");
    fs::write(&file, b"tensors").unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let digest = store.link_file(&file).unwrap();
    Fixture { _dir: dir, store, file, digest }
}

#[test]
fn a_linked_file_is_a_blob_without_a_copy() {
    let f = fixture();
    assert_eq!(f.digest, Digest::of_bytes(b"tensors"));
    f.store.contains(&f.digest).unwrap();
    assert_eq!(f.store.blob_path(&f.digest).unwrap(), fs::canonicalize(&f.file).unwrap());
    assert_eq!(&*f.store.map(&f.digest).unwrap(), b"tensors");
    assert_eq!(f.store.read(&f.digest).unwrap(), b"tensors");
    assert_eq!(f.store.du().blobs.count, 0);
}

#[test]
fn a_changed_file_is_refused_everywhere_until_it_is_linked_again() {
    let f = fixture();
    let record = record("load", &[("model", f.digest, 7)]);
    f.store.commit(&record).unwrap();
    assert!(matches!(f.store.lookup(&record.key), Lookup::Hit(_)));
    fs::write(&f.file, b"TENSORS").unwrap(); // same size, same inode, right after hashing
    let path = fs::canonicalize(&f.file).unwrap();
    assert_eq!(f.store.contains(&f.digest), Err(BlobFault::Changed { digest: f.digest, path: path.clone() }));
    assert!(matches!(f.store.map(&f.digest), Err(StoreError::ChangedLink { .. })));
    assert!(matches!(f.store.read(&f.digest), Err(StoreError::ChangedLink { .. })));
    assert!(matches!(f.store.blob_path(&f.digest), Err(StoreError::ChangedLink { .. })));
    let Lookup::Damaged(fault) = f.store.lookup(&record.key) else { panic!("a hit on a changed file") };
    assert_eq!(fault, RecordFault::LinkChanged { digest: f.digest, path });
    assert!(fault.to_string().contains("model.safetensors"), "{fault}");
    assert!(matches!(f.store.commit(&record), Err(StoreError::ChangedLink { .. })));

    assert_eq!(f.store.link_file(&f.file).unwrap(), Digest::of_bytes(b"TENSORS"));
    fs::write(&f.file, b"tensors").unwrap();
    assert_eq!(f.store.link_file(&f.file).unwrap(), f.digest);
    assert!(matches!(f.store.lookup(&record.key), Lookup::Hit(_)));
}

#[test]
fn an_adopted_file_is_a_blob_of_this_process_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (file, store) = (dir.path().join("given"), store(&dir));
    fs::write(&file, b"given").unwrap();
    let digest = Digest::of_bytes(b"given");
    store.adopt_file(&digest, &file).unwrap();
    let record = record("load", &[("model", digest, 5)]);
    store.commit(&record).unwrap();
    assert!(matches!(store.lookup(&record.key), Lookup::Hit(_)));
    assert_eq!(store.read(&digest).unwrap(), b"given");
    assert!(crate::layout::list(&dir.path().join("v1/links")).unwrap().is_empty(), "nothing is written");
    assert_eq!(Store::open(dir.path()).unwrap().contains(&digest), Err(BlobFault::Missing { digest }));

    fs::write(&file, b"other").unwrap();
    let path = fs::canonicalize(&file).unwrap();
    assert_eq!(store.contains(&digest), Err(BlobFault::Changed { digest, path }));
    // of the same size and times, but not what was said
    store.adopt_file(&digest, &file).unwrap();
    assert!(matches!(store.read(&digest), Err(StoreError::DamagedBlob { .. })));
    assert_eq!(store.contains(&digest), Err(BlobFault::Missing { digest }), "its word is not taken again");
}

#[test]
fn a_rewrite_that_restores_the_modification_time_is_seen() {
    let f = fixture();
    let modified = fs::metadata(&f.file).unwrap().modified().unwrap();
    fs::write(&f.file, b"TENSORS").unwrap();
    fs::File::options().write(true).open(&f.file).unwrap().set_modified(modified).unwrap();
    assert!(matches!(f.store.contains(&f.digest), Err(BlobFault::Changed { .. })));
}

#[test]
fn a_file_is_hashed_only_once_its_times_lie_a_tick_in_the_past() {
    let f = fixture();
    fs::write(&f.file, b"TENSORS").unwrap();
    f.store.link_file(&f.file).unwrap();
    // measured from the file's own time, which may lag the clock by a tick
    let written = fs::metadata(&f.file).unwrap().modified().unwrap();
    assert!(written.elapsed().unwrap() >= TICK);
}

#[test]
fn rewrites_in_quick_succession_are_never_mistaken_for_one_another() {
    let f = fixture();
    for round in 0..20_u8 {
        let content = [b'a' + round; 7];
        fs::write(&f.file, content).unwrap();
        assert_eq!(f.store.link_file(&f.file).unwrap(), Digest::of_bytes(&content));
    }
}

#[test]
fn a_vanished_file_is_a_changed_link() {
    let f = fixture();
    fs::remove_file(&f.file).unwrap();
    assert!(matches!(f.store.contains(&f.digest), Err(BlobFault::Changed { .. })));
    assert!(matches!(f.store.link_file(&f.file), Err(StoreError::Io { op: "resolve", .. })));
}

#[test]
fn an_unchanged_file_is_not_hashed_again() {
    let f = fixture();
    // a stat entry that names another digest shows whether it is believed
    let place = Place::stat(fs::canonicalize(&f.file).unwrap().to_str().unwrap()).unwrap();
    let planted = Digest::of_bytes(b"planted");
    f.store.note_seen(&place, planted).unwrap();
    assert_eq!(f.store.link_file(&f.file).unwrap(), f.digest, "this process knows it by itself");
    let next = Store::open(f.store.root()).unwrap();
    assert_eq!(next.link_file(&f.file).unwrap(), planted);
    std::thread::sleep(Duration::from_millis(20));
    fs::File::options().write(true).open(&f.file).unwrap().set_modified(SystemTime::now()).unwrap();
    assert_eq!(next.link_file(&f.file).unwrap(), f.digest);
}

#[test]
fn a_path_that_leads_to_another_file_by_now_is_looked_at_anew() {
    let f = fixture();
    let (link, other) = (f.file.with_file_name("link"), f.file.with_file_name("other"));
    fs::write(&other, b"others!").unwrap();
    for (target, content) in [(&f.file, b"tensors"), (&other, b"others!"), (&f.file, b"tensors")] {
        let _old = fs::remove_file(&link);
        std::os::unix::fs::symlink(target, &link).unwrap();
        for _ in 0..2 {
            assert_eq!(f.store.link_file(&link).unwrap(), Digest::of_bytes(content));
        }
    }
}

#[test]
fn a_link_that_gc_or_a_repair_removed_is_made_again() {
    let f = fixture();
    fs::remove_file(f.store.layout().link(&f.digest)).unwrap();
    assert!(f.store.contains(&f.digest).is_err());
    f.store.link_file(&f.file).unwrap();
    f.store.contains(&f.digest).unwrap();
}

#[test]
fn a_damaged_stat_entry_is_no_entry() {
    let f = fixture();
    let path = f.store.layout().stat_of(fs::canonicalize(&f.file).unwrap().to_str().unwrap());
    let text = fs::read_to_string(&path).unwrap();
    crate::testing::overwrite(&path, text.replace(&f.digest.to_string()[..6], "000000").as_bytes());
    assert_eq!(f.store.link_file(&f.file).unwrap(), f.digest);
}

#[test]
fn one_intact_place_is_enough() {
    let f = fixture();
    let second = f.file.with_file_name("copy");
    fs::copy(&f.file, &second).unwrap();
    assert_eq!(f.store.link_file(&second).unwrap(), f.digest);
    fs::remove_file(&second).unwrap();
    assert_eq!(f.store.blob_path(&f.digest).unwrap(), fs::canonicalize(&f.file).unwrap());
    fs::copy(&f.file, &second).unwrap();
    f.store.link_file(&second).unwrap();
    fs::remove_file(&f.file).unwrap();
    assert_eq!(f.store.blob_path(&f.digest).unwrap(), fs::canonicalize(&second).unwrap());
}

#[test]
fn a_symbolic_link_is_followed_to_its_target() {
    let f = fixture();
    let link = f.file.with_file_name("link");
    std::os::unix::fs::symlink(&f.file, &link).unwrap();
    assert_eq!(f.store.link_file(&link).unwrap(), f.digest);
    fs::remove_file(&link).unwrap();
    f.store.contains(&f.digest).unwrap();
}

#[test]
fn only_regular_files_are_linked() {
    let f = fixture();
    let error = f.store.link_file(f.file.parent().unwrap()).unwrap_err();
    assert!(error.to_string().contains("not a regular file"), "{error}");
}

#[test]
fn an_owned_copy_outlives_the_linked_file() {
    let f = fixture();
    f.store.put_bytes(b"tensors").unwrap();
    fs::remove_file(&f.file).unwrap();
    assert_eq!(f.store.read(&f.digest).unwrap(), b"tensors");
}

#[test]
fn a_damaged_link_says_so_and_is_replaced_by_linking_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let file = dir.path().join("f");
    fs::write(&file, b"x").unwrap();
    let digest = store.link_file(&file).unwrap();
    crate::testing::overwrite(&store.layout().link(&digest), b"{");
    assert!(matches!(store.contains(&digest), Err(BlobFault::Unreadable { .. })));
    store.link_file(&file).unwrap();
    store.contains(&digest).unwrap();
}
