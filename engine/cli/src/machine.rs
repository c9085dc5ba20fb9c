//! What this machine has for a run.

use qpipe_engine::record::Environment;

use crate::args::Gpus;

/// Host memory that this process may use, bytes: the machine's, or less in a container.
pub(crate) fn memory() -> Option<u64> {
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let container = limit.and_then(|text| text.trim().parse().ok());
    [Environment::probe().memory_bytes, container].into_iter().flatten().min()
}

/// The ordinals of the GPUs to use. One that there is not is the stage's to refuse: it knows what exists.
pub(crate) fn gpus(asked: &Gpus) -> Vec<usize> {
    match asked {
        Gpus::All => (0..qpipe_stages::cuda::count().unwrap_or(0)).collect(),
        Gpus::These(ordinals) => ordinals.clone(),
    }
}
