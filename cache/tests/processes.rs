//! Several processes on one store: single flight, locks freed by death, and kills at random moments. The children are
//! this very test program, run again with one test chosen and a store in the environment.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use qpipe_cache::{
    ActionRecord, Answer, GcOptions, KeyDoc, Lookup, OutputRecord, RECORD_SCHEMA, Repair, Store,
};

const ROOT: &str = "QPIPE_CACHE_TEST_ROOT";

fn child(test: &str, root: &Path) -> Child {
    Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", test, "--include-ignored"])
        .env(ROOT, root)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a child")
}

fn root_given() -> PathBuf {
    std::env::var_os(ROOT).map(PathBuf::from).expect("started by another test")
}

fn doc(n: u64) -> KeyDoc {
    KeyDoc::new("shared", 1).param("n", n)
}

fn content(n: u64) -> Vec<u8> {
    n.to_le_bytes().repeat(30_000)
}

/// Looks an action up, or does it under its lock; tells whether it did it.
fn ensure(store: &Store, n: u64) -> bool {
    let doc = doc(n);
    let key = doc.key();
    if matches!(store.lookup(&key), Lookup::Hit(_)) {
        return false;
    }
    let _single_flight = store.lock(&key).expect("a lock");
    if matches!(store.lookup(&key), Lookup::Hit(_)) {
        return false;
    }
    let mut writer = store.writer().expect("a writer");
    writer.write_all(&content(n)).expect("a write");
    let (digest, bytes) = writer.commit().expect("a blob");
    let output = OutputRecord { kind: "blob".into(), digest, bytes };
    let record = ActionRecord {
        schema: RECORD_SCHEMA,
        key,
        doc,
        outputs: [("out".to_owned(), output)].into(),
        refs: [digest].into(),
        metrics: serde_json::Value::Null,
        started_unix_ms: 0,
        elapsed_ms: 0,
        tool: "test".into(),
    };
    store.commit(&record).expect("a commit");
    true
}

fn note(root: &Path, line: &str) {
    let path = root.join("notes");
    let mut file = OpenOptions::new().create(true).append(true).open(path).expect("the notes");
    file.write_all(format!("{line}\n").as_bytes()).expect("a note");
}

fn notes(root: &Path) -> Vec<String> {
    fs::read_to_string(root.join("notes")).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn wait_for_note(root: &Path) {
    for _ in 0..1000 {
        if !notes(root).is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("the child never came to its work");
}

#[test]
fn eight_threads_compute_one_key_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(dir.path()).expect("a store");
    let computed: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| usize::from(ensure(&store, 1)))).collect();
        threads.into_iter().map(|t| t.join().expect("a thread")).sum()
    });
    assert_eq!(computed, 1);
}

#[test]
#[ignore = "the child of another test"]
fn child_computes_five_keys() {
    let root = root_given();
    let store = Store::open(&root).expect("a store");
    for n in 0..5 {
        if ensure(&store, n) {
            note(&root, &n.to_string());
        }
    }
}

#[test]
fn eight_processes_compute_each_key_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let children: Vec<Child> = (0..8).map(|_| child("child_computes_five_keys", dir.path())).collect();
    for mut child in children {
        assert!(child.wait().expect("a child").success());
    }
    let mut computed = notes(dir.path());
    computed.sort();
    assert_eq!(computed, ["0", "1", "2", "3", "4"]);
    assert!(Store::open(dir.path()).expect("a store").verify(Repair::Nothing).is_clean());
}

#[test]
#[ignore = "the child of another test"]
fn child_dies_with_a_lock() {
    let root = root_given();
    let store = Store::open(&root).expect("a store");
    let _held = store.lock(&doc(1).key()).expect("a lock");
    note(&root, "locked");
    std::thread::sleep(Duration::from_mins(1));
}

#[test]
fn death_frees_a_lock() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(dir.path()).expect("a store");
    let mut child = child("child_dies_with_a_lock", dir.path());
    wait_for_note(dir.path());
    assert!(store.try_lock(&doc(1).key()).expect("an answer").is_none());
    child.kill().expect("a kill");
    child.wait().expect("an end");
    assert!(store.try_lock(&doc(1).key()).expect("an answer").is_some());
}

#[test]
#[ignore = "the child of another test"]
fn child_works_until_killed() {
    let root = root_given();
    let store = Store::open(&root).expect("a store");
    note(&root, "working");
    for n in 0.. {
        ensure(&store, n);
    }
}

#[test]
fn a_kill_at_any_moment_leaves_hits_with_right_bytes_or_misses() {
    let mut hits = 0;
    for round in 0..12_u64 {
        let dir = tempfile::tempdir().expect("a directory");
        let mut child = child("child_works_until_killed", dir.path());
        wait_for_note(dir.path());
        std::thread::sleep(Duration::from_micros(1700 * round));
        child.kill().expect("a kill");
        child.wait().expect("an end");
        let store = Store::open(dir.path()).expect("a store");
        assert!(store.verify(Repair::Nothing).is_clean());
        for n in 0..1000 {
            match store.lookup(&doc(n).key()) {
                Lookup::Absent => break,
                Lookup::Damaged(fault) => panic!("round {round}, key {n}: {fault}"),
                Lookup::Hit(record) => {
                    hits += 1;
                    assert_eq!(store.read(&record.outputs["out"].digest).expect("a blob"), content(n));
                }
            }
        }
        assert!(ensure(&store, 1_000_000));
    }
    assert!(hits > 0, "no round came as far as a commit");
}

fn gc_everything(store: &Store) -> qpipe_cache::GcReport {
    let options =
        GcOptions { grace: Duration::ZERO, older_than: Some(Duration::ZERO), ..GcOptions::default() };
    store.gc(&options).expect("a gc")
}

#[test]
#[ignore = "the child of another test"]
fn child_relies_on_what_it_found_until_told() {
    let root = root_given();
    let store = Store::open(&root).expect("a store");
    for n in 0..5 {
        ensure(&store, n);
    }
    note(&root, "relying");
    while !root.join("enough").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    for n in 0..5 {
        let Lookup::Hit(record) = store.lookup(&doc(n).key()) else { panic!("key {n} is lost") };
        assert_eq!(store.read(&record.outputs["out"].digest).expect("a blob"), content(n));
    }
}

#[test]
fn what_a_living_process_relies_on_outlives_gc_and_what_a_dead_one_did_does_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut living = child("child_relies_on_what_it_found_until_told", dir.path());
    wait_for_note(dir.path());
    assert_eq!(gc_everything(&Store::open(dir.path()).expect("a store")).records.count, 0);
    fs::write(dir.path().join("enough"), b"").expect("a word");
    assert!(living.wait().expect("a child").success());

    fs::remove_file(dir.path().join("notes")).expect("the notes");
    fs::remove_file(dir.path().join("enough")).expect("the word");
    let mut dying = child("child_relies_on_what_it_found_until_told", dir.path());
    wait_for_note(dir.path());
    dying.kill().expect("a kill");
    dying.wait().expect("an end");
    let report = gc_everything(&Store::open(dir.path()).expect("a store"));
    assert_eq!((report.records.count, report.blobs.count, report.kept.blobs.count), (5, 5, 0));
}

#[test]
#[ignore = "the child of another test"]
fn child_collects_until_told() {
    let root = root_given();
    note(&root, "collecting");
    while !root.join("enough").exists() {
        gc_everything(&Store::open(&root).expect("a store"));
    }
}

#[test]
#[ignore = "the child of another test"]
fn child_runs_short_studies() {
    let root = root_given();
    for _ in 0..25 {
        let store = Store::open(&root).expect("a store");
        for n in 0..5 {
            ensure(&store, n);
        }
        let keys: Vec<_> = (0..5).map(|n| doc(n).key()).collect();
        for (n, answer) in (0..5).zip(store.lookup_many(&keys)) {
            let Answer::Hit(found) = answer else { panic!("key {n}: {answer:?}") };
            let digest = found.output("out").expect("the output").digest;
            assert_eq!(store.read(&digest).expect("a blob"), content(n));
        }
    }
}

#[test]
fn studies_in_four_processes_lose_nothing_to_gc_in_a_fifth() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut collector = child("child_collects_until_told", dir.path());
    wait_for_note(dir.path());
    let studies: Vec<Child> = (0..4).map(|_| child("child_runs_short_studies", dir.path())).collect();
    let ends: Vec<bool> =
        studies.into_iter().map(|mut study| study.wait().expect("a child").success()).collect();
    fs::write(dir.path().join("enough"), b"").expect("a word");
    assert!(collector.wait().expect("a child").success());
    assert_eq!(ends, [true; 4]);
    assert!(Store::open(dir.path()).expect("a store").verify(Repair::Nothing).is_clean());
}

#[test]
fn gc_killed_at_any_moment_leaves_whole_records_or_none() {
    for round in 0..12_u64 {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("a store");
        for n in 0..30 {
            ensure(&store, n);
        }
        drop(store);
        let mut collector = child("child_collects_until_told", dir.path());
        wait_for_note(dir.path());
        std::thread::sleep(Duration::from_micros(250 * round));
        collector.kill().expect("a kill");
        collector.wait().expect("an end");
        let store = Store::open(dir.path()).expect("a store");
        let report = store.verify(Repair::Nothing);
        assert!(report.is_clean(), "round {round}: {:?}", report.faults);
        for n in 0..30 {
            if let Lookup::Hit(record) = store.lookup(&doc(n).key()) {
                assert_eq!(store.read(&record.outputs["out"].digest).expect("a blob"), content(n));
            }
            ensure(&store, n);
        }
        drop(store);
        gc_everything(&Store::open(dir.path()).expect("a store"));
        let usage = Store::open(dir.path()).expect("a store").du();
        assert_eq!((usage.blobs.count, usage.records.count), (0, 0), "round {round}");
    }
}
