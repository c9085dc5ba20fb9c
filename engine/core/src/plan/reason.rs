//! Why a node must run. Every miss has typed reasons with old and new values, found by comparing the node's key
//! document with the one it had when it last ran in the same cell; all wording is in this file.
//!
//! | what differs | reason |
//! |---|---|
//! | no earlier key document | [`MissReason::NeverRan`] |
//! | a parameter | [`MissReason::ParamChanged`], `ParamAdded`, `ParamRemoved` |
//! | an input's or source's content | [`MissReason::InputChanged`], [`MissReason::SourceChanged`] and kin |
//! | a plugin's files, or what stands for them | [`MissReason::PluginChanged`] |
//! | the stage itself | [`MissReason::SemanticsChanged`], `KindChanged`, `NumericsChanged` |
//! | nothing, but the record is gone or unusable | [`MissReason::RecordGone`], [`MissReason::RecordDamaged`] |

use std::collections::{BTreeMap, BTreeSet};

use qpipe_cache::{Digest, KeyDoc, KeyValue};
use serde::Serialize;

use crate::graph::{Node, Study};
use crate::worker::plugin::{ARGS, OWN, SEMANTICS};

/// What marks a source among a key document's inputs; ports have no such prefix.
pub(crate) const SOURCE_PREFIX: &str = "source:";

/// One reason for a miss. Parameter paths are full ones (`weights.scheme.block`), as `--set` takes them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum MissReason {
    #[error("never ran")]
    NeverRan,
    #[error("forced")]
    Forced,
    #[error("`{path}` changed from `{old}` to `{new}`")]
    ParamChanged { path: String, old: String, new: String },
    #[error("`{path}` is new: `{new}`")]
    ParamAdded { path: String, new: String },
    #[error("`{path}` no longer applies, was `{old}`")]
    ParamRemoved { path: String, old: String },
    #[error("input `{port}` has other content: `{from}` gave {new}, before {old}")]
    InputChanged { port: String, from: String, old: String, new: String },
    #[error("input `{port}` is newly connected, to `{from}`")]
    InputConnected { port: String, from: String },
    #[error("input `{port}` is no longer connected")]
    InputDisconnected { port: String },
    #[error("source `{name}` has other content: {new}, before {old}")]
    SourceChanged { name: String, old: String, new: String },
    #[error("source `{name}` is new")]
    SourceAdded { name: String },
    #[error("source `{name}` is no longer read")]
    SourceRemoved { name: String },
    #[error("plugin `{plugin}` changed: {}", what.join(", "))]
    PluginChanged { plugin: String, what: Vec<String> },
    #[error("the stage is now a `{new}`, was a `{old}`")]
    KindChanged { old: String, new: String },
    #[error("semantics of `{kind}` raised from {old} to {new}")]
    SemanticsChanged { kind: String, old: u32, new: u32 },
    #[error("numerics class changed from `{old}` to `{new}`")]
    NumericsChanged { old: String, new: String },
    #[error("ran before, but its record is no longer in the cache")]
    RecordGone,
    #[error("its record cannot be used: {fault}")]
    RecordDamaged { fault: String },
}

impl MissReason {
    /// The reason with its place in the manifest, where one field of it is to blame:
    /// `` `weights.scheme` changed from `nf4` to `fp4` (ablation.kdl:15:5) ``.
    pub fn explain(&self, study: &Study, node: &Node) -> String {
        let place = match self {
            Self::ParamChanged { path, .. } | Self::ParamAdded { path, .. } => {
                let within = path.strip_prefix(&format!("{}.", node.stage)).unwrap_or(path);
                Some(node.spans.get(within).unwrap_or(node.span))
            }
            Self::ParamRemoved { .. } | Self::KindChanged { .. } | Self::InputDisconnected { .. } => {
                Some(node.span)
            }
            Self::InputConnected { port: name, .. }
            | Self::SourceChanged { name, .. }
            | Self::SourceAdded { name } => node.spans.get(name),
            _ => None,
        };
        match place {
            Some(span) => format!("{self} ({})", study.sources.place(span.offset)),
            None => self.to_string(),
        }
    }
}

/// Every difference between the key document a node had (`old`) and has now (`new`); empty for equal ones.
/// A stage of another kind differs in everything, so that is the only difference then reported. `file`: the name of the
/// file that a source of the node is.
pub(crate) fn differences(
    study: &Study,
    node: &Node,
    (old, new): (&KeyDoc, &KeyDoc),
    file: &dyn Fn(&str) -> Option<String>,
) -> Vec<MissReason> {
    let from =
        |port: &str| node.inputs.get(port).map_or_else(String::new, |id| study.nodes[id.0].label.clone());
    compared(&node.stage, &Names { from: &from, file }, old, new)
}

/// Every difference between two key documents of a stage, outside of any study: an input is called by its port.
pub(crate) fn changes(stage: &str, old: &KeyDoc, new: &KeyDoc) -> Vec<MissReason> {
    compared(stage, &Names { from: &str::to_owned, file: &|_| None }, old, new)
}

/// What things are called in a reason.
struct Names<'a> {
    /// What gives the artifact at a port.
    from: &'a dyn Fn(&str) -> String,
    /// The file that a source is, where that is known.
    file: &'a dyn Fn(&str) -> Option<String>,
}

fn compared(stage: &str, names: &Names<'_>, old: &KeyDoc, new: &KeyDoc) -> Vec<MissReason> {
    if old.kind != new.kind {
        return vec![MissReason::KindChanged { old: old.kind.clone(), new: new.kind.clone() }];
    }
    let mut reasons = params(stage, &old.params, &new.params);
    let what = plugin(names, old, new);
    if !what.is_empty() {
        reasons.push(MissReason::PluginChanged { plugin: new.kind.clone(), what });
    }
    reasons.extend(inputs(names, &old.inputs, &new.inputs));
    if old.semantics != new.semantics {
        let kind = new.kind.clone();
        reasons.push(MissReason::SemanticsChanged { kind, old: old.semantics, new: new.semantics });
    }
    if old.numerics != new.numerics {
        let show = |n: &Option<String>| n.clone().unwrap_or_else(|| "any".into());
        reasons.push(MissReason::NumericsChanged { old: show(&old.numerics), new: show(&new.numerics) });
    }
    reasons
}

/// What differs in a plugin itself.
fn plugin(names: &Names<'_>, old: &KeyDoc, new: &KeyDoc) -> Vec<String> {
    let mut what = content(names, old, new);
    if old.params.get(ARGS) != new.params.get(ARGS) {
        what.push("its arguments".into());
    }
    what
}

fn content(names: &Names<'_>, old: &KeyDoc, new: &KeyDoc) -> Vec<String> {
    match (old.params.get(SEMANTICS), new.params.get(SEMANTICS)) {
        (Some(a), Some(b)) if a == b => Vec::new(),
        (Some(a), Some(b)) => vec![format!("semantics {a} → {b}")],
        (None, Some(b)) => vec![format!("semantics {b} in place of its content")],
        (Some(a), None) => vec![format!("its content in place of semantics {a}")],
        (None, None) => {
            let parts: BTreeSet<&str> =
                old.inputs.keys().chain(new.inputs.keys()).filter_map(|name| part(name)).collect();
            parts.into_iter().filter_map(|part| part_change(names, part, old, new)).collect()
        }
    }
}

fn part_change(names: &Names<'_>, part: &str, old: &KeyDoc, new: &KeyDoc) -> Option<String> {
    let (source, name) = (format!("{OWN}{part}"), format!("{SOURCE_PREFIX}{OWN}{part}"));
    let called = || {
        let plain = part.split_once(':').map_or(part, |(_, name)| name);
        (names.file)(&source).unwrap_or_else(|| plain.to_owned())
    };
    match (old.inputs.get(&name), new.inputs.get(&name)) {
        (a, b) if a == b => None,
        (None, _) => Some(format!("{} is new", called())),
        (_, None) => Some(format!("{} is gone", called())),
        _ => Some(called()),
    }
}

/// The part of a plugin that an input is.
fn part(input: &str) -> Option<&str> {
    input.strip_prefix(SOURCE_PREFIX)?.strip_prefix(OWN)
}

type KeyParams = BTreeMap<String, KeyValue>;

fn params(stage: &str, old: &KeyParams, new: &KeyParams) -> Vec<MissReason> {
    let names: BTreeSet<&String> =
        old.keys().chain(new.keys()).filter(|name| !name.starts_with(OWN)).collect();
    let reason = |name: &String| {
        let path = format!("{stage}.{name}");
        match (old.get(name), new.get(name)) {
            (Some(a), Some(b)) if a == b => None,
            (Some(a), Some(b)) => {
                Some(MissReason::ParamChanged { path, old: a.to_string(), new: b.to_string() })
            }
            (Some(a), None) => Some(MissReason::ParamRemoved { path, old: a.to_string() }),
            (None, Some(b)) => Some(MissReason::ParamAdded { path, new: b.to_string() }),
            (None, None) => None,
        }
    };
    names.into_iter().filter_map(reason).collect()
}

type KeyInputs = BTreeMap<String, Digest>;

fn inputs(called: &Names<'_>, old: &KeyInputs, new: &KeyInputs) -> Vec<MissReason> {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).filter(|name| part(name).is_none()).collect();
    let reason = |name: &String| {
        let (before, now) = (old.get(name).map(Digest::short), new.get(name).map(Digest::short));
        if old.get(name) == new.get(name) {
            return None;
        }
        Some(match name.strip_prefix(SOURCE_PREFIX) {
            Some(source) => source_reason(source, before, now),
            None => port_reason((called.from)(name), name, before, now),
        })
    };
    names.into_iter().filter_map(reason).collect()
}

fn source_reason(name: &str, old: Option<String>, new: Option<String>) -> MissReason {
    let name = name.to_owned();
    match (old, new) {
        (Some(old), Some(new)) => MissReason::SourceChanged { name, old, new },
        (_, Some(_)) => MissReason::SourceAdded { name },
        (_, None) => MissReason::SourceRemoved { name },
    }
}

fn port_reason(from: String, port: &str, old: Option<String>, new: Option<String>) -> MissReason {
    let port = port.to_owned();
    match (old, new) {
        (Some(old), Some(new)) => MissReason::InputChanged { port, from, old, new },
        (_, Some(_)) => MissReason::InputConnected { port, from },
        (_, None) => MissReason::InputDisconnected { port },
    }
}
