//! Where a task's rows are: a file, the embedded data, a file of a data set on the hub, or an output of another stage.

use std::collections::BTreeMap;

use qpipe_cache::{Digest, KeyValue};
use qpipe_sdk::files::Files;
use qpipe_sdk::{Cancel, Context, EventSink, ParamType, Params, Source, SourceData, StageError, Value};

use super::asked;
use super::task::{DATA, SHOTS_DATA, Task};
use crate::hub::{DataFile, Hub, HubError};

/// What names the embedded data.
const TINY: &str = "tiny";

/// The port of the stage whose outputs tasks may read.
pub(super) const PORT: &str = "data";
/// What begins the name of one of its outputs.
const OUTPUT: &str = "stage:";

/// Where rows can be. With `embedded`, the program holds some.
pub(super) fn place(embedded: bool) -> ParamType {
    ParamType::FileOr(if embedded { &[TINY, "hub:*", "stage:*"] } else { &["hub:*", "stage:*"] })
}

/// The output of another stage that a parameter names.
fn output<'a>(params: &'a Params, name: &str) -> Option<&'a str> {
    params.text(name)?.strip_prefix(OUTPUT)
}

/// Which outputs of another stage are read, for the key: where a file lies is no part of it, its content is a source; an
/// output is neither.
pub(super) fn key_entries(params: &Params) -> BTreeMap<String, KeyValue> {
    let entry = |(name, _): (String, _)| {
        let wanted = output(params, &name)?.to_owned();
        Some((format!("output:{name}"), KeyValue::Text(wanted)))
    };
    places(params).filter_map(entry).collect()
}

/// The content of a place, and the name of its file, for messages.
pub(super) fn content(ctx: &Context<'_>, name: &str) -> Result<(String, Digest), StageError> {
    if let Some(wanted) = output(ctx.params, name) {
        let error = |what: String| StageError::Config(format!("`{name}`: {what}"));
        let given = ctx.inputs.get(PORT);
        let given = given.ok_or_else(|| error(format!("`{PORT}` names no stage that makes `{wanted}`")))?;
        let files = Files::read(ctx.store, &given.digest)?;
        let mut all = files.entries();
        let found = all.find(|(path, _)| path.to_str() == Some(wanted)).map(|(_, entry)| entry.digest);
        let known = || files.entries().map(|(path, _)| format!("`{}`", path.display())).collect::<Vec<_>>();
        return match found {
            Some(digest) => Ok((wanted.to_owned(), digest)),
            None => Err(error(format!("the stage makes no file `{wanted}`, only {}", known().join(", ")))),
        };
    }
    let file = ctx.params.file(name).and_then(|file| file.file_name());
    let file = file.map_or_else(|| TINY.to_owned(), |name| name.to_string_lossy().into_owned());
    Ok((file, ctx.source(name)?))
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

/// Every place's rows, by the parameter's name; but for outputs of other stages.
pub(super) fn sources(params: &Params, hub: Option<&Hub>) -> Result<Vec<Source>, StageError> {
    if let Some(task) = asked(params).find(|task| !params.has(&task.param(DATA))) {
        return Err(StageError::config(format!("`{}` is missing", task.param(DATA))));
    }
    let mut sources = Vec::new();
    for (name, task) in places(params).filter(|(name, _)| output(params, name).is_none()) {
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
