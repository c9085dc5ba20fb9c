//! One module per command. Each returns its exit, or the error that ended it.

mod ahead;
mod cache;
mod cached;
mod check;
mod conformance;
mod devices;
mod explain;
mod fallback;
mod fetch;
mod fmt;
mod gc;
mod graph;
mod init;
mod plan;
mod plugin;
mod run;
mod runs;
mod schema;
mod show;
mod study;
mod summary;
mod walls;
mod worker;
mod workers;

use std::path::Path;

use qpipe_cache::Store;
use qpipe_sdk::{Cancel, StageRegistry};

use crate::args::{Args, Command, RunsCommand};
use crate::error::CliError;
use crate::exit::Exit;
use crate::printer::Printer;
use crate::signals;

/// Runs the command of parsed arguments.
pub fn run(
    registry: &StageRegistry,
    args: &Args,
    printer: &mut Printer,
    cancel: &dyn Fn() -> Cancel,
) -> Result<Exit, CliError> {
    match &args.command {
        Command::Run(run) => run::run(registry, args, run, printer, cancel),
        Command::Plan(plan) => plan::plan(registry, &args.store, plan, printer),
        Command::Check(study) => check::check(registry, &args.store, study, printer),
        Command::Fmt(args) => fmt::fmt(args, printer),
        Command::Init(args) => init::init(args, printer),
        Command::Plugin(command) => plugin::plugin(registry, &args.store, command, printer),
        Command::Explain { code } => explain::explain(code.as_deref(), printer),
        Command::Schema(asked) => schema::schema(registry, &args.store, asked, printer),
        Command::Graph(graph) => graph::graph(registry, &args.store, graph, printer),
        Command::Runs(RunsCommand::Show { run, json }) => {
            show::show(&existing(&args.store)?, run, *json, printer)
        }
        Command::Runs(RunsCommand::Diff { a, b, json }) => {
            show::diff(&existing(&args.store)?, (a, b), *json, printer)
        }
        Command::Runs(RunsCommand::Ls { json }) => runs::ls(&existing(&args.store)?, *json, printer),
        Command::Devices { json } => devices::devices(*json, printer),
        Command::Worker { device } => {
            // a signal that reaches the engine and its workers alike is the engine's to act on
            signals::ignore();
            worker::serve(registry, device.as_deref())
        }
        Command::Cache(command) => cache::run(&existing(&args.store)?, command, printer),
    }
}

/// A store that is only looked at is not made on the way.
fn existing(root: &Path) -> Result<Store, CliError> {
    if root.is_dir() { Ok(Store::open(root)?) } else { Err(CliError::NoStore { path: root.to_owned() }) }
}
