//! A study from the command line's arguments.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use qpipe_engine::graph::Study;
use qpipe_engine::manifest::{LoadOptions, MAX_BYTES, load_plugins, load_study};
use qpipe_engine::worker::Machine;
use qpipe_sdk::StageRegistry;

use crate::args::StudyArgs;
use crate::error::CliError;

/// A study, and the stage types it is made of: the program's and those of its plugins.
pub(super) struct Loaded {
    pub(super) study: Study,
    pub(super) registry: StageRegistry,
}

/// Starts the manifest's plugins, reads and expands it.
pub(super) fn load(registry: &StageRegistry, args: &StudyArgs) -> Result<Loaded, CliError> {
    let path = &args.manifest;
    let unreadable = |source| CliError::ManifestFile { path: path.clone(), source };
    let text = read_text(path).map_err(unreadable)?;
    let env = |name: &str| std::env::var(name).ok();
    // a path that a shell completed is relative to where the user stands
    let here = std::env::current_dir().ok();
    let options =
        LoadOptions { sets: &args.sets, sets_folder: here.as_deref(), env: &env, files: &read_text };
    let registry = load_plugins(path, &text, &options, registry, &machine())?;
    let study = load_study(path, &text, &options, &registry)?;
    Ok(Loaded { study, registry })
}

/// What commands, plugins and workers may see of this process.
pub(super) fn machine() -> Machine {
    Machine::new(std::env::vars_os(), &std::env::temp_dir())
}

/// The text of a manifest, up to a length that the reader refuses anyway: an endless file ends here.
pub(super) fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    Ok(text)
}
