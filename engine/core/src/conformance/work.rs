//! One job: what a process says about it, and how it ends.

use std::time::{Duration, Instant};

use qpipe_sdk::Metric;
use qpipe_sdk::protocol::wire::WireMetric;
use serde::Deserialize;
use serde_json::{Value, json};

use super::driver::{Driver, Heard, Said, with};
use super::report::{Tried, failed};
use crate::worker::Limits;

/// How often a waiting test looks at everything but the process.
const TICK: Duration = Duration::from_millis(20);
/// How long a job that is to be stopped may run without a word.
const RUNNING: Duration = Duration::from_millis(100);
/// How long a process's last messages may be on their way after its end.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Most metrics of a job.
const MAX_METRICS: usize = 10_000;

/// How a job ended.
#[derive(Debug)]
pub(super) enum End {
    Done,
    Cancelled,
    Failed {
        class: String,
        message: String,
    },
    /// With its process.
    Lost(String),
    /// Not in time.
    Never(Duration),
}

/// A job, looked back on.
#[derive(Debug)]
pub(super) struct Work {
    id: u64,
    /// With what is wrong with each message.
    said: Vec<(Said, Option<String>)>,
    pub(super) end: End,
    /// The longest time without a word.
    pub(super) silence: Duration,
    /// What came between its end and the answer to the next question.
    pub(super) after: Tried<()>,
}

/// Has a process do a job; `watch` hears of every message. With `cancel` the job is stopped as soon as it runs.
pub(super) fn work(
    driver: &mut Driver,
    request: &Value,
    limits: Limits,
    cancel: bool,
    watch: &mut dyn FnMut(&Said),
) -> Work {
    let id = driver.id();
    driver.send(&with(request.clone(), &json!({ "id": id })));
    let stop = json!({ "type": "cancel", "id": id });
    let started = Instant::now();
    let (mut said, mut last, mut silence) = (Vec::new(), started, Duration::ZERO);
    let (mut asked, mut gone): (Option<Instant>, Option<Instant>) = (None, None);
    let end = loop {
        if cancel && asked.is_none() && (!said.is_empty() || started.elapsed() > RUNNING) {
            driver.send(&stop);
            asked = Some(Instant::now());
        }
        let late = asked.filter(|at| at.elapsed() > limits.grace).map(|_| limits.grace);
        let late = late.or_else(|| limits.job.filter(|limit| started.elapsed() > *limit));
        if let Some(after) = late {
            break End::Never(after);
        }
        let heard = driver.hear(TICK);
        silence = silence.max(last.elapsed());
        match heard {
            Some(Heard::Said { said: message, flaw }) => {
                last = Instant::now();
                watch(&message);
                let end = ended(&message);
                if message.kind != "heartbeat" {
                    said.push((message, flaw));
                }
                if let Some(end) = end {
                    break end;
                }
            }
            Some(Heard::End(_)) => break End::Lost(driver.lost()),
            // a child of it may still hold its standard output
            None if !driver.lives() && gone.get_or_insert_with(Instant::now).elapsed() > LAST_WORDS => {
                break End::Lost(driver.lost());
            }
            None => {}
        }
    };
    if cancel && asked.is_none() {
        // a request to stop may always come too late
        driver.send(&stop);
    }
    let after = match &end {
        End::Lost(_) | End::Never(_) => Ok(()),
        _ => settle(driver, limits),
    };
    Work { id, said, end, silence, after }
}

/// What ends a job, whatever its id.
fn ended(said: &Said) -> Option<End> {
    let text = |field| said.text(field).unwrap_or("?").to_owned();
    match said.kind.as_str() {
        "done" => Some(End::Done),
        "cancelled" => Some(End::Cancelled),
        "error" => Some(End::Failed { class: text("class"), message: text("message") }),
        _ => None,
    }
}

/// Asks something, and listens whether anything else comes first.
fn settle(driver: &mut Driver, limits: Limits) -> Tried<()> {
    let id = driver.id();
    driver.send(&json!({ "type": "describe", "id": id }));
    let clock = Instant::now();
    while let Some(left) = limits.answer.checked_sub(clock.elapsed()) {
        match driver.hear(left) {
            Some(Heard::Said { said, .. }) if said.kind == "heartbeat" => {}
            Some(Heard::Said { said, .. }) if said.kind == "description" && said.id() == Some(id) => {
                return Ok(());
            }
            Some(Heard::Said { said, .. }) => {
                return failed(format!("after the job's end it said `{}`", said.kind));
            }
            Some(Heard::End(_)) => return failed(format!("after the job's end: {}", driver.lost())),
            None => {}
        }
    }
    failed(format!("after the job's end it answered nothing within {} s", limits.answer.as_secs_f64()))
}

impl Work {
    /// Messages of a type.
    pub(super) fn said<'w>(&'w self, kind: &'w str) -> impl Iterator<Item = &'w Said> {
        self.said.iter().map(|(said, _)| said).filter(move |said| said.kind == kind)
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self.end, End::Done)
    }

    /// Why it did not end well.
    pub(super) fn done(&self) -> Tried<()> {
        match &self.end {
            End::Done => self.after.clone(),
            End::Cancelled => failed("it said `cancelled`, and nobody had asked it to stop"),
            End::Failed { class, message } => failed(format!("it failed ({class}): {message}")),
            End::Lost(why) => failed(why),
            End::Never(after) => failed(format!("no end within {} s", after.as_secs_f64())),
        }
    }

    /// What it said is about this job, in the right place, and whole.
    pub(super) fn events(&self) -> Tried<()> {
        for (said, flaw) in &self.said {
            let kind = &said.kind;
            if !matches!(
                kind.as_str(),
                "progress" | "log" | "metric" | "artifact" | "checkpoint" | "done" | "cancelled" | "error"
            ) {
                return failed(format!("it said `{kind}` during a job"));
            }
            if let Some(flaw) = flaw.as_ref().filter(|_| kind != "metric") {
                return failed(flaw);
            }
            if said.id() != Some(self.id) && !(kind == "error" && said.value.get("id").is_none()) {
                let found = said.value.get("id").map_or_else(|| "none".into(), Value::to_string);
                return failed(format!("its `{kind}` has the id {found}; the job's is {}", self.id));
            }
            let number = |field| said.value.get(field).and_then(Value::as_u64);
            if let (Some(done), Some(total)) = (number("done"), number("total"))
                && kind == "progress"
                && done > total
            {
                return failed(format!("`progress` says {done} of {total}"));
            }
        }
        Ok(())
    }

    /// Its metrics, as the engine takes them in.
    pub(super) fn told(&self) -> Tried<Vec<Metric>> {
        let metric = |said: &Said| WireMetric::deserialize(&said.value).map(Metric::from).or_else(failed);
        self.said("metric").map(metric).collect()
    }

    pub(super) fn metrics(&self) -> Tried<()> {
        let flaw = self.said.iter().find_map(|(said, flaw)| flaw.as_ref().filter(|_| said.kind == "metric"));
        if let Some(flaw) = flaw {
            return failed(flaw);
        }
        if self.said("metric").any(|said| said.text("name").is_none_or(str::is_empty)) {
            return failed("a metric has no name");
        }
        match self.said("metric").count() {
            count if count > MAX_METRICS => failed(format!("{count} metrics; {MAX_METRICS} are the most")),
            _ => Ok(()),
        }
    }
}
