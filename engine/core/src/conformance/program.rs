//! Rules of a program as a whole.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use qpipe_sdk::Determinism;
use qpipe_sdk::protocol::describe::{FormDescription, ParamDescription};
use qpipe_sdk::protocol::{Described, PROTOCOL, StageDescription};
use serde_json::{Value, json};

use super::bench::{Bench, existing_files};
use super::driver::{Driver, Heard, NoAnswer, Said, UNKNOWN, with};
use super::report::{Outcome, Rule, Tried, failed, skipped};
use super::strays;
use crate::worker::scratch::Scratch;

/// How many heartbeats are waited for.
const BEATS: u32 = 3;
/// How many intervals may pass without one.
pub(super) const SLACK: u32 = 5;
/// How much of a list is shown.
const SHOWN: usize = 8;

/// A stage type that it describes.
pub(super) struct Told {
    pub(super) described: Described,
    /// What its answers to `key` depend on.
    pub(super) keyed_by: Option<String>,
}

/// What is checked before any stage; the stage types, where there is something to go on with.
pub(super) fn begin(bench: &mut Bench<'_>) -> Option<Vec<Told>> {
    let (mut driver, hello) = match hello(bench) {
        Ok(begun) => begun,
        Err(outcome) => {
            bench.note(None, Rule::Hello, Err(outcome));
            messages(bench);
            return None;
        }
    };
    bench.introduce(&hello);
    bench.note(None, Rule::Hello, Ok(()));
    bench.note(None, Rule::Version, version(&hello));
    let told = match described(&mut driver) {
        Ok(told) => told,
        Err(outcome) => {
            bench.note(None, Rule::Describe, Err(outcome));
            drop(driver);
            messages(bench);
            return None;
        }
    };
    bench.note(None, Rule::Describe, Ok(()));
    let same = same_description(bench, &mut driver, &told);
    bench.note(None, Rule::SameDescription, same);
    let stages = serde_json::from_value::<Vec<StageDescription>>(told["stages"].clone()).unwrap_or_default();
    let (known, schema) = understood(bench, &stages, &told);
    bench.note(None, Rule::Schema, schema);
    bench.note(None, Rule::Documented, documented(&stages));
    bench.note(None, Rule::UnknownFields, unknown_fields(bench, &told));
    bench.note(None, Rule::UnknownType, unknown_type(bench));
    let refused = unknown_stage(bench, &mut driver, &told);
    bench.note(None, Rule::UnknownStage, refused);
    if bench.can("heartbeat") {
        let alive = driver.lives();
        let beats = if alive { heartbeat(bench, &mut driver) } else { skipped("it has ended") };
        bench.note(None, Rule::Heartbeat, beats);
    }
    bench.keep(driver);
    Some(known)
}

/// What is checked after all stages.
pub(super) fn end(bench: &mut Bench<'_>) {
    let ended = end_of_input(bench);
    bench.note(None, Rule::EndOfInput, ended);
    messages(bench);
}

fn hello(bench: &Bench<'_>) -> Tried<(Driver, Said)> {
    let mut driver = bench.start()?;
    match driver.hello(&json!({})) {
        Ok(hello) => Ok((driver, hello)),
        Err(error) => failed(error),
    }
}

fn version(hello: &Said) -> Tried<()> {
    match hello.value.get("protocol").and_then(Value::as_u64) {
        Some(found) if found == u64::from(PROTOCOL) => Ok(()),
        Some(found) => failed(format!("it took version {found}; only {PROTOCOL} was offered")),
        None => failed("it took none"),
    }
}

/// What it answers to `describe`, without the id.
fn described(driver: &mut Driver) -> Tried<Value> {
    let mut told = driver.ask(&json!({ "type": "describe" }), "description").or_else(failed)?.value;
    if let Value::Object(fields) = &mut told {
        fields.remove("id");
    }
    match told.get("stages").and_then(Value::as_array) {
        Some(stages) if !stages.is_empty() => Ok(told),
        _ => failed("it describes no stage type"),
    }
}

fn same_description(bench: &Bench<'_>, driver: &mut Driver, told: &Value) -> Tried<()> {
    if described(driver)? != *told {
        return failed("the same process describes itself otherwise when it is asked again");
    }
    if described(&mut bench.greeted(&json!({}))?)? != *told {
        return failed("a second process describes itself otherwise");
    }
    Ok(())
}

/// The stage types that can be used, and what is wrong with the first that cannot.
fn understood(bench: &Bench<'_>, stages: &[StageDescription], told: &Value) -> (Vec<Told>, Tried<()>) {
    let (mut known, mut flaw) = (Vec::new(), existing_files(told, "sources").map(drop));
    let mut kinds = BTreeSet::new();
    for (stage, raw) in stages.iter().zip(told["stages"].as_array().into_iter().flatten()) {
        match one_understood(bench, stage, raw) {
            Ok(_) if !kinds.insert(&stage.kind) => {
                flaw = flaw.and(failed(format!("stage type `{}` is described twice", stage.kind)));
            }
            Ok(told) => known.push(told),
            Err(error) => flaw = flaw.and(failed(format!("stage type `{}`: {error}", stage.kind))),
        }
    }
    (known, flaw)
}

fn one_understood(bench: &Bench<'_>, stage: &StageDescription, raw: &Value) -> Result<Told, String> {
    let described = stage.understand().map_err(|error| error.to_string())?;
    if stage.determinism == Determinism::Measurement && !bench.can("key") {
        return Err("a measurement says what it measured on: it needs the capability `key`".into());
    }
    let keyed_by = raw.get("keyed_by");
    match keyed_by.map(Value::as_str) {
        None | Some(Some("nothing" | "params" | "machine")) => {}
        Some(_) => return Err("`keyed_by` is none of `nothing`, `params` and `machine`".into()),
    }
    Ok(Told { described, keyed_by: keyed_by.and_then(Value::as_str).map(str::to_owned) })
}

/// A warning where something does not say what it is.
fn documented(stages: &[StageDescription]) -> Tried<()> {
    let mut silent = Vec::new();
    let mut look = |doc: &str, what: String| {
        if doc.trim().is_empty() {
            silent.push(what);
        }
    };
    let params = |props: &[ParamDescription], owner: &str, look: &mut dyn FnMut(&str, String)| {
        for prop in props {
            look(&prop.doc, format!("parameter `{owner}.{}`", prop.name));
        }
    };
    for stage in stages {
        let kind = &stage.kind;
        look(&stage.doc, format!("stage type `{kind}`"));
        stage.inputs.iter().for_each(|port| look(&port.doc, format!("input `{kind}.{}`", port.name)));
        stage.output.files.iter().for_each(|file| look(&file.doc, format!("output `{kind}.{}`", file.name)));
        for node in &stage.nodes {
            let name = format!("{kind}.{}", node.name);
            look(&node.doc, format!("parameter `{name}`"));
            params(&node.props, &name, &mut look);
            if let FormDescription::Keyed { choices, .. } = &node.form {
                for choice in choices {
                    let name = format!("{name}.{}", choice.name);
                    look(&choice.doc, format!("parameter `{name}`"));
                    params(&choice.props, &name, &mut look);
                }
            }
        }
    }
    let more = silent.len().saturating_sub(SHOWN);
    silent.truncate(SHOWN);
    match (silent.as_slice(), more) {
        ([], _) => Ok(()),
        (named, 0) => Err(Outcome::Warned(format!("without a doc: {}", named.join(", ")))),
        (named, more) => {
            Err(Outcome::Warned(format!("without a doc: {}, and {more} more", named.join(", "))))
        }
    }
}

/// Fields that no version has, in `hello` and in a question.
fn unknown_fields(bench: &Bench<'_>, told: &Value) -> Tried<()> {
    let more = json!({ "minor": 1_000, UNKNOWN: { "deep": [1, null, { "type": "hello" }] } });
    let mut driver = bench.start()?;
    let hello = driver.hello(&more).map(drop);
    hello.or_else(|error| failed(format!("`hello` with fields that it does not know: {error}")))?;
    let question = with(json!({ "type": "describe" }), &more);
    match driver.ask(&question, "description") {
        Ok(answer) if answer.value.get("stages") != told.get("stages") => {
            failed("`describe` with fields that it does not know has another answer than without")
        }
        Ok(_) => Ok(()),
        Err(error) => failed(format!("`describe` with fields that it does not know: {error}")),
    }
}

fn unknown_type(bench: &Bench<'_>) -> Tried<()> {
    let mut driver = bench.greeted(&json!({}))?;
    match driver.ask(&json!({ "type": UNKNOWN }), "error") {
        Err(NoAnswer::Error { .. } | NoAnswer::Lost(_)) => Ok(()),
        Err(NoAnswer::Silent { .. }) => failed(
            "it neither says `error` nor ends: a newer engine would wait for an answer that never comes",
        ),
        Err(other) => failed(other),
        Ok(said) => failed(format!("it answered with `{}`", said.kind)),
    }
}

/// A stage type that it has not, and none at all.
fn unknown_stage(bench: &mut Bench<'_>, driver: &mut Driver, told: &Value) -> Tried<()> {
    let asked = if bench.can("key") { vec!["key", "run"] } else { vec!["run"] };
    let scratch = Scratch::new(bench.store()).or_else(failed)?;
    for word in asked {
        for (stage, how) in
            [(json!({ "stage": UNKNOWN }), "a stage type that it has not"), (json!({}), "no stage type")]
        {
            let request = json!({
                "type": word, "params": {}, "inputs": {}, "sources": {},
                "scratch": scratch.path(), "device": bench.setup.device,
            });
            match driver.ask(&with(request, &stage), "error") {
                Err(NoAnswer::Error { .. }) => {}
                Ok(_) => return failed(format!("`{word}` with {how}: its error is not about the question")),
                Err(other) => return failed(format!("`{word}` with {how}: {other}")),
            }
        }
        if described(driver).map_err(|why| after(word, why))? != *told {
            return failed("it describes itself otherwise after it refused a stage type");
        }
    }
    Ok(())
}

fn after(word: &str, outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Failed(why) => Outcome::Failed(format!("after a `{word}` that it refused: {why}")),
        other => other,
    }
}

/// Heartbeats while it has nothing to do.
fn heartbeat(bench: &Bench<'_>, driver: &mut Driver) -> Tried<()> {
    let every = bench.limits().heartbeat;
    // those that nobody has listened to yet say nothing of how often they come
    while matches!(driver.hear(Duration::ZERO), Some(Heard::Said { said, .. }) if said.kind == "heartbeat") {}
    let mut last = Instant::now();
    for beat in 0..BEATS {
        let left = (every * SLACK).saturating_sub(last.elapsed());
        match driver.hear(left) {
            Some(Heard::Said { said, .. }) if said.kind == "heartbeat" => last = Instant::now(),
            Some(Heard::Said { said, .. }) => return failed(format!("it said `{}` unasked", said.kind)),
            Some(Heard::End(_)) => return failed("it hung up while it had nothing to do"),
            None => {
                return failed(format!(
                    "asked for one every {} s, {beat} came, then none for {} s",
                    every.as_secs_f64(),
                    (every * SLACK).as_secs_f64()
                ));
            }
        }
    }
    Ok(())
}

fn end_of_input(bench: &mut Bench<'_>) -> Tried<()> {
    let (mut driver, grace) = (bench.take()?, bench.limits().grace);
    if driver.close(grace) {
        return Ok(());
    }
    failed(format!("it still runs {} s after its standard input ended", grace.as_secs_f64()))
}

/// What all of its processes are held to; the last has ended.
fn messages(bench: &mut Bench<'_>) {
    let found = bench.findings();
    let processes = if !strays::can_be_found() {
        skipped("this system does not tell which processes there are")
    } else if found.strays.is_empty() {
        Ok(())
    } else {
        failed(format!("left the process group, and outlived it: {}", listed(&found.strays)))
    };
    bench.note(None, Rule::Processes, processes);
    let noise = if found.noise.is_empty() { Ok(()) } else { failed(listed(&found.noise)) };
    bench.note(None, Rule::Messages, noise);
}

/// Each once, and not too many.
fn listed(texts: &[String]) -> String {
    let once: BTreeSet<&str> = texts.iter().map(String::as_str).collect();
    let more = once.len().saturating_sub(SHOWN);
    let shown = once.into_iter().take(SHOWN).collect::<Vec<_>>().join("\n");
    if more == 0 { shown } else { format!("{shown}\nand {more} more") }
}
