//! The arguments of `qpipe run`.

use std::num::NonZeroUsize;
use std::time::Duration;

use clap::{Args, ValueEnum};
use qpipe_engine::graph::Study;
use qpipe_engine::limits::{Gpus, Limits, PerStage, Retry, parse_bytes, parse_duration, parse_gpus};
use qpipe_engine::plan::Force;
use qpipe_engine::run::{FailureMode, Goals, SelectError, Selection, named};

use super::StudyArgs;

#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub study: StudyArgs,
    #[command(flatten)]
    pub asked: AskedArgs,
    #[command(flatten)]
    pub slots: SlotArgs,
    /// What a failed stage means for the others; by default what the manifest says, or else fail-fast.
    #[arg(long, value_enum, value_name = "MODE")]
    pub failure: Option<Failure>,
    /// How often a passing failure (a network fault, a lost worker) is tried again; out of memory once.
    /// [default: the manifest's, or 2]
    #[arg(long, value_name = "N")]
    pub retries: Option<u32>,
    /// How long a node may run: `30min`, or `quantize=2h` for a stage or stage type; repeatable.
    #[arg(long, value_name = "[STAGE=]TIME", value_parser = timeout)]
    pub timeout: Vec<(Option<String>, Duration)>,
    /// How long a node that must stop may take before it is killed.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub grace: Duration,
    /// Run stages of this type in a process of their own also without a GPU, so that a crash costs one node; repeatable.
    #[arg(long, value_name = "TYPE")]
    pub isolate: Vec<String>,
    /// A table for a person, or the run's events as JSON lines.
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub format: Format,
}

/// What of the study is asked for, by a run or by its plan.
#[derive(Debug, Args)]
pub struct AskedArgs {
    #[command(flatten)]
    pub select: SelectArgs,
    /// Run again what the store holds: every node, or those of `STAGE`, `STAGE/CELL` or `/CELL`; repeatable.
    #[arg(long, value_name = "STAGE", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub force: Vec<String>,
}

/// Which part of the study is asked for. A node is named by `STAGE` (in every cell), `STAGE/CELL` or `/CELL`.
#[derive(Debug, Args)]
pub struct SelectArgs {
    /// Run these nodes and nothing else; what they need must be in the store.
    #[arg(long, value_name = "STAGE[/CELL]")]
    pub only: Vec<String>,
    /// Run these nodes and what depends on them.
    #[arg(long, value_name = "STAGE[/CELL]")]
    pub from: Vec<String>,
    /// Run these nodes and what they depend on.
    #[arg(long, value_name = "STAGE[/CELL]")]
    pub until: Vec<String>,
}

/// How much of the machine a run may take.
#[derive(Debug, Args)]
pub struct SlotArgs {
    /// How many nodes without a GPU may run at once; every built-in stage uses all cores by itself.
    #[arg(long, default_value_t = NonZeroUsize::MIN, value_name = "N")]
    pub jobs: NonZeroUsize,
    /// The GPUs to use, each by one node at a time: `all`, or ordinals such as `0,2`. [default: the manifest's, or all]
    #[arg(long, value_name = "LIST", value_parser = gpus)]
    pub gpus: Option<Gpus>,
    /// Host memory that what runs at once may need together, such as `24GiB`. [default: the machine's]
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub memory: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Failure {
    /// Start nothing new, and stop what runs.
    FailFast,
    /// Skip only what depends on the failed node.
    #[value(alias = "skip-dependents")]
    KeepGoing,
}

impl From<Failure> for FailureMode {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::FailFast => Self::FailFast,
            Failure::KeepGoing => Self::KeepGoing,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Human,
    Jsonl,
}

impl SelectArgs {
    pub fn selection(&self) -> Selection {
        Selection { only: self.only.clone(), from: self.from.clone(), until: self.until.clone() }
    }
}

impl AskedArgs {
    /// Whether the whole study is, and what the store holds is taken.
    pub fn is_usual(&self) -> bool {
        self.select.selection().is_everything() && self.force.is_empty()
    }

    /// The selected nodes, `None` for all.
    pub fn goals(&self, study: &Study) -> Result<Option<Goals>, SelectError> {
        self.select.selection().goals(study)
    }

    /// `--force` runs what was selected again, `--force=STAGE` that stage.
    pub fn forced(&self, study: &Study) -> Result<Force, SelectError> {
        let names: Vec<String> = self.force.iter().filter(|name| !name.is_empty()).cloned().collect();
        if names.len() == self.force.len() {
            return Ok(if names.is_empty() { Force::Nothing } else { Force::Nodes(named(study, &names)?) });
        }
        Ok(self.goals(study)?.map_or(Force::Everything, |goals| Force::Nodes(goals.nodes)))
    }
}

impl RunArgs {
    /// The limits that the command line states; of two for one name the last counts.
    pub fn limits(&self, below: &Limits) -> Limits {
        let mut timeout = PerStage::default();
        for (stage, time) in &self.timeout {
            match stage {
                None => timeout.all = Some(*time),
                Some(stage) => _ = timeout.of.insert(stage.clone(), *time),
            }
        }
        let wait = below.retry.unwrap_or_default().wait;
        let retry = self.retries.map(|times| Retry { times, wait });
        Limits { retry, timeout, gpus: self.slots.gpus.clone(), ..Limits::default() }.over(below)
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "expected a time such as `90s`, `30min` or `2h`".into())
}

fn bytes(text: &str) -> Result<u64, String> {
    parse_bytes(text).ok_or_else(|| "expected a size such as `24GiB` or `500MB`".into())
}

fn timeout(text: &str) -> Result<(Option<String>, Duration), String> {
    match text.split_once('=') {
        Some((stage, time)) => Ok((Some(stage.to_owned()), duration(time)?)),
        None => Ok((None, duration(text)?)),
    }
}

fn gpus(text: &str) -> Result<Gpus, String> {
    parse_gpus(text).ok_or_else(|| "expected `all`, or ordinals such as `0,2`, each once".into())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Args, Command};

    fn parsed(args: &[&str]) -> RunArgs {
        let all = ["qpipe", "run", "study.kdl"].iter().chain(args);
        match Args::try_parse_from(all).unwrap().command {
            Command::Run(run) => run,
            other => panic!("no run: {other:?}"),
        }
    }

    #[test]
    fn force_takes_stages_only_behind_an_equals_sign() {
        assert!(parsed(&[]).asked.force.is_empty());
        assert_eq!(parsed(&["--force"]).asked.force, [""]);
        assert_eq!(parsed(&["--force=weights", "--force=a/b=c"]).asked.force, ["weights", "a/b=c"]);
    }

    #[test]
    fn limits_of_the_command_line_lie_over_the_manifests() {
        let retry = Some(Retry { times: 7, wait: Duration::from_secs(5) });
        let gpus = Some(Gpus::These(vec![1]));
        let below = Limits { retry, gpus: gpus.clone(), ..Limits::default() };
        let limits =
            parsed(&["--timeout", "30min", "--timeout=quantize=1.5h", "--retries", "0"]).limits(&below);
        assert_eq!(limits.timeout.get("weights", "quantize"), Some(Duration::from_mins(90)));
        assert_eq!(limits.timeout.get("base", "load"), Some(Duration::from_mins(30)));
        assert_eq!(limits.retry, Some(Retry { times: 0, wait: Duration::from_secs(5) }));
        assert_eq!(limits.gpus, gpus);
        assert_eq!(parsed(&["--gpus", "all"]).limits(&below).gpus, Some(Gpus::All));
        assert_eq!(parsed(&[]).limits(&below), below);
    }

    #[test]
    fn slots_are_sizes_and_ordinals() {
        let slots = parsed(&["--memory", "1.5GiB", "--gpus", "0,2"]).slots;
        assert_eq!((slots.memory, slots.gpus), (Some(3 << 29), Some(Gpus::These(vec![0, 2]))));
        for wrong in [["--memory", "24"], ["--gpus", "x"], ["--timeout", "1"], ["--grace", "-1s"]] {
            assert!(
                Args::try_parse_from(["qpipe", "run", "a.kdl"].iter().chain(&wrong)).is_err(),
                "{wrong:?}"
            );
        }
    }
}
