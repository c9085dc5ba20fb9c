//! What a test of a plugin found: each rule of the protocol, with what came of it.

use std::fmt::{self, Write};

use serde::Serialize;

/// Version of the JSON form.
pub const REPORT_SCHEMA: u32 = 1;

/// What a worker is held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    Hello,
    Version,
    Describe,
    SameDescription,
    Schema,
    Documented,
    UnknownFields,
    UnknownType,
    UnknownStage,
    Heartbeat,
    Sample,
    Key,
    Sources,
    Run,
    Events,
    Metrics,
    Outputs,
    Inputs,
    Scratch,
    Again,
    Exact,
    Cancel,
    Resume,
    Engine,
    EndOfInput,
    Processes,
    Messages,
}

impl Rule {
    /// In the order in which they are checked.
    pub const ALL: [Self; 27] = [
        Self::Hello,
        Self::Version,
        Self::Describe,
        Self::SameDescription,
        Self::Schema,
        Self::Documented,
        Self::UnknownFields,
        Self::UnknownType,
        Self::UnknownStage,
        Self::Heartbeat,
        Self::Sample,
        Self::Key,
        Self::Sources,
        Self::Run,
        Self::Events,
        Self::Metrics,
        Self::Outputs,
        Self::Inputs,
        Self::Scratch,
        Self::Again,
        Self::Exact,
        Self::Cancel,
        Self::Resume,
        Self::Engine,
        Self::EndOfInput,
        Self::Processes,
        Self::Messages,
    ];

    pub const fn name(self) -> &'static str {
        self.told().0
    }

    /// The rule in words.
    pub const fn about(self) -> &'static str {
        self.told().1
    }

    const fn told(self) -> (&'static str, &'static str) {
        match self {
            Self::Hello => {
                ("hello", "starts in the environment that it will have, and says `hello` first, in time")
            }
            Self::Version => ("version", "takes a protocol version that was offered"),
            Self::Describe => ("describe", "describes at least one stage type"),
            Self::SameDescription => {
                ("same-description", "says the same when asked again, and in a second process")
            }
            Self::Schema => ("schema", "every description is understood"),
            Self::Documented => {
                ("documented", "every stage type, input, output and parameter says what it is")
            }
            Self::UnknownFields => ("unknown-fields", "ignores fields that it does not know"),
            Self::UnknownType => ("unknown-type", "refuses a message whose type it does not know"),
            Self::UnknownStage => ("unknown-stage", "refuses a stage type that it has not, and goes on"),
            Self::Heartbeat => {
                ("heartbeat", "with `heartbeat`: says that it lives, as often as it was asked to")
            }
            Self::Sample => ("sample", "parameters and inputs for a job can be made"),
            Self::Key => ("key", "with `key`: the same parameters have the same answer"),
            Self::Sources => ("sources", "files that it tells of are there, under absolute paths"),
            Self::Run => ("run", "a job ends with `done`, once"),
            Self::Events => {
                ("events", "what it says during a job is about the job, and progress stays within its total")
            }
            Self::Metrics => ("metrics", "every metric has a name and a number, or its spelling"),
            Self::Outputs => {
                ("outputs", "outputs are declared, announced once, complete, and within scratch")
            }
            Self::Inputs => ("inputs", "leaves what it reads as it was"),
            Self::Scratch => {
                ("scratch", "writes nothing outside scratch; HOME, TMPDIR and the test's folder are watched")
            }
            Self::Again => ("again", "does a second job in the same process"),
            Self::Exact => ("exact", "equal inputs give equal bytes, in another process as well"),
            Self::Cancel => ("cancel", "with `cancel`: ends a job when asked to, and takes another"),
            Self::Resume => {
                ("resume", "with `resume`: takes units of an earlier try, and makes the same of them")
            }
            Self::Engine => ("engine", "the engine runs it and takes what it made"),
            Self::EndOfInput => ("end-of-input", "ends when its standard input ends"),
            Self::Processes => ("processes", "leaves no process behind"),
            Self::Messages => ("messages", "writes nothing but messages to standard output"),
        }
    }
}

impl Serialize for Rule {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// What came of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", content = "why", rename_all = "kebab-case")]
pub enum Outcome {
    Passed,
    /// Allowed, and better otherwise.
    Warned(String),
    /// Not looked at.
    Skipped(String),
    Failed(String),
}

/// The value, or why there is none.
pub(super) type Tried<T> = Result<T, Outcome>;

pub(super) fn failed<T>(why: impl fmt::Display) -> Tried<T> {
    Err(Outcome::Failed(why.to_string()))
}

pub(super) fn skipped<T>(why: impl fmt::Display) -> Tried<T> {
    Err(Outcome::Skipped(why.to_string()))
}

impl From<Tried<()>> for Outcome {
    fn from(tried: Tried<()>) -> Self {
        tried.err().unwrap_or(Self::Passed)
    }
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// The stage type it was made with; `None`: the program as a whole.
    pub stage: Option<String>,
    pub rule: Rule,
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// A test of a plugin.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub schema: u32,
    /// Program and version, as it names itself.
    pub worker: Option<String>,
    pub checks: Vec<Check>,
}

impl Default for Report {
    fn default() -> Self {
        Self { schema: REPORT_SCHEMA, worker: None, checks: Vec::new() }
    }
}

impl Report {
    /// How many checks passed, were warned of, skipped, and failed.
    pub fn counts(&self) -> [usize; 4] {
        let mut counts = [0; 4];
        for check in &self.checks {
            let at = match check.outcome {
                Outcome::Passed => 0,
                Outcome::Warned(_) => 1,
                Outcome::Skipped(_) => 2,
                Outcome::Failed(_) => 3,
            };
            counts[at] += 1;
        }
        counts
    }

    pub fn failed(&self) -> bool {
        self.counts()[3] > 0
    }

    pub(super) fn add(&mut self, stage: Option<&str>, rule: Rule, tried: Tried<()>) {
        let (stage, outcome) = (stage.map(str::to_owned), tried.into());
        self.checks.push(Check { stage, rule, outcome });
    }

    /// For a person: a line for each check, further lines of a reason below it, and a summary.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for check in &self.checks {
            let (mark, why) = match &check.outcome {
                Outcome::Passed => ("ok", check.rule.about()),
                Outcome::Warned(why) => ("warn", why.as_str()),
                Outcome::Skipped(why) => ("skip", why.as_str()),
                Outcome::Failed(why) => ("FAIL", why.as_str()),
            };
            let stage = check.stage.as_ref().map_or_else(String::new, |stage| format!("{stage} "));
            let _infallible =
                writeln!(text, "{mark:<5} {stage}{}: {}", check.rule.name(), why.replace('\n', "\n      "));
        }
        let [passed, warned, skipped, failed] = self.counts();
        let _infallible = writeln!(text, "{passed} ok, {failed} failed, {warned} warned, {skipped} skipped");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::default();
        report.add(None, Rule::Hello, Ok(()));
        report.add(Some("tally"), Rule::Run, failed("it ended: exit status 1\nno device"));
        report.add(Some("tally"), Rule::Exact, skipped("no job"));
        report
    }

    #[test]
    fn a_report_is_a_line_for_each_check() {
        insta::assert_snapshot!(report().text(), @r"
        ok    hello: starts in the environment that it will have, and says `hello` first, in time
        FAIL  tally run: it ended: exit status 1
              no device
        skip  tally exact: no job
        1 ok, 1 failed, 0 warned, 1 skipped
        ");
    }

    #[test]
    fn a_report_is_data_as_well() {
        let json = serde_json::to_value(report()).unwrap();
        let failed = serde_json::json!({
            "stage": "tally", "rule": "run", "outcome": "failed", "why": "it ended: exit status 1\nno device"
        });
        assert_eq!((&json["checks"][1], &json["checks"][0]["outcome"]), (&failed, &"passed".into()));
        assert!(json["checks"][0].get("why").is_none());
    }

    #[test]
    fn every_rule_has_a_name_of_its_own_and_stands_in_the_guide() {
        let package = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests");
        let page = std::path::Path::new(&package).join("../../docs/plugins.md");
        let page = std::fs::read_to_string(page).unwrap();
        for (at, rule) in Rule::ALL.into_iter().enumerate() {
            assert_eq!(rule as usize, at);
            assert!(page.contains(&format!("`{}`", rule.name())), "{rule:?} is not in the guide");
            assert_eq!(Rule::ALL.iter().filter(|other| other.name() == rule.name()).count(), 1);
        }
    }
}
