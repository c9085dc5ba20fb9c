//! `qpipe plan`: every node with its state, and for a miss the reasons.

use std::path::Path;

use qpipe_cache::Store;
use qpipe_engine::plan::{self, PlanDoc, PlanNodeDoc, PlanOptions, PlanStateDoc};
use qpipe_engine::run;
use qpipe_sdk::StageRegistry;

use super::study::{self, Loaded};
use crate::args::PlanArgs;
use crate::error::CliError;
use crate::exit::Exit;
use crate::printer::Printer;

pub(super) fn plan(
    registry: &StageRegistry,
    store: &Path,
    args: &PlanArgs,
    printer: &mut Printer,
) -> Result<Exit, CliError> {
    let before = study::store(store);
    let Loaded { study, registry } = study::load(registry, &args.study, before.as_ref())?;
    let store = before.map_or_else(|| Store::open(store), Ok)?;
    let (goals, force) = (args.asked.goals(&study)?, args.asked.forced(&study)?);
    let plan = plan::plan(&study, &registry, &store, &PlanOptions { force })?;
    if let Some(goals) = &goals {
        goals.check(&study, &plan)?;
    }
    let needed = run::needed(&study, &plan, goals.as_ref());
    let mut doc = PlanDoc::new(&study, &plan);
    doc.nodes.retain(|node| needed[node.node]);
    if args.json {
        printer.data(&serde_json::to_string_pretty(&doc)?);
        return Ok(Exit::Ok);
    }
    let rows: Vec<Vec<String>> = doc.nodes.iter().flat_map(rows).collect();
    printer.columns(&rows);
    printer.human(&counts(&doc));
    Ok(Exit::Ok)
}

/// One line per node, and one more for each further reason.
fn rows(node: &PlanNodeDoc) -> Vec<Vec<String>> {
    let (state, texts) = match &node.state {
        PlanStateDoc::Hit { .. } => ("hit", vec![String::new()]),
        PlanStateDoc::Miss { why, .. } => ("miss", why.clone()),
        PlanStateDoc::Pending { on } => ("pending", vec![format!("on {}", on.join(", "))]),
    };
    let row = |(line, text): (usize, String)| match line {
        0 => vec![state.to_owned(), node.label.clone(), text],
        _ => vec![String::new(), String::new(), text],
    };
    texts.into_iter().enumerate().map(row).collect()
}

fn counts(doc: &PlanDoc) -> String {
    let (mut hits, mut misses, mut pending) = (0, 0, 0);
    for node in &doc.nodes {
        *match node.state {
            PlanStateDoc::Hit { .. } => &mut hits,
            PlanStateDoc::Miss { .. } => &mut misses,
            PlanStateDoc::Pending { .. } => &mut pending,
        } += 1;
    }
    format!("hit {hits} · miss {misses} · pending {pending}")
}
