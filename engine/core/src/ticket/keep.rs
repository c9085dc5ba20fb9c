//! Leaving a ticket after a run that found everything cached.

use qpipe_cache::{ActionKey, Results, Store};
use qpipe_sdk::StageRegistry;

use super::ask::{Ask, Watched};
use super::content::{Content, Note};
use super::probe::Probe;
use crate::graph::Study;
use crate::plan::{Force, Plan};
use crate::record::Recorded;
use crate::report::Overview;

/// A run that was planned, run and recorded.
#[derive(Clone, Copy, Debug)]
pub struct Cached<'a> {
    pub study: &'a Study,
    pub plan: &'a Plan,
    pub recorded: &'a Recorded,
    pub overview: &'a Overview,
}

/// Leaves a ticket for the next run that asks for the same, if this one found everything cached and all of it was
/// asked for. Whether it did is nobody's concern: a run without a ticket takes longer.
pub fn keep(store: &Store, ask: &Ask<'_>, watched: &Watched, registry: &StageRegistry, cached: Cached<'_>) {
    let bytes = content(store, watched, cached).and_then(|content| content.encode());
    // what does not read back the same would hold for another study
    let same = |bytes: &&Vec<u8>| {
        let probes = Probe::all(cached.study, cached.plan);
        Content::decode(bytes).is_some_and(|read| read.note.probes == probes)
    };
    if let Some(bytes) = bytes.as_ref().filter(same) {
        let _unwritten = store.keep_ticket(&ask.name(registry), bytes);
    }
}

fn content(store: &Store, watched: &Watched, cached: Cached<'_>) -> Option<Content> {
    let Cached { study, plan, recorded, overview } = cached;
    (plan.options.force == Force::Nothing).then_some(())?;
    let model = recorded.model.clone()?;
    let (mut results, mut keys) = (Results::default(), Vec::with_capacity(plan.nodes.len()));
    for node in &plan.nodes {
        results.add(node.found.as_ref()?);
        keys.push(node.state.key()?);
    }
    let includes = study.sources.includes().iter();
    let texts = includes.map(|file| Some((file.path.clone(), watched.digest(&file.path)?)));
    let note = Note {
        texts: texts.collect::<Option<_>>()?,
        env: watched.variables(),
        probes: Probe::all(study, plan),
        memory: store.memory_stamp()?,
        results: results.digest(),
        cells: study.cells.len(),
        head: recorded.head.clone(),
        model,
        overview: overview.clone(),
    };
    Some(Content { note, keys: keys.into_iter().collect::<Vec<ActionKey>>() })
}
