//! `qpipe schema`: what the stage types take, from their own declarations.

use std::path::Path;

use qpipe_engine::inventory;
use qpipe_engine::manifest::nearest;
use qpipe_engine::schema::SchemaDoc;
use qpipe_engine::worker::WorkerError;
use qpipe_sdk::StageRegistry;

use super::study;
use crate::args::{SchemaArgs, SchemaFormat};
use crate::error::CliError;
use crate::exit::Exit;
use crate::machine::machine;
use crate::printer::Printer;

pub(super) fn schema(
    registry: &StageRegistry,
    store: &Path,
    args: &SchemaArgs,
    printer: &mut Printer,
) -> Result<Exit, CliError> {
    let kind = args.stage.as_deref();
    let registry = with_plugins(registry, store, args)?;
    let unknown = || {
        let name = kind.unwrap_or_default().to_owned();
        CliError::UnknownStageType { name, help: None }
    };
    let doc = SchemaDoc::new(&registry, kind).ok_or_else(unknown)?;
    match args.format {
        SchemaFormat::Text => printer.data_block(&doc.text()),
        SchemaFormat::Md => printer.data_block(&doc.markdown()),
        SchemaFormat::Json => printer.data(&serde_json::to_string_pretty(&doc)?),
    }
    Ok(Exit::Ok)
}

/// The registry with the plugins of the manifest that is named, and the one that is asked for if a search finds it.
fn with_plugins(registry: &StageRegistry, root: &Path, args: &SchemaArgs) -> Result<StageRegistry, CliError> {
    let store = study::store(root);
    let registry = match &args.study {
        Some(manifest) => study::plugins(registry, manifest, store.as_ref())?,
        None => registry.clone(),
    };
    let Some(name) = args.stage.as_deref().filter(|name| registry.get(name).is_none()) else {
        return Ok(registry);
    };
    let here = std::env::current_dir().ok();
    let found = inventory::with_found(&registry, name, here.as_deref(), &machine(), store.as_ref());
    found.map_err(|error| {
        let help = match (&error, nearest(name, registry.kinds())) {
            (WorkerError::NoPlugin(_), Some(near)) => format!("did you mean `{near}`?"),
            (WorkerError::NoPlugin(_), None) => {
                "`qpipe schema` lists all, `--study FILE` those of a study too".to_owned()
            }
            _ => format!("the plugin of this name cannot be used: {error}"),
        };
        CliError::UnknownStageType { name: name.to_owned(), help: Some(help) }
    })
}
