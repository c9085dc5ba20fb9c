//! `qpipe schema`: what the stage types take, from their own declarations.

use qpipe_engine::manifest::nearest;
use qpipe_engine::schema::SchemaDoc;
use qpipe_sdk::StageRegistry;

use crate::args::{SchemaArgs, SchemaFormat};
use crate::error::CliError;
use crate::exit::Exit;
use crate::printer::Printer;

pub(super) fn schema(
    registry: &StageRegistry,
    args: &SchemaArgs,
    printer: &mut Printer,
) -> Result<Exit, CliError> {
    let kind = args.stage.as_deref();
    let doc = SchemaDoc::new(registry, kind).ok_or_else(|| {
        let name = kind.unwrap_or_default().to_owned();
        let near = nearest(&name, registry.kinds()).map(|near| format!("did you mean `{near}`?"));
        CliError::UnknownStageType { name, help: near }
    })?;
    match args.format {
        SchemaFormat::Text => printer.data_block(&doc.text()),
        SchemaFormat::Md => printer.data_block(&doc.markdown()),
        SchemaFormat::Json => printer.data(&serde_json::to_string_pretty(&doc)?),
    }
    Ok(Exit::Ok)
}
