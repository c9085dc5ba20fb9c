//! Where a task's rows are: a file, the embedded data, or a file of a data set on the hub.

use qpipe_sdk::{Cancel, EventSink, ParamType, Params, Source, SourceData, StageError, Value};

use super::asked;
use super::task::{DATA, SHOTS_DATA, Task};
use crate::hub::{DataFile, Hub, HubError};

/// What names the embedded data.
const TINY: &str = "tiny";

/// Where rows can be. With `embedded`, the program holds some.
pub(super) fn place(embedded: bool) -> ParamType {
    ParamType::FileOr(if embedded { &[TINY, "hub:*"] } else { &["hub:*"] })
}

/// The parameters that say where rows are, with their tasks.
fn places(params: &Params) -> impl Iterator<Item = (String, &'static Task)> {
    let names = asked(params).flat_map(|task| [DATA, SHOTS_DATA].map(|name| (task.param(name), task)));
    names.filter(|(name, _)| params.has(name))
}

/// The parameters that name files of the hub.
fn on_hub(params: &Params) -> impl Iterator<Item = (String, Result<DataFile, HubError>)> {
    places(params).filter_map(|(name, _)| {
        let file = params.text(&name).and_then(DataFile::parse)?;
        Some((name, file))
    })
}

/// Names that cannot be files of the hub.
pub(super) fn check(params: &Params) -> impl Iterator<Item = (String, String)> {
    on_hub(params).filter_map(|(name, file)| file.err().map(|error| (name, error.to_string())))
}

/// Downloads what is missing.
pub(super) fn fetch(
    params: &Params,
    hub: Option<&Hub>,
    events: &dyn EventSink,
    cancel: &Cancel,
) -> Result<(), StageError> {
    for (_, file) in on_hub(params) {
        hub.ok_or(HubError::NoHub)?.fetch_data(&file?, events, cancel)?;
    }
    Ok(())
}

/// Every place's rows, by the parameter's name.
pub(super) fn sources(params: &Params, hub: Option<&Hub>) -> Result<Vec<Source>, StageError> {
    if let Some(task) = asked(params).find(|task| !params.has(&task.param(DATA))) {
        return Err(StageError::config(format!("`{}` is missing", task.param(DATA))));
    }
    let mut sources = Vec::new();
    for (name, task) in places(params) {
        let data = match (params.get(&name), task.embedded) {
            (Some(Value::File(path)), _) => SourceData::File(path.clone()),
            (Some(Value::Text(text)), Some(embedded)) if text == TINY => SourceData::Embedded(embedded.bytes),
            (Some(Value::Text(text)), _) => match DataFile::parse(text) {
                Some(file) => SourceData::File(downloaded(hub, &file?)?),
                None => return Err(StageError::config(format!("`{name}` names no data"))),
            },
            _ => return Err(StageError::config(format!("`{name}` names no data"))),
        };
        sources.push(Source { name, data });
    }
    Ok(sources)
}

fn downloaded(hub: Option<&Hub>, file: &DataFile) -> Result<std::path::PathBuf, StageError> {
    let path = hub.ok_or(HubError::NoHub)?.data_file(file)?;
    Ok(path.ok_or_else(|| HubError::NotDownloaded { repo: file.to_string() })?)
}
