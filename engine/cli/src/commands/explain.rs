//! `qpipe explain`: the page of a diagnostic code, or the list of all.

use qpipe_engine::explain;

use crate::error::CliError;
use crate::exit::Exit;
use crate::printer::Printer;

pub(super) fn explain(code: Option<&str>, printer: &mut Printer) -> Result<Exit, CliError> {
    let Some(code) = code else {
        let row = |page: explain::Page| vec![page.code.to_owned(), page.summary()];
        let rows: Vec<Vec<String>> = explain::pages().map(row).collect();
        printer.columns(&rows);
        return Ok(Exit::Ok);
    };
    let unknown = || CliError::UnknownCode { code: code.to_owned(), help: explain::suggest(code) };
    let page = explain::explain(code).ok_or_else(unknown)?;
    printer.data(&format!("{}\n\n{}", page.code, page.text));
    Ok(Exit::Ok)
}
