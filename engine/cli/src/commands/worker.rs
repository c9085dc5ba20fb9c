//! `qpipe worker`: the other side of a run's GPUs, and of `run --isolate`.

use std::path::Path;

use qpipe_sdk::protocol::{self, transport};
use qpipe_sdk::{StageRegistry, plugin};
use qpipe_stages::device::ComputeDevice;

use crate::error::CliError;
use crate::exit::Exit;

/// Serves until the engine closes standard input, whose counterpart standard output is the protocol's; or over the files in
/// the folder that the engine names. A GPU is opened meanwhile; that it cannot be is told by the first job.
pub(super) fn serve(registry: &StageRegistry, device: Option<&str>) -> Result<Exit, CliError> {
    if let Some(device) = device.map(str::to_owned) {
        std::thread::spawn(move || ComputeDevice::resolve(&device).and_then(ComputeDevice::open));
    }
    let name = concat!("qpipe ", env!("CARGO_PKG_VERSION"));
    if let Some(folder) = std::env::var_os(transport::FOLDER) {
        let (input, output) = transport::worker_ends(Path::new(&folder), transport::PATIENCE);
        protocol::serve(registry, name, input, output)?;
    } else {
        let output = plugin::messages().map_err(|source| CliError::Streams { source })?;
        protocol::serve(registry, name, std::io::stdin().lock(), output)?;
    }
    Ok(Exit::Ok)
}
