//! Studies of `step` nodes that wait, fail and watch each other on demand, for tests of the scheduler.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

#[path = "../hows/mod.rs"]
mod hows;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use qpipe_cache::Store;
use qpipe_engine::graph::{Cell, CellId, Node, NodeId, ReportSpec, Span, Spans, Study};
use qpipe_engine::limits::Limits;
use qpipe_engine::plan::{PlanOptions, plan};
use qpipe_engine::run::{RunEvent, RunOptions, RunResult, run};
use qpipe_engine::sources::Sources;
use qpipe_sdk::{
    Artifact, ArtifactKind, Context, Determinism, GpuNeed, Outcome, Params, PortSpec, Resources, Schema,
    Stage, StageError, StageRegistry, StageSpec, Value,
};

use hows::hows;

/// No step waits longer than this for something that ought to happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the steps of a study do to each other.
#[derive(Default)]
pub struct World {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: Vec<String>,
    /// Starts (`+name`) and ends (`-name`), in order.
    log: Vec<String>,
    most: usize,
    devices: BTreeMap<String, String>,
    tries: BTreeMap<String, u32>,
}

impl World {
    pub fn log(&self) -> Vec<String> {
        self.state.lock().unwrap().log.clone()
    }

    /// How many steps ran at once at most.
    pub fn most(&self) -> usize {
        self.state.lock().unwrap().most
    }

    pub fn device(&self, name: &str) -> String {
        self.state.lock().unwrap().devices[name].clone()
    }

    pub fn at(&self, entry: &str) -> usize {
        let log = self.log();
        log.iter().position(|e| e == entry).unwrap_or_else(|| panic!("no `{entry}` in {log:?}"))
    }

    /// Whether the two ever ran at the same time.
    pub fn overlap(&self, a: &str, b: &str) -> bool {
        let span = |name: &str| (self.at(&format!("+{name}")), self.at(&format!("-{name}")));
        let ((a0, a1), (b0, b1)) = (span(a), span(b));
        a0 < b1 && b0 < a1
    }

    fn enter(&self, name: &str, device: &str) -> u32 {
        let mut state = self.state.lock().unwrap();
        state.running.push(name.to_owned());
        state.log.push(format!("+{name}"));
        state.most = state.most.max(state.running.len());
        state.devices.insert(name.to_owned(), device.to_owned());
        let tries = state.tries.entry(name.to_owned()).or_default();
        *tries += 1;
        *tries
    }

    fn leave(&self, name: &str) {
        let mut state = self.state.lock().unwrap();
        state.running.retain(|running| running != name);
        state.log.push(format!("-{name}"));
    }

    /// Waits until so many run at once; whether they did.
    fn wait_for(&self, count: usize, patience: Duration) -> bool {
        let since = Instant::now();
        while since.elapsed() < patience {
            if self.most() >= count {
                return true;
            }
            sleep(Duration::from_millis(1));
        }
        false
    }
}

struct Step {
    spec: StageSpec,
    world: Arc<World>,
}

impl Stage for Step {
    fn spec(&self) -> &StageSpec {
        &self.spec
    }

    fn resources(&self, params: &Params, _input_bytes: u64) -> Resources {
        Resources {
            gpu: params.text("device").map_or(GpuNeed::None, GpuNeed::of_device),
            memory: params.int("mib").unwrap_or(0) as u64 * (1 << 20),
            exclusive: params.bool("exclusive").unwrap_or(false),
        }
    }

    fn run(&self, ctx: &Context<'_>) -> Result<Outcome, StageError> {
        let name = ctx.params.text("name").unwrap();
        let tries = self.world.enter(name, ctx.device);
        let result = work(&self.world, ctx, tries);
        self.world.leave(name);
        result?;
        let digest = ctx.store.put_bytes(name.as_bytes())?;
        Ok(Outcome { artifact: Artifact::single("step", digest), metrics: vec![] })
    }
}

/// `do=WHAT:NUMBER`.
fn work(world: &World, ctx: &Context<'_>, tries: u32) -> Result<(), StageError> {
    let (what, number) = ctx.params.text("do").unwrap_or("nothing:0").split_once(':').unwrap();
    let number: u32 = number.parse().unwrap();
    match what {
        "sleep" => sleep(Duration::from_millis(number.into())),
        // gives others the chance to run beside this one, for a moment
        "together" => _ = world.wait_for(number as usize, Duration::from_millis(300)),
        "transient" if tries <= number => return Err(StageError::Transient("the line is dead".into())),
        "oom" if tries <= number => return Err(StageError::OomHost("too much".into())),
        "nothing" | "transient" | "oom" => {}
        "config" => {
            // fails once the others run
            world.wait_for(number as usize, PATIENCE);
            return Err(StageError::Config("impossible".into()));
        }
        "polite" => {
            let since = Instant::now();
            while since.elapsed() < PATIENCE {
                ctx.checkpoint()?;
                sleep(Duration::from_millis(1));
            }
        }
        "deaf" => sleep(PATIENCE),
        other => panic!("cannot `{other}`"),
    }
    Ok(())
}

/// A step of a cell: its stage, its input among the cell's stages, its parameters.
pub type StepOf<'a> = (&'a str, Option<&'a str>, &'a [(&'a str, Value)]);

/// A study of steps, and where it runs.
pub struct Steps {
    pub dir: tempfile::TempDir,
    pub store: Store,
    pub world: Arc<World>,
    pub study: Study,
}

impl Steps {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let study = Study {
            name: "steps".into(),
            sources: Arc::new(Sources::new(Path::new("steps.kdl"), "")),
            cells: Vec::new(),
            nodes: Vec::new(),
            report: ReportSpec::default(),
            failure: None,
            limits: Limits::default(),
            overrides: Vec::new(),
        };
        Self { dir, store, world: Arc::default(), study }
    }

    /// Adds a cell of steps; their names are `CELL.STAGE`.
    #[must_use]
    pub fn cell(mut self, name: &str, steps: &[StepOf<'_>]) -> Self {
        let (cell, mut placed) = (CellId(self.study.cells.len()), BTreeMap::new());
        for (stage, input, params) in steps {
            let (id, label) = (NodeId(self.study.nodes.len()), format!("{name}.{stage}"));
            let mut all = Params::default();
            all.set("name", Value::Text(label.clone()));
            params.iter().for_each(|(key, value)| all.set(*key, value.clone()));
            self.study.nodes.push(Node {
                id,
                kind: "step".into(),
                stage: (*stage).into(),
                label,
                params: Arc::new(all),
                spans: Spans::default(),
                span: Span::default(),
                inputs: input.map(|input| ("after".to_owned(), placed[input])).into_iter().collect(),
                cells: vec![cell],
            });
            placed.insert((*stage).to_owned(), id);
        }
        let nodes = placed.into_iter().collect();
        let (name, group) = (name.into(), "steps".into());
        self.study.cells.push(Cell { id: cell, name, group, overrides: vec![], baseline: None, nodes });
        self
    }

    pub fn registry(&self) -> StageRegistry {
        let after = PortSpec { name: "after", doc: "", kind: ArtifactKind::new("step"), required: false };
        let spec = StageSpec {
            kind: "step",
            semantics: 1,
            doc: "",
            inputs: vec![after],
            output: ArtifactKind::new("step"),
            schema: Schema::new(vec![]),
            determinism: Determinism::Exact,
        };
        StageRegistry::default().with(Box::new(Step { spec, world: Arc::clone(&self.world) }))
    }

    pub fn run(&self, options: &RunOptions) -> (RunResult, Vec<RunEvent>) {
        self.run_planned(&PlanOptions::default(), options)
    }

    pub fn run_planned(
        &self,
        plan_options: &PlanOptions,
        options: &RunOptions,
    ) -> (RunResult, Vec<RunEvent>) {
        let (registry, mut events) = (self.registry(), Vec::new());
        let plan = plan(&self.study, &registry, &self.store, plan_options).unwrap();
        let result = run(&self.study, &plan, &registry, &self.store, options, &mut events);
        (result, events)
    }
}

/// [`hows`] of a whole run.
pub fn ends(result: &RunResult) -> String {
    hows(&result.nodes)
}

/// `do=…`.
pub fn does(what: &str) -> (&'static str, Value) {
    ("do", Value::Text(what.into()))
}
