//! A study from the command line's arguments.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use qpipe_cache::Store;
use qpipe_engine::graph::Study;
use qpipe_engine::manifest::{LoadOptions, MAX_BYTES, load_plugins, load_study, with_plugins_help};
use qpipe_engine::ticket::Watched;
use qpipe_sdk::StageRegistry;

use crate::args::StudyArgs;
use crate::error::CliError;
use crate::machine::machine;

/// A study, and the stage types it is made of: the program's and those of its plugins.
pub(super) struct Loaded {
    pub(super) study: Study,
    pub(super) registry: StageRegistry,
}

/// A manifest's text, and where the user stands.
pub(super) struct Text {
    pub(super) text: String,
    /// A path that a shell completed is relative to it.
    pub(super) here: Option<PathBuf>,
}

impl Text {
    pub(super) fn read(args: &StudyArgs) -> Result<Self, CliError> {
        let path = &args.manifest;
        let unreadable = |source| CliError::ManifestFile { path: path.clone(), source };
        Ok(Self { text: read_text(path).map_err(unreadable)?, here: std::env::current_dir().ok() })
    }

    /// How this process reads a manifest, while `watched` looks on.
    pub(super) fn with_options<T>(
        &self,
        args: &StudyArgs,
        watched: &Watched,
        act: impl FnOnce(&LoadOptions<'_>) -> T,
    ) -> T {
        let env = |name: &str| watched.env(name, |name| std::env::var(name).ok());
        let files = |path: &Path| watched.text(path, read_text);
        act(&LoadOptions { sets: &args.sets, sets_folder: self.here.as_deref(), env: &env, files: &files })
    }

    /// Has the manifest's plugins describe themselves, reads and expands it. `store` keeps what plugins say.
    pub(super) fn load(
        &self,
        registry: &StageRegistry,
        args: &StudyArgs,
        watched: &Watched,
        store: Option<&Store>,
    ) -> Result<Loaded, CliError> {
        self.with_options(args, watched, |options| {
            let path = &args.manifest;
            let machine = machine();
            let registry = load_plugins(path, &self.text, options, registry, &machine, store)?;
            let study = load_study(path, &self.text, options, &registry)
                .map_err(|errors| with_plugins_help(errors, (path, &self.text), options, &machine, store))?;
            Ok(Loaded { study, registry })
        })
    }
}

/// Has the manifest's plugins describe themselves, reads and expands it. `store` keeps what plugins say.
pub(super) fn load(
    registry: &StageRegistry,
    args: &StudyArgs,
    store: Option<&Store>,
) -> Result<Loaded, CliError> {
    Text::read(args)?.load(registry, args, &Watched::default(), store)
}

/// The registry with a manifest's plugins.
pub(super) fn plugins(
    registry: &StageRegistry,
    manifest: &Path,
    store: Option<&Store>,
) -> Result<StageRegistry, CliError> {
    let args = StudyArgs { manifest: manifest.to_owned(), sets: Vec::new() };
    let text = Text::read(&args)?;
    Ok(text.with_options(&args, &Watched::default(), |options| {
        load_plugins(manifest, &text.text, options, registry, &machine(), store)
    })?)
}

/// The store, where there is one: a command that does not need it makes none, and does without one that is damaged.
pub(super) fn store(root: &Path) -> Option<Store> {
    root.join("format.json").is_file().then(|| Store::open(root).ok()).flatten()
}

/// The text of a manifest, up to a length that the reader refuses anyway: an endless file ends here.
pub(super) fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    Ok(text)
}
