//! Segments: what they hold, how many there are, and what a foreign one says.

use super::*;
use crate::testing::{committed, memory_dir, store};
use crate::{ActionRecord, Answer};

fn segments(dir: &tempfile::TempDir) -> usize {
    segment_paths(store(dir).layout()).unwrap().len()
}

fn is_known(dir: &tempfile::TempDir, record: &ActionRecord) -> bool {
    let store = store(dir);
    let identity = crate::catalog::identify(&store.layout().action(&record.key)).unwrap().unwrap();
    store.index().find(store.disk(), &record.key, &identity).is_some()
}

#[test]
fn what_a_process_commits_or_looks_up_is_known_to_the_next() {
    let dir = memory_dir();
    let record = committed(&store(&dir), "a", b"content");
    assert!(is_known(&dir, &record));
    std::fs::remove_dir_all(store(&dir).layout().index.clone()).unwrap();
    assert!(!is_known(&dir, &record));
    store(&dir).lookup(&record.key);
    assert!(is_known(&dir, &record));
}

#[test]
fn many_processes_leave_few_segments() {
    let dir = memory_dir();
    let records: Vec<_> = (0..100).map(|n| committed(&store(&dir), &n.to_string(), b"content")).collect();
    let count = segments(&dir);
    assert!((1..=10).contains(&count), "{count} segments");
    assert!(records.iter().all(|record| is_known(&dir, record)));
}

#[test]
fn what_is_known_already_is_not_written_again() {
    let dir = memory_dir();
    let record = committed(&store(&dir), "a", b"content");
    let before = segment_paths(store(&dir).layout()).unwrap();
    assert!(matches!(store(&dir).lookup_many(&[record.key])[..], [Answer::Hit(_)]));
    store(&dir).lookup(&record.key);
    assert_eq!(segment_paths(store(&dir).layout()).unwrap(), before);
}

#[test]
fn gc_forgets_what_it_removed() {
    let dir = memory_dir();
    let (kept, lost) = (committed(&store(&dir), "a", b"1"), committed(&store(&dir), "b", b"2"));
    let options = crate::GcOptions {
        keep: [kept.key].into(),
        older_than: Some(std::time::Duration::ZERO),
        grace: std::time::Duration::ZERO,
        ..Default::default()
    };
    store(&dir).gc(&options).unwrap();
    let paths = segment_paths(store(&dir).layout()).unwrap();
    let mut left = Vec::new();
    for segment in paths.iter().filter_map(|path| Segment::open(path)) {
        segment.for_each(|found| left.push(found.key()));
    }
    assert_eq!(left, [kept.key]);
    assert!(!left.contains(&lost.key));
}

#[test]
fn a_crowded_segment_finds_each_of_its_entries() {
    let dir = memory_dir();
    let made = store(&dir);
    let records: Vec<_> = (0..3000).map(|n| committed(&made, &n.to_string(), b"content")).collect();
    made.index().flush(made.disk()).unwrap();
    drop(made);
    assert_eq!(segments(&dir), 1);
    assert!(records.iter().step_by(7).all(|record| is_known(&dir, record)));
}

#[test]
fn another_version_is_no_segment() {
    let dir = memory_dir();
    let record = committed(&store(&dir), "a", b"content");
    let path = segment_paths(store(&dir).layout()).unwrap().remove(0);
    let mut text = std::fs::read(&path).unwrap();
    text[8] = 2;
    crate::testing::overwrite(&path, &text);
    assert!(Segment::open(&path).is_none());
    assert!(matches!(store(&dir).lookup_many(&[record.key])[..], [Answer::Hit(_)]));
}
