//! The template graph: the manifest's stages, connected by name.

use std::collections::{BTreeMap, HashMap};

use miette::LabeledSpan;
use petgraph::graph::{DiGraph, NodeIndex};
use qpipe_sdk::{ArtifactKind, ParamType};

use super::defaults::Defaults;
use super::document::{Document, declared_name};
use super::error::{Errors, ManifestError};
use super::near::suggest;
use super::scope::Scope;
use super::stages::{PortUse, StageDecl};
use super::syntax::{arguments, entry_span};
use crate::graph::Span;

/// What a manifest says of a stage's name.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Slot {
    Stage(usize),
    /// Declared by a node that was refused: its users are not blamed.
    Broken,
}

/// A connection: input port → stage of the template.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Link {
    pub(crate) port: &'static str,
    pub(crate) producer: usize,
    pub(crate) span: Span,
}

/// A parameter of one stage of the template.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ParamPath {
    pub(crate) stage: usize,
    /// Dotted path within the stage.
    pub(crate) param: String,
}

/// The stages and their connections.
pub(crate) struct Template<'r> {
    pub(crate) stages: Vec<StageDecl<'r>>,
    /// Connections by stage, in the order of the declarations of its ports.
    pub(crate) links: Vec<Vec<Link>>,
    names: HashMap<String, Slot>,
    /// Whether a stage without a readable name exists; any unknown name may be its.
    nameless: bool,
}

impl<'r> Template<'r> {
    pub(crate) fn read(
        document: &Document<'_, 'r>,
        defaults: &Defaults,
        scope: &Scope<'_>,
        errors: &mut Errors,
    ) -> Self {
        let mut template =
            Self { stages: Vec::new(), links: Vec::new(), names: HashMap::new(), nameless: false };
        for node in &document.unknown {
            if let Some(name) = arguments(node).next().and_then(|entry| entry.value().as_string()) {
                template.names.insert(name.to_owned(), Slot::Broken);
            }
        }
        template.declare(document, defaults, scope, errors);
        for index in 0..template.stages.len() {
            let links = template.connect(index, errors);
            template.links.push(links);
        }
        template.check_cycles(errors);
        template
    }

    fn declare(
        &mut self,
        document: &Document<'_, 'r>,
        defaults: &Defaults,
        scope: &Scope<'_>,
        errors: &mut Errors,
    ) {
        let mut first_places: HashMap<&str, Span> = HashMap::new();
        for (node, stage) in &document.stages {
            let before = errors.len();
            let Some((name, place)) = declared_name(node, "a stage", errors) else {
                self.nameless = true;
                continue;
            };
            let named = errors.len() == before;
            if let Some(first) = first_places.get(name) {
                errors.push(ManifestError::Duplicate {
                    what: "stage",
                    name: name.to_owned(),
                    span: place.into(),
                    first: (*first).into(),
                    help: Some("every stage needs a name of its own".into()),
                });
                self.names.insert(name.to_owned(), Slot::Broken);
                continue;
            }
            first_places.insert(name, place);
            let mut stage = StageDecl::read(node, *stage, name, scope, errors);
            stage.sound &= named;
            defaults.fill(&mut stage);
            self.names.insert(name.to_owned(), Slot::Stage(self.stages.len()));
            self.stages.push(stage);
        }
    }

    /// The index of a stage; `None` after an error, or where the stage's declaration was refused already.
    pub(crate) fn find(&self, name: &str, span: Span, errors: &mut Errors) -> Option<usize> {
        match self.names.get(name) {
            Some(Slot::Stage(index)) => return Some(*index),
            Some(Slot::Broken) => {}
            None if self.nameless => {}
            None => {
                let help = suggest(name, "stages", self.stage_names());
                errors.push(ManifestError::UnknownStageName {
                    name: name.to_owned(),
                    span: span.into(),
                    help,
                });
            }
        }
        None
    }

    /// The index of a stage that is known and was not refused.
    pub(crate) fn index(&self, name: &str) -> Option<usize> {
        match self.names.get(name) {
            Some(Slot::Stage(index)) => Some(*index),
            _ => None,
        }
    }

    /// Whether an unknown stage's name may belong to a declaration that was refused.
    pub(crate) fn may_be_refused(&self, name: &str) -> bool {
        self.nameless || self.names.get(name) == Some(&Slot::Broken)
    }

    pub(crate) fn stage_names(&self) -> impl Iterator<Item = &str> {
        self.stages.iter().map(|stage| stage.name.as_str())
    }

    /// `weights.scheme`.
    pub(crate) fn display(&self, path: &ParamPath) -> String {
        format!("{}.{}", self.stages[path.stage].name, path.param)
    }

    /// The type of the parameter at a path that [`Template::resolve`] gave; a choice's presence is a boolean.
    pub(crate) fn param_type(&self, path: &ParamPath) -> ParamType {
        self.stages[path.stage].schema().param(&path.param).map_or(ParamType::Bool, |spec| spec.ty.clone())
    }

    /// The parameter behind `STAGE.PARAM…`; `None` after an error or for a stage that was refused.
    pub(crate) fn resolve(&self, text: &str, span: Span, errors: &mut Errors) -> Option<ParamPath> {
        let Some((stage_name, param)) = text.split_once('.') else {
            errors.push(self.not_a_path(text, span));
            return None;
        };
        let stage = self.find(stage_name, span, errors)?;
        let spec = self.stages[stage].spec();
        if spec.schema.param(param).is_some() || spec.schema.is_presence(param) {
            return Some(ParamPath { stage, param: param.to_owned() });
        }
        let path = text.to_owned();
        errors.push(if spec.inputs.iter().any(|port| port.name == param) {
            ManifestError::InputOverride { path, stage: stage_name.to_owned(), span: span.into() }
        } else {
            let help = self.suggest_param(stage, param);
            ManifestError::UnknownPath { path, span: span.into(), help }
        });
        None
    }

    /// Help for an unknown parameter of a stage.
    pub(crate) fn suggest_param(&self, stage: usize, param: &str) -> Option<String> {
        let (name, params) = (&self.stages[stage].name, self.stages[stage].schema().params());
        let full: Vec<String> = params.map(|(path, _)| format!("{name}.{path}")).collect();
        suggest(&format!("{name}.{param}"), "parameters", full.iter().map(String::as_str))
    }

    fn not_a_path(&self, text: &str, span: Span) -> ManifestError {
        let help = match self.index(text) {
            Some(stage) => match self.stages[stage].schema().params().next() {
                Some((param, _)) => format!("name a parameter of the stage too, such as `{text}.{param}`"),
                None => format!("stage `{text}` has no parameters"),
            },
            None => "write `STAGE.PARAM`, with the stage's name first".to_owned(),
        };
        ManifestError::UnknownPath { path: text.to_owned(), span: span.into(), help: Some(help) }
    }

    fn connect(&self, index: usize, errors: &mut Errors) -> Vec<Link> {
        let stage = &self.stages[index];
        let uses: BTreeMap<&str, &PortUse> = stage.ports.iter().map(|link| (link.port, link)).collect();
        let mut links = Vec::new();
        for port in &stage.spec().inputs {
            match uses.get(port.name) {
                Some(link) => links.extend(self.link(link, port.kind.to_string(), errors)),
                None if port.required && stage.sound => errors.push(ManifestError::MissingInput {
                    stage: stage.name.clone(),
                    port: port.name.to_owned(),
                    span: stage.span.into(),
                    help: Some(format!("{}: add `{} STAGE`", port.doc, port.name)),
                }),
                None => {}
            }
        }
        links.extend(self.named_links(stage, errors));
        links
    }

    /// Connections of ports that the manifest named: they take any artifact.
    fn named_links(&self, stage: &StageDecl<'_>, errors: &mut Errors) -> Vec<Link> {
        let declared = |port: &str| stage.spec().inputs.iter().any(|known| known.name == port);
        let named = stage.ports.iter().filter(|link| !declared(link.port));
        let link = |link: &PortUse| {
            let producer = self.find(&link.stage, link.span, errors)?;
            Some(Link { port: link.port, producer, span: link.span })
        };
        named.filter_map(link).collect()
    }

    fn link(&self, link: &PortUse, expected: String, errors: &mut Errors) -> Option<Link> {
        let producer = self.find(&link.stage, link.span, errors)?;
        let found = self.stages[producer].spec().output.to_string();
        // every stage has metrics
        if found == expected || expected == ArtifactKind::METRICS {
            return Some(Link { port: link.port, producer, span: link.span });
        }
        let fitting = |stage: &&StageDecl<'_>| stage.spec().output.0 == expected;
        let names = self.stages.iter().filter(fitting).map(|stage| stage.name.as_str());
        let help = suggest(&link.stage, &format!("stages that make `{expected}`"), names);
        errors.push(ManifestError::WrongArtifact {
            port: link.port.to_owned(),
            name: link.stage.clone(),
            expected,
            found,
            span: link.span.into(),
            producer: self.stages[producer].span.into(),
            help,
        });
        None
    }

    fn check_cycles(&self, errors: &mut Errors) {
        let mut graph: DiGraph<(), ()> = DiGraph::with_capacity(self.stages.len(), self.stages.len());
        for _ in &self.stages {
            graph.add_node(());
        }
        for (user, links) in self.links.iter().enumerate() {
            for link in links {
                graph.add_edge(NodeIndex::new(user), NodeIndex::new(link.producer), ());
            }
        }
        for component in petgraph::algo::tarjan_scc(&graph) {
            let members: Vec<usize> = component.into_iter().map(NodeIndex::index).collect();
            if let Some(cycle) = self.cycle_in(&members) {
                errors.push(self.cycle_error(&cycle));
            }
        }
    }

    /// A cycle within a strongly connected component, from its first declared stage on; `None` if it has none.
    fn cycle_in(&self, members: &[usize]) -> Option<Vec<Link>> {
        let start = *members.iter().min()?;
        let inside =
            |link: &&Link| members.len() > 1 && members.contains(&link.producer) || link.producer == start;
        let mut walked: Vec<Link> = Vec::new();
        let mut position: HashMap<usize, usize> = HashMap::from([(start, 0)]);
        let mut at = start;
        loop {
            let link = *self.links[at].iter().find(inside)?;
            walked.push(link);
            if let Some(from) = position.insert(link.producer, walked.len()) {
                return Some(walked.split_off(from));
            }
            at = link.producer;
        }
    }

    fn cycle_error(&self, cycle: &[Link]) -> ManifestError {
        let name = |link: &Link| self.stages[link.producer].name.as_str();
        let last = cycle.last().map(name).unwrap_or_default();
        let path = std::iter::once(last).chain(cycle.iter().map(name)).collect::<Vec<_>>().join(" → ");
        let label = |link: &Link| {
            LabeledSpan::new(Some(format!("needs `{}`", name(link))), link.span.offset, link.span.len)
        };
        ManifestError::Cycle { path, links: cycle.iter().map(label).collect() }
    }

    /// The parameter that an argument names, as [`Template::resolve`] does it.
    pub(crate) fn resolve_entry(&self, entry: &kdl::KdlEntry, errors: &mut Errors) -> Option<ParamPath> {
        let span = entry_span(entry);
        if let Some(text) = entry.value().as_string().filter(|_| entry.ty().is_none()) {
            return self.resolve(text, span, errors);
        }
        errors.push(ManifestError::BadValue {
            reason: "this is not the path of a parameter".into(),
            span: span.into(),
            help: Some("write `STAGE.PARAM`, with the stage's name first".into()),
        });
        None
    }

    /// Stages in an order in which producers come before users and, where that leaves a choice, in the order of
    /// declaration. Needs a template without cycles.
    pub(crate) fn order(&self) -> Vec<usize> {
        let mut users: Vec<Vec<usize>> = vec![Vec::new(); self.stages.len()];
        let mut open: Vec<usize> = self.links.iter().map(Vec::len).collect();
        for (user, links) in self.links.iter().enumerate() {
            for link in links {
                users[link.producer].push(user);
            }
        }
        let ready = (0..self.stages.len()).filter(|stage| open[*stage] == 0).map(std::cmp::Reverse);
        let mut heap: std::collections::BinaryHeap<_> = ready.collect();
        let mut order = Vec::with_capacity(self.stages.len());
        while let Some(std::cmp::Reverse(stage)) = heap.pop() {
            order.push(stage);
            for user in &users[stage] {
                open[*user] -= 1;
                if open[*user] == 0 {
                    heap.push(std::cmp::Reverse(*user));
                }
            }
        }
        order
    }
}
