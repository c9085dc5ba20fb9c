//! A null run: the whole program on a study whose every result is cached, beside ninja on as many targets that are up
//! to date.
//!
//! The program is the real command line (`qpipe run`) on two small stage types of this file, since filling a store with
//! a hundred thousand results of real stages would take days. Manifest, expansion, keys, look-up, events, record and
//! tables are what a user's run has. Both tools run as processes of their own; their CPU time is what the kernel counted.

use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use qpipe_sdk::{
    Artifact, ArtifactKind, Better, Context, Determinism, Metric, NodeSpec, Outcome, ParamSpec, ParamType,
    PortSpec, Schema, Stage, StageError, StageRegistry, StageSpec,
};
use wait4::Wait4;

/// First argument of this binary when it plays the program.
const AS_QPIPE: &str = "--as-qpipe";
/// Environment variable: where the program leaves its peak memory.
const PEAK: &str = "NULL_RUN_PEAK";

#[derive(Parser)]
struct Arguments {
    /// Nodes of the study and targets of ninja; repeatable.
    #[arg(long, default_values_t = [1_000, 10_000, 100_000])]
    nodes: Vec<usize>,
    /// Measured runs of each.
    #[arg(long, default_value_t = 5)]
    repeat: usize,
    /// Where stores and targets go; the default is memory, where filling them is quick.
    #[arg(long, default_value = "/dev/shm")]
    dir: PathBuf,
}

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|first| first == AS_QPIPE) {
        let exit = qpipe_cli::main_with(&registry(), std::iter::once("qpipe".into()).chain(args));
        if let Some(path) = std::env::var_os(PEAK) {
            // where it cannot be written, the table shows a peak of zero
            let _shown = fs::write(path, peak_kib().to_string());
        }
        return exit;
    }
    match measure(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // nothing is left to do where standard error is closed
            let _closed = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> std::io::Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "nodes    tool   CPU ms (median [min–max])   time ms   peak MB   CPU of ninja's")?;
    for &nodes in &arguments.nodes {
        let dir = tempfile::tempdir_in(&arguments.dir)?;
        let ours = Peer::qpipe(dir.path(), nodes)?.measure(arguments.repeat)?;
        let theirs = Peer::ninja(dir.path(), nodes)?.measure(arguments.repeat)?;
        let ratio =
            ours.cpu[ours.cpu.len() / 2].as_secs_f64() / theirs.cpu[theirs.cpu.len() / 2].as_secs_f64();
        writeln!(out, "{nodes:<8} qpipe  {ours}   {ratio:.2}")?;
        writeln!(out, "{nodes:<8} ninja  {theirs}   1")?;
    }
    Ok(())
}

fn read_number(path: &Path) -> u64 {
    fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// The most memory this process had, KiB, as the kernel counted it.
fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse().ok()).unwrap_or(0)
}

/// A command whose work is all done.
struct Peer {
    command: Command,
    /// Where the command leaves its peak memory, if it does.
    peak: Option<PathBuf>,
}

impl Peer {
    /// A filled store and its manifest: a load, and a quantize and an evaluate per cell.
    fn qpipe(dir: &Path, nodes: usize) -> std::io::Result<Self> {
        let manifest = dir.join("null.kdl");
        fs::write(&manifest, text(nodes))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args([AS_QPIPE, "run"]).arg(manifest);
        command.arg("--store").arg(dir.join("store")).env(PEAK, dir.join("peak"));
        let mut peer = Self { command, peak: Some(dir.join("peak")) };
        // one run fills the store; the next is the first to look, and leaves the census that later ones use
        peer.run()?;
        peer.run()?;
        Ok(peer)
    }

    /// As many targets, made and newer than what they are made of.
    fn ninja(dir: &Path, nodes: usize) -> std::io::Result<Self> {
        let dir = dir.join("ninja");
        fs::create_dir(&dir)?;
        let mut file = BufWriter::new(File::create(dir.join("build.ninja"))?);
        writeln!(file, "rule make\n  command = cp $in $out\n  generator = 1\n")?;
        File::create(dir.join("base"))?;
        for cell in 0..nodes / 2 {
            writeln!(file, "build weights{cell}: make base\nbuild quality{cell}: make weights{cell}")?;
            File::create(dir.join(format!("weights{cell}")))?;
            File::create(dir.join(format!("quality{cell}")))?;
        }
        file.flush()?;
        let mut command = Command::new("ninja");
        command.arg("-C").arg(&dir);
        let mut peer = Self { command, peak: None };
        peer.run()?;
        Ok(peer)
    }

    fn run(&mut self) -> std::io::Result<Sample> {
        let clock = Instant::now();
        let mut child =
            self.command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let mut errors = Vec::new();
        if let Some(mut err) = child.stderr.take() {
            err.read_to_end(&mut errors)?;
        }
        let ended = child.wait4()?;
        let time = clock.elapsed();
        if !ended.status.success() {
            return Err(std::io::Error::other(String::from_utf8_lossy(&errors).into_owned()));
        }
        let cpu = ended.rusage.utime + ended.rusage.stime;
        Ok(Sample { cpu, time, peak_kib: self.peak.as_deref().map_or(0, read_number) })
    }

    fn measure(&mut self, repeat: usize) -> std::io::Result<Measured> {
        let samples = (0..repeat.max(1)).map(|_| self.run()).collect::<std::io::Result<Vec<_>>>()?;
        let sorted = |of: fn(&Sample) -> Duration| {
            let mut all: Vec<Duration> = samples.iter().map(of).collect();
            all.sort_unstable();
            all
        };
        let peak_kib = samples.iter().map(|s| s.peak_kib).max().unwrap_or(0);
        Ok(Measured { cpu: sorted(|s| s.cpu), time: sorted(|s| s.time), peak_kib })
    }
}

struct Sample {
    cpu: Duration,
    time: Duration,
    peak_kib: u64,
}

/// Samples, sorted.
struct Measured {
    cpu: Vec<Duration>,
    time: Vec<Duration>,
    peak_kib: u64,
}

impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |d: &Duration| d.as_secs_f64() * 1e3;
        let Self { cpu, time, peak_kib } = self;
        let (low, high) = (ms(&cpu[0]), ms(&cpu[cpu.len() - 1]));
        let (cpu, time, peak) =
            (ms(&cpu[cpu.len() / 2]), ms(&time[time.len() / 2]), *peak_kib as f64 / 1024.0);
        write!(f, "{cpu:8.1} [{low:.1}–{high:.1}]   {time:8.1}   {peak:7.1}")
    }
}

/// A study of about `nodes` nodes: two per cell, and a load.
fn text(nodes: usize) -> String {
    let cells = (nodes / 2).max(1);
    let fast = (1..=cells).filter(|n| cells.is_multiple_of(*n) && n * n <= cells).max().unwrap_or(1);
    let values = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
    format!(
        "qpipe 1 name=nothing-to-do\nload base {{\n    seed 1\n}}\nquantize weights {{\n    model base\n    block 0\n    group 0\n}}\n\
         evaluate quality {{\n    model weights\n}}\nsweep all {{\n    axis weights.block {}\n    axis weights.group {}\n}}\n",
        values(cells / fast),
        values(fast)
    )
}

/// A stage that writes its parameters down.
struct Small(StageSpec);

impl Stage for Small {
    fn spec(&self) -> &StageSpec {
        &self.0
    }

    fn run(&self, ctx: &Context<'_>) -> Result<Outcome, StageError> {
        let mut bytes = format!("{} {:?}", self.0.kind, ctx.params).into_bytes();
        if !self.0.inputs.is_empty() {
            bytes.extend(ctx.store.read(&ctx.input("model")?.digest)?);
        }
        let score = Metric::new("score", bytes.len() as f64, "", Better::Higher).headline();
        let artifact = Artifact::single("model", ctx.store.put_bytes(&bytes)?);
        Ok(Outcome { artifact, metrics: vec![score] })
    }
}

fn small(kind: &'static str, reads: bool, params: &[&'static str]) -> Box<dyn Stage> {
    let model = || ArtifactKind::new("model");
    let port = PortSpec { name: "model", doc: "", kind: model(), required: true };
    let param = |name: &&'static str| {
        NodeSpec::value(ParamSpec::new(name, ParamType::Int { min: 0, max: i64::MAX }, "a number"))
    };
    Box::new(Small(StageSpec {
        kind,
        semantics: 1,
        doc: "a stage of the benchmark",
        inputs: if reads { vec![port] } else { Vec::new() },
        output: model(),
        schema: Schema::new(params.iter().map(param).collect()),
        determinism: Determinism::Exact,
    }))
}

fn registry() -> StageRegistry {
    StageRegistry::default()
        .with(small("load", false, &["seed"]))
        .with(small("quantize", true, &["block", "group"]))
        .with(small("evaluate", true, &[]))
}
