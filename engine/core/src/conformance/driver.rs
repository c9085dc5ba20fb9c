//! A plugin's process and the lines it exchanges, raw: what the engine would refuse is looked at, not believed.

use std::io::{self, BufReader, Write};
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use qpipe_sdk::protocol::{MINOR, PROTOCOL};
use serde_json::{Value, json};

use super::listen::listen;
use super::{Opened, Subject, strays};
use crate::worker::launch::{Group, Launch, LaunchError, ending};
use crate::worker::log::Log;
use crate::worker::reach::{Own, Reach};
use crate::worker::scratch::Scratch;
use crate::worker::wall::{Access, Support, Wall};
use crate::worker::{Limits, Machine, Sandbox, TempError, WorkerError};

/// How long a process that hung up is given to end by itself.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How often a process that is to end is looked at.
const TICK: Duration = Duration::from_millis(5);
/// How many messages may wait to be heard.
const BACKLOG: usize = 4096;
/// How many lines of its log are shown.
const LINES: usize = 12;

/// A field that no version of the protocol has.
pub(super) const UNKNOWN: &str = "x-conformance";

/// What any process of the plugin did, whenever it did it.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// What it wrote to standard output that is no message.
    pub(super) noise: Vec<String>,
    /// Processes that outlived it.
    pub(super) strays: Vec<String>,
}

/// Shared with the threads that listen.
pub(super) type Shared = Arc<Mutex<Findings>>;

/// A program, and what a process of it is started with.
pub(super) struct Starter<'a> {
    pub(super) subject: &'a Subject,
    pub(super) opened: &'a Opened,
    pub(super) machine: &'a Machine,
    /// The test's own: what is done to it is found, and not hindered.
    pub(super) store: &'a Path,
    pub(super) limits: Limits,
    pub(super) findings: Shared,
}

/// A message.
#[derive(Clone, Debug)]
pub(super) struct Said {
    pub(super) kind: String,
    pub(super) value: Value,
}

impl Said {
    pub(super) fn id(&self) -> Option<u64> {
        self.value.get("id").and_then(Value::as_u64)
    }

    pub(super) fn text(&self, field: &str) -> Option<&str> {
        self.value.get(field).and_then(Value::as_str)
    }
}

#[derive(Debug)]
pub(super) enum Heard {
    /// What has a known type; `flaw`: what is wrong with its fields.
    Said { said: Said, flaw: Option<String> },
    /// Nothing more comes; or is read, for a reason.
    End(Option<String>),
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    #[error("it said nothing within {} s", after.as_secs_f64())]
    Silent { after: Duration },
    #[error("{0}")]
    Lost(String),
    /// As `cat` does.
    #[error("it writes back what it is told: it does not speak qstage")]
    Echo,
    #[error("it answered with an error ({class}): {message}")]
    Error { class: String, message: String },
    #[error("{0}")]
    Wrong(String),
}

/// A process. Dropping it ends it and everything that it started.
pub(super) struct Driver {
    group: Group,
    output: Option<Sender<Vec<u8>>>,
    heard: Receiver<Heard>,
    folder: Scratch,
    limits: Limits,
    findings: Shared,
    next_id: u64,
    /// What it was asked last.
    asked: Value,
    /// What it writes to standard error, and how much of that it had written when it was asked.
    log: Log,
    logged: u64,
    /// Whether it has said a message.
    has_spoken: bool,
    /// Why nothing that it says is read any more.
    deaf: Option<String>,
}

impl Starter<'_> {
    pub(super) fn start(&self) -> Result<Driver, WorkerError> {
        let folder = self.machine.scratch()?;
        let make = |name| folder.folder(name).map_err(|error| TempError::of(folder.path(), error));
        let (home, tmp) = (make("home")?, make("tmp")?);
        let launch = Launch {
            program: self.subject.program.clone(),
            args: self.subject.args.iter().map(Into::into).collect(),
            env: self.machine.environment(home.clone(), tmp.clone()),
            folder: home,
            stderr: folder.path().join("stderr"),
        };
        let failed = |source| LaunchError::Start { program: launch.program.clone(), source };
        let log =
            Log::create(launch.stderr.clone()).map_err(|error| TempError::unusable(&launch.stderr, error))?;
        let wall = self.wall([&launch.folder, &tmp, log.path()]);
        let (their_input, mut our_output) = io::pipe().map_err(failed)?;
        let (our_input, their_output) = io::pipe().map_err(failed)?;
        let group =
            Group::start(&launch, wall.as_ref(), Stdio::from(their_input), Stdio::from(their_output))?;
        let (sender, heard) = sync_channel(BACKLOG);
        let noise = Arc::clone(&self.findings);
        std::thread::spawn(move || listen(BufReader::new(our_input), &sender, &noise));
        let (output, lines) = channel::<Vec<u8>>();
        // a process that does not read has gone, or is about to be heard of
        std::thread::spawn(move || lines.iter().try_for_each(|line| our_output.write_all(&line)));
        Ok(Driver {
            group,
            output: Some(output),
            heard,
            folder,
            limits: self.limits,
            findings: Arc::clone(&self.findings),
            next_id: 1,
            asked: Value::Null,
            log,
            logged: 0,
            has_spoken: false,
            deaf: None,
        })
    }

    /// The wall of a plugin, with the whole store within.
    fn wall(&self, own: [&Path; 3]) -> Option<Wall> {
        let is_open = self.opened.sandbox == Sandbox::Off;
        if is_open || matches!(self.machine.walls(), Support::None { .. }) {
            return None;
        }
        let (program, file) = (self.subject.program.clone(), self.subject.file().0);
        let (reads, network) = (self.subject.reads(self.opened), self.opened.network);
        let reach = Reach { program, file, reads, network };
        let mut wall = reach.wall(self.machine, Own::Without(&[]));
        for own in own.into_iter().chain([self.store]) {
            wall.open(own, Access::Write);
        }
        Some(wall)
    }
}

impl Driver {
    /// Where it works, with its home.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn lives(&mut self) -> bool {
        matches!(self.group.ended(), Ok(None))
    }

    /// The id of a new question or job. What it wrote to its log before is about something else.
    pub(super) fn id(&mut self) -> u64 {
        self.logged = self.log.len();
        self.next_id += 1;
        self.next_id - 1
    }

    pub(super) fn send(&self, message: &Value) {
        if let Some(output) = &self.output {
            // one that has gone is heard of
            let _gone = output.send(format!("{message}\n").into_bytes());
        }
    }

    /// The next message; `None`: there is none in time.
    pub(super) fn hear(&mut self, within: Duration) -> Option<Heard> {
        match self.heard.recv_timeout(within) {
            Ok(heard) => {
                match &heard {
                    Heard::Said { .. } => self.has_spoken = true,
                    Heard::End(why) => self.deaf.clone_from(why),
                }
                Some(heard)
            }
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Heard::End(None)),
        }
    }

    /// Says `hello`, with further fields; what it answers.
    pub(super) fn hello(&mut self, more: &Value) -> Result<Said, NoAnswer> {
        let hello = json!({
            "type": "hello",
            "protocol": { "min": PROTOCOL, "max": PROTOCOL },
            "minor": MINOR,
            "engine": concat!("qpipe ", env!("CARGO_PKG_VERSION")),
            "heartbeat_ms": u64::try_from(self.limits.heartbeat.as_millis()).unwrap_or(u64::MAX),
        });
        self.asked = with(hello, more);
        self.send(&self.asked);
        self.answer("hello", None, self.limits.hello)
    }

    /// Asks a question, an object with its `type`, under a new id; the answer, of type `answer`.
    pub(super) fn ask(&mut self, question: &Value, answer: &str) -> Result<Said, NoAnswer> {
        let id = self.id();
        self.asked = with(question.clone(), &json!({ "id": id }));
        self.send(&self.asked);
        self.answer(answer, Some(id), self.limits.answer)
    }

    fn answer(&mut self, answer: &str, id: Option<u64>, within: Duration) -> Result<Said, NoAnswer> {
        let clock = Instant::now();
        while let Some(left) = within.checked_sub(clock.elapsed()) {
            let (said, flaw) = match self.hear(left) {
                Some(Heard::Said { said, flaw }) => (said, flaw),
                Some(Heard::End(_)) => return Err(NoAnswer::Lost(self.lost())),
                None => continue,
            };
            match said.kind.as_str() {
                _ if said.value == self.asked => return Err(NoAnswer::Echo),
                "heartbeat" if id.is_some() => {}
                "error" if said.id().is_none() || said.id() == id => {
                    let text = |field| said.text(field).unwrap_or("?").to_owned();
                    return match flaw {
                        Some(flaw) => Err(NoAnswer::Wrong(flaw)),
                        None => Err(NoAnswer::Error { class: text("class"), message: text("message") }),
                    };
                }
                kind if kind != answer => {
                    return Err(NoAnswer::Wrong(format!("it said `{kind}` where `{answer}` was due")));
                }
                kind if said.id() != id => {
                    let found = said.value.get("id").map_or_else(|| "none".into(), Value::to_string);
                    let id = id.unwrap_or_default();
                    return Err(NoAnswer::Wrong(format!("its `{kind}` has the id {found}, not {id}")));
                }
                _ => return flaw.map_or(Ok(said), |flaw| Err(NoAnswer::Wrong(flaw))),
            }
        }
        Err(NoAnswer::Silent { after: within })
    }

    /// How it ended, after it hung up; it is ended if it has not.
    pub(super) fn lost(&mut self) -> String {
        if let Some(why) = &self.deaf {
            return format!("it cannot be listened to any longer: {why}");
        }
        let clock = Instant::now();
        while clock.elapsed() < LAST_WORDS && self.lives() {
            std::thread::sleep(Duration::from_millis(2));
        }
        let ended = if self.lives() { "it hung up without ending".into() } else { self.ending() };
        let last_words = |lines: &[String]| lines.split_at(lines.len().saturating_sub(LINES)).1.join("\n");
        let (before, said) = (self.log.since(0), self.log.since(self.logged));
        match (said.as_slice(), before.as_slice()) {
            ([], []) if !self.has_spoken => format!("it said nothing, and {ended}"),
            ([], []) => ended,
            ([], before) => {
                format!("{ended}; before it was asked this, it had written:\n{}", last_words(before))
            }
            (said, _) => format!("{ended}\n{}", last_words(said)),
        }
    }

    fn ending(&mut self) -> String {
        let status = self.group.kill();
        status.map_or_else(|_| "it ended".into(), |status| format!("it ended: {}", ending(status)))
    }

    /// Ends its standard input; whether it ends in time.
    pub(super) fn close(&mut self, within: Duration) -> bool {
        self.output = None;
        let clock = Instant::now();
        let mut listening = true;
        while self.lives() {
            if clock.elapsed() > within {
                return false;
            }
            // one that nobody listens to could not end
            match self.hear(TICK).filter(|_| listening) {
                Some(Heard::End(_)) => listening = false,
                None if !listening => std::thread::sleep(TICK),
                _ => {}
            }
        }
        // what it wrote last is still to be read
        while listening && matches!(self.hear(LAST_WORDS), Some(Heard::Said { .. })) {}
        true
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ended = self.group.kill();
        let strays = strays::end(self.folder.path());
        self.findings.lock().unwrap_or_else(PoisonError::into_inner).strays.extend(strays);
    }
}

/// An object with the fields of another.
pub(super) fn with(mut value: Value, more: &Value) -> Value {
    if let (Value::Object(fields), Value::Object(more)) = (&mut value, more) {
        fields.extend(more.iter().map(|(name, value)| (name.clone(), value.clone())));
    }
    value
}
