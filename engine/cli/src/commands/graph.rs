//! `qpipe graph`: the study's stages as a picture.

use std::path::Path;

use qpipe_engine::draw::Drawing;
use qpipe_sdk::StageRegistry;

use super::study;
use crate::args::{GraphArgs, GraphFormat};
use crate::error::CliError;
use crate::exit::Exit;
use crate::printer::Printer;

pub(super) fn graph(
    registry: &StageRegistry,
    store: &Path,
    args: &GraphArgs,
    printer: &mut Printer,
) -> Result<Exit, CliError> {
    let store = study::store(store);
    let drawing = Drawing::new(&study::load(registry, &args.study, store.as_ref())?.study);
    printer.data_block(&match args.format {
        GraphFormat::Text => drawing.text(),
        GraphFormat::Dot => drawing.dot(),
        GraphFormat::Mermaid => drawing.mermaid(),
        GraphFormat::Svg => drawing.svg(),
    });
    Ok(Exit::Ok)
}
