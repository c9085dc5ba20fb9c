//! This program's own workers: one for each GPU of a run, and those of `--isolate`.

use std::path::PathBuf;
use std::sync::Arc;

use qpipe_engine::run::{FreeGpu, RunOptions};
use qpipe_engine::worker::{Limits, WorkerCommand, Workers};
use qpipe_sdk::GpuNeed;
use qpipe_sdk::protocol::transport;

use crate::error::CliError;
use crate::machine;

/// Workers that serve this program's stages.
pub(super) fn workers() -> Result<Arc<Workers>, CliError> {
    let program = program()?;
    // this program may itself be spoken to over files
    let env: Vec<_> = std::env::vars_os().filter(|(name, _)| name != transport::FOLDER).collect();
    let command = move |device: Option<&str>| {
        let device = device.into_iter().flat_map(|device| ["--device", device]);
        let args = std::iter::once("worker").chain(device).map(Into::into).collect();
        WorkerCommand { program: program.clone(), args, env: env.clone() }
    };
    Ok(Arc::new(Workers::new(command, machine::machine(), Limits::default())))
}

/// Has a GPU's worker go.
pub(super) fn free_gpu(workers: &Arc<Workers>) -> FreeGpu {
    let workers = Arc::clone(workers);
    FreeGpu::by(move |gpu| workers.release(&named(gpu)))
}

fn named(gpu: usize) -> String {
    format!("cuda:{gpu}")
}

/// The file of this very program, also after a new one was built in its place.
fn program() -> Result<PathBuf, CliError> {
    let running = PathBuf::from(format!("/proc/{}/exe", std::process::id()));
    if running.exists() {
        return Ok(running);
    }
    std::env::current_exe().map_err(|source| CliError::Program { source })
}

/// Starts the workers of the GPUs that the run will need, so that they open while models are loaded and quantized.
pub(super) fn warm(workers: &Arc<Workers>, needs: &[GpuNeed], options: &RunOptions) {
    let any = needs.iter().filter(|need| **need == GpuNeed::Any).count();
    let (asked, others): (Vec<usize>, Vec<usize>) =
        options.gpus.iter().copied().partition(|gpu| needs.contains(&GpuNeed::Ordinal(*gpu)));
    // those that are named serve the others too
    for gpu in asked.iter().chain(others.iter().take(any.saturating_sub(asked.len()))) {
        workers.warm(&named(*gpu));
    }
}
