//! A plugin as somebody names it: a manifest, a test.

use std::path::PathBuf;

use super::session::{Limits, Transport};

/// Whether a plugin is behind a wall.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sandbox {
    /// As far as the machine has any.
    #[default]
    Wall,
    /// Where the machine has no whole one, it does not run.
    Required,
    /// It reaches what its user does.
    Off,
}

/// `plugin NAME command="python3" "file.py" "--flag"`.
#[derive(Clone, Debug, Default)]
pub struct PluginCommand {
    /// The stage type that it must describe.
    pub kind: String,
    /// A program on the search path; `None`: the file is the program.
    pub command: Option<String>,
    /// Absolute path of the plugin's own file; without it and `command`, the program is searched for by `kind`.
    pub file: Option<PathBuf>,
    pub args: Vec<String>,
    /// More files that belong to it, by the names that they are given: absolute paths.
    pub files: Vec<(String, PathBuf)>,
    /// What stands in keys in place of its content.
    pub semantics: Option<u32>,
    /// The folders of the texts it is named in: a plugin that names no program is looked for in their `plugins/` first.
    pub folders: Vec<PathBuf>,
    pub transport: Transport,
    pub limits: Limits,
    pub sandbox: Sandbox,
    /// What it may read besides: absolute paths of files and folders. They are in no key.
    pub reads: Vec<PathBuf>,
    /// Whether it may connect to others.
    pub network: bool,
}
