//! `qpipe check`: every error of a manifest at once, or what the study is.

use std::path::Path;

use qpipe_engine::report::counted;
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
    let (cells, nodes) = (counted(study.cells.len(), "cell"), counted(study.nodes.len(), "node"));
    printer.human(&format!("ok: study `{}` has {cells} and {nodes}", study.name));
    Ok(Exit::Ok)
}
