//! `qpipe worker`: the other side of `run --isolate`.

use qpipe_sdk::StageRegistry;
use qpipe_sdk::protocol;

use crate::error::CliError;
use crate::exit::Exit;

/// Serves until the engine closes standard input. Standard output belongs to the protocol.
pub(super) fn serve(registry: &StageRegistry) -> Result<Exit, CliError> {
    let name = concat!("qpipe ", env!("CARGO_PKG_VERSION"));
    protocol::serve(registry, name, std::io::stdin().lock(), std::io::stdout())?;
    Ok(Exit::Ok)
}
