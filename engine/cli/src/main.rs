//! The program: the commands of [`qpipe_cli`] with the built-in stages and `exec`.

use std::process::ExitCode;

use qpipe_engine::exec::with_exec;
use qpipe_engine::worker::Machine;
use qpipe_stages::cuda::CudaSettings;
use qpipe_stages::hub::{Hub, HubSettings};

fn main() -> ExitCode {
    let variable = |name: &str| std::env::var(name).ok();
    CudaSettings::from_variables(variable).apply();
    let machine = Machine::new(std::env::vars_os(), &std::env::temp_dir());
    let hub = Hub::new(HubSettings::from_variables(variable));
    let registry = with_exec(qpipe_stages::registry_with_hub(hub), &machine);
    qpipe_cli::main_with(&registry, std::env::args_os())
}
