//! What a plugin may reach, whatever job it has: what programs need of a machine, its own program and files, and what the
//! manifest grants besides. A job's inputs and folders come on top.
//!
//! | what | as |
//! |---|---|
//! | the system's programs and libraries, the folders of the search paths, libraries beside a `bin` there | to be read and started |
//! | where its program comes from: each link's folder, and what belongs to a `bin` there | the same |
//! | its own folder: the names in it, and of the content the files that it told of; all but what begins with a dot, and the engine's own folders, where it tells of none | the same |
//! | what the manifest grants | the same |
//! | `/etc`, `/proc`, `/sys` | to be read |
//! | GPUs, and the devices that every program has; of a job, the memory that processes share | to be used |

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::launch::find_program;
use super::machine::Machine;
use super::wall::{Access, Wall};

/// Programs and libraries.
const SYSTEM: [&str; 11] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/opt",
    "/nix/store",
    "/gnu/store",
    "/snap",
];
/// What programs ask about the machine.
const ASKED: [&str; 3] = ["/etc", "/proc", "/sys"];
/// Where the names of other machines are found out.
const NAMES: [&str; 3] = ["/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager"];
const DEVICES: [&str; 8] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/kfd",
    "/dev/dri",
    "/dev/nvidia-caps",
];
/// What the devices of NVIDIA's GPUs begin with.
const NVIDIA: &str = "nvidia";
/// Memory that processes share. It is everybody's: what is left there, others find.
const SHARED: &str = "/dev/shm";

/// Beside a `bin`: what its programs are made of.
const OF_BIN: [&str; 3] = ["lib", "lib64", "libexec"];
/// What they read besides, of the `bin` that a plugin's program is in.
const OF_OWN_BIN: [&str; 5] = ["lib32", "include", "ssl", "conda-meta", "pyvenv.cfg"];
/// The same; but in the user's own folder everything that the user has lies there, also what is secret.
const OF_OWN_PREFIX: [&str; 2] = ["share", "etc"];
/// Where users have programs of their own, in their folder.
const LOCAL: &str = ".local";
/// Beside the `shims` of a version manager: the programs that they stand for.
const OF_SHIMS: [&str; 9] =
    ["bin", "lib", "libexec", "plugins", "installs", "versions", "version", "pyenv.d", "defaults"];

/// How many links, and how many scripts that start scripts, are followed.
const HOPS: usize = 16;

/// What a plugin's wall is made of.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reach {
    pub(crate) program: PathBuf,
    /// Its own file, where the program only reads it.
    pub(crate) file: Option<PathBuf>,
    /// What the manifest grants to be read besides.
    pub(crate) reads: Vec<PathBuf>,
    pub(crate) network: bool,
}

/// How much is seen of a plugin's own folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Own<'a> {
    /// What may be its program, but not these folders of the engine, where jobs of others lie.
    Without(&'a [PathBuf]),
    /// Names: it has said what is its program, which comes on top.
    Told,
}

impl Reach {
    /// The wall as it is before any job.
    pub(crate) fn wall(&self, machine: &Machine, seen: Own<'_>) -> Wall {
        let mut wall = Wall::default();
        let mut all = |paths: &[&str], access| {
            for path in paths {
                wall.open(Path::new(path), access);
            }
        };
        all(&SYSTEM, Access::Execute);
        all(&ASKED, Access::Read);
        all(&DEVICES, Access::Device);
        if self.network {
            all(&NAMES, Access::Read);
            wall.open_network();
        }
        for device in entries(Path::new("/dev")) {
            if device.file_name().is_some_and(|name| name.to_string_lossy().starts_with(NVIDIA)) {
                wall.open(&device, Access::Device);
                wall.open_names();
            }
        }
        for folder in machine.search_folders() {
            wall.open(&folder, Access::Execute);
            beside(&mut wall, &folder, &OF_BIN);
        }
        started(&mut wall, &self.program, machine, seen, HOPS);
        if let Some(file) = &self.file {
            hops(file, |folder| own(&mut wall, folder, seen));
        }
        for path in &self.reads {
            wall.open(path, Access::Execute);
        }
        wall
    }
}

/// A program, and the one that runs it where it is a script.
fn started(wall: &mut Wall, program: &Path, machine: &Machine, seen: Own<'_>, more: usize) {
    hops(program, |folder| {
        if !beside_own(wall, folder, machine) {
            own(wall, folder, seen);
        }
    });
    wall.open(program, Access::Execute);
    if let Some(more) = more.checked_sub(1)
        && let Some(interpreter) = interpreter(program, machine.search())
    {
        started(wall, &interpreter, machine, seen, more);
    }
}

/// The folders of a path and of what it is a link to.
fn hops(path: &Path, mut each: impl FnMut(&Path)) {
    let mut path = path.to_owned();
    for _ in 0..HOPS {
        let Some(folder) = path.parent().map(Path::to_owned) else { return };
        each(&folder);
        let Ok(target) = path.read_link() else { return };
        path = folder.join(target);
    }
}

/// What belongs to the folder that a plugin's program is in, if it is one of programs; whether it is.
fn beside_own(wall: &mut Wall, folder: &Path, machine: &Machine) -> bool {
    let Ok(folder) = folder.canonicalize() else { return false };
    let mut names = [OF_BIN.as_slice(), &OF_OWN_BIN].concat();
    let prefix = folder.parent();
    if prefix != machine.home() && prefix.and_then(Path::file_name).is_none_or(|name| name != LOCAL) {
        names.extend(OF_OWN_PREFIX);
    }
    beside(wall, &folder, &names)
}

/// What belongs to a folder of programs, of a `bin` these; whether it is one.
fn beside(wall: &mut Wall, folder: &Path, of_bin: &[&str]) -> bool {
    // `a/../bin` is called as what it is
    let Ok(folder) = folder.canonicalize() else { return false };
    let names = match folder.file_name().and_then(OsStr::to_str) {
        Some("bin" | "sbin") => of_bin,
        Some("shims") => &OF_SHIMS,
        _ => return false,
    };
    wall.open(&folder, Access::Execute);
    for name in names {
        wall.open(&folder.with_file_name(name), Access::Execute);
    }
    true
}

/// A plugin's own folder. Its folders are not followed where they are links: such a one may lead anywhere.
fn own(wall: &mut Wall, folder: &Path, seen: Own<'_>) {
    let Ok(folder) = folder.canonicalize() else { return };
    if folder.parent().is_none() {
        return;
    }
    // without the names of what is there, Python finds no module
    wall.open(&folder, Access::List);
    let Own::Without(avoid) = seen else { return };
    for entry in entries(&folder) {
        let is_hidden = entry.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let is_engine = avoid.iter().any(|avoid| avoid.starts_with(&entry) || entry.starts_with(avoid));
        let leads_away = entry.is_symlink() && entry.is_dir();
        if !(is_hidden || is_engine || leads_away) {
            wall.open(&entry, Access::Execute);
        }
    }
}

/// What a job has of the machine, and a question has not: its answer would depend on what is there.
pub(crate) fn of_jobs(wall: &mut Wall) {
    wall.open(Path::new(SHARED), Access::Write);
}

/// The files that a plugin consists of.
pub(crate) fn parts<'a>(wall: &mut Wall, files: impl Iterator<Item = &'a Path>) {
    for file in files {
        wall.open_file(file, Access::Execute);
        // what Python has made of it
        if file.extension().is_some_and(|extension| extension == "py")
            && let Some(folder) = file.parent()
        {
            wall.open_folder(folder, "__pycache__", Access::Read);
        }
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// What the first line of a script says that runs it.
fn interpreter(program: &Path, search: Option<&OsStr>) -> Option<PathBuf> {
    const LINE: u64 = 256;
    let mut line = Vec::new();
    File::open(program).ok()?.take(LINE).read_to_end(&mut line).ok()?;
    let line = line.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split_whitespace();
    let first = Path::new(words.next()?);
    if first.file_name().is_none_or(|name| name != "env") {
        return Some(first.to_owned());
    }
    let name = words.find(|word| !word.starts_with('-') && !word.contains('='))?;
    find_program(name, Path::new("/"), search).ok()
}

#[cfg(test)]
#[path = "reach_tests.rs"]
mod tests;
