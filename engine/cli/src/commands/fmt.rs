//! `qpipe fmt`: manifests in their one layout.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use qpipe_engine::manifest;

use super::study::read_text;
use crate::args::FmtArgs;
use crate::error::CliError;
use crate::exit::Exit;
use crate::printer::Printer;

/// Formats every file; with `--check` only says which ones would change. `-` is standard input to standard output.
pub(super) fn fmt(args: &FmtArgs, printer: &mut Printer) -> Result<Exit, CliError> {
    let mut changed = Vec::new();
    for path in &args.manifests {
        if path == Path::new("-") {
            changed.extend(standard_input(args.check, printer)?);
            continue;
        }
        let text = read_text(path).map_err(|source| CliError::ManifestFile { path: path.clone(), source })?;
        let formatted = manifest::format(path, &text)?;
        if formatted != text {
            if !args.check {
                replace(path, &formatted)
                    .map_err(|source| CliError::WriteFile { path: path.clone(), source })?;
            }
            changed.push(path.clone());
        }
    }
    match (args.check, changed.is_empty()) {
        (true, false) => Err(CliError::NotFormatted { paths: changed }),
        (false, false) => {
            for path in &changed {
                printer.human(&format!("formatted {}", path.display()));
            }
            Ok(Exit::Ok)
        }
        (_, true) => Ok(Exit::Ok),
    }
}

/// The path `-` if its text is to be named as not formatted.
fn standard_input(check: bool, printer: &mut Printer) -> Result<Option<PathBuf>, CliError> {
    let path = PathBuf::from("-");
    let mut text = String::new();
    let read = io::stdin().take(manifest::MAX_BYTES + 1).read_to_string(&mut text);
    read.map_err(|source| CliError::ManifestFile { path: path.clone(), source })?;
    let formatted = manifest::format(&path, &text)?;
    if check {
        return Ok((formatted != text).then_some(path));
    }
    printer.data_block(&formatted);
    Ok(None)
}

/// Replaces a file's text, whole or not at all; a link stays one.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let path = fs::canonicalize(path)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let staged = path.with_file_name(name);
    fs::write(&staged, text)?;
    fs::set_permissions(&staged, fs::metadata(&path)?.permissions())?;
    fs::rename(&staged, &path)
}
