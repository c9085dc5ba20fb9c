//! Gc: what it keeps, in which order it gives up, exact counts, and crashes at each step.

use std::sync::Arc;
use std::time::SystemTime;

use super::*;
use crate::fault::{Fault, Faults};
use crate::testing::{committed, count, memory_dir, overwrite, record, store};
use crate::{ActionRecord, KeyDoc, Lookup, Repair};

fn now() -> GcOptions {
    GcOptions { grace: Duration::ZERO, ..GcOptions::default() }
}

fn everything() -> GcOptions {
    GcOptions { older_than: Some(Duration::ZERO), ..now() }
}

/// Gc by a handle that announced nothing, as another process would.
fn gc(dir: &tempfile::TempDir, options: &GcOptions) -> GcReport {
    store(dir).gc(options).unwrap()
}

fn is_hit(dir: &tempfile::TempDir, record: &ActionRecord) -> bool {
    matches!(store(dir).lookup(&record.key), Lookup::Hit(_))
}

#[test]
fn without_a_limit_only_what_no_record_reaches_goes() {
    let dir = tempfile::tempdir().unwrap();
    let record = committed(&store(&dir), "a", b"content");
    store(&dir).put_bytes(b"orphan").unwrap();
    let report = gc(&dir, &now());
    assert_eq!(report.blobs, Tally { count: 1, bytes: 6 });
    assert_eq!(report.freed_bytes(), 6);
    assert_eq!(report.kept.blobs, Tally { count: 1, bytes: 7 });
    assert_eq!(report.kept.records.count, 1);
    assert!(is_hit(&dir, &record));
}

#[test]
fn the_young_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let record = committed(&store(&dir), "a", b"content");
    store(&dir).put_bytes(b"orphan").unwrap();
    let report = gc(&dir, &GcOptions { grace: Duration::from_mins(1), ..everything() });
    assert_eq!((report.blobs.count, report.records.count), (0, 0));
    assert!(is_hit(&dir, &record));
}

#[test]
fn roots_are_pins_keys_to_keep_and_living_leases() {
    let dir = tempfile::tempdir().unwrap();
    let made = store(&dir);
    let [pinned, kept, leased, lost] = ["pinned", "kept", "leased", "lost"].map(|kind| {
        let record = committed(&made, kind, kind.as_bytes());
        assert!(matches!(made.lookup(&record.key), Lookup::Hit(_)));
        record
    });
    made.pin("p", &[pinned.key].into()).unwrap();
    drop(made);
    let living = store(&dir);
    assert!(matches!(living.lookup(&leased.key), Lookup::Hit(_)));
    let report = gc(&dir, &GcOptions { keep: [kept.key].into(), ..everything() });
    assert_eq!(report.evicted, [Evicted { key: lost.key, stage: "lost".into(), why: Why::Idle }]);
    assert_eq!(report.blobs, Tally { count: 1, bytes: 4 });
    assert!(is_hit(&dir, &pinned) && is_hit(&dir, &kept) && is_hit(&dir, &leased) && !is_hit(&dir, &lost));
    drop(living);
    store(&dir).unpin("p").unwrap();
    let report = gc(&dir, &everything());
    assert_eq!(report.records.count, 3);
    assert_eq!(report.kept, Kept::default());
    assert!(store(&dir).verify(Repair::Nothing).is_clean());
}

#[test]
fn freed_bytes_are_exactly_what_the_store_gets_smaller() {
    let dir = tempfile::tempdir().unwrap();
    let made = store(&dir);
    for n in 0..20_u8 {
        committed(&made, &format!("k{n}"), &vec![n; 100 * usize::from(n)]);
    }
    made.put_bytes(b"orphan").unwrap();
    drop(made);
    let measure = || {
        let usage = store(&dir).du();
        usage.blobs.bytes + usage.records.bytes
    };
    let (before, foretold) = (measure(), gc(&dir, &GcOptions { mode: GcMode::DryRun, ..everything() }));
    assert_eq!(measure(), before, "a dry run removes nothing");
    let report = gc(&dir, &everything());
    assert_eq!(before - measure(), report.freed_bytes());
    assert_eq!((foretold.records, foretold.blobs), (report.records, report.blobs));
    assert_eq!((foretold.kept, foretold.freed_bytes()), (report.kept, report.freed_bytes()));
}

#[test]
fn idle_records_go_and_a_use_makes_them_young_again() {
    let dir = tempfile::tempdir().unwrap();
    let (used, idle) = {
        let made = store(&dir);
        (committed(&made, "used", b"1"), committed(&made, "idle", b"2"))
    };
    // as if both were made an hour ago, and nobody had used them since
    let past = SystemTime::now() - Duration::from_hours(1);
    let inner = store(&dir);
    for record in [&used, &idle] {
        let file = fs::File::open(inner.layout().action(&record.key)).unwrap();
        file.set_modified(past).unwrap();
    }
    for path in layout::list(&inner.layout().uses).unwrap() {
        fs::remove_file(path).unwrap();
    }
    drop(inner);
    assert!(is_hit(&dir, &used));
    let report = gc(&dir, &GcOptions { older_than: Some(Duration::from_mins(30)), ..now() });
    assert_eq!(report.evicted.iter().map(|e| e.key).collect::<Vec<_>>(), [idle.key]);
    // the history is folded by now, and still knows
    let report = gc(&dir, &GcOptions { older_than: Some(Duration::from_mins(30)), ..now() });
    assert_eq!(report.records.count, 0);
    assert!(is_hit(&dir, &used));
}

#[test]
fn under_a_limit_the_cheapest_to_make_again_go_first() {
    let dir = tempfile::tempdir().unwrap();
    let made = store(&dir);
    let make = |kind: &str, elapsed_ms: u64, byte: u8| {
        let digest = made.put_bytes(&vec![byte; 100_000]).unwrap();
        let record = ActionRecord { elapsed_ms, ..record(kind, &[("out", digest, 100_000)]) };
        made.commit(&record).unwrap();
        record
    };
    let (cheap, dear, dearest) = (make("cheap", 10, 1), make("dear", 10_000, 2), make("dearest", 100_000, 3));
    drop(made);
    let report = gc(&dir, &GcOptions { max_bytes: Some(250_000), ..now() });
    assert_eq!(report.evicted.iter().map(|e| (e.key, e.why)).collect::<Vec<_>>(), [(cheap.key, Why::Space)]);
    let report = gc(&dir, &GcOptions { max_bytes: Some(1), keep: [dearest.key].into(), ..now() });
    assert_eq!(report.evicted.iter().map(|e| e.key).collect::<Vec<_>>(), [dear.key]);
    assert_eq!(report.over_bytes, report.kept.blobs.bytes + report.kept.records.bytes - 1);
    assert!(is_hit(&dir, &dearest));
}

#[test]
fn a_shared_blob_is_freed_by_the_last_record_that_needs_it() {
    let dir = tempfile::tempdir().unwrap();
    let made = store(&dir);
    let (a, b) = (committed(&made, "a", b"shared"), committed(&made, "b", b"shared"));
    drop(made);
    let report = gc(&dir, &GcOptions { keep: [b.key].into(), ..everything() });
    assert_eq!((report.records.count, report.blobs.count), (1, 0));
    assert!(!is_hit(&dir, &a) && is_hit(&dir, &b));
}

#[test]
fn bytes_that_live_on_under_another_name_are_not_counted_as_freed() {
    let dir = tempfile::tempdir().unwrap();
    let made = store(&dir);
    let digest = made.put_bytes(b"shared with the user").unwrap();
    fs::hard_link(made.blob_path(&digest).unwrap(), dir.path().join("out")).unwrap();
    drop(made);
    let report = gc(&dir, &now());
    assert_eq!((report.blobs.count, report.still_linked.count, report.freed_bytes()), (1, 1, 0));
}

#[test]
fn damaged_records_go_and_unknown_ones_stop_gc() {
    let dir = tempfile::tempdir().unwrap();
    let made = store(&dir);
    let (damaged, newer) = (committed(&made, "a", b"1"), committed(&made, "b", b"2"));
    overwrite(&made.layout().action(&damaged.key), b"garbage");
    let path = made.layout().action(&newer.key);
    let sound = fs::read(&path).unwrap();
    overwrite(&path, br#"{"format":"qpipe-action","version":2}"#);
    drop(made);
    let error = store(&dir).gc(&now()).unwrap_err();
    assert!(matches!(error, StoreError::UnknownReach { key, .. } if key == newer.key), "{error}");
    overwrite(&path, &sound);
    let report = gc(&dir, &now());
    let reasons: Vec<_> = report.evicted.iter().map(|e| (e.key, e.why)).collect();
    assert_eq!(reasons, [(damaged.key, Why::Damaged)]);
    assert!(is_hit(&dir, &newer));
}

#[test]
fn a_damaged_pin_stops_gc() {
    let dir = tempfile::tempdir().unwrap();
    let made = store(&dir);
    let record = committed(&made, "a", b"1");
    made.pin("p", &[record.key].into()).unwrap();
    overwrite(&made.layout().pin("p"), b"");
    drop(made);
    assert!(matches!(store(&dir).gc(&everything()), Err(StoreError::DamagedPin { .. })));
    assert!(is_hit(&dir, &record));
}

#[test]
fn one_gc_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let held = store.lock_gc().unwrap();
    assert!(matches!(store.gc(&now()), Err(StoreError::GcRunning { .. })));
    drop(held);
    store.gc(&now()).unwrap();
}

#[test]
fn links_go_when_they_are_of_no_use_and_files_never() {
    let dir = tempfile::tempdir().unwrap();
    let (intact, changed) = (dir.path().join("intact"), dir.path().join("changed"));
    fs::write(&intact, b"1").unwrap();
    fs::write(&changed, b"2").unwrap();
    let made = store(&dir);
    made.link_file(&intact).unwrap();
    made.link_file(&changed).unwrap();
    fs::write(&changed, b"other").unwrap();
    drop(made);
    let report = gc(&dir, &now());
    assert_eq!((report.links.count, report.blobs.count), (1, 0));
    assert!(intact.exists() && changed.exists());
    assert_eq!(store(&dir).du().linked.count, 1);
}

#[test]
fn what_was_set_aside_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let made = store(&dir);
    let digest = made.put_bytes(b"right").unwrap();
    overwrite(&made.blob_path(&digest).unwrap(), b"wrong");
    assert!(made.read(&digest).is_err());
    drop(made);
    let report = gc(&dir, &now());
    assert_eq!(report.damaged, Tally { count: 1, bytes: 5 });
}

#[test]
fn a_reader_that_meets_the_trash_waits_for_the_verdict() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let digest = store.put_bytes(b"content").unwrap();
    let item = Item::Blob(digest);
    let lock = store.lock_gc().unwrap();
    assert!(store.trash(&item).unwrap());
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| store.read(&digest));
        std::thread::sleep(Duration::from_millis(20));
        assert!(!reader.is_finished());
        store.put_back(&item).unwrap();
        assert_eq!(reader.join().unwrap().unwrap(), b"content");
    });
    store.trash(&item).unwrap();
    drop(lock);
    // nobody is left to judge: it is put back at once
    assert_eq!(store.read(&digest).unwrap(), b"content");
    assert_eq!(count(&store.layout().trash), 0);
}

#[test]
fn a_record_committed_anew_in_the_meantime_is_not_the_one_that_was_judged() {
    let dir = tempfile::tempdir().unwrap();
    let made = store(&dir);
    let record = committed(&made, "a", b"content");
    let mut catalog = Catalog::new();
    catalog.refresh(&made).unwrap();
    let entry = catalog.get(&record.key).unwrap().clone();
    let victim = Victim { key: record.key, identity: entry.identity, stage: String::new(), why: Why::Idle };
    made.commit(&record).unwrap();
    drop(made);
    let other = store(&dir);
    let options = everything();
    let mut collector = Collector::survey(&other, &options).unwrap();
    collector.remove_records(&[victim]).unwrap();
    assert_eq!((collector.report.put_back, collector.report.records.count), (1, 0));
    assert!(is_hit(&dir, &record));
}

/// Two records that share a blob, one of them pinned, an orphan, a changed link.
fn prepare(dir: &tempfile::TempDir) -> (ActionRecord, ActionRecord) {
    let made = store(dir);
    let shared = made.put_bytes(b"shared").unwrap();
    let own = made.put_bytes(b"own").unwrap();
    let kept = record("kept", &[("out", shared, 6)]);
    let lost = record("lost", &[("own", own, 3), ("shared", shared, 6)]);
    made.commit(&kept).unwrap();
    made.commit(&lost).unwrap();
    made.pin("p", &[kept.key].into()).unwrap();
    made.put_bytes(b"orphan").unwrap();
    (kept, lost)
}

#[test]
fn each_step_of_gc_may_fail_or_be_the_last() {
    let probe = memory_dir();
    prepare(&probe);
    let count_steps = Faults::none();
    Store::open_with_faults(probe.path(), count_steps.clone()).unwrap().gc(&everything()).unwrap();
    let total = count_steps.steps();
    assert!(total > 8, "{total} steps");
    let mut outcomes = [0; 2];
    for fault in [Fault::Error(io::ErrorKind::Other), Fault::Crash, Fault::TornCrash] {
        for step in 1..=total {
            let dir = memory_dir();
            let (kept, lost) = prepare(&dir);
            let faults = Faults::at(step, fault);
            let failed = Store::open_with_faults(dir.path(), Arc::clone(&faults))
                .and_then(|store| store.gc(&everything()))
                .is_err();
            outcomes[usize::from(failed)] += 1;
            let what = format!("{fault:?} at step {step}");
            assert!(is_hit(&dir, &kept), "{what}");
            // gone or whole, never a record without its blobs
            assert!(!matches!(store(&dir).lookup(&lost.key), Lookup::Damaged(_)), "{what}");
            let report = store(&dir).verify(Repair::Nothing);
            assert!(report.is_clean(), "{what}: {:?}", report.faults);
            gc(&dir, &everything());
            let usage = store(&dir).du();
            assert_eq!((usage.blobs.bytes, usage.records.count), (6, 1), "{what}");
            assert_eq!(count(&store(&dir).layout().trash), 0, "{what}");
        }
    }
    assert!(outcomes[1] > total as i32, "{outcomes:?}");
}

#[test]
fn what_a_power_cut_may_keep_of_removed_records_is_synced_before_blobs_go() {
    use crate::fault::Op;
    let dir = memory_dir();
    prepare(&dir);
    let faults = Faults::none();
    let store = Store::open_with_faults(dir.path(), Arc::clone(&faults)).unwrap();
    store.gc(&everything()).unwrap();
    let journal = faults.journal();
    let position = |is: &dyn Fn(&crate::fault::Step) -> bool| journal.iter().position(is).unwrap();
    let bucket_synced = position(&|s| s.op == Op::SyncDir && s.path.starts_with(&store.layout().actions));
    let trash_synced = position(&|s| s.op == Op::SyncDir && s.path == store.layout().trash);
    let first_blob = position(&|s| s.op == Op::Rename && s.path.starts_with(&store.layout().blobs));
    assert!(bucket_synced < first_blob && trash_synced < first_blob, "{journal:?}");
}

/// Threads with stores of their own commit, look up and read, while gc after gc removes everything it may: nobody
/// ever misses what it relies on.
#[test]
fn runs_lose_nothing_beside_gc_after_gc() {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    let dir = memory_dir();
    store(&dir);
    let (done, removed) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4_u64)
            .map(|worker| {
                let (dir, removed) = (&dir, &removed);
                let rounds = (0..2000).take_while(|_| removed.load(Ordering::Relaxed) < 400);
                scope.spawn(move || rounds.for_each(|round| work(dir, worker, round)))
            })
            .collect();
        let collector = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let report = gc(&dir, &everything());
                removed.fetch_add(report.records.count + report.blobs.count, Ordering::Relaxed);
            }
        });
        let results: Vec<_> = workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Relaxed);
        collector.join().unwrap();
        assert!(results.iter().all(Result::is_ok));
    });
    assert!(removed.load(Ordering::Relaxed) > 50, "gc removed {removed:?}: the stress was none");
    assert!(store(&dir).verify(Repair::Nothing).is_clean());
}

/// One short run: five actions over contents that others make and drop as well.
fn work(dir: &tempfile::TempDir, worker: u64, round: u64) {
    let store = store(dir);
    let mut relied_on = Vec::new();
    for n in 0..5_u64 {
        let content = ((worker + round + n) % 7).to_le_bytes().repeat(50);
        let doc = KeyDoc::new("stress", 1).param("n", (worker * 3 + round * 5 + n) % 11);
        if !matches!(store.lookup(&doc.key()), Lookup::Hit(_)) {
            let digest = store.put_bytes(&content).unwrap();
            let mut record = record("stress", &[("out", digest, content.len() as u64)]);
            (record.key, record.doc) = (doc.key(), doc.clone());
            store.commit(&record).unwrap();
        }
        relied_on.push(doc.key());
        for key in &relied_on {
            let found = match store.lookup(key) {
                Lookup::Hit(found) => found,
                lost => panic!("worker {worker}, round {round}: {lost:?}"),
            };
            for digest in &found.refs {
                let bytes =
                    store.read(digest).unwrap_or_else(|e| panic!("worker {worker}, round {round}: {e}"));
                assert_eq!(Digest::of_bytes(&bytes), *digest);
            }
        }
    }
}
