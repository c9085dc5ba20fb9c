//! The command line of qpipe, for any set of stages.
//!
//! The only place of the project that prints, exits, handles signals and reads the process's environment. The flow
//! is always the same: [`args`] → a command of [`commands`] → [`exit::Exit`], errors of every room as one
//! [`error::CliError`], rendered once.

pub mod args;
pub mod commands;
mod descriptors;
pub mod error;
pub mod exit;
mod machine;
mod panics;
pub mod printer;
mod signals;
pub mod templates;

use std::ffi::OsString;
use std::process::ExitCode;

use qpipe_sdk::StageRegistry;

use args::Args;
use exit::Exit;
use printer::Printer;

/// The program's `main`.
pub fn main_with(registry: &StageRegistry, args: impl IntoIterator<Item = OsString>) -> ExitCode {
    run_with(registry, args).into()
}

/// Runs the program on the process's own terminal, with signals and panics taken care of. What a run gave up on still
/// runs in its threads, so the process should end now.
pub fn run_with(registry: &StageRegistry, args: impl IntoIterator<Item = OsString>) -> Exit {
    panics::mute_workers();
    descriptors::keep_from_children();
    let signals = signals::Signals::default();
    let mut printer = Printer::of_process();
    let exit = dispatch(registry, args, &mut printer, &|| signals.watch());
    match exit {
        Exit::Signal(_) => signals.received().unwrap_or(exit),
        _ => exit,
    }
}

/// Parses and runs one command, printing to `printer`. `cancel` is asked, before anything runs, for what stops a run.
pub fn dispatch(
    registry: &StageRegistry,
    args: impl IntoIterator<Item = OsString>,
    printer: &mut Printer,
    cancel: &dyn Fn() -> qpipe_sdk::Cancel,
) -> Exit {
    let args = match Args::parse_line(args) {
        Ok(args) => args,
        Err(error) => return refuse(&error, printer),
    };
    match commands::run(registry, &args, printer, cancel) {
        Ok(exit) => exit,
        Err(error) => {
            let exit = error.exit();
            printer.error(error);
            exit
        }
    }
}

/// `--help` and `--version` arrive here as well, as errors that are none.
fn refuse(error: &clap::Error, printer: &mut Printer) -> Exit {
    let text = error.render().ansi().to_string();
    if error.use_stderr() {
        printer.human_block(&text);
        Exit::Usage
    } else {
        printer.data_block(&text);
        Exit::Ok
    }
}
