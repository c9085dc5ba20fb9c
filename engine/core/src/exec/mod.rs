//! The `exec` stage: any command with declared inputs and outputs. A download, a conversion, a colleague's script is a
//! cached stage then.
//!
//! ```text
//! exec count {
//!     command python3 count.py words "--top=20"
//!     input count.py "scripts/count.py"      // a file or a folder, by content
//!     input words (stage)split               // what another stage made
//!     output table "out/table.tsv"
//!     metrics "metrics.json"                 // {"words": 1234}
//! }
//! ```
//!
//! The command runs in a fresh folder that holds its inputs under their names and nothing else, with an environment
//! that says the same on every machine:
//!
//! | enters the key | never enters the key |
//! |---|---|
//! | the command's words, and whether a shell reads them | where things are: `PATH`, `LD_LIBRARY_PATH`, `CUDA_VISIBLE_DEVICES` |
//! | inputs: name and content | inputs: where they lie |
//! | `env`: names and values | every other variable: it is not there |
//! | outputs: names and paths | the timeout |
//!
//! The program itself is named, not hashed: a study that depends on a version states it, or makes the program an input.
//!
//! | module | holds |
//! |---|---|
//! | `spec` | what the stage declares, and its rules |
//! | `job` | the folder a command runs in |
//! | `run` | start, wait, stop, collect |
//! | `metrics` | the metrics file |

mod job;
mod metrics;
mod run;
mod spec;

use std::path::Path;
use std::time::Duration;

use qpipe_sdk::{Context, Outcome, Params, Source, Stage, StageError, StageRegistry, StageSpec};

use crate::worker::Machine;
use crate::worker::launch::GRACE;

/// The registry with `exec`.
#[must_use]
pub fn with_exec(registry: StageRegistry, machine: &Machine) -> StageRegistry {
    registry.with(Box::new(Exec::new(machine.clone())))
}

/// The `exec` stage.
pub struct Exec {
    spec: StageSpec,
    machine: Machine,
    /// Between SIGTERM and SIGKILL.
    grace: Duration,
}

impl Exec {
    pub fn new(machine: Machine) -> Self {
        Self { spec: spec::spec(), machine, grace: GRACE }
    }
}

impl Stage for Exec {
    fn spec(&self) -> &StageSpec {
        &self.spec
    }

    fn check(&self, params: &Params) -> Vec<(String, String)> {
        spec::check(params)
    }

    fn sources(&self, params: &Params) -> Result<Vec<Source>, StageError> {
        let inputs = params.files().filter(|(name, _)| name.starts_with(spec::INPUT));
        let inputs: Vec<(&str, &Path)> = inputs.collect();
        job::sources(&inputs)
    }

    fn run(&self, ctx: &Context<'_>) -> Result<Outcome, StageError> {
        run::run(ctx, &self.machine, self.grace)
    }
}
