//! A study from the command line's arguments.

use qpipe_engine::graph::Study;
use qpipe_engine::manifest::{LoadOptions, load_study};
use qpipe_sdk::StageRegistry;

use crate::args::StudyArgs;
use crate::error::CliError;

/// Reads and expands the manifest.
pub(super) fn load(registry: &StageRegistry, args: &StudyArgs) -> Result<Study, CliError> {
    let path = &args.manifest;
    let unreadable = |source| CliError::ManifestFile { path: path.clone(), source };
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    let env = |name: &str| std::env::var(name).ok();
    // a path that a shell completed is relative to where the user stands
    let here = std::env::current_dir().ok();
    let options = LoadOptions { sets: &args.sets, sets_folder: here.as_deref(), env: &env };
    Ok(load_study(path, &text, &options, registry)?)
}
