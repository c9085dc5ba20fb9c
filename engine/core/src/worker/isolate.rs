//! A built-in stage in a process of its own. Declaration, rules and sources are the stage's, here; only `run` happens
//! in a worker of the same program, which opens the same store. So a crashed kernel, a sticky device error or the
//! kernel's out-of-memory killer ends one worker and one node, never the run.

use std::collections::BTreeMap;
use std::sync::Arc;

use qpipe_cache::KeyValue;
use qpipe_sdk::protocol::Capability;
use qpipe_sdk::{
    Artifact, Cancel, Context, EventSink, KeyedBy, Outcome, OutputFile, Params, Resources, Source, Stage,
    StageError, StageRegistry, StageSpec,
};

use super::error::WorkerError;
use super::pool::Pool;
use super::request::{request, text};
use super::scratch::Scratch;
use super::session::Watch;

/// The registry with stages of these types in workers of a pool, which serve the program's own registry. A plugin's stage stays
/// as it is: it has processes of its own, and the program's workers do not know it.
#[must_use]
pub fn isolate(registry: &StageRegistry, kinds: &[&str], pool: &Arc<Pool>) -> StageRegistry {
    let stages = kinds.iter().filter_map(|kind| registry.shared(kind));
    stages.filter(|stage| !stage.is_external()).fold(registry.clone(), |registry, stage| {
        registry.with(Box::new(Isolated::new(stage, Arc::clone(pool))))
    })
}

/// A stage whose runs happen in the workers of a pool.
pub struct Isolated {
    stage: Arc<dyn Stage>,
    pool: Arc<Pool>,
}

impl Isolated {
    /// `pool`: workers that serve a registry with this very stage.
    pub fn new(stage: Arc<dyn Stage>, pool: Arc<Pool>) -> Self {
        Self { stage, pool }
    }

    fn work(&self, ctx: &Context<'_>) -> Result<Outcome, WorkerError> {
        let scratch = Scratch::new(ctx.store)?;
        let mut request = request(ctx, self.stage.spec().kind, scratch.path(), None)?;
        request.store = Some(text(ctx.store.root())?);
        let watch =
            Watch { events: ctx.events, cancel: ctx.cancel, outputs: None, has_blobs: false, units: None };
        let finished = self.pool.with(|worker| {
            worker.ask(|session| {
                let cannot = || WorkerError::Artifact { reason: "the worker cannot commit".into() };
                session.can(Capability::Store).then_some(()).ok_or_else(cannot)
            })?;
            worker.run(request, &watch)
        })?;
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
        true
    }

    fn run(&self, ctx: &Context<'_>) -> Result<Outcome, StageError> {
        Ok(self.work(ctx)?)
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
        let nobody = WorkerCommand { program: "/nowhere".into(), args: Vec::new(), env: Vec::new() };
        let machine = Machine::new(None, std::path::Path::new("/nowhere"));
        let pool = Arc::new(Pool::new(nobody, machine, Limits::default()));
        let isolated = isolate(&registry, &["told"], &pool);
        let isolated = isolated.get("told").unwrap();
        assert!(isolated.is_external());
        assert_eq!(isolated.files()[0].name, "table");
        assert_eq!(isolated.keyed_by(), KeyedBy::Params);
    }
}
