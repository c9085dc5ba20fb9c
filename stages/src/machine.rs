//! What the machine is, and what this process holds of it.

use std::collections::BTreeSet;
use std::fs;

use qpipe_sdk::StageError;

use crate::device::ComputeDevice;

/// Processor, cores, threads in use, memory and, where it computes, the GPU: what a measurement depends on and a key
/// must contain.
pub(crate) fn fingerprint(device: ComputeDevice) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let threads = rayon::current_num_threads();
    let model = field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let memory = meminfo("MemTotal").unwrap_or(0).div_ceil(1 << 30);
    let host = format!("{model}, {cores} cores, {threads} threads, {memory} GiB");
    match device {
        ComputeDevice::Cpu => host,
        ComputeDevice::Cuda(_) => format!("{host}, {}", gpus().unwrap_or_else(|| "CUDA".into())),
    }
}

/// Where the kernel's NVIDIA driver has a folder per GPU, whatever a process may see of them.
const NVIDIA_GPUS: &str = "/proc/driver/nvidia/gpus";

/// Whether the machine has NVIDIA GPUs, for this process or not.
pub fn has_nvidia_gpus() -> bool {
    fs::read_dir(NVIDIA_GPUS).is_ok_and(|mut cards| cards.next().is_some())
}

/// The models of the machine's NVIDIA GPUs, where the driver tells.
fn gpus() -> Option<String> {
    let cards = fs::read_dir(NVIDIA_GPUS).ok()?;
    let paths = cards.filter_map(|card| Some(card.ok()?.path().join("information")));
    let models: BTreeSet<String> = paths.filter_map(|path| field(path.to_str()?, "Model")).collect();
    (!models.is_empty()).then(|| models.into_iter().collect::<Vec<_>>().join(" and "))
}

/// Refuses work that needs more host memory than there is: to be told beats being killed. Where the system does not
/// tell, nothing is refused.
pub(crate) fn check_memory(what: &str, needed: u64) -> Result<(), StageError> {
    match meminfo("MemAvailable") {
        Some(there) if needed > there => {
            let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
            let (needed, there) = (gib(needed), gib(there));
            Err(StageError::OomHost(format!("{what} takes {needed:.1} GiB, {there:.1} GiB are available")))
        }
        _ => Ok(()),
    }
}

/// The process's largest resident set since the last reset, bytes, where the system tells.
pub(crate) fn peak_rss() -> Option<u64> {
    field("/proc/self/status", "VmHWM").and_then(|v| kib(&v))
}

/// Sets the peak back to the current resident set (Linux); elsewhere the peak is the process's own since start.
pub(crate) fn reset_peak_rss() {
    // without the permission, the figure is an upper bound, as documented
    let _ = fs::write("/proc/self/clear_refs", "5");
}

fn meminfo(name: &str) -> Option<u64> {
    field("/proc/meminfo", name).and_then(|v| kib(&v))
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|l| l.split(':').next().is_some_and(|key| key.trim() == name))?;
    line.split_once(':').map(|(_, value)| value.trim().to_owned())
}

fn kib(value: &str) -> Option<u64> {
    value.split_whitespace().next()?.parse::<u64>().ok().map(|k| k * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_memory_than_there_is_is_refused_by_name() {
        if meminfo("MemAvailable").is_none() {
            return; // a system that does not tell
        }
        let error = check_memory("the KV cache", u64::MAX).unwrap_err();
        assert_eq!(error.class(), qpipe_sdk::ErrorClass::OomHost);
        assert!(error.to_string().contains("the KV cache takes"), "{error}");
        check_memory("nothing", 0).unwrap();
    }

    #[test]
    fn the_fingerprint_names_processor_cores_and_memory() {
        let text = fingerprint(ComputeDevice::Cpu);
        assert!(text.contains(" cores, ") && text.contains(" threads, ") && text.ends_with(" GiB"), "{text}");
    }
}
