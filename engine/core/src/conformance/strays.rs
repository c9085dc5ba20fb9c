//! Processes that outlive the one that started them. They are known by their environment, which names a folder that
//! belongs to one process and what it started.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long what was killed may take to go.
const GOING: Duration = Duration::from_millis(500);

/// Whether this machine lets such processes be found.
pub(super) fn can_be_found() -> bool {
    Path::new("/proc/self/environ").exists()
}

/// Ends what still runs with this folder in its environment, once its process group is dead; what that was.
pub(super) fn end(folder: &Path) -> Vec<String> {
    let clock = Instant::now();
    let mut found = running(folder);
    while !found.is_empty() && clock.elapsed() < GOING {
        std::thread::sleep(Duration::from_millis(5));
        found = running(folder);
    }
    let names = found.into_iter().map(|(pid, name)| {
        // one that went by itself is as wished
        let _gone = kill_process(pid, Signal::KILL);
        name
    });
    names.collect()
}

fn running(folder: &Path) -> Vec<(Pid, String)> {
    let mine = |variables: &[u8]| {
        let mut variables = variables.split(|byte| *byte == 0);
        let home = [b"HOME=", folder.as_os_str().as_bytes(), b"/home"].concat();
        variables.any(|variable| variable == home)
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let found = processes.filter_map(|process| {
        let pid = Pid::from_raw(process.file_name().to_str()?.parse().ok()?)?;
        // that of a dead process is empty
        let variables = fs::read(process.path().join("environ")).ok()?;
        if !mine(&variables) {
            return None;
        }
        let line = fs::read(process.path().join("cmdline")).ok()?;
        Some((pid, String::from_utf8_lossy(&line).replace('\0', " ").trim().to_owned()))
    });
    found.collect()
}
