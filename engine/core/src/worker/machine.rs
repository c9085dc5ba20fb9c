//! What commands and workers take from the machine. Whoever knows the process's environment (the program) hands it
//! over; nothing here reads it.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::scratch::Scratch;
use super::temp::{self, TempError};
use super::wall::{self, Support};

/// Variables that say where things are on this machine. They never enter a key.
const LOCATIONS: [&str; 3] = ["PATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES"];

/// Those of them that are lists of folders.
const FOLDERS: [&str; 2] = ["PATH", "LD_LIBRARY_PATH"];

/// The variable that names the user's folder. Processes are given one of their own.
const HOME: &str = "HOME";

/// Variables that say the same on every machine.
const FIXED: [(&str, &str); 2] = [("LC_ALL", "C.UTF-8"), ("TZ", "UTC")];

/// A machine's environment, as far as processes of the engine may see it.
#[derive(Clone, Debug)]
pub struct Machine {
    locations: Vec<(OsString, OsString)>,
    /// The user's own folder.
    home: Option<PathBuf>,
    /// Where folders of workers lie.
    temp: PathBuf,
    /// The user's folder of plugins.
    plugins: Option<PathBuf>,
    walls: Support,
}

impl Machine {
    /// The machine of a process with these variables; `temp` is a folder for temporary files.
    pub fn new(variables: impl IntoIterator<Item = (OsString, OsString)>, temp: &Path) -> Self {
        let is_location = |(name, _): &(OsString, OsString)| LOCATIONS.iter().any(|known| name == known);
        let mine = format!("qpipe-{}", rustix::process::getuid().as_raw());
        let (mut home, mut locations) = (None, Vec::new());
        for variable in variables {
            if is_location(&variable) {
                locations.push(variable);
            } else if variable.0 == HOME {
                home = PathBuf::from(variable.1).canonicalize().ok();
            }
        }
        Self { locations, home, temp: temp.join(mine), plugins: None, walls: wall::support() }
    }

    /// The same machine, whose user keeps plugins in this folder.
    #[must_use]
    pub fn with_plugins(self, folder: Option<PathBuf>) -> Self {
        Self { plugins: folder, ..self }
    }

    /// The same machine, of whose kernel this is known.
    #[must_use]
    pub fn with_walls(self, walls: Support) -> Self {
        Self { walls, ..self }
    }

    /// How far plugins are walled in here.
    pub fn walls(&self) -> &Support {
        &self.walls
    }

    /// The user's folder of plugins, if there may be one.
    pub fn plugins(&self) -> Option<&Path> {
        self.plugins.as_deref()
    }

    /// The user's own folder, after its links.
    pub(crate) fn home(&self) -> Option<&Path> {
        self.home.as_deref()
    }

    /// `PATH`.
    pub fn search(&self) -> Option<&OsStr> {
        self.locations.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.as_os_str())
    }

    /// The folders of programs and libraries that the environment names.
    pub(crate) fn search_folders(&self) -> Vec<PathBuf> {
        let lists = self.locations.iter().filter(|(name, _)| FOLDERS.iter().any(|known| name == known));
        let folders = lists.flat_map(|(_, value)| std::env::split_paths(value).collect::<Vec<_>>());
        folders.filter(|folder| folder.is_absolute()).collect()
    }

    /// A new folder for temporary files, which is removed with the value.
    ///
    /// # Errors
    /// What the folder of such folders is that cannot be used.
    pub fn scratch(&self) -> Result<Scratch, TempError> {
        temp::make(&self.temp)?;
        Scratch::within(&self.temp).map_err(|error| TempError::of(&self.temp, error))
    }

    pub(crate) fn temp(&self) -> &Path {
        &self.temp
    }

    /// The environment of a process with these folders of its own.
    pub(crate) fn environment(&self, home: PathBuf, tmp: PathBuf) -> Vec<(OsString, OsString)> {
        let fixed = FIXED.map(|(name, value)| (name.into(), value.into()));
        let own = [(HOME.into(), home.into()), ("TMPDIR".into(), tmp.into())];
        self.locations.iter().cloned().chain(fixed).chain(own).collect()
    }
}
