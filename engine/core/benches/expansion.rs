//! How long a study of many cells takes from its text to its keys. `cargo bench -p qpipe-engine` prints one line per
//! size: cells, nodes, wall time of each step, and the most memory that the process ever had.

#![expect(clippy::unwrap_used, reason = "in a benchmark, a panic is the report")]

#[path = "../tests/fake/mod.rs"]
mod fake;

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use qpipe_cache::Store;
use qpipe_engine::manifest::{LoadOptions, load_study};
use qpipe_engine::plan::{PlanOptions, plan};

/// A sweep over the parameters of a stage without inputs: as many nodes as cells, all of which have a key.
fn manifest(cells: usize) -> String {
    let values = |count: usize| (1..=count).map(|value| value.to_string()).collect::<Vec<_>>().join(" ");
    let (side, ten) = (values((cells / 10).isqrt()), values(10));
    format!(
        "qpipe 1 name=large\nload base {{ from embedded=tiny }}\nquantize weights {{ model base; scheme nf4 }}\n\
         probe speed\nsweep all {{\n    axis speed.prompt {side}\n    axis speed.generate {side}\n    \
         axis speed.repeat {ten}\n}}\n"
    )
}

/// `VmHWM` in MiB, where the system tells it.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn main() {
    let registry = fake::registry().with(fake::probe());
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let mut out = std::io::stdout();
    for cells in [1_000, 10_000, 100_000] {
        let text = manifest(cells);
        let start = Instant::now();
        let study =
            load_study(Path::new("/studies/large.kdl"), &text, &LoadOptions::default(), &registry).unwrap();
        let expanded = start.elapsed();
        let start = Instant::now();
        let planned = plan(&study, &registry, &store, &PlanOptions::default()).unwrap();
        let elapsed = start.elapsed();
        let (cells, nodes, peak) = (study.cells.len(), planned.nodes.len(), peak_mib());
        writeln!(out, "{cells} cells, {nodes} nodes: expand {expanded:?}, plan {elapsed:?}, {peak} MiB")
            .unwrap();
    }
}
