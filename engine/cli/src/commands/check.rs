//! `qpipe check`: every error of a manifest at once, or what the study is.

use std::path::Path;

use qpipe_sdk::StageRegistry;

use super::study;
use crate::args::StudyArgs;
use crate::error::CliError;
use crate::exit::Exit;
use crate::printer::Printer;

pub(super) fn check(
    registry: &StageRegistry,
    store: &Path,
    args: &StudyArgs,
    printer: &mut Printer,
) -> Result<Exit, CliError> {
    let study = study::load(registry, args, study::store(store).as_ref())?.study;
    let (cells, nodes) = (study.cells.len(), study.nodes.len());
    printer.human(&format!("ok: study `{}` has {cells} cells and {nodes} nodes", study.name));
    Ok(Exit::Ok)
}
