//! A job of a stage type, as a request, with everything around it watched.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use qpipe_cache::Digest;
use qpipe_sdk::protocol::Request;
use qpipe_sdk::{Artifact, Cancel, Context};
use serde_json::{Value, json};

use super::bench::Bench;
use super::driver::{Driver, with};
use super::made::{self, Units};
use super::program::Told;
use super::report::{Outcome, Tried, failed};
use super::samples::Sample;
use super::watched::Watched;
use super::work::{Work, work};
use crate::worker::request::request;
use crate::worker::scratch::Scratch;

/// A stage type, with a job of it.
pub(super) struct Tested<'a> {
    pub(super) told: &'a Told,
    pub(super) sample: Sample,
    /// Where its sample's files lie.
    pub(super) folder: &'a Path,
}

/// A job that was done.
pub(super) struct Done {
    pub(super) scratch: Scratch,
    pub(super) work: Work,
    /// Units that it announced.
    pub(super) units: Tried<Units>,
    /// What it read and changed.
    pub(super) inputs: Tried<()>,
    /// What it wrote elsewhere.
    pub(super) elsewhere: Tried<()>,
}

/// What a job is asked besides.
#[derive(Default)]
pub(super) struct Order<'a> {
    pub(super) cancel: bool,
    pub(super) more: Value,
    pub(super) units: Option<&'a Units>,
}

pub(super) fn job(
    bench: &Bench<'_>,
    driver: &mut Driver,
    subject: &Tested<'_>,
    order: &Order<'_>,
) -> Tried<Done> {
    let (store, sample, spec) = (bench.store(), &subject.sample, &subject.told.described.spec);
    let scratch = Scratch::new(store).or_else(failed)?;
    let folder = scratch.folder("work").or_else(failed)?;
    let inputs = scratch.folder("inputs").or_else(failed)?;
    let cancel = Cancel::default();
    let ctx = context(bench, sample, &cancel);
    let told = request(&ctx, spec.kind, &folder, Some(&inputs)).or_else(failed)?;
    let mut told = with(serde_json::to_value(Request::Run(told)).or_else(failed)?, &order.more);
    if bench.can("resume") {
        let units = made::as_given(store, order.units.unwrap_or(&Units::new()))?;
        told = with(told, &json!({ "units": units }));
    }
    let read = read_only(bench, sample)?;
    let around = |driver: &Driver| {
        [
            Watched::of(driver.folder(), &["tmp", "stderr"]),
            Watched::of(scratch.path(), &["work"]),
            Watched::of(subject.folder, &[]),
        ]
    };
    let before = around(driver);
    let mut units: Tried<Units> = Ok(Units::new());
    let work = work(driver, &told, bench.limits(), order.cancel, &mut |said| {
        if let (Ok(all), "checkpoint", Some(path)) = (&mut units, said.kind.as_str(), said.text("path")) {
            let name = said.text("name").unwrap_or_default();
            match made::keep(store, &folder, name, path) {
                Ok(kept) => drop(all.insert(name.to_owned(), kept)),
                Err(outcome) => units = Err(outcome),
            }
        }
    });
    let after = around(driver);
    let [home, beside, mut read_files] = [0, 1, 2].map(|at| before[at].changed(&after[at]));
    let (laid_out, beside): (Vec<_>, Vec<_>) =
        beside.into_iter().partition(|path| path.starts_with("inputs"));
    read_files.extend(laid_out);
    Ok(Done {
        scratch,
        work,
        units,
        inputs: unchanged(&read, &read_files),
        elsewhere: nowhere(&home, &beside),
    })
}

pub(super) fn context<'a>(bench: &Bench<'a>, sample: &'a Sample, cancel: &'a Cancel) -> Context<'a> {
    Context {
        params: &sample.params,
        inputs: &sample.inputs,
        sources: &sample.sources,
        store: bench.store(),
        events: &(),
        cancel,
        device: bench.setup.device,
        doc: None,
    }
}

/// The files that a job may only read, with what each is.
fn read_only(bench: &Bench<'_>, sample: &Sample) -> Tried<Vec<(String, PathBuf, Digest)>> {
    let mut read = BTreeMap::new();
    for (name, digest) in &sample.sources {
        read.insert(*digest, format!("source `{name}`"));
    }
    for (port, artifact) in &sample.inputs {
        for digest in artifact.refs.iter().chain([&artifact.digest]) {
            read.insert(*digest, format!("input `{port}`"));
        }
    }
    let place = |(digest, what)| Ok((what, bench.store().blob_path(&digest).or_else(failed)?, digest));
    read.into_iter().map(place).collect()
}

fn unchanged(read: &[(String, PathBuf, Digest)], changed: &[PathBuf]) -> Tried<()> {
    let is_same = |path: &PathBuf, digest: &Digest| Digest::of_file(path).is_ok_and(|now| now == *digest);
    if let Some((what, ..)) = read.iter().find(|(_, path, digest)| !is_same(path, digest)) {
        return failed(format!("it changed {what}, which must only be read"));
    }
    match changed.first() {
        Some(path) if path.starts_with("inputs") => {
            failed(format!("it changed `{}`, which must only be read", path.display()))
        }
        Some(path) => failed(format!("it changed `{}` beside a file that it was given", path.display())),
        None => Ok(()),
    }
}

/// What lies in its home and in the folder around that, and what lies beside scratch.
fn nowhere(home: &[PathBuf], beside: &[PathBuf]) -> Tried<()> {
    let is_hidden =
        |path: &&PathBuf| path.starts_with("home") && path.to_string_lossy().starts_with("home/.");
    let wrong = beside.iter().chain(home.iter().filter(|path| !is_hidden(path))).next();
    if let Some(path) = wrong {
        return failed(format!("it wrote `{}`, outside scratch", path.display()));
    }
    match home.first() {
        Some(path) => Err(Outcome::Warned(format!(
            "it wrote `{}`; what a later job reads there is in no key",
            path.display()
        ))),
        None => Ok(()),
    }
}

pub(super) fn collect(
    bench: &Bench<'_>,
    subject: &Tested<'_>,
    done: &Done,
    units: &Units,
) -> Tried<Artifact> {
    let cancel = Cancel::default();
    let ctx = context(bench, &subject.sample, &cancel);
    made::collect(&ctx, &subject.told.described, &done.scratch.path().join("work"), &done.work, units)
}
