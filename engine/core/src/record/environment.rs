//! The machine a run ran on, as far as it explains its numbers.

use serde::{Deserialize, Serialize};

/// Tool and machine. What the system does not tell is absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    pub tool: String,
    pub os: String,
    pub arch: String,
    /// Model name of the processor.
    pub cpu: Option<String>,
    /// Cores this process may use.
    pub cores: Option<usize>,
    pub memory_bytes: Option<u64>,
}

impl Environment {
    /// Asks the running system.
    pub fn probe() -> Self {
        let read = |path| std::fs::read_to_string(path).ok();
        Self {
            tool: concat!("qpipe ", env!("CARGO_PKG_VERSION")).into(),
            os: std::env::consts::OS.into(),
            arch: std::env::consts::ARCH.into(),
            cpu: read("/proc/cpuinfo").and_then(|text| field(&text, "model name").map(str::to_owned)),
            cores: std::thread::available_parallelism().ok().map(usize::from),
            memory_bytes: read("/proc/meminfo").and_then(|text| memory_bytes(&text)),
        }
    }
}

fn field<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.map(|(key, value)| (key.trim(), value.trim())).find(|(key, _)| *key == name).map(|(_, value)| value)
}

fn memory_bytes(meminfo: &str) -> Option<u64> {
    let kib: u64 = field(meminfo, "MemTotal")?.strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_and_memory_are_read_from_the_systems_texts() {
        let cpuinfo = "processor\t: 0\nmodel name\t: Example CPU @ 2.0 GHz\n\nprocessor\t: 1\n";
        assert_eq!(field(cpuinfo, "model name"), Some("Example CPU @ 2.0 GHz"));
        assert_eq!(memory_bytes("MemTotal:       2048 kB\nMemFree: 1 kB\n"), Some(2_097_152));
        assert_eq!(memory_bytes("nothing"), None);
    }
}
