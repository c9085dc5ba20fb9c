//! A folder with plugins, and studies over them.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use qpipe_cache::Store;
use qpipe_engine::limits::{Limits as RunLimits, Retry};
use qpipe_engine::manifest::{LoadOptions, load_study};
use qpipe_engine::plan::{PlanOptions, plan};
use qpipe_engine::run::{FailureMode, NodeResult, RunEvent, RunEventKind, RunOptions, RunResult, run};
use qpipe_engine::worker::wall::{self, Support};
use qpipe_engine::worker::{Limits, Machine, PluginCommand, PluginStage, WorkerError};
use qpipe_sdk::{ErrorClass, StageEvent, StageRegistry};

use crate::plugin_lab::{KIT, headed, machine, output, package};
use crate::python;

pub(crate) struct Lab {
    /// Removed with it, unless it is another process's.
    _owned: Option<[tempfile::TempDir; 2]>,
    pub(crate) dir: PathBuf,
    machine: Machine,
}

impl Lab {
    /// `None` where there is no Python, after saying so.
    pub(crate) fn new(test: &str) -> Option<Self> {
        if !python::is_here(test) {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        for name in ["faulty.py", "steps.py", "talk.py", "layers.py"] {
            fs::copy(package("tests/plugins").join(name), dir.path().join(name)).unwrap();
        }
        fs::copy(package(KIT), dir.path().join("qpipe_stage.py")).unwrap();
        // what the plugins note for the tests lies where every process may write, and looks as if it lay beside them
        let shared = tempfile::tempdir_in("/dev/shm").unwrap();
        for name in ["did", "farewell", "stop"] {
            std::os::unix::fs::symlink(shared.path().join(name), dir.path().join(name)).unwrap();
        }
        let lab = Self::at(dir.path());
        Some(Self { _owned: Some([dir, shared]), ..lab })
    }

    /// The laboratory of another process.
    pub(crate) fn at(dir: &Path) -> Self {
        Self { machine: machine(dir), dir: dir.to_owned(), _owned: None }
    }

    /// The same on a machine whose kernel can hold this.
    pub(crate) fn on(&self, walls: Support) -> Self {
        let machine = self.machine.clone().with_walls(walls);
        Self { machine, dir: self.dir.clone(), _owned: None }
    }

    pub(crate) fn store(&self) -> Store {
        Store::open(&self.dir.join("store")).unwrap()
    }

    /// A file beside the plugins.
    pub(crate) fn file(&self, name: &str, text: &str) {
        fs::write(self.dir.join(name), text).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.dir.join(name)).unwrap_or_default()
    }

    pub(crate) fn command(&self, kind: &str, file: &str, args: &[&str], limits: Limits) -> PluginCommand {
        PluginCommand {
            kind: kind.into(),
            command: Some("python3".into()),
            file: Some(self.dir.join(file)),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            limits,
            ..PluginCommand::default()
        }
    }

    pub(crate) fn start(&self, plugin: &PluginCommand) -> Result<StageRegistry, WorkerError> {
        Ok(StageRegistry::default().with(Box::new(PluginStage::start(plugin, &self.machine)?)))
    }

    /// Runs stages of a manifest to the end, whatever fails; nothing is tried again.
    pub(crate) fn run(&self, registry: &StageRegistry, stages: &str) -> (RunResult, Vec<StageEvent>) {
        self.run_with(registry, stages, &RunOptions::default())
    }

    /// The same with slots of one's own.
    pub(crate) fn run_with(
        &self,
        registry: &StageRegistry,
        stages: &str,
        options: &RunOptions,
    ) -> (RunResult, Vec<StageEvent>) {
        let (text, path) = (headed(stages), self.dir.join("lab.kdl"));
        let study = load_study(&path, &text, &LoadOptions::default(), registry).unwrap();
        let store = self.store();
        let plan = plan(&study, registry, &store, &PlanOptions::default()).unwrap();
        let limits =
            RunLimits { retry: Some(Retry { times: 0, wait: Duration::ZERO }), ..RunLimits::default() };
        let options = RunOptions { failure: FailureMode::KeepGoing, limits, ..options.clone() };
        let mut events = Vec::<RunEvent>::new();
        let result = run(&study, &plan, registry, &store, &options, &mut events);
        let told = events.into_iter().filter_map(|event| match event.kind {
            RunEventKind::Stage { stage, .. } => Some(stage),
            _ => None,
        });
        (result, told.collect())
    }

    /// Runs a stage for each value of `how`, one after the other.
    pub(crate) fn hows(
        &self,
        registry: &StageRegistry,
        kind: &str,
        hows: &[&str],
    ) -> (RunResult, Vec<StageEvent>) {
        let stage = |(at, how): (usize, &&str)| format!("{kind} s{at} {{\n how \"{how}\"\n}}\n");
        self.run(registry, &hows.iter().enumerate().map(stage).collect::<String>())
    }

    /// A text among a node's outputs.
    pub(crate) fn output(&self, node: &NodeResult, name: &str) -> String {
        output(&self.store(), node, name)
    }
}

/// Whether the kernel holds whole walls; it says so where not.
pub(crate) fn is_walled(test: &str) -> bool {
    let why = wall::support().note();
    if let Some(why) = &why {
        let _unseen = writeln!(std::io::stderr(), "skipped: {test}: {why}");
    }
    why.is_none()
}

/// The one failure of a run.
pub(crate) fn failure(result: &RunResult) -> (ErrorClass, String) {
    let mut failures = result.failures().map(|(_, class, message)| (class, message.to_owned()));
    let first = failures.next().expect("it fails");
    assert!(failures.next().is_none(), "one failure");
    first
}

/// Waits until something is so.
pub(crate) fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let clock = Instant::now();
    while !is_so() {
        assert!(clock.elapsed() < Duration::from_mins(1), "waited for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a process runs; one that has ended and was not asked for its status does not.
pub(crate) fn runs(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}
