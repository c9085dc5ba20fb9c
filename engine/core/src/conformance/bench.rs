//! What the checks share: the process at hand, the store, folders, and what was found so far.

use std::path::Path;
use std::sync::{Arc, PoisonError};

use qpipe_cache::Store;
use serde_json::{Value, json};

use super::driver::{Driver, Findings, Said, Shared, Starter};
use super::report::{Outcome, Report, Rule, Tried};
use super::{Setup, Subject};
use crate::worker::Limits;

/// The bench that a program lies on.
pub(super) struct Bench<'a> {
    pub(super) subject: &'a Subject,
    pub(super) setup: Setup<'a>,
    report: Report,
    findings: Shared,
    /// A process that has said hello.
    current: Option<Driver>,
    /// What it can do, as its first process said.
    capabilities: Vec<String>,
}

impl<'a> Bench<'a> {
    pub(super) fn new(subject: &'a Subject, setup: Setup<'a>) -> Self {
        let (report, findings) = (Report::default(), Shared::default());
        Self { subject, setup, report, findings, current: None, capabilities: Vec::new() }
    }

    pub(super) fn store(&self) -> &'a Store {
        self.setup.store
    }

    pub(super) fn limits(&self) -> Limits {
        self.setup.limits
    }

    pub(super) fn note(&mut self, stage: Option<&str>, rule: Rule, tried: Tried<()>) {
        self.report.add(stage, rule, tried);
    }

    pub(super) fn report(self) -> Report {
        self.report
    }

    pub(super) fn can(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|word| word == capability)
    }

    /// What its first `hello` says.
    pub(super) fn introduce(&mut self, hello: &Said) {
        let words = hello.value.get("capabilities").and_then(Value::as_array);
        let words = words.into_iter().flatten().filter_map(Value::as_str);
        self.capabilities = words.map(str::to_owned).collect();
        self.report.worker = hello.text("worker").map(str::to_owned);
    }

    /// A new process, which has been told nothing.
    pub(super) fn start(&self) -> Tried<Driver> {
        let starter = Starter {
            subject: self.subject,
            opened: self.setup.opened,
            machine: self.setup.machine,
            store: self.setup.store.root(),
            limits: self.setup.limits,
            findings: Arc::clone(&self.findings),
        };
        starter.start().map_err(|error| Outcome::Failed(error.to_string()))
    }

    /// A new process that has said hello to one with further fields.
    pub(super) fn greeted(&self, more: &Value) -> Tried<Driver> {
        let mut driver = self.start()?;
        let hello = driver.hello(more);
        hello.map_err(|error| Outcome::Failed(format!("a further process does not say hello: {error}")))?;
        Ok(driver)
    }

    /// The process at hand, or a new one.
    pub(super) fn take(&mut self) -> Tried<Driver> {
        if let Some(mut driver) = self.current.take()
            && driver.lives()
        {
            return Ok(driver);
        }
        self.greeted(&json!({}))
    }

    /// Gives a process back that can be used again.
    pub(super) fn keep(&mut self, driver: Driver) {
        self.current = Some(driver);
    }

    /// Whether a process that has ended left others behind.
    pub(super) fn has_strays(&self) -> bool {
        !self.findings.lock().unwrap_or_else(PoisonError::into_inner).strays.is_empty()
    }

    /// What any process did, once the one at hand has ended.
    pub(super) fn findings(&mut self) -> Findings {
        self.current = None;
        std::mem::take(&mut *self.findings.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Absolute paths by name, in the field of a message, of files that are there.
pub(super) fn existing_files(message: &Value, field: &str) -> Tried<Vec<(String, String)>> {
    let Some(told) = message.get(field).filter(|told| !told.is_null()) else { return Ok(Vec::new()) };
    let wrong = |why: String| Outcome::Failed(why);
    let told = told.as_object().ok_or_else(|| wrong(format!("`{field}` is no object")))?;
    let one = |(name, path): (&String, &Value)| {
        let path = path.as_str().ok_or_else(|| wrong(format!("source `{name}` is no path")))?;
        if !Path::new(path).is_absolute() {
            return Err(wrong(format!("source `{name}` has the path `{path}`, which is not absolute")));
        }
        if !Path::new(path).is_file() {
            return Err(wrong(format!("source `{name}`: there is no file `{path}`")));
        }
        Ok((name.clone(), path.to_owned()))
    };
    told.iter().map(one).collect()
}
