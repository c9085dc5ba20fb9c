//! `qpipe worker`: the other side of `run --isolate`.

use std::path::Path;

use qpipe_sdk::StageRegistry;
use qpipe_sdk::protocol::{self, transport};

use crate::error::CliError;
use crate::exit::Exit;

/// Serves until the engine closes standard input, whose counterpart standard output is the protocol's; or over the files in
/// the folder that the engine names.
pub(super) fn serve(registry: &StageRegistry) -> Result<Exit, CliError> {
    let name = concat!("qpipe ", env!("CARGO_PKG_VERSION"));
    match std::env::var_os(transport::FOLDER) {
        Some(folder) => {
            let (input, output) = transport::worker_ends(Path::new(&folder), transport::PATIENCE);
            protocol::serve(registry, name, input, output)?;
        }
        None => protocol::serve(registry, name, std::io::stdin().lock(), std::io::stdout())?,
    }
    Ok(Exit::Ok)
}
