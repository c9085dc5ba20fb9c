//! `qpipe init`: writes a study to begin with.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use qpipe_engine::manifest::nearest;

use crate::args::InitArgs;
use crate::error::CliError;
use crate::exit::Exit;
use crate::printer::Printer;
use crate::templates::{TEMPLATES, Template};

pub(super) fn init(args: &InitArgs, printer: &mut Printer) -> Result<Exit, CliError> {
    if args.list {
        let rows: Vec<Vec<String>> =
            TEMPLATES.iter().map(|template| vec![template.name.to_owned(), template.about()]).collect();
        printer.columns(&rows);
        return Ok(Exit::Ok);
    }
    let template = find(&args.template)?;
    write_files(template.files, &args.dir)?;
    let manifest = args.dir.join(template.manifest());
    let manifest = manifest.strip_prefix(".").unwrap_or(&manifest);
    printer.human(&format!("wrote   {}", manifest.display()));
    printer.human(&format!("hint: `qpipe run {}`", manifest.display()));
    Ok(Exit::Ok)
}

fn find(name: &str) -> Result<&'static Template, CliError> {
    let names = TEMPLATES.iter().map(|template| template.name);
    let unknown = || {
        let near = nearest(name, names.clone()).map(|near| format!("did you mean `{near}`?"));
        let help = near.unwrap_or_else(|| "`qpipe init --list` lists them".into());
        CliError::UnknownTemplate { name: name.to_owned(), help }
    };
    TEMPLATES.iter().find(|template| template.name == name).ok_or_else(unknown)
}

/// Writes files, each with its text; none if one of them is there already.
pub(super) fn write_files(given: &[(&str, &str)], dir: &Path) -> Result<(), CliError> {
    let files = || given.iter().map(|(path, text)| (dir.join(path), *text));
    if let Some((path, _)) = files().find(|(path, _)| path.symlink_metadata().is_ok()) {
        return Err(CliError::FileExists { path });
    }
    for (path, text) in files() {
        let written = path
            .parent()
            .map_or(Ok(()), fs::create_dir_all)
            // a file that appeared meanwhile is not overwritten either
            .and_then(|()| File::create_new(&path))
            .and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(|source| CliError::WriteFile { path, source })?;
    }
    Ok(())
}
