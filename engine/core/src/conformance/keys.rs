//! What a stage's key contains, as it tells.

use std::path::Path;

use qpipe_sdk::Determinism;
use qpipe_sdk::protocol::Capability;
use qpipe_sdk::protocol::wire::params_to_json;
use serde_json::{Value, json};

use super::bench::{Bench, existing_files};
use super::driver::Driver;
use super::job::Tested;
use super::report::{Outcome, Rule, Tried, failed};
use super::stage::NO_JOB;
use crate::worker::files::store_file;

/// What it answers to `key`; the files that it tells of become sources of the sample.
pub(super) fn keyed(
    bench: &mut Bench<'_>,
    subject: &mut Tested<'_>,
) -> Result<Option<Value>, (Rule, Outcome)> {
    let (spec, told) = (&subject.told.described.spec, subject.told);
    if !bench.can(Capability::Key.word()) || told.keyed_by.as_deref() == Some("nothing") {
        return Ok(None);
    }
    let (stage, at) = (Some(spec.kind), |outcome| (Rule::Key, outcome));
    let mut driver = bench.take().map_err(at)?;
    let answer = key(&mut driver, subject).map_err(at)?;
    bench.note(stage, Rule::Key, stable(bench, &mut driver, subject, &answer));
    bench.keep(driver);
    let files = existing_files(&answer, "sources");
    bench.note(stage, Rule::Sources, files.as_ref().map(drop).map_err(Clone::clone));
    for (name, path) in files.unwrap_or_default() {
        let stored = store_file(bench.store(), Path::new(&path));
        let (digest, _) = stored.map_err(|error| (Rule::Sources, Outcome::Failed(error.to_string())))?;
        subject.sample.sources.insert(format!("told:{name}"), digest);
    }
    let problems: Vec<String> = answer
        .get("problems")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|problem| {
            let text = |field| problem.get(field).and_then(Value::as_str).unwrap_or("?");
            format!("`{}`: {}", text("path"), text("message"))
        })
        .collect();
    if problems.is_empty() {
        return Ok(Some(answer));
    }
    let why = format!("it refuses the sample ({}), {NO_JOB}; `--set` gives it another", problems.join("; "));
    Err((Rule::Sample, Outcome::Skipped(why)))
}

/// Its answer to `key`, without the id.
fn key(driver: &mut Driver, subject: &Tested<'_>) -> Tried<Value> {
    let params = params_to_json(&subject.sample.params).or_else(failed)?;
    let question = json!({ "type": "key", "stage": subject.told.described.spec.kind, "params": params });
    let mut answer = driver.ask(&question, "keyed").or_else(failed)?.value;
    if let Value::Object(fields) = &mut answer {
        fields.remove("id");
    }
    Ok(answer)
}

fn stable(bench: &Bench<'_>, driver: &mut Driver, subject: &Tested<'_>, answer: &Value) -> Tried<()> {
    let is_measurement = subject.told.described.spec.determinism == Determinism::Measurement;
    if is_measurement && answer.get("numerics").and_then(Value::as_str).is_none() {
        return failed("a measurement says in `numerics` what it measured on");
    }
    if key(driver, subject)? != *answer {
        return failed("the same process has another answer to the same parameters");
    }
    same_key(&mut bench.greeted(&json!({}))?, subject, answer, "another process")
}

/// An answer that may depend on the machine may differ, though it then finds nothing in the cache.
pub(super) fn same_key(driver: &mut Driver, subject: &Tested<'_>, answer: &Value, who: &str) -> Tried<()> {
    let now = key(driver, subject)?;
    if now == *answer {
        return Ok(());
    }
    let differs =
        ["numerics", "sources", "problems"].into_iter().find(|field| now.get(field) != answer.get(field));
    let why = format!("{who} has other `{}` for the same parameters", differs.unwrap_or("fields"));
    if subject.told.keyed_by.as_deref() == Some("params") {
        return failed(format!("{why}, and `keyed_by` is `params`"));
    }
    Err(Outcome::Warned(format!("{why}: its results would not be found again")))
}
