//! `qpipe plugin test`: whether a program keeps to the protocol of plugins.

use std::path::{Path, PathBuf};
use std::time::Duration;

use qpipe_cache::Store;
use qpipe_engine::conformance::{self, Opened, Samples, Setup, Subject};
use qpipe_engine::manifest::{LoadOptions, load_study};
use qpipe_engine::plan::{self, PlanOptions};
use qpipe_engine::run::{self, RunOptions};
use qpipe_engine::worker::{Limits, Sandbox};
use qpipe_sdk::{Artifact, ArtifactKind, StageRegistry};

use super::walls;
use crate::args::PluginTestArgs;
use crate::error::CliError;
use crate::exit::Exit;
use crate::printer::Printer;

/// How often a worker is asked to say that it lives: more often than in a run, so that less time is waited.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// A study that makes an artifact of each kind, of the embedded model.
const EXAMPLES: [(&str, &str); 2] = [
    (ArtifactKind::MODEL, "qpipe 1 name=example\nload base {\n    from tiny\n}\n"),
    (
        ArtifactKind::EVALUATION,
        "qpipe 1 name=example\nload base {\n    from tiny\n}\nevaluate quality {\n    model base\n    \
         task perplexity data=tiny window=128 limit=2\n}\n",
    ),
];

pub(super) fn test(
    registry: &StageRegistry,
    args: &PluginTestArgs,
    printer: &mut Printer,
) -> Result<Exit, CliError> {
    let machine = crate::machine::machine();
    // a path that a shell completed is relative to it
    let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let (program, rest) =
        args.line.split_first().map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
    let subject = Subject::find(program, rest, &here, &machine)?;
    let folder = machine.scratch()?;
    let store = Store::open(&folder.path().join("store"))?;
    let limits = Limits { heartbeat: HEARTBEAT, job: Some(args.timeout), ..Limits::default() };
    let opened = Opened {
        sandbox: if args.no_sandbox { Sandbox::Off } else { Sandbox::default() },
        reads: args.reads.iter().map(|path| here.join(path)).collect(),
        network: args.network,
    };
    let setup = Setup { machine: &machine, store: &store, limits, device: &args.device, opened: &opened };
    let absolute = |given: &[(String, PathBuf)]| {
        given.iter().map(|(name, path)| (name.clone(), here.join(path))).collect::<Vec<_>>()
    };
    let mut provider = |kind: &str| example(registry, &store, kind);
    let mut samples = Samples {
        sets: args.sets.clone(),
        files: absolute(&args.files),
        inputs: absolute(&args.inputs),
        provider: &mut provider,
    };
    if !args.no_sandbox {
        walls::tell_of(&machine, printer);
    }
    let report = conformance::check(&subject, &setup, &mut samples);
    if args.json {
        printer.data(&serde_json::to_string_pretty(&report)?);
    } else {
        printer.data_block(&report.text());
    }
    Ok(if report.failed() { Exit::StageFailed } else { Exit::Ok })
}

/// An artifact that the program's own stages make.
fn example(registry: &StageRegistry, store: &Store, kind: &str) -> Option<Artifact> {
    let (_, text) = EXAMPLES.iter().find(|(known, _)| *known == kind)?;
    let study = load_study(Path::new("example.kdl"), text, &LoadOptions::default(), registry).ok()?;
    let plan = plan::plan(&study, registry, store, &PlanOptions::default()).ok()?;
    let result = run::run(&study, &plan, registry, store, &RunOptions::default(), &mut ());
    result.nodes.iter().filter_map(run::NodeResult::record).find_map(|record| {
        let output = record.outputs.get("out").filter(|output| output.kind == kind)?;
        Some(Artifact { kind: ArtifactKind::new(kind), digest: output.digest, refs: record.refs.clone() })
    })
}
