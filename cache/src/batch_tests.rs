//! Many lookups answer what single ones do, whatever the index and the census say.

use std::fs;
use std::time::Duration;

use super::*;
use crate::testing::{committed, memory_dir, overwrite, record, store};
use crate::{ActionRecord, KeyDoc, RecordFault};

/// Longer than a directory needs to settle.
const SETTLED: Duration = Duration::from_millis(60);

fn settle() {
    std::thread::sleep(SETTLED);
}

/// Enough records that buckets hold several; looked up once, so that the index and the census know them.
fn filled(dir: &tempfile::TempDir) -> Vec<ActionRecord> {
    let made = store(dir);
    let records = (0..1500).map(|n| committed(&made, &format!("k{n}"), format!("content {n}").as_bytes()));
    let records: Vec<_> = records.collect();
    drop(made);
    settle();
    store(dir).lookup_many(&keys(&records));
    records
}

fn keys(records: &[ActionRecord]) -> Vec<ActionKey> {
    records.iter().map(|record| record.key).collect()
}

/// What a fresh handle answers; it must be what single lookups say.
fn answers(dir: &tempfile::TempDir, records: &[ActionRecord]) -> Vec<Answer> {
    let store = store(dir);
    let many = store.lookup_many(&keys(records));
    for (answer, record) in many.iter().zip(records) {
        match (answer, store.lookup(&record.key)) {
            (Answer::Hit(found), Lookup::Hit(whole)) => assert_same(found, &whole),
            (Answer::Absent, Lookup::Absent) => {}
            (Answer::Damaged(a), Lookup::Damaged(b)) => assert_eq!(*a, b),
            (many, single) => panic!("{many:?} instead of {single:?}"),
        }
    }
    many
}

fn assert_same(found: &Found, record: &ActionRecord) {
    assert_eq!(found.key(), record.key);
    assert_eq!(found.stage(), record.doc.kind);
    assert_eq!((found.started_unix_ms(), found.elapsed_ms()), (record.started_unix_ms, record.elapsed_ms));
    assert_eq!(serde_json::from_str::<serde_json::Value>(found.metrics()).unwrap(), record.metrics);
    assert!(found.refs().map(|(digest, _)| digest).eq(record.refs.iter().copied()));
    let outputs = found.outputs().map(|o| (o.name.to_owned(), o.kind.to_owned(), o.digest, o.bytes));
    let expected = record.outputs.iter().map(|(n, o)| (n.clone(), o.kind.clone(), o.digest, o.bytes));
    assert!(outputs.eq(expected));
}

fn hits(answers: &[Answer]) -> usize {
    answers.iter().filter(|answer| matches!(answer, Answer::Hit(_))).count()
}

fn is_census_used(dir: &tempfile::TempDir, records: &[ActionRecord]) -> bool {
    let store = store(dir);
    let area = Area::Actions(bucket(records[0].key.digest()));
    let stamp = identify(&area.path(store.layout())).unwrap().unwrap();
    store.census().view(store.disk(), area, &stamp).find(records[0].key.digest()).is_some()
}

#[test]
fn hits_absences_and_their_order() {
    let dir = memory_dir();
    let mut records = filled(&dir);
    assert!(is_census_used(&dir, &records), "the fast way is not tested");
    records.insert(700, record("never committed", &[]));
    let answers = answers(&dir, &records);
    assert_eq!(hits(&answers), 1500);
    assert_eq!(answers[700], Answer::Absent);
    assert!(store(&dir).lookup_many(&[]).is_empty());
}

#[test]
fn records_with_many_or_no_outputs_come_back_whole() {
    let dir = memory_dir();
    let made = store(&dir);
    let (a, b) = (made.put_bytes(b"a").unwrap(), made.put_bytes(b"bb").unwrap());
    let mut shard = record("three", &[("x", a, 1), ("y", b, 2), ("z", a, 1)]);
    shard.refs.insert(made.put_bytes(b"only reached").unwrap());
    shard.metrics = serde_json::json!({"ä": [1.5, null, {"deep": "text"}]});
    let records = [record("none", &[]), shard];
    for record in &records {
        made.commit(record).unwrap();
    }
    drop(made);
    for _ in 0..2 {
        assert_eq!(hits(&answers(&dir, &records)), 2);
        settle();
    }
}

#[test]
fn what_is_gone_is_no_hit_however_well_it_is_remembered() {
    let dir = memory_dir();
    let records = filled(&dir);
    let made = store(&dir);
    fs::remove_file(made.layout().action(&records[3].key)).unwrap();
    fs::remove_file(made.layout().blob(records[5].refs.first().unwrap())).unwrap();
    overwrite(&made.layout().action(&records[7].key), b"garbage");
    overwrite(&made.layout().blob(records[9].refs.first().unwrap()), b"x");
    drop(made);
    let answers = answers(&dir, &records);
    assert_eq!(answers[3], Answer::Absent);
    assert!(matches!(answers[5], Answer::Damaged(RecordFault::BlobMissing { .. })));
    assert!(matches!(answers[7], Answer::Damaged(RecordFault::Unparsable { .. })));
    assert!(matches!(answers[9], Answer::Damaged(RecordFault::Blob(_))));
    assert_eq!(hits(&answers), 1496);
}

#[test]
fn a_record_committed_anew_is_found_as_it_is_now() {
    let dir = memory_dir();
    let mut records = filled(&dir);
    let made = store(&dir);
    let digest = made.put_bytes(b"another outcome").unwrap();
    let output = records[0].outputs.get_mut("out").unwrap();
    (output.digest, output.bytes) = (digest, 15);
    records[0].refs = [digest].into();
    made.commit(&records[0]).unwrap();
    assert_eq!(made.lookup_many(&[records[0].key]).len(), 1);
    drop(made);
    for _ in 0..2 {
        let answers = answers(&dir, &records);
        let Answer::Hit(found) = &answers[0] else { panic!("{:?}", answers[0]) };
        assert_eq!(found.output("out").unwrap().digest, digest);
        assert_eq!(found.output("other"), None);
        settle();
    }
}

#[test]
fn a_changed_linked_file_is_seen_in_every_record_that_needs_it() {
    let dir = memory_dir();
    let file = dir.path().join("checkpoint");
    fs::write(&file, b"tensors").unwrap();
    let made = store(&dir);
    let digest = made.link_file(&file).unwrap();
    let records: Vec<_> = (0..5).map(|n| record(&format!("load{n}"), &[("model", digest, 7)])).collect();
    for record in &records {
        made.commit(record).unwrap();
    }
    drop(made);
    assert_eq!(hits(&answers(&dir, &records)), 5);
    fs::write(&file, b"TENSORS").unwrap();
    for answer in answers(&dir, &records) {
        assert!(matches!(answer, Answer::Damaged(RecordFault::LinkChanged { .. })), "{answer:?}");
    }
}

#[test]
fn any_damage_to_the_index_costs_time_and_nothing_else() {
    let dir = memory_dir();
    let made = store(&dir);
    let records: Vec<_> = (0..6).map(|n| committed(&made, &format!("k{n}"), b"shared")).collect();
    drop(made);
    settle();
    store(&dir).lookup_many(&keys(&records));
    let paths = layout::list(&store(&dir).layout().index).unwrap();
    assert_eq!(paths.len(), 2, "a segment and the census: {paths:?}");
    let whole: Vec<_> = paths.into_iter().map(|path| (fs::read(&path).unwrap(), path)).collect();
    for n in 0..2 {
        let len = whole[n].0.len();
        for at in (0..len).step_by((len / 300).max(1)) {
            let mut altered = whole[n].0.clone();
            altered[at] ^= 1 << (at % 8);
            plant(&whole, n, &altered);
            check(&dir, &records);
            plant(&whole, n, &whole[n].0[..at]);
            check(&dir, &records);
        }
    }
}

/// Restores the index, but for one file.
fn plant(whole: &[(Vec<u8>, PathBuf)], n: usize, altered: &[u8]) {
    for path in layout::list(whole[0].1.parent().unwrap()).unwrap() {
        fs::remove_file(path).unwrap();
    }
    for (other, (text, path)) in whole.iter().enumerate() {
        fs::write(path, if other == n { altered } else { text }).unwrap();
    }
}

/// Every record is the hit it is, and a key that was never committed is none.
fn check(dir: &tempfile::TempDir, records: &[ActionRecord]) {
    let store = store(dir);
    let mut all = keys(records);
    all.push(KeyDoc::new("never", 1).key());
    let answers = store.lookup_many(&all);
    for (answer, record) in answers.iter().zip(records) {
        let Answer::Hit(found) = answer else { panic!("{answer:?}") };
        assert_same(found, record);
    }
    assert_eq!(answers[records.len()], Answer::Absent);
}

#[test]
fn without_a_settled_directory_nothing_is_taken_for_granted() {
    let dir = memory_dir();
    let records = filled(&dir);
    for round in 0..20 {
        let made = store(&dir);
        // a removal right after a look: both within one tick
        assert_eq!(hits(&made.lookup_many(&keys(&records[round..]))), 1500 - round);
        fs::remove_file(made.layout().action(&records[round].key)).unwrap();
        assert_eq!(made.lookup_many(&keys(&records))[round], Answer::Absent);
    }
}
