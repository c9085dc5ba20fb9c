//! The crash windows of the commit protocol, one by one: each step fails, each write tears, and of what a power cut
//! may lose every subset is lost. Afterwards the store must answer a hit with the right bytes or a miss, take the
//! work again, and then be clean.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use crate::fault::{Fault, Faults, Op, Step};
use crate::testing::{memory_dir, record, store};
use crate::{Digest, KeyDoc, Repair};

const SMALL: &[u8] = b"a small blob";

fn large() -> Vec<u8> {
    (0..300_000_u32).map(|i| (i / 3) as u8).collect()
}

fn expected() -> ActionRecord {
    let (small, large_bytes) = (Digest::of_bytes(SMALL), large());
    record(
        "scenario",
        &[
            ("small", small, SMALL.len() as u64),
            ("large", Digest::of_bytes(&large_bytes), large_bytes.len() as u64),
        ],
    )
}

/// One action: a small blob, a large one through a writer, the record, and a note about the node.
fn scenario(store: &Store) -> Result<(), StoreError> {
    let _single_flight = store.lock(&expected().key)?;
    store.put_bytes(SMALL)?;
    let mut writer = store.writer()?;
    writer.write_all(&large()).map_err(|e| StoreError::unwrap_io(Path::new("writer"), e))?;
    writer.commit()?;
    store.commit(&expected())?;
    store.remember("node", &KeyDoc::new("scenario", 1))
}

/// The one promise: never wrong bytes, and the work can always be done again.
fn check(root: &Path, what: &str) -> bool {
    let store = Store::open(root).unwrap();
    let hit = match store.lookup(&expected().key) {
        Lookup::Absent | Lookup::Damaged(_) => false,
        Lookup::Hit(found) => {
            assert_eq!(*found, expected(), "{what}");
            assert_eq!(store.read(&Digest::of_bytes(SMALL)).unwrap(), SMALL, "{what}");
            assert_eq!(store.read(&Digest::of_bytes(&large())).unwrap(), large(), "{what}");
            true
        }
    };
    if let Some(memory) = store.last_doc("node") {
        assert_eq!(memory.doc, KeyDoc::new("scenario", 1), "{what}");
    }
    scenario(&store).unwrap();
    assert!(matches!(store.lookup(&expected().key), Lookup::Hit(_)), "{what}");
    let report = store.verify(Repair::Nothing);
    assert!(report.is_clean(), "{what}: {:?}", report.faults);
    hit
}

fn steps_of_a_whole_run(prepared: bool) -> u64 {
    let faults = Faults::none();
    let dir = memory_dir();
    run(&dir, &faults, prepared).unwrap();
    faults.steps()
}

/// Runs the scenario with faults, in a fresh store or in one whose layout is there.
fn run(dir: &tempfile::TempDir, faults: &Arc<Faults>, prepared: bool) -> Result<(), StoreError> {
    if prepared {
        store(dir);
    }
    scenario(&Store::open_with_faults(dir.path(), faults.clone())?)
}

#[test]
fn each_step_may_fail_or_be_the_last() {
    let kinds = [
        Fault::Error(io::ErrorKind::StorageFull),
        Fault::Error(io::ErrorKind::Other),
        Fault::TornError(io::ErrorKind::StorageFull),
        Fault::Crash,
        Fault::TornCrash,
    ];
    let total = steps_of_a_whole_run(false);
    assert!(total > 30, "the scenario has {total} steps");
    for fault in kinds {
        let (mut hits, mut failures) = (0, 0);
        for step in 1..=total {
            let dir = memory_dir();
            failures += u64::from(run(&dir, &Faults::at(step, fault), false).is_err());
            hits += u64::from(check(dir.path(), &format!("{fault:?} at step {step}")));
        }
        // in silence may fail: removing a lock's file, writing the lease (then it is emptied), putting it away, the index,
        // the marks
        assert!(failures >= total - 13, "{fault:?}: {failures} of {total} failed");
        assert!(hits > 0 && hits < total, "{fault:?}: {hits} hits of {total}");
    }
}

/// Everything a store can do, several times over, while each `n`-th change fails: whatever comes through is right, and
/// the store takes work again afterwards.
#[test]
fn every_nth_step_may_fail_all_along() {
    let kinds = [
        Fault::Error(io::ErrorKind::StorageFull),
        Fault::Error(io::ErrorKind::PermissionDenied),
        Fault::TornError(io::ErrorKind::StorageFull),
        Fault::TornError(io::ErrorKind::Other),
    ];
    let (mut failed, mut passed) = (0, 0);
    for (n, fault) in
        [1, 2, 3, 4, 5, 7, 9, 11, 13, 17, 23, 29].into_iter().flat_map(|n| kinds.map(|fault| (n, fault)))
    {
        let dir = memory_dir();
        let file = dir.path().join("linked");
        std::fs::write(&file, b"an owner's file").unwrap();
        store(&dir);
        for round in 0..4 {
            let Ok(store) = Store::open_with_faults(dir.path(), Faults::every(n, fault)) else { continue };
            for outcome in everything(&store, &file, round) {
                *if outcome.is_ok() { &mut passed } else { &mut failed } += 1;
            }
        }
        check(dir.path(), &format!("{fault:?} at every step {n}"));
        let all = crate::GcOptions { grace: std::time::Duration::ZERO, ..Default::default() };
        store(&dir).gc(&all).unwrap();
        let report = store(&dir).verify(Repair::Nothing);
        assert!(report.is_clean(), "{fault:?} at every step {n}: {:?}", report.faults);
    }
    assert!(failed > 150 && passed > 150, "{failed} failed, {passed} passed");
}

fn everything(store: &Store, file: &Path, round: u64) -> Vec<Result<(), StoreError>> {
    let own = format!("round {round}").into_bytes();
    let mut done = vec![scenario(store), store.link_file(file).map(drop)];
    done.push(store.put_bytes(&own).and_then(|digest| {
        let record = record(&format!("r{round}"), &[("out", digest, own.len() as u64)]);
        store.commit(&record)?;
        store.pin("latest", &[record.key].into())
    }));
    let options = crate::GcOptions {
        grace: std::time::Duration::ZERO,
        older_than: (round % 2 == 1).then_some(std::time::Duration::ZERO),
        ..Default::default()
    };
    done.push(store.gc(&options).map(drop));
    done.push(store.unpin("latest").map(drop));
    if let Lookup::Hit(found) = store.lookup(&expected().key) {
        assert_eq!(*found, expected());
    }
    done
}

/// What was not durable when the journal ends: data of files by their present name, and names.
#[derive(Debug)]
struct Volatile {
    data: Vec<PathBuf>,
    names: Vec<PathBuf>,
}

fn volatile(journal: &[Step]) -> Volatile {
    let (mut data, mut names) = (BTreeSet::new(), BTreeSet::new());
    for step in journal {
        match (step.op, &step.to) {
            (Op::Create | Op::Write, _) => drop(data.insert(step.path.clone())),
            (Op::Rename, Some(to)) => {
                if data.remove(&step.path) {
                    data.insert(to.clone());
                }
                names.insert(to.clone());
            }
            (Op::MakeDir, _) => drop(names.insert(step.path.clone())),
            (Op::SyncDir, _) => names.retain(|name| name.parent() != Some(&*step.path)),
            (Op::SyncFile | Op::Remove | Op::Rename, _) => drop(data.remove(&step.path)),
        }
    }
    let data = data.into_iter().filter(|path| path.is_file()).collect();
    Volatile { data, names: names.into_iter().collect() }
}

impl Volatile {
    fn len(&self) -> usize {
        self.data.len() + self.names.len()
    }

    fn moved(&self, from: &Path, to: &Path) -> Self {
        let moved =
            |paths: &[PathBuf]| paths.iter().map(|p| to.join(p.strip_prefix(from).unwrap())).collect();
        Self { data: moved(&self.data), names: moved(&self.names) }
    }

    /// Loses the chosen pieces, one bit each: unsynced data is cut in half or, by one more bit, zeroed; unsynced names
    /// vanish.
    fn cut_power(&self, choice: usize) {
        let chosen = |i: usize| choice >> i & 1 == 1;
        for (_, path) in self.data.iter().enumerate().filter(|(i, _)| chosen(*i)) {
            let mut bytes = std::fs::read(path).unwrap();
            if chosen(self.len()) {
                bytes.fill(0);
            } else {
                bytes.truncate(bytes.len() / 2);
            }
            crate::testing::overwrite(path, &bytes);
        }
        let names = self.names.iter().enumerate().filter(|(i, _)| chosen(self.data.len() + i));
        for (_, path) in names {
            let _gone =
                if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
        }
    }
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for path in crate::layout::list(from).unwrap() {
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_tree(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

#[test]
fn a_power_cut_may_lose_any_subset_of_what_was_not_synced() {
    let total = steps_of_a_whole_run(true);
    let mut cuts = 0;
    for step in 1..=total + 1 {
        let faults = Faults::at(step, Fault::Crash);
        let dir = memory_dir();
        let _cut = run(&dir, &faults, true);
        let pieces = volatile(&faults.journal());
        assert!(pieces.len() <= 8, "step {step}: {pieces:?}");
        for choice in 0..2_usize << pieces.len() {
            let copy = memory_dir();
            copy_tree(dir.path(), copy.path());
            pieces.moved(dir.path(), copy.path()).cut_power(choice);
            check(copy.path(), &format!("cut before step {step}, losing {choice:b} of {pieces:?}"));
            cuts += 1;
        }
    }
    assert!(cuts > 3 * total, "{cuts} cuts");
}

#[test]
fn after_commit_returns_a_power_cut_loses_nothing_of_it() {
    let dir = memory_dir();
    let faults = Faults::none();
    let store = Store::open_with_faults(dir.path(), faults.clone()).unwrap();
    scenario(&store).unwrap();
    let lost = volatile(&faults.journal());
    lost.cut_power(usize::MAX);
    assert!(check(dir.path(), "cut after commit"), "{lost:?}");
}

/// The replay must be able to fail: without the sync of the blobs' data it finds wrong bytes.
#[test]
fn the_replay_notices_a_missing_sync() {
    let dir = memory_dir();
    let faults = Faults::none();
    let store = Store::open_with_faults(dir.path(), faults.clone()).unwrap();
    store.put_bytes(SMALL).unwrap();
    let unsynced: Vec<Step> = faults.journal().into_iter().filter(|s| s.op != Op::SyncFile).collect();
    let lost = volatile(&unsynced);
    assert!(lost.data.contains(&store.layout().blob(&Digest::of_bytes(SMALL))), "{lost:?}");
}
