//! Cheap stages: `make` writes numbers, `work` does units with them, `sum` adds them up. Every unit that starts leaves a
//! line in the side file beside the store, with its key, so that a test can count how often each was done.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use qpipe_cache::KeyDoc;
use qpipe_sdk::{
    Artifact, ArtifactKind, Better, Context, Determinism, Metric, NodeSpec, Outcome, ParamSpec, ParamType,
    PortSpec, Schema, Stage, StageError, StageRegistry, StageSpec, UnitOutput, Value,
};

/// Units of a `work` node.
const UNITS: u64 = 4;

/// Two stages of work over one source, in three cells: 7 nodes, 12 units.
pub(crate) const STUDY: &str = "\
qpipe 1 name=small
make base { seed 7 }
work half {
    model base
    factor 2
}
sum total { model half }
sweep factors { axis half.factor 2 3 5 }
";

pub(crate) const NODES: u64 = 7;

type Work = fn(&Cheap, &Context<'_>) -> Result<Outcome, StageError>;

struct Cheap {
    spec: StageSpec,
    side: PathBuf,
    work: Work,
}

impl Stage for Cheap {
    fn spec(&self) -> &StageSpec {
        &self.spec
    }

    fn run(&self, ctx: &Context<'_>) -> Result<Outcome, StageError> {
        (self.work)(self, ctx)
    }
}

/// The stages; `side` is the side file.
pub(crate) fn registry(side: &Path) -> StageRegistry {
    let int = |name, default: i64| {
        NodeSpec::value(ParamSpec::new(name, ParamType::at_least(0), "").default(Value::Int(default)))
    };
    let stage = |kind, input: bool, nodes: Vec<NodeSpec>, work: Work| -> Box<dyn Stage> {
        let port = PortSpec { name: "model", doc: "", kind: ArtifactKind::new("numbers"), required: true };
        let spec = StageSpec {
            kind,
            semantics: 1,
            doc: "",
            inputs: if input { vec![port] } else { vec![] },
            output: ArtifactKind::new("numbers"),
            schema: Schema::new(nodes),
            determinism: Determinism::Exact,
        };
        Box::new(Cheap { spec, side: side.to_owned(), work })
    };
    StageRegistry::default()
        .with(stage("make", false, vec![int("seed", 0)], make))
        .with(stage("work", true, vec![int("factor", 1), int("pause-ms", 1)], work))
        .with(stage("sum", true, vec![int("fail", 0)], sum))
}

fn note(side: &Path, line: &str) -> Result<(), StageError> {
    let file = OpenOptions::new().create(true).append(true).open(side);
    file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes())).map_err(StageError::bug)
}

fn outcome(ctx: &Context<'_>, numbers: &[u8], metrics: Vec<Metric>) -> Result<Outcome, StageError> {
    Ok(Outcome { artifact: Artifact::single("numbers", ctx.store.put_bytes(numbers)?), metrics })
}

fn make(_: &Cheap, ctx: &Context<'_>) -> Result<Outcome, StageError> {
    let seed = ctx.params.int("seed").unwrap_or(0) as u8;
    let numbers: Vec<u8> = (0..4096_u32).map(|n| (n as u8).wrapping_mul(31).wrapping_add(seed)).collect();
    outcome(ctx, &numbers, vec![])
}

fn work(stage: &Cheap, ctx: &Context<'_>) -> Result<Outcome, StageError> {
    let factor = ctx.params.int("factor").unwrap_or(1);
    let pause = Duration::from_millis(ctx.params.int("pause-ms").unwrap_or(1) as u64);
    let input = ctx.input("model")?.digest;
    let mut numbers = Vec::new();
    for part in 0..UNITS {
        let mut doc = KeyDoc::new("work-part", 1).param("factor", factor).param("part", part);
        doc.inputs.insert("model".into(), input);
        let record = ctx.unit(&format!("part {part}"), &doc, || {
            note(&stage.side, &doc.key().to_string())?;
            std::thread::sleep(pause);
            let bytes: Vec<u8> = ctx
                .store
                .read(&input)?
                .iter()
                .map(|n| n.wrapping_mul(factor as u8).wrapping_add(part as u8))
                .collect();
            let blobs = [("part".to_owned(), ctx.store.put_bytes(&bytes)?)].into();
            Ok(UnitOutput { blobs, metrics: serde_json::Value::Null })
        })?;
        numbers.extend(ctx.store.read(&record.outputs["part"].digest)?);
        ctx.progress(part as usize + 1, UNITS as usize, "parts");
    }
    outcome(ctx, &numbers, vec![])
}

fn sum(_: &Cheap, ctx: &Context<'_>) -> Result<Outcome, StageError> {
    match ctx.params.int("fail") {
        Some(1) => return Err(StageError::Config("asked to fail".into())),
        Some(2) => return Err(StageError::OomHost("asked to run out of memory".into())),
        _ => {}
    }
    let numbers = ctx.store.read(&ctx.input("model")?.digest)?;
    let sum: u64 = numbers.iter().map(|n| u64::from(*n)).sum();
    let metric = Metric::new("sum", sum as f64, "", Better::Neither).headline();
    outcome(ctx, sum.to_string().as_bytes(), vec![metric])
}
