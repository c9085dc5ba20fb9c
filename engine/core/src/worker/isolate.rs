//! A built-in stage whose node has a GPU runs in the GPU's worker, and one that wants to be alone in a process of its own.
//! Declaration, rules and sources are the stage's, here; only `run` happens in a worker of the same program, which opens
//! the same store. So a crashed kernel, a sticky device error or the kernel's out-of-memory killer ends one worker and one
//! node, never the run.

use std::collections::BTreeMap;
use std::sync::Arc;

use qpipe_cache::KeyValue;
use qpipe_sdk::protocol::Capability;
use qpipe_sdk::{
    Artifact, Cancel, Context, EventSink, KeyedBy, Outcome, OutputFile, Params, Resources, Source, Stage,
    StageError, StageRegistry, StageSpec,
};

use super::error::WorkerError;
use super::process::Worker;
use super::request::{request, text};
use super::scratch::Scratch;
use super::session::Watch;
use super::workers::Workers;

/// The registry with the program's stages in workers, which serve the program's own registry: of these types always, of the
/// others where a node has a GPU. A plugin's stage stays as it is: it has processes of its own, and the program's workers do
/// not know it.
#[must_use]
pub fn isolate(registry: &StageRegistry, alone: &[&str], workers: &Arc<Workers>) -> StageRegistry {
    let stages = registry.kinds().filter_map(|kind| registry.shared(kind));
    stages.filter(|stage| !stage.is_external()).fold(registry.clone(), |registry, stage| {
        let is_alone = alone.contains(&stage.spec().kind);
        registry.with(Box::new(Isolated { stage, is_alone, workers: Arc::clone(workers) }))
    })
}

/// A stage whose runs happen in workers.
struct Isolated {
    stage: Arc<dyn Stage>,
    /// Whether also those without a GPU do.
    is_alone: bool,
    workers: Arc<Workers>,
}

impl Isolated {
    fn work(&self, ctx: &Context<'_>) -> Result<Outcome, WorkerError> {
        let scratch = Scratch::new(ctx.store)?;
        let mut request = request(ctx, self.stage.spec().kind, scratch.path(), None)?;
        request.store = Some(text(ctx.store.root())?);
        let watch =
            Watch { events: ctx.events, cancel: ctx.cancel, outputs: None, has_blobs: false, units: None };
        let job = |worker: &mut Worker| {
            worker.ask(|session| {
                let cannot = || WorkerError::Artifact { reason: "the worker cannot commit".into() };
                session.can(Capability::Store).then_some(()).ok_or_else(cannot)
            })?;
            worker.run(request, &watch)
        };
        let finished = if Workers::has_own(ctx.device) {
            self.workers.of_device(ctx.device, job)?
        } else {
            self.workers.alone(job)?
        };
        let no_artifact = || WorkerError::Artifact { reason: "there is none".into() };
        let artifact = finished.artifact.ok_or_else(no_artifact)?;
        check(ctx, &artifact)?;
        Ok(Outcome { artifact, metrics: finished.metrics })
    }
}

/// Everything it refers to must be there.
fn check(ctx: &Context<'_>, artifact: &Artifact) -> Result<(), WorkerError> {
    for digest in &artifact.refs {
        let gone = |fault: qpipe_cache::BlobFault| WorkerError::Artifact { reason: fault.to_string() };
        ctx.store.contains(digest).map_err(gone)?;
    }
    Ok(())
}

impl Stage for Isolated {
    fn spec(&self) -> &StageSpec {
        self.stage.spec()
    }

    fn files(&self) -> Vec<OutputFile> {
        self.stage.files()
    }

    fn check(&self, params: &Params) -> Vec<(String, String)> {
        self.stage.check(params)
    }

    fn sources(&self, params: &Params) -> Result<Vec<Source>, StageError> {
        self.stage.sources(params)
    }

    fn fetch(&self, params: &Params, events: &dyn EventSink, cancel: &Cancel) -> Result<(), StageError> {
        self.stage.fetch(params, events, cancel)
    }

    fn numerics(&self, params: &Params) -> Option<String> {
        self.stage.numerics(params)
    }

    fn keyed_by(&self) -> KeyedBy {
        self.stage.keyed_by()
    }

    fn key_entries(&self, params: &Params) -> BTreeMap<String, KeyValue> {
        self.stage.key_entries(params)
    }

    fn resources(&self, params: &Params, input_bytes: u64) -> Resources {
        self.stage.resources(params, input_bytes)
    }

    fn is_external(&self) -> bool {
        self.is_alone || self.stage.is_external()
    }

    fn run(&self, ctx: &Context<'_>) -> Result<Outcome, StageError> {
        if self.is_alone || Workers::has_own(ctx.device) { Ok(self.work(ctx)?) } else { self.stage.run(ctx) }
    }
}

#[cfg(test)]
mod tests {
    use qpipe_sdk::{ArtifactKind, Determinism, Schema};

    use super::super::process::WorkerCommand;
    use super::super::{Limits, Machine};
    use super::*;

    struct Told(StageSpec);

    impl Stage for Told {
        fn spec(&self) -> &StageSpec {
            &self.0
        }

        fn files(&self) -> Vec<OutputFile> {
            vec![OutputFile { name: "table".into(), doc: String::new(), required: true }]
        }

        fn keyed_by(&self) -> KeyedBy {
            KeyedBy::Params
        }

        fn run(&self, _ctx: &Context<'_>) -> Result<Outcome, StageError> {
            Err(StageError::Cancelled)
        }
    }

    #[test]
    fn what_a_stage_says_of_itself_is_passed_on() {
        let stage = Told(StageSpec {
            kind: "told",
            semantics: 1,
            doc: "",
            inputs: Vec::new(),
            output: ArtifactKind::new(ArtifactKind::FILES),
            schema: Schema::new(Vec::new()),
            determinism: Determinism::Exact,
        });
        let registry = StageRegistry::default().with(Box::new(stage));
        let nobody =
            |_: Option<&str>| WorkerCommand { program: "/nowhere".into(), args: Vec::new(), env: Vec::new() };
        let machine = Machine::new(None, std::path::Path::new("/nowhere"));
        let workers = Arc::new(Workers::new(nobody, machine, Limits::default()));
        let isolated = isolate(&registry, &["told"], &workers);
        let isolated = isolated.get("told").unwrap();
        assert!(isolated.is_external());
        assert_eq!(isolated.files()[0].name, "table");
        assert_eq!(isolated.keyed_by(), KeyedBy::Params);
    }
}
