//! How long lookups take. Not a check: run it by hand, with `--ignored --nocapture`; `QPIPE_CACHE_SPEED_DIR` names the
//! disk to measure on (default: memory, where preparing 100,000 records costs no syncs).

use std::path::PathBuf;
use std::time::{Duration, Instant};

use qpipe_cache::{ActionKey, ActionRecord, Answer, KeyDoc, Lookup, OutputRecord, RECORD_SCHEMA, Store};

fn commit(store: &Store, n: u64) -> ActionKey {
    let doc = KeyDoc::new("evaluate", 1).param("n", n).param("scheme", "nf4").param("block", 64_u32);
    let content = n.to_le_bytes();
    let digest = store.put_bytes(&content).expect("a blob");
    let output = OutputRecord { kind: "evaluation".into(), digest, bytes: 8 };
    let key = doc.key();
    let record = ActionRecord {
        schema: RECORD_SCHEMA,
        key,
        doc,
        outputs: [("out".to_owned(), output)].into(),
        refs: [digest].into(),
        metrics: serde_json::json!({"ppl": {"value": 12.5, "unit": "nat"}, "seconds": {"value": 1.25, "unit": "s"}}),
        started_unix_ms: 1,
        elapsed_ms: 2,
        tool: "speed".into(),
    };
    store.commit(&record).expect("a commit");
    key
}

/// Nanoseconds this thread was on a processor.
fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    text.split_whitespace().next().and_then(|first| first.parse().ok()).expect("a number")
}

/// Wall and processor time of one call, milliseconds.
fn timed<T>(act: impl FnOnce() -> T) -> (T, f64, f64) {
    let (wall, cpu) = (Instant::now(), cpu_ns());
    let result = act();
    (result, wall.elapsed().as_secs_f64() * 1e3, (cpu_ns() - cpu) as f64 / 1e6)
}

#[test]
#[ignore = "a measurement, not a check"]
fn lookups() {
    let on =
        std::env::var_os("QPIPE_CACHE_SPEED_DIR").map_or_else(|| PathBuf::from("/dev/shm"), PathBuf::from);
    for count in [1_000_u64, 10_000, 100_000] {
        let dir = tempfile::tempdir_in(&on).expect("a directory");
        let made = Store::open(dir.path()).expect("a store");
        let keys: Vec<ActionKey> = (0..count).map(|n| commit(&made, n)).collect();
        drop(made);
        // the buckets' times must lie a tick in the past
        std::thread::sleep(Duration::from_millis(100));
        let report = |what: &str, (wall, cpu): (f64, f64)| {
            println!(
                "{count:>7} {what:<34} {wall:>8.2} ms, CPU {cpu:>8.2} ms, {:>6.2} us each",
                cpu * 1e3 / count as f64
            );
        };
        for _ in 0..3 {
            let (hits, wall, cpu) = timed(|| {
                let store = Store::open(dir.path()).expect("a store");
                let answers = store.lookup_many(&keys);
                answers.iter().filter(|answer| matches!(answer, Answer::Hit(_))).count()
            });
            assert_eq!(hits as u64, count);
            report("open, look up all, close", (wall, cpu));
        }
        let store = Store::open(dir.path()).expect("a store");
        let (_, wall, cpu) = timed(|| store.lookup_many(&keys));
        report("look up all, first time", (wall, cpu));
        let (_, wall, cpu) = timed(|| store.lookup_many(&keys));
        report("look up all, again", (wall, cpu));
        let absent: Vec<ActionKey> =
            (0..count).map(|n| KeyDoc::new("absent", 1).param("n", n).key()).collect();
        let (_, wall, cpu) = timed(|| store.lookup_many(&absent));
        report("all absent", (wall, cpu));
        let (_, wall, cpu) = timed(|| keys.iter().all(|key| matches!(store.lookup(key), Lookup::Hit(_))));
        report("one by one, from the records", (wall, cpu));
    }
}
