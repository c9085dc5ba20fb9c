//! What the machine is, and what this process holds.

use std::fs;

/// Processor, cores and memory: what a measurement depends on and a key must contain.
pub(super) fn fingerprint() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let model = field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let memory = field("/proc/meminfo", "MemTotal").and_then(|v| kib(&v)).unwrap_or(0);
    format!("{model}, {cores} cores, {} GiB", memory.div_ceil(1 << 30))
}

/// The process's largest resident set since the last reset, bytes, where the system tells.
pub(super) fn peak_rss() -> Option<u64> {
    field("/proc/self/status", "VmHWM").and_then(|v| kib(&v))
}

/// Sets the peak back to the current resident set (Linux); elsewhere the peak is the process's own since start.
pub(super) fn reset_peak_rss() {
    // without the permission, the figure is an upper bound, as documented
    let _ = fs::write("/proc/self/clear_refs", "5");
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|l| l.split(':').next().is_some_and(|key| key.trim() == name))?;
    line.split_once(':').map(|(_, value)| value.trim().to_owned())
}

fn kib(value: &str) -> Option<u64> {
    value.split_whitespace().next()?.parse::<u64>().ok().map(|k| k * 1024)
}
