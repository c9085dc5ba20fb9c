//! Hashing a file that a store links to, beside `b3sum` on the same file, both from the page cache and on all cores.
//!
//! The two take turns, so that a machine whose speed drifts is unfair to neither. `link_file` also remembers the file: each
//! turn has a store of its own, or it would not hash at all. Both must give the same digest.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use clap::Parser;
use qpipe_cache::Store;

/// Bytes written at once.
const BUFFER: usize = 1 << 20;

#[derive(Parser)]
struct Arguments {
    /// Size of the file, GiB.
    #[arg(long, default_value_t = 4)]
    gib: u64,
    /// Turns of each.
    #[arg(long, default_value_t = 7)]
    repeat: usize,
    /// Where the file goes; the default is memory, so that no disk is measured.
    #[arg(long, default_value = "/dev/shm")]
    dir: PathBuf,
    /// The peer's program.
    #[arg(long, default_value = "b3sum")]
    b3sum: PathBuf,
}

fn main() -> ExitCode {
    match measure(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // nothing is left to do where standard error is closed
            let _closed = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> io::Result<()> {
    let dir = tempfile::tempdir_in(&arguments.dir)?;
    let file = dir.path().join("file");
    let bytes = write(&file, arguments.gib)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for turn in 0..arguments.repeat.max(1) {
        let (digest, time) = link(&dir.path().join(format!("store{turn}")), &file)?;
        ours.push(time);
        let (peer, time) = b3sum(&arguments.b3sum, &file)?;
        theirs.push(time);
        if digest != peer {
            return Err(io::Error::other(format!("we say {digest}, b3sum says {peer}")));
        }
    }
    let mut out = io::stdout();
    writeln!(out, "{bytes} bytes\ntool        GB/s (median [least–most])")?;
    for (name, times) in [("link_file", &mut ours), ("b3sum", &mut theirs)] {
        times.sort_unstable();
        let rate = |time: &Duration| bytes as f64 / time.as_secs_f64() / 1e9;
        let (median, most, least) =
            (rate(&times[times.len() / 2]), rate(&times[0]), rate(&times[times.len() - 1]));
        writeln!(out, "{name:<9}   {median:.2} [{least:.2}–{most:.2}]")?;
    }
    let ratio = theirs[theirs.len() / 2].as_secs_f64() / ours[ours.len() / 2].as_secs_f64();
    writeln!(out, "link_file has {ratio:.2} times the rate of b3sum")
}

/// A file of numbers, counted up.
fn write(path: &Path, gib: u64) -> io::Result<u64> {
    let (mut file, mut buffer, mut count) = (File::create(path)?, vec![0; BUFFER], 0u64);
    let bytes = gib.max(1) << 30;
    for _ in 0..bytes / BUFFER as u64 {
        let (words, _) = buffer.as_chunks_mut::<8>();
        for word in words {
            *word = count.to_le_bytes();
            count += 1;
        }
        file.write_all(&buffer)?;
    }
    Ok(bytes)
}

fn link(store: &Path, file: &Path) -> io::Result<(String, Duration)> {
    let store = Store::open(store).map_err(io::Error::other)?;
    let clock = Instant::now();
    let digest = store.link_file(file).map_err(io::Error::other)?;
    Ok((digest.to_string(), clock.elapsed()))
}

/// The peer's whole process: it starts in a millisecond.
fn b3sum(program: &Path, file: &Path) -> io::Result<(String, Duration)> {
    let clock = Instant::now();
    let output = Command::new(program).arg("--no-names").arg(file).output();
    let time = clock.elapsed();
    let output = output
        .map_err(|error| io::Error::other(format!("failed to run `{}`: {error}", program.display())))?;
    if !output.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    Ok((String::from_utf8_lossy(&output.stdout).trim().to_owned(), time))
}
