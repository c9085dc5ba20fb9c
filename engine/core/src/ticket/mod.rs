//! A run in which everything is cached, without reading the study: what a run that found everything cached noted for the
//! next one.
//!
//! The note lies in the store as a ticket ([`qpipe_cache::ticket`]), under the digest of what was asked ([`Ask`]). It is
//! acted on only if everything that made those hits true still does:
//!
//! | holds | checked |
//! |---|---|
//! | the program, the manifest's text and path, `--set`, the folder, the stage types | they are the ticket's name |
//! | the texts that it includes, the environment that it reads | read again |
//! | what stages read from outside, and the machine where results depend on it | asked again, by the same stages; a file by its times |
//! | every record and every blob | looked up, by the same [`Store::lookup_many`]; each record must be the one it was |
//! | the memory of nodes | nothing was remembered since |
//!
//! Then the plan is what it was, key by key: a key is made of the parameters, which the texts decide, of the sources, and of
//! what the inputs' records hold. The run's record repeats that of the earlier run ([`crate::record`]).
//!
//! Anything else is no ticket, and the study is read, planned and run as ever: a lost, damaged or outdated ticket costs
//! time only.
//!
//! One thing is asked of stage types: one that neither reads anything nor depends on the machine in any node of a study
//! does neither at another time.

mod ask;
mod content;
mod keep;
mod probe;

use std::path::PathBuf;
use std::time::Instant;

use qpipe_cache::Store;
use qpipe_sdk::StageRegistry;

pub use ask::{Ask, Watched};
pub use keep::{Cached, keep};

use crate::manifest::LoadOptions;
use crate::record::Replay;
use crate::report::Overview;
use content::Content;

/// A run of a study whose every node is cached, and its record.
#[derive(Debug)]
pub struct CachedRun {
    pub study: String,
    pub cells: usize,
    pub nodes: usize,
    /// What cached results took when they ran, milliseconds.
    pub saved_ms: u64,
    pub elapsed_ms: u64,
    pub overview: Overview,
    /// The run's record.
    pub dir: PathBuf,
    /// The file of the run's log: one event a line, one per node.
    pub events: PathBuf,
}

/// Runs a study by its ticket: looks everything up and writes the run's record. `None` where there is no ticket or it does
/// not hold; then nothing was done.
pub fn run_cached(
    store: &Store,
    ask: &Ask<'_>,
    options: &LoadOptions<'_>,
    registry: &StageRegistry,
) -> Option<CachedRun> {
    let clock = Instant::now();
    let Content { note, keys } = Content::decode(&store.ticket(&ask.name(registry))?)?;
    let includes = note.texts_again(options)?;
    let holds = note.probes.iter().all(|probe| probe.holds(store, registry))
        && store.memory_stamp() == Some(note.memory)
        && store.confirm(&keys) == Some(note.results);
    holds.then_some(())?;
    let replay = Replay {
        model: &note.model,
        head: &note.head,
        cells: note.cells,
        manifest: ask.text,
        includes: &includes,
        clock,
    };
    let done = replay.write(&store.runs_dir()).ok()?;
    Some(CachedRun {
        study: note.head.study,
        cells: note.cells,
        nodes: keys.len(),
        saved_ms: note.head.saved_ms,
        elapsed_ms: done.elapsed_ms,
        overview: note.overview,
        dir: done.dir,
        events: done.events,
    })
}
