//! Rules of each stage type, checked with jobs of it.

use std::collections::BTreeMap;

use qpipe_cache::KeyDoc;
use qpipe_sdk::protocol::Capability;
use qpipe_sdk::{Artifact, Cancel, Context, Determinism, Stage};
use serde_json::{Value, json};

use super::bench::Bench;
use super::driver::UNKNOWN;
use super::job::{Done, Order, Tested, collect, context, job};
use super::keys::{keyed, same_key};
use super::made::{self, Units};
use super::program::{SLACK, Told};
use super::report::{Outcome, Rule, Tried, failed, skipped};
use super::samples::Samples;
use super::work::{End, Work};
use crate::worker::scratch::Scratch;
use crate::worker::{PluginCommand, PluginStage};

/// What follows where there is nothing to try.
pub(super) const NO_JOB: &str = "so no job was tried";

/// Checks a stage type.
pub(super) fn check(bench: &mut Bench<'_>, told: &Told, samples: &mut Samples<'_>) {
    let kind = told.described.spec.kind;
    if let Err((rule, outcome)) = tried(bench, told, samples) {
        bench.note(Some(kind), rule, Err(outcome));
    }
}

/// An error is the rule after which nothing more can be checked.
fn tried(bench: &mut Bench<'_>, told: &Told, samples: &mut Samples<'_>) -> Result<(), (Rule, Outcome)> {
    let (spec, stage) = (&told.described.spec, Some(told.described.spec.kind));
    let at = |rule| move |outcome| (rule, outcome);
    if bench.can(Capability::Store.word()) {
        let why = format!("a worker that commits to the store itself is the engine's own, {NO_JOB}");
        return Err((Rule::Sample, Outcome::Skipped(why)));
    }
    let folder =
        Scratch::new(bench.store()).map_err(|error| (Rule::Sample, Outcome::Failed(error.to_string())))?;
    let sample =
        samples.of(spec, bench.store(), folder.path()).map_err(unsampled).map_err(at(Rule::Sample))?;
    let mut subject = Tested { told, sample, folder: folder.path() };
    let answer = keyed(bench, &mut subject)?;
    bench.note(stage, Rule::Sample, Ok(()));

    let mut driver = bench.take().map_err(at(Rule::Run))?;
    let first = job(bench, &mut driver, &subject, &Order::default()).map_err(at(Rule::Run))?;
    if let End::Failed { class, message } = &first.work.end
        && class == "config"
    {
        bench.keep(driver);
        let why =
            format!("it refuses the sample ({message}); `--set`, `--file` and `--input` give it another");
        return Err((Rule::Run, Outcome::Skipped(why)));
    }
    bench.note(stage, Rule::Run, first.work.done());
    bench.note(stage, Rule::Events, first.work.events());
    bench.note(stage, Rule::Metrics, first.work.metrics());
    bench.note(stage, Rule::Inputs, first.inputs.clone());
    bench.note(stage, Rule::Scratch, first.elsewhere.clone());
    if bench.can(Capability::Heartbeat.word()) {
        bench.note(stage, Rule::Heartbeat, heartbeats(bench, &first.work));
    }
    if !first.work.is_done() || first.inputs.is_err() {
        return Ok(());
    }
    let units = first.units.clone().unwrap_or_default();
    let made = collect(bench, &subject, &first, &units);
    bench.note(stage, Rule::Outputs, made.as_ref().map(drop).map_err(Clone::clone));
    if let Some(answer) = answer
        && let Err(outcome) = same_key(&mut driver, &subject, &answer, "after a job it")
    {
        bench.note(stage, Rule::Key, Err(outcome));
    }
    let Ok(made) = made else { return Ok(()) };
    if first.work.after.is_ok() {
        bench.keep(driver);
    }
    repeated(bench, &subject, &made);
    if bench.can(Capability::Cancel.word()) {
        let cancelled = cancelled(bench, &subject);
        bench.note(stage, Rule::Cancel, cancelled);
    }
    if bench.can("resume") {
        let resumed = first.units.and_then(|units| {
            made::unkept(bench.store(), &first.scratch.path().join("work"), &units)?;
            resumed(bench, &subject, &made, &units)
        });
        bench.note(stage, Rule::Resume, resumed);
    }
    let taken = by_engine(bench, &subject, &made);
    bench.note(stage, Rule::Engine, taken);
    Ok(())
}

fn unsampled(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Skipped(why) => Outcome::Skipped(format!("{why}, {NO_JOB}")),
        other => other,
    }
}

fn heartbeats(bench: &Bench<'_>, work: &Work) -> Tried<()> {
    let every = bench.limits().heartbeat;
    if work.silence <= every * SLACK {
        return Ok(());
    }
    failed(format!(
        "asked for one every {} s, it was silent for {:.1} s during a job",
        every.as_secs_f64(),
        work.silence.as_secs_f64()
    ))
}

/// The job again: in the same process, and in another that is told what it does not know.
fn repeated(bench: &mut Bench<'_>, subject: &Tested<'_>, made: &Artifact) {
    let stage = Some(subject.told.described.spec.kind);
    let again = bench.take().and_then(|mut driver| {
        let done = job(bench, &mut driver, subject, &Order::default())?;
        done.work.done()?;
        bench.keep(driver);
        Ok(done)
    });
    bench.note(stage, Rule::Again, again.as_ref().map(drop).map_err(Clone::clone));
    let more = json!({ UNKNOWN: { "deep": [1, null] } });
    let other = bench.greeted(&json!({})).and_then(|mut driver| {
        let order = Order { more, ..Order::default() };
        let done = job(bench, &mut driver, subject, &order)?;
        done.work.done()?;
        Ok(done)
    });
    bench.note(stage, Rule::UnknownFields, other.as_ref().map(drop).map_err(Clone::clone));
    if subject.told.described.spec.determinism == Determinism::Measurement {
        return;
    }
    let same = |done: &Tried<Done>, who: &str| {
        let Ok(done) = done else { return Ok(()) };
        let units = done.units.clone().unwrap_or_default();
        let made_now = collect(bench, subject, done, &units)?;
        match made::difference(bench.store(), made, &made_now) {
            Some(what) => failed(format!("{who} has made other bytes of the same: {what}")),
            None => Ok(()),
        }
    };
    let exact = same(&again, "the same process").and_then(|()| same(&other, "another process"));
    bench.note(stage, Rule::Exact, exact);
}

/// A job that is stopped, and one after it.
fn cancelled(bench: &mut Bench<'_>, subject: &Tested<'_>) -> Tried<()> {
    let mut driver = bench.take()?;
    let stopped = job(bench, &mut driver, subject, &Order { cancel: true, ..Order::default() })?;
    stopped.work.events()?;
    match stopped.work.end {
        End::Done | End::Cancelled | End::Failed { .. } => stopped.work.after?,
        End::Lost(why) => return failed(format!("asked to stop, it went: {why}")),
        End::Never(after) => {
            return failed(format!("asked to stop, the job has no end within {} s", after.as_secs_f64()));
        }
    }
    let next = job(bench, &mut driver, subject, &Order::default())?.work;
    if let Err(Outcome::Failed(why)) = next.done() {
        return failed(format!("the job after one that was stopped: {why}"));
    }
    bench.keep(driver);
    Ok(())
}

/// The job once more with the units of an earlier try: all of them, and half.
fn resumed(bench: &Bench<'_>, subject: &Tested<'_>, made: &Artifact, units: &Units) -> Tried<()> {
    if units.is_empty() {
        return skipped("the sample's job announced no unit with a `path`");
    }
    let half: Units =
        units.iter().take(units.len() / 2).map(|(name, kept)| (name.clone(), kept.clone())).collect();
    for given in [units, &half].into_iter().filter(|given| !given.is_empty()) {
        resumed_with(bench, subject, made, units, given)?;
    }
    Ok(())
}

fn resumed_with(
    bench: &Bench<'_>,
    subject: &Tested<'_>,
    made: &Artifact,
    all: &Units,
    given: &Units,
) -> Tried<()> {
    let how = format!("given {} of {} units", given.len(), all.len());
    let mut driver = bench.greeted(&json!({}))?;
    let done = job(bench, &mut driver, subject, &Order { units: Some(given), ..Order::default() })?;
    done.work.done().map_err(|why| match why {
        Outcome::Failed(why) => Outcome::Failed(format!("{how}: {why}")),
        other => other,
    })?;
    let mut found = BTreeMap::new();
    for said in done.work.said("checkpoint") {
        let cached = said.value.get("cached").and_then(Value::as_bool).unwrap_or(false);
        found.insert(said.text("name").unwrap_or_default(), cached);
    }
    for name in given.keys() {
        match found.get(name.as_str()) {
            Some(true) => {}
            Some(false) => return failed(format!("{how}: it made unit `{name}` anew")),
            None => return failed(format!("{how}: it does not say that it found unit `{name}`")),
        }
    }
    let mut units = given.clone();
    units.extend(done.units.clone()?);
    let now = collect(bench, subject, &done, &units)?;
    let is_measurement = subject.told.described.spec.determinism == Determinism::Measurement;
    match made::difference(bench.store(), made, &now).filter(|_| !is_measurement) {
        Some(what) => failed(format!("{how}: it made other bytes than without: {what}")),
        None => Ok(()),
    }
}

/// The job as the engine has it done.
fn by_engine(bench: &Bench<'_>, subject: &Tested<'_>, made: &Artifact) -> Tried<()> {
    let spec = &subject.told.described.spec;
    if bench.has_strays() {
        return skipped("it leaves processes behind, which the engine does not follow");
    }
    let ((file, args), opened) = (bench.subject.file(), bench.setup.opened);
    let command = PluginCommand {
        kind: spec.kind.to_owned(),
        command: Some(bench.subject.program.display().to_string()),
        file,
        args: args.to_vec(),
        reads: bench.subject.reads(opened),
        network: opened.network,
        sandbox: opened.sandbox,
        limits: bench.limits(),
        ..PluginCommand::default()
    };
    let stage = PluginStage::start(&command, bench.setup.machine).or_else(failed)?;
    let cancel = Cancel::default();
    // units are kept by the key of their job
    let doc = KeyDoc::new(format!("conformance/{}", spec.kind), spec.semantics);
    let context = Context { doc: Some(&doc), ..context(bench, &subject.sample, &cancel) };
    let outcome = stage.run(&context).or_else(failed)?;
    if spec.determinism == Determinism::Measurement {
        return Ok(());
    }
    match made::difference(bench.store(), made, &outcome.artifact) {
        Some(what) => failed(format!("the engine's run has made other bytes: {what}")),
        None => Ok(()),
    }
}
