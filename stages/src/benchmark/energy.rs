//! Energy of the processor's packages, from the counters that Linux shows as `/sys/class/powercap/intel-rapl:N` (Intel
//! and AMD). They count everything that runs on the package, and are usually readable by root alone.

use std::fs;
use std::path::{Path, PathBuf};

const POWERCAP: &str = "/sys/class/powercap";

/// Package counters that can be read.
pub(super) struct Meter(Vec<Counter>);

struct Counter {
    file: PathBuf,
    /// The counter begins at 0 again after this many µJ.
    range: u64,
}

/// A moment to measure from: the counters' values, µJ.
pub(super) struct Mark(Vec<u64>);

impl Meter {
    /// `None` where no package counter can be read.
    pub(super) fn of_machine() -> Option<Self> {
        Self::under(Path::new(POWERCAP))
    }

    fn under(folder: &Path) -> Option<Self> {
        let zones = fs::read_dir(folder).ok()?.filter_map(Result::ok);
        // `intel-rapl:0` is a package, `intel-rapl:0:0` a part of it
        let packages = zones.map(|zone| zone.path()).filter(|path| {
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            name.strip_prefix("intel-rapl:").is_some_and(|n| n.parse::<u32>().is_ok())
        });
        let counters: Vec<Counter> = packages.filter_map(|path| Counter::open(&path)).collect();
        (!counters.is_empty()).then_some(Self(counters))
    }

    pub(super) fn mark(&self) -> Option<Mark> {
        self.0.iter().map(Counter::read).collect::<Option<Vec<u64>>>().map(Mark)
    }

    /// Joules since a mark. A counter that went round more than once since is counted as once.
    pub(super) fn joules_since(&self, mark: &Mark) -> Option<f64> {
        let now = self.mark()?;
        let used = |((counter, before), after): ((&Counter, &u64), &u64)| {
            if after >= before {
                after - before
            } else {
                after + (counter.range - before.min(&counter.range))
            }
        };
        let microjoules: u64 = self.0.iter().zip(&mark.0).zip(&now.0).map(used).sum();
        Some(microjoules as f64 / 1e6)
    }
}

impl Counter {
    fn open(zone: &Path) -> Option<Self> {
        let counter =
            Self { file: zone.join("energy_uj"), range: number(&zone.join("max_energy_range_uj"))? };
        counter.read().map(|_| counter)
    }

    fn read(&self) -> Option<u64> {
        number(&self.file)
    }
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_summed_and_counters_may_go_round() {
        let folder = tempfile::tempdir().unwrap();
        let set = |zone: &str, value: u64| {
            let zone = folder.path().join(zone);
            fs::create_dir_all(&zone).unwrap();
            fs::write(zone.join("max_energy_range_uj"), "10000000\n").unwrap();
            fs::write(zone.join("energy_uj"), format!("{value}\n")).unwrap();
        };
        assert!(Meter::under(folder.path()).is_none());
        set("intel-rapl:0", 1_000_000);
        set("intel-rapl:0:0", 500_000);
        set("intel-rapl:1", 9_000_000);
        let meter = Meter::under(folder.path()).unwrap();
        let mark = meter.mark().unwrap();
        set("intel-rapl:0", 3_000_000);
        set("intel-rapl:0:0", 900_000);
        set("intel-rapl:1", 500_000);
        let joules = meter.joules_since(&mark).unwrap();
        assert!((joules - 3.5).abs() < 1e-9, "{joules}");
        assert!(Meter::under(Path::new("/nowhere")).is_none());
    }
}
