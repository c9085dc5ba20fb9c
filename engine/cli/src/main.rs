//! The program: the commands of [`qpipe_cli`] with the built-in stages.

use std::process::ExitCode;

fn main() -> ExitCode {
    qpipe_cli::main_with(&qpipe_stages::registry(), std::env::args_os())
}
