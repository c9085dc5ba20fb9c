//! `qpipe plugin`: writes a plugin to begin with, lists those that there are, and has one tested.

use std::path::{Path, PathBuf};

use qpipe_engine::inventory::{self, PluginEntry};
use qpipe_engine::manifest::{read_plugins, why_taken};
use qpipe_engine::ticket::Watched;
use qpipe_sdk::StageRegistry;

use super::conformance;
use super::init::write_files;
use super::study::{self, Text};
use crate::args::{Language, PluginCommand, StudyArgs};
use crate::error::CliError;
use crate::exit::Exit;
use crate::machine::machine;
use crate::printer::Printer;

/// What stands for the plugin's name in the files below.
const NAME: &str = "NAME";
/// The same as Python takes it for the name of a module.
const MODULE: &str = "MODULE";

/// Names that in Python are the kit's own, and that of a package of the standard library.
const MODULES: [&str; 2] = ["qpipe_stage", "test"];

/// The folder of the crate that a plugin in Rust depends on.
const SDK: &str = "SDK";

/// Where each file goes, and its text.
const PYTHON: [(&str, &str); 5] = [
    ("NAME.py", include_str!("../templates/plugin/plugin.py")),
    ("test_MODULE.py", include_str!("../templates/plugin/test.py")),
    ("NAME.kdl", include_str!("../templates/plugin/study.kdl")),
    ("text.txt", include_str!("../templates/plugin/text.txt")),
    ("qpipe_stage.py", include_str!("../../../sdk/python/qpipe_stage.py")),
];
const RUST: [(&str, &str); 4] = [
    ("Cargo.toml", include_str!("../templates/plugin-rust/Cargo.toml.txt")),
    ("src/main.rs", include_str!("../templates/plugin-rust/main.rs")),
    ("NAME.kdl", include_str!("../templates/plugin-rust/study.kdl")),
    ("text.txt", include_str!("../templates/plugin/text.txt")),
];

pub(super) fn plugin(
    registry: &StageRegistry,
    store: &Path,
    command: &PluginCommand,
    printer: &mut Printer,
) -> Result<Exit, CliError> {
    match command {
        PluginCommand::New { name, dir, lang, sdk } => {
            refuse_taken(name, registry)?;
            match lang {
                Language::Python => new(name, dir, printer),
                Language::Rust => new_in_rust(name, dir, sdk.as_deref(), printer),
            }
        }
        PluginCommand::Ls { study, json } => ls(store, study.as_deref(), *json, printer),
        PluginCommand::Test(args) => conformance::test(registry, args, printer),
    }
}

fn ls(root: &Path, study: Option<&Path>, json: bool, printer: &mut Printer) -> Result<Exit, CliError> {
    let declared = match study {
        Some(manifest) => {
            let args = StudyArgs { manifest: manifest.to_owned(), sets: Vec::new() };
            let text = Text::read(&args)?;
            text.with_options(&args, &Watched::default(), |options| {
                read_plugins(manifest, &text.text, options)
            })?
        }
        None => Vec::new(),
    };
    let manifest =
        study.map(|manifest| std::path::absolute(manifest).unwrap_or_else(|_| manifest.to_owned()));
    let folder = manifest.as_deref().and_then(Path::parent);
    let plugins = inventory::plugins(&declared, folder, &machine(), study::store(root).as_ref());
    if json {
        let list = serde_json::json!({ "schema": inventory::PLUGINS_SCHEMA, "plugins": plugins });
        printer.data(&serde_json::to_string_pretty(&list)?);
        return Ok(Exit::Ok);
    }
    let header = ["plugin", "stage types", "from", "file", "digest", "worker", "what it is"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.extend(plugins.iter().map(row));
    printer.columns(&rows);
    Ok(Exit::Ok)
}

fn row(plugin: &PluginEntry) -> Vec<String> {
    let unknown = || "–".to_owned();
    let kinds: Vec<&str> = plugin.stages.iter().map(|stage| stage.kind.as_str()).collect();
    let worker = plugin.worker.as_ref().zip(plugin.protocol.as_ref());
    let broken = if plugin.problem.is_some() { "broken: " } else { "" };
    vec![
        plugin.name.clone(),
        if kinds.is_empty() { unknown() } else { kinds.join(", ") },
        plugin.from.word().to_owned(),
        plugin.file().map_or_else(unknown, shown),
        plugin.short_digest.clone().unwrap_or_else(unknown),
        worker.map_or_else(unknown, |(worker, protocol)| format!("{worker}, qstage {protocol}")),
        shortened(&format!("{broken}{}", plugin.about())),
    ]
}

/// A text of a width that a table bears; `--json` has all of it.
fn shortened(text: &str) -> String {
    const WIDEST: usize = 60;
    match text.char_indices().nth(WIDEST) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or(text)),
        None => text.to_owned(),
    }
}

/// A path, as short as the user can use it from where they stand.
fn shown(path: &Path) -> String {
    let here = std::env::current_dir().ok();
    here.and_then(|here| path.strip_prefix(here).ok()).unwrap_or(path).display().to_string()
}

fn refuse_taken(name: &str, registry: &StageRegistry) -> Result<(), CliError> {
    let is_module = MODULES.contains(&name).then_some("a module of Python has this name");
    match why_taken(name, registry).or(is_module) {
        Some(reason) => Err(CliError::NameTaken { name: name.to_owned(), reason }),
        None => Ok(()),
    }
}

fn new(name: &str, dir: &Path, printer: &mut Printer) -> Result<Exit, CliError> {
    write(&PYTHON, name, "", dir)?;
    let place = |file: &str| dir.join(file.replace(NAME, name)).display().to_string();
    printer.human(&format!("wrote   {}, its test, a study and the kit", place("NAME.py")));
    printer.human(&format!("hint: `qpipe run {}`", place("NAME.kdl")));
    let (program, folder) = (place("NAME.py"), dir.display());
    printer.human(&format!(
        "hint: `python3 -m unittest discover {folder}` runs its test, `qpipe plugin test {program}` holds it to the protocol"
    ));
    Ok(Exit::Ok)
}

fn new_in_rust(name: &str, dir: &Path, sdk: Option<&Path>, printer: &mut Printer) -> Result<Exit, CliError> {
    let sdk = find_sdk(sdk)?;
    write(&RUST, name, &sdk.display().to_string(), dir)?;
    let place = |file: &str| dir.join(file.replace(NAME, name)).display().to_string();
    printer.human(&format!("wrote   {}, its test and a study", place("src/main.rs")));
    let (manifest, study) = (place("Cargo.toml"), place("NAME.kdl"));
    printer.human(&format!("hint: `cargo build --release --manifest-path {manifest} && qpipe run {study}`"));
    let program = place("target/release/qpipe-stage-NAME");
    printer.human(&format!(
        "hint: `cargo test --manifest-path {manifest}` runs its test, `qpipe plugin test {program}` holds it to the protocol"
    ));
    Ok(Exit::Ok)
}

/// The folder of `qpipe-sdk`: the one that is given, or that of the checkout around the current folder.
fn find_sdk(given: Option<&Path>) -> Result<PathBuf, CliError> {
    let is_sdk = |folder: &PathBuf| {
        let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap_or_default();
        manifest.lines().any(|line| line == "name = \"qpipe-sdk\"")
    };
    let here = std::env::current_dir().unwrap_or_default();
    let candidates: Vec<PathBuf> = match given {
        Some(folder) => vec![here.join(folder)],
        None => here.ancestors().map(|folder| folder.join("engine/sdk")).collect(),
    };
    let found = candidates.into_iter().find(is_sdk).and_then(|folder| folder.canonicalize().ok());
    found.ok_or_else(|| CliError::NoSdk { looked: given.map(Path::to_owned) })
}

fn write(files: &[(&str, &str)], name: &str, sdk: &str, dir: &Path) -> Result<(), CliError> {
    let filled = |(path, text): &(&str, &str)| {
        let is_kit = *path == "qpipe_stage.py";
        let text = if is_kit { (*text).to_owned() } else { text.replace(NAME, name).replace(SDK, sdk) };
        (path.replace(NAME, name).replace(MODULE, &name.replace('-', "_")), text)
    };
    let files: Vec<(String, String)> = files.iter().map(filled).collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    write_files(&files, dir)
}
