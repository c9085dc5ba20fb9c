//! A laboratory for plans and runs: a store in a temporary directory, three small stages that count their runs,
//! and studies made by hand, so that nothing here rests on the manifest's language.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part of the laboratory")]
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use qpipe_cache::Store;
use qpipe_engine::graph::{Cell, CellId, Node, NodeId, NodesByName, Override, ReportSpec, Span, Study};
use qpipe_engine::limits::Limits;
use qpipe_engine::plan::{Plan, PlanOptions, plan};
use qpipe_engine::run::{RunEvent, RunOptions, RunResult, run};
use qpipe_engine::sources::Sources;
use qpipe_sdk::{
    Artifact, ArtifactKind, Better, Cancel, Context, Determinism, Metric, NodeSpec, Outcome, Paired,
    ParamSpec, ParamType, Params, PortSpec, Schema, Stage, StageError, StageRegistry, StageSpec, Value,
};

/// What the stages share with the test.
#[derive(Default)]
pub struct Switches {
    pub runs: AtomicUsize,
    /// While set, `quantize` of this scheme fails.
    pub fp4_fails: AtomicBool,
    pub fp4_panics: AtomicBool,
    /// `quantize` returns the same bytes whatever the model.
    pub constant: AtomicBool,
    /// `evaluate` asks for the run to stop through `stop`, as Ctrl-C would.
    pub cancels: AtomicBool,
    /// What runs with the default options listen to.
    pub stop: Mutex<Cancel>,
    /// Raised semantics of `evaluate`.
    pub semantics: AtomicUsize,
}

impl Switches {
    pub fn set(&self, switch: impl Fn(&Self) -> &AtomicBool, to: bool) {
        switch(self).store(to, Ordering::SeqCst);
    }
}

type Work = fn(&Switches, &Context<'_>) -> Result<Outcome, StageError>;

struct Fake {
    spec: StageSpec,
    switches: Arc<Switches>,
    work: Work,
}

impl Stage for Fake {
    fn spec(&self) -> &StageSpec {
        &self.spec
    }

    fn run(&self, ctx: &Context<'_>) -> Result<Outcome, StageError> {
        self.switches.runs.fetch_add(1, Ordering::SeqCst);
        (self.work)(&self.switches, ctx)
    }
}

fn text_param(name: &'static str) -> NodeSpec {
    NodeSpec::value(ParamSpec::new(name, ParamType::Text, "a text"))
}

fn spec(kind: &'static str, semantics: u32, input: bool, output: &str, nodes: Vec<NodeSpec>) -> StageSpec {
    let port = PortSpec { name: "model", doc: "", kind: ArtifactKind::new("model"), required: true };
    StageSpec {
        kind,
        semantics,
        doc: "",
        inputs: if input { vec![port] } else { vec![] },
        output: ArtifactKind::new(output),
        schema: Schema::new(nodes),
        determinism: Determinism::Exact,
    }
}

fn load(_: &Switches, ctx: &Context<'_>) -> Result<Outcome, StageError> {
    let mut bytes = ctx.params.text("text").unwrap_or_default().as_bytes().to_vec();
    if let Some(digest) = ctx.sources.get("from.path") {
        bytes.extend(ctx.store.read(digest)?);
    }
    let artifact = Artifact::single("model", ctx.store.put_bytes(&bytes)?);
    Ok(Outcome { artifact, metrics: vec![Metric::new("parameters", 7.0, "", Better::Neither)] })
}

fn quantize(switches: &Switches, ctx: &Context<'_>) -> Result<Outcome, StageError> {
    let scheme = ctx.params.text("scheme").unwrap_or_default();
    if scheme == "fp4" && switches.fp4_fails.load(Ordering::SeqCst) {
        return Err(StageError::Config("no codes for `fp4`".into()));
    }
    assert!(!(scheme == "fp4" && switches.fp4_panics.load(Ordering::SeqCst)), "the fp4 kernel went wild");
    ctx.progress(1, 1, "modules");
    let bytes = if switches.constant.load(Ordering::SeqCst) {
        b"constant".to_vec()
    } else {
        [&ctx.store.read(&ctx.input("model")?.digest)?[..], b"+", scheme.as_bytes()].concat()
    };
    let size = Metric::new("bytes", 1_048_576.0 * bytes.len() as f64, "bytes", Better::Lower).headline();
    Ok(Outcome { artifact: Artifact::single("model", ctx.store.put_bytes(&bytes)?), metrics: vec![size] })
}

fn evaluate(switches: &Switches, ctx: &Context<'_>) -> Result<Outcome, StageError> {
    if switches.cancels.load(Ordering::SeqCst) {
        switches.stop.lock().unwrap().request();
    }
    ctx.checkpoint()?;
    let model = ctx.store.read(&ctx.input("model")?.digest)?;
    let score = model.iter().map(|b| f64::from(*b)).sum::<f64>() % 100.0 / 100.0;
    let digest = ctx.store.put_bytes(format!("score {score}").as_bytes())?;
    let f1 = Metric::new("boolq.f1", score, "", Better::Higher).n(500).stderr(0.021).trivial(0.38).headline();
    let against = (ctx.params.text("task") == Some("paired")).then(|| Paired {
        port: "against".into(),
        difference: score - 0.5,
        low: score - 0.6,
        high: score - 0.4,
        p: Some(score / 50.0),
        right_to_wrong: Some(3),
        wrong_to_right: Some(12),
        ..Paired::default()
    });
    let f1 = f1.paired(against);
    let speed = Metric::new("speed", 1000.0 + model.len() as f64, "tokens/s", Better::Higher);
    let speed = speed.range(990.0, 1200.0).headline();
    let kl = Metric::new("kl", f64::INFINITY, "nat", Better::Lower);
    Ok(Outcome { artifact: Artifact::single("evaluation", digest), metrics: vec![f1, speed, kl] })
}

/// A store, the stages' switches, and a place for files.
pub struct Lab {
    pub dir: tempfile::TempDir,
    pub store: Store,
    pub switches: Arc<Switches>,
}

impl Lab {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        Self { dir, store, switches: Arc::default() }
    }

    pub fn registry(&self) -> StageRegistry {
        let fake = |spec, work| -> Box<dyn Stage> {
            Box::new(Fake { spec, switches: Arc::clone(&self.switches), work })
        };
        let from = NodeSpec::group("from", "").prop(ParamSpec::new("path", ParamType::File, "").location());
        let raised = self.switches.semantics.load(Ordering::SeqCst) as u32;
        StageRegistry::default()
            .with(fake(spec("load", 1, false, "model", vec![text_param("text"), from]), load))
            .with(fake(spec("quantize", 1, true, "model", vec![text_param("scheme")]), quantize))
            .with(fake(spec("evaluate", 1 + raised, true, "evaluation", vec![text_param("task")]), evaluate))
    }

    pub fn plan(&self, study: &Study) -> Plan {
        plan(study, &self.registry(), &self.store, &PlanOptions::default()).unwrap()
    }

    /// Plans and runs; the result with the events.
    pub fn run_with(&self, study: &Study, plan: &Plan, options: &RunOptions) -> (RunResult, Vec<RunEvent>) {
        let mut events = Vec::new();
        let result = run(study, plan, &self.registry(), &self.store, options, &mut events);
        (result, events)
    }

    pub fn run(&self, study: &Study) -> RunResult {
        self.run_with(study, &self.plan(study), &self.options()).0
    }

    /// The default options, with a request to stop of their own.
    pub fn options(&self) -> RunOptions {
        let cancel = Cancel::default();
        self.switches.stop.lock().unwrap().clone_from(&cancel);
        RunOptions { cancel, ..RunOptions::default() }
    }

    pub fn runs(&self) -> usize {
        self.switches.runs.load(Ordering::SeqCst)
    }

    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

/// A study `base → weights → quality` with one cell per scheme, the first being the baseline.
pub struct Recipe {
    pub text: String,
    pub path: Option<PathBuf>,
    pub schemes: Vec<&'static str>,
    pub task: &'static str,
}

impl Recipe {
    pub fn new(schemes: &[&'static str]) -> Self {
        Self { text: "weights".into(), path: None, schemes: schemes.to_vec(), task: "boolq" }
    }

    pub fn study(&self) -> Study {
        let (text, scheme, task) = (&self.text, self.schemes[0], self.task);
        let load = format!("load base {{\n    text {text}\n}}\n");
        let quantize = format!("quantize weights {{\n    scheme {scheme}\n}}\n");
        let evaluate = format!("evaluate quality {{\n    task {task}\n}}\n");
        let mut study = Study {
            name: "lab".into(),
            sources: Arc::new(Sources::new(Path::new("lab.kdl"), &[load, quantize, evaluate].concat())),
            cells: Vec::new(),
            nodes: Vec::new(),
            report: ReportSpec::default(),
            failure: None,
            limits: Limits::default(),
            overrides: Vec::new(),
        };
        for scheme in &self.schemes {
            self.cell(&mut study, scheme);
        }
        study
    }

    fn cell(&self, study: &mut Study, scheme: &str) {
        let id = CellId(study.cells.len());
        let first = id.0 == 0;
        let mut base = vec![("text", Value::Text(self.text.clone()))];
        base.extend(self.path.clone().map(|path| ("from.path", Value::File(path))));
        let base = node(study, id, "load", "base", &base, None);
        let weights = [("scheme", Value::Text(scheme.into()))];
        let weights = node(study, id, "quantize", "weights", &weights, Some(base));
        let quality = [("task", Value::Text(self.task.into()))];
        let quality = node(study, id, "evaluate", "quality", &quality, Some(weights));
        let span = study.nodes[weights.0].span;
        let change = Override { path: "weights.scheme".into(), value: Value::Text(scheme.into()), span };
        study.cells.push(Cell {
            id,
            name: if first { "baseline".into() } else { format!("scheme={scheme}").into() },
            group: "one-at-a-time".into(),
            overrides: if first { vec![] } else { vec![Arc::new(change)] },
            baseline: Some(CellId(0)),
            nodes: [("base", base), ("weights", weights), ("quality", quality)]
                .map(|(stage, node)| (stage.to_owned(), node))
                .into_iter()
                .collect(),
        });
    }
}

/// The node of a stage in a cell: shared with an earlier cell where nothing differs.
fn node(
    study: &mut Study,
    cell: CellId,
    kind: &str,
    stage: &str,
    params: &[(&str, Value)],
    input: Option<NodeId>,
) -> NodeId {
    let params = Params(params.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect());
    let inputs: NodesByName = input.map(|id| ("model".to_owned(), id)).into_iter().collect();
    let same = |n: &&mut Node| *n.kind == *kind && *n.params == params && n.inputs == inputs;
    if let Some(shared) = study.nodes.iter_mut().find(same) {
        shared.cells.push(cell);
        return shared.id;
    }
    let id = NodeId(study.nodes.len());
    let place = |word: &str| Span { offset: study.text().find(word).unwrap_or(0), len: word.len() };
    let (span, label) = (place(stage), format!("{stage}#{}", id.0));
    let spans = params.0.keys().map(|name| (name.clone(), place(&format!("{name} ")))).collect();
    let (kind, stage, params) = (kind.into(), stage.into(), Arc::new(params));
    study.nodes.push(Node { id, kind, stage, label, params, spans, span, inputs, cells: vec![cell] });
    id
}
