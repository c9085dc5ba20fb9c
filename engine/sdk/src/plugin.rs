//! Stages as a program of their own, which a manifest names in a `plugin` line.
//!
//! ```no_run
//! # fn stages() -> Vec<Box<dyn qpipe_sdk::Stage>> { Vec::new() }
//! fn main() -> std::process::ExitCode {
//!     qpipe_sdk::plugin::main(stages())
//! }
//! ```
//!
//! A stage there is written as one of the engine's: it reads what its [`Context`](crate::Context) hands it, and what it puts
//! into the context's store is what the engine gets. The store is the job's own, in its scratch folder. Units
//! ([`Context::unit`](crate::Context::unit)) survive a kill.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use qpipe_cache::Store;

use crate::error::StageError;
use crate::event::Cancel;
use crate::protocol::{self, ServeError, transport};
use crate::stage::{Context, Outcome, SourceData, Stage, StageRegistry};
use crate::value::Params;

/// How long a job has to stop after the conversation has ended.
const GRACE: Duration = Duration::from_secs(2);
/// The exit status of a program whose job did not.
const OVERDUE: i32 = 1;

/// Serves stages to the engine that started this program, until it ends the conversation. What the program prints goes to the
/// log: standard output is the protocol's. Arguments are the program's own. A job that runs then is asked to stop; where it
/// does not within 2 s, the program ends without it.
#[must_use]
pub fn main(stages: Vec<Box<dyn Stage>>) -> ExitCode {
    let registry = stages.into_iter().fold(StageRegistry::default(), StageRegistry::with);
    let program = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&program).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let worker = format!("{name}, qpipe-sdk {}", env!("CARGO_PKG_VERSION"));
    match serve(&registry, &worker) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            use io::Write;
            let _nobody_reads = writeln!(io::stderr(), "{worker}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a stage that has no inputs without an engine, over a store: for its tests. Defaults are filled in, files are linked.
///
/// # Errors
/// Rules that the parameters break, and what the stage fails with.
pub fn run_alone(stage: &dyn Stage, given: &Params, store: &Store) -> Result<Outcome, StageError> {
    let params = stage.spec().schema.effective(given);
    if let Some((path, problem)) = stage.check(&params).first() {
        return Err(StageError::Config(format!("`{path}`: {problem}")));
    }
    let mut sources = BTreeMap::new();
    for source in stage.sources(&params)? {
        let digest = match source.data {
            SourceData::File(path) => store.link_file(&path)?,
            SourceData::Embedded(bytes) => store.put_bytes(bytes)?,
        };
        sources.insert(source.name, digest);
    }
    let (inputs, cancel) = (BTreeMap::new(), Cancel::default());
    let (params, inputs, sources) = (&params, &inputs, &sources);
    stage.run(&Context {
        params,
        inputs,
        sources,
        store,
        events: &(),
        cancel: &cancel,
        device: "cpu",
        doc: None,
    })
}

fn serve(registry: &StageRegistry, worker: &str) -> Result<(), PluginError> {
    if let Some(folder) = std::env::var_os(transport::FOLDER) {
        let (input, output) = transport::worker_ends(Path::new(&folder), transport::PATIENCE);
        return Ok(protocol::serve_plugin(registry, worker, input, output, leave_soon)?);
    }
    Ok(protocol::serve_plugin(registry, worker, io::stdin().lock(), messages()?, leave_soon)?)
}

/// Standard output, for messages alone: whatever else prints, libraries too, does so to standard error from now on.
///
/// # Errors
/// Where the process has no room for another descriptor, or one of the two streams is closed.
pub fn messages() -> io::Result<File> {
    let output = rustix::io::dup(io::stdout())?;
    rustix::stdio::dup2_stdout(io::stderr())?;
    Ok(output.into())
}

/// Ends the program in a while, whatever still runs in it: nobody hears of it any more.
fn leave_soon() {
    std::thread::spawn(|| {
        std::thread::sleep(GRACE);
        #[expect(clippy::exit, reason = "a stage that does not stop cannot be ended otherwise")]
        std::process::exit(OVERDUE);
    });
}

/// Why a plugin's program ends.
#[derive(Debug, thiserror::Error)]
enum PluginError {
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error("standard output cannot be kept for messages: {0}")]
    Streams(#[from] io::Error),
}
