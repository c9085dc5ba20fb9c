//! What it costs that a stage runs in a plugin: the same small stage inside the program, as a program of its own in Rust, and
//! in Python, each as one node of a whole `qpipe run`.
//!
//! The text differs from run to run, so every run does the node's work; the plugin's description is kept from the first, as a
//! user's is from the second run on. The program is the real command line; each run is a process of its own.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use qpipe_sdk::StageRegistry;
use qpipe_stage_wordstats::WordStats;

/// First argument of this binary when it plays the program with the stage inside, and without.
const INSIDE: &str = "--as-qpipe-with-the-stage";
const OUTSIDE: &str = "--as-qpipe";

#[derive(Parser)]
struct Arguments {
    /// Measured runs of each.
    #[arg(long, default_value_t = 21)]
    repeat: usize,
    /// Where stores go; the default is memory, since syncing a disk is the same for all three and takes what it likes.
    #[arg(long, default_value = "/dev/shm")]
    dir: PathBuf,
    /// The plugin in Rust; by default beside this program.
    #[arg(long)]
    rust: Option<PathBuf>,
}

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let first = args.next();
    let program = |registry: &StageRegistry, args| {
        qpipe_cli::main_with(registry, std::iter::once("qpipe".into()).chain(args))
    };
    match first.as_ref().and_then(|word| word.to_str()) {
        Some(INSIDE) => return program(&StageRegistry::default().with(Box::new(WordStats::new())), args),
        Some(OUTSIDE) => return program(&StageRegistry::default(), args),
        _ => {}
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
    let dir = tempfile::tempdir_in(&arguments.dir)?;
    let beside = std::env::current_exe()?.with_file_name("qpipe-stage-wordstats");
    let rust = arguments.rust.clone().unwrap_or(beside);
    fs::write(dir.path().join("wordstats.py"), include_str!("wordstats.py"))?;
    fs::write(dir.path().join("qpipe_stage.py"), include_str!("../../../engine/sdk/python/qpipe_stage.py"))?;
    let lines = [
        ("in the program", INSIDE, String::new()),
        ("plugin in Rust", OUTSIDE, format!("plugin wordstats {:?}\n", rust.display().to_string())),
        ("plugin in Python", OUTSIDE, "plugin wordstats command=\"python3\" \"wordstats.py\"\n".to_owned()),
    ];
    let mut peers = Vec::new();
    for (at, (name, mode, line)) in lines.into_iter().enumerate() {
        let peer = Peer::new(dir.path(), at, name, mode, &line)?;
        // the first run makes the store and has the plugin describe itself
        let first = peer.run("first")?;
        peers.push((peer, first, Vec::new()));
    }
    // in turns, so that all meet the same machine
    for turn in 0..arguments.repeat.max(1) {
        for (peer, _, times) in &mut peers {
            times.push(peer.run(&format!("turn {turn}"))?);
        }
    }
    let mut out = std::io::stdout();
    writeln!(
        out,
        "stage               first ms   ms a run (median [min–max])   more than in the program, ms"
    )?;
    let mut base = None;
    for (peer, first, times) in &mut peers {
        times.sort_unstable();
        let ms = |time: &Duration| time.as_secs_f64() * 1e3;
        let median = ms(&times[times.len() / 2]);
        let base = *base.get_or_insert(median);
        let (least, most) = (ms(&times[0]), ms(&times[times.len() - 1]));
        let name = peer.name;
        writeln!(
            out,
            "{name:<18} {:9.1}   {median:8.1} [{least:.1}–{most:.1}]   {:+.1}",
            ms(first),
            median - base
        )?;
    }
    Ok(())
}

/// One way to run the stage.
struct Peer {
    name: &'static str,
    command: [OsString; 4],
    text: PathBuf,
}

impl Peer {
    fn new(dir: &Path, at: usize, name: &'static str, mode: &str, line: &str) -> std::io::Result<Self> {
        let (manifest, store) = (dir.join(format!("{at}.kdl")), dir.join(format!("store-{at}")));
        let text = dir.join(format!("{at}.txt"));
        let study = format!("qpipe 1 name=overhead\n{line}wordstats words {{\n    text \"{at}.txt\"\n}}\n");
        fs::write(&manifest, study)?;
        let command = [mode.into(), "--store".into(), store.into(), manifest.into()];
        Ok(Self { name, command, text })
    }

    fn run(&self, text: &str) -> std::io::Result<Duration> {
        fs::write(&self.text, text.repeat(100))?;
        // files are hashed once their times lie in the past; a processor that slept meanwhile would be slow to begin with
        let written = Instant::now();
        while written.elapsed() < Duration::from_millis(60) {
            std::hint::spin_loop();
        }
        let [mode, option, store, manifest] = &self.command;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(mode).arg("run").arg(manifest).arg(option).arg(store);
        let clock = Instant::now();
        let output = command.stdin(Stdio::null()).output()?;
        let time = clock.elapsed();
        if output.status.success() {
            return Ok(time);
        }
        Err(std::io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()))
    }
}
