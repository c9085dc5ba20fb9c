//! `qpipe plugin`: writes a plugin to begin with, and has one tested.

use std::path::Path;

use qpipe_sdk::StageRegistry;

use super::conformance;
use super::init::write_files;
use crate::args::PluginCommand;
use crate::error::CliError;
use crate::exit::Exit;
use crate::printer::Printer;

/// What stands for the plugin's name in the files below.
const NAME: &str = "NAME";
/// The same as Python takes it for the name of a module.
const MODULE: &str = "MODULE";

/// Where each file goes, and its text.
const FILES: [(&str, &str); 5] = [
    ("NAME.py", include_str!("../templates/plugin/plugin.py")),
    ("test_MODULE.py", include_str!("../templates/plugin/test.py")),
    ("NAME.kdl", include_str!("../templates/plugin/study.kdl")),
    ("text.txt", include_str!("../templates/plugin/text.txt")),
    ("qpipe_stage.py", include_str!("../../../sdk/python/qpipe_stage.py")),
];

pub(super) fn plugin(
    registry: &StageRegistry,
    command: &PluginCommand,
    printer: &mut Printer,
) -> Result<Exit, CliError> {
    match command {
        PluginCommand::New { name, dir } => new(name, dir, printer),
        PluginCommand::Test(args) => conformance::test(registry, args, printer),
    }
}

fn new(name: &str, dir: &Path, printer: &mut Printer) -> Result<Exit, CliError> {
    write(name, dir)?;
    let place = |file: &str| dir.join(file.replace(NAME, name)).display().to_string();
    printer.human(&format!("wrote   {}, its test, a study and the kit", place("NAME.py")));
    printer.human(&format!("hint: `qpipe run {}`", place("NAME.kdl")));
    Ok(Exit::Ok)
}

fn write(name: &str, dir: &Path) -> Result<(), CliError> {
    let filled = |(path, text): (&str, &str)| {
        let text = if path == "qpipe_stage.py" { text.to_owned() } else { text.replace(NAME, name) };
        (path.replace(NAME, name).replace(MODULE, &name.replace('-', "_")), text)
    };
    let files: Vec<(String, String)> = FILES.into_iter().map(filled).collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    write_files(&files, dir)
}
