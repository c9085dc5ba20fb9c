//! Units of a plugin's job: files that the engine keeps as soon as the worker says that they are complete, so that a next
//! try of the same job finds them, however the last one ended.
//!
//! The worker names its units as it goes, so the engine cannot know their keys before. Each is therefore an action of its
//! own by number: its key is the job's with `KIND/unit` and `unit#`, and its one output has the unit's name. The units of
//! a job are those from number 0 to the first that is not there. That is all there is: no list besides that could tell
//! otherwise than the records, a commit is the store's, and gc takes units like any record. Where gc leaves a gap, what lies
//! behind it comes back as soon as the gap is filled.
//!
//! Files are copied on a thread of their own: whatever the size of a unit, the worker is listened to, and can be stopped.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use qpipe_cache::{ActionRecord, Digest, KeyDoc, Lookup, OutputRecord, Store};
use qpipe_sdk::protocol::{MAX_LINE, WireBlob};
use qpipe_sdk::{Context, stage::unix_ms};

use super::error::WorkerError;
use super::files::{is_inside, keep_file};
use super::request::blob;

/// The parameter of a unit's key that is its number. No stage type can declare one of this name.
const NUMBER: &str = "unit#";

/// Bytes of a request that are left free of units, for its id and what stands around them.
const AROUND: usize = 128;

/// A unit in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    pub digest: Digest,
    pub bytes: u64,
    number: i64,
}

type Stored = (String, Result<Kept, WorkerError>);

/// Keeps a job's units. Dropping it ends what it is copying.
#[derive(Debug)]
pub struct Keeper {
    found: BTreeMap<String, Kept>,
    told: BTreeMap<String, WireBlob>,
    asked: Option<Sender<(String, String)>>,
    stored: Receiver<Stored>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// The units of a job, those that earlier tries kept first.
#[derive(Clone)]
pub struct Units {
    store: Store,
    /// The job; without it units are stored and not found again.
    doc: Option<KeyDoc>,
    /// The first number that was not there.
    next: i64,
    found: BTreeMap<String, Kept>,
}

impl Keeper {
    /// Keeps further units. `work`: the scratch folder; `request`: what the worker is told besides, bytes.
    pub fn start(units: Units, work: &Path, request: usize) -> Self {
        let told = told(&units.store, &units.found, MAX_LINE.saturating_sub(request + AROUND));
        let found = units.found.clone().into_iter().filter(|(name, _)| told.contains_key(name)).collect();
        let mut keeping = Keeping { units, work: work.to_owned() };
        let (asked, requests) = channel::<(String, String)>();
        let (results, stored) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut clock = Instant::now();
            for (name, path) in requests {
                let kept = keeping.keep(&name, &path, clock, &stopped);
                clock = Instant::now();
                if results.send((name, kept)).is_err() || stopped.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        Self { found, told, asked: Some(asked), stored, stop, thread: Some(thread) }
    }

    /// What earlier tries kept.
    pub(super) fn found(&self) -> &BTreeMap<String, Kept> {
        &self.found
    }

    /// The same as a worker is told.
    pub(super) fn told(&self) -> BTreeMap<String, WireBlob> {
        self.told.clone()
    }

    /// Has a unit's file kept.
    pub(super) fn keep(&self, name: String, path: String) {
        if let Some(asked) = &self.asked {
            let _stopped = asked.send((name, path));
        }
    }

    /// A unit that was stored since the last call, or why it could not be.
    pub(super) fn stored(&self) -> Option<Stored> {
        self.stored.try_recv().ok()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.asked = None;
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// The units as a worker is told of them, as many as `room` bytes of its request hold. One whose file is gone by now is as good as not
/// kept.
fn told(store: &Store, found: &BTreeMap<String, Kept>, room: usize) -> BTreeMap<String, WireBlob> {
    let (mut told, mut bytes) = (BTreeMap::new(), 0);
    for (name, kept) in found {
        let Ok(blob) = blob(store, &kept.digest) else { continue };
        // `"name":{…},`
        let Ok(text) = serde_json::to_vec(&(name, &blob)) else { continue };
        bytes += text.len();
        if bytes > room {
            break;
        }
        told.insert(name.clone(), blob);
    }
    told
}

/// Whether a unit can be called so: like a file below a folder, should somebody make one of it.
pub(super) fn is_unit_name(name: &str) -> bool {
    is_inside(Path::new(name)) && !name.contains(char::is_control)
}

impl Units {
    /// Finds what earlier tries kept.
    pub fn find(ctx: &Context<'_>) -> Self {
        let (store, doc) = (ctx.store.clone(), ctx.doc.cloned());
        let mut units = Self { store, doc, next: 0, found: BTreeMap::new() };
        while let Some(doc) = units.key(units.next)
            && let Lookup::Hit(record) = units.store.lookup(&doc.key())
        {
            for (name, output) in &record.outputs {
                let kept = Kept { digest: output.digest, bytes: output.bytes, number: units.next };
                units.found.insert(name.clone(), kept);
            }
            units.next += 1;
        }
        units
    }

    /// The files of those that were found. One that is gone by now is as good as not kept.
    pub fn paths(&self, store: &Store) -> Vec<PathBuf> {
        self.found.values().filter_map(|kept| store.blob_path(&kept.digest).ok()).collect()
    }

    fn key(&self, number: i64) -> Option<KeyDoc> {
        let mut doc = self.doc.clone()?.param(NUMBER, number);
        doc.kind += "/unit";
        Some(doc)
    }

    /// A number that no unit has.
    fn free(&mut self) -> i64 {
        while let Some(doc) = self.key(self.next)
            && matches!(self.store.lookup(&doc.key()), Lookup::Hit(_))
        {
            self.next += 1;
        }
        self.next += 1;
        self.next - 1
    }
}

/// The thread's side.
struct Keeping {
    units: Units,
    work: PathBuf,
}

impl Keeping {
    fn keep(
        &mut self,
        name: &str,
        path: &str,
        since: Instant,
        stop: &AtomicBool,
    ) -> Result<Kept, WorkerError> {
        let units = &mut self.units;
        let go_on = || !stop.load(Ordering::Relaxed);
        let (digest, bytes) = keep_file(&units.store, &self.work, name, path, &go_on)?;
        let before = units.found.get(name).copied();
        if let Some(kept) = before.filter(|kept| kept.digest == digest) {
            return Ok(kept);
        }
        let number = before.map_or_else(|| units.free(), |kept| kept.number);
        let kept = Kept { digest, bytes, number };
        if let Some(doc) = units.key(number) {
            units.store.commit(&record(doc, name, kept, since.elapsed().as_millis() as u64))?;
        }
        units.found.insert(name.to_owned(), kept);
        Ok(kept)
    }
}

fn record(doc: KeyDoc, name: &str, kept: Kept, elapsed_ms: u64) -> ActionRecord {
    let output = OutputRecord { kind: "blob".into(), digest: kept.digest, bytes: kept.bytes };
    ActionRecord {
        schema: qpipe_cache::RECORD_SCHEMA,
        key: doc.key(),
        doc,
        outputs: BTreeMap::from([(name.to_owned(), output)]),
        refs: [kept.digest].into(),
        metrics: serde_json::Value::Null,
        started_unix_ms: unix_ms().saturating_sub(elapsed_ms),
        elapsed_ms,
        tool: concat!("qpipe ", env!("CARGO_PKG_VERSION")).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_fits_into_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let kept = Kept { digest: store.put_bytes(b"x").unwrap(), bytes: 1, number: 0 };
        let gone = Kept { digest: Digest::of_bytes(b"gone"), ..kept };
        let found = |long: usize| (0..2000).map(move |n| (format!("{n}/{}", "\"".repeat(long)), kept));
        let all = found(8).chain([("gone".into(), gone)]).collect();
        assert_eq!(told(&store, &all, MAX_LINE).len(), 2000);
        for (long, room) in [(1000, MAX_LINE), (8, 100_000), (8, 300), (8, 0)] {
            let told = told(&store, &found(long).collect(), room);
            let bytes = serde_json::to_vec(&told).unwrap().len();
            assert!(bytes <= room.max(2) && bytes + 2200 > room, "{bytes} of {room}");
        }
    }

    #[test]
    fn names_are_paths_below_a_folder() {
        assert!(["a", "layers.0/q_proj", "Ä b"].into_iter().all(is_unit_name));
        assert!(!["", "/a", "../a", "a/../../b", "./a", "a\nb"].into_iter().any(is_unit_name));
    }
}
