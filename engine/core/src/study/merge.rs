//! Equal work → one node.
//!
//! A node's identity is its stage of the template, its effective parameters and the nodes it takes as inputs. Two
//! stages that happen to be equal stay two nodes (their records meet in the cache, where keys know no names), so
//! that every stage of every cell has a node under its own name.

use std::collections::HashMap;
use std::sync::Arc;

use super::cells::CellPlan;
use super::variants::{VariantId, Variants};
use crate::graph::{Cell, CellId, Name, Node, NodeId, NodesByName};
use crate::manifest::{ParamPath, Template};

/// Cells, and their distinct nodes in topological order.
pub(crate) struct Expanded {
    pub(crate) cells: Vec<Cell>,
    pub(crate) nodes: Vec<Node>,
}

type Identity = (usize, VariantId, Vec<NodeId>);

/// What a node's label is made of.
struct Tag {
    stage: usize,
    /// The first cell that uses the node, and those of its overrides that the node depends on.
    cell: usize,
    overrides: Vec<usize>,
}

/// What all nodes of a stage share.
struct Shape {
    kind: Name,
    stage: Name,
    /// The stages that its ports are connected to, by port names ascending, and those names.
    producers: Vec<usize>,
    ports: Arc<[Name]>,
}

/// Collects cells one by one.
pub(crate) struct Merge<'a, 'r> {
    template: &'a Template<'r>,
    variants: &'a Variants<'a, 'r>,
    /// Stages, producers first.
    order: Vec<usize>,
    /// Stages by their names, ascending, and those names.
    by_name: Vec<usize>,
    names: Arc<[Name]>,
    shapes: Vec<Shape>,
    known: HashMap<Identity, NodeId>,
    nodes: Vec<Node>,
    tags: Vec<Tag>,
    plans: Vec<CellPlan>,
    cells: Vec<Cell>,
}

impl<'a, 'r> Merge<'a, 'r> {
    /// Needs a template without errors, all of whose stages have a base variant.
    pub(crate) fn new(template: &'a Template<'r>, variants: &'a Variants<'a, 'r>, cells: usize) -> Self {
        let name = |stage: usize| template.stages[stage].name.as_str();
        let mut by_name: Vec<usize> = (0..template.stages.len()).collect();
        by_name.sort_by_key(|stage| name(*stage));
        Self {
            template,
            variants,
            order: template.order(),
            names: by_name.iter().map(|stage| Name::from(name(*stage))).collect(),
            by_name,
            shapes: (0..template.stages.len()).map(|stage| shape(template, stage)).collect(),
            known: HashMap::new(),
            nodes: Vec::new(),
            tags: Vec::new(),
            plans: Vec::with_capacity(cells),
            cells: Vec::with_capacity(cells),
        }
    }

    /// Adds a cell; `chosen` are the variants of the stages it overrides.
    pub(crate) fn add(&mut self, plan: CellPlan, chosen: &[(usize, VariantId)]) {
        let id = CellId(self.cells.len());
        let mut placed: Vec<Option<NodeId>> = vec![None; self.template.stages.len()];
        for position in 0..self.order.len() {
            let stage = self.order[position];
            let overridden = chosen.iter().find(|(known, _)| *known == stage).map(|(_, variant)| *variant);
            let Some(variant) = overridden.or_else(|| self.variants.base(stage)) else { continue };
            let inputs =
                self.shapes[stage].producers.iter().filter_map(|producer| placed[*producer]).collect();
            let node = self.node((stage, variant, inputs), &plan, id);
            self.nodes[node.0].cells.push(id);
            placed[stage] = Some(node);
        }
        let nodes = self.by_name.iter().filter_map(|stage| placed[*stage]).collect();
        let nodes = NodesByName::new(Arc::clone(&self.names), nodes);
        let baseline = plan.ablates.then(|| self.cells.first().map(|cell| cell.id)).flatten();
        let overrides = plan.overrides.iter().map(|o| Arc::clone(&o.shown)).collect();
        let (name, group) = (Arc::clone(&plan.name), Arc::clone(&plan.group));
        self.cells.push(Cell { id, name, group, overrides, baseline, nodes });
        self.plans.push(plan);
    }

    fn node(&mut self, identity: Identity, plan: &CellPlan, cell: CellId) -> NodeId {
        if let Some(known) = self.known.get(&identity) {
            return *known;
        }
        let id = NodeId(self.nodes.len());
        let (stage, variant, inputs) = &identity;
        let tag = self.tag(*stage, inputs, plan, cell);
        let node = self.new_node(id, *stage, *variant, inputs);
        self.tags.push(tag);
        self.nodes.push(node);
        self.known.insert(identity, id);
        id
    }

    fn new_node(&self, id: NodeId, stage: usize, variant: VariantId, inputs: &[NodeId]) -> Node {
        let shape = &self.shapes[stage];
        let variant = self.variants.get(variant);
        Node {
            id,
            kind: Arc::clone(&shape.kind),
            stage: Arc::clone(&shape.stage),
            label: String::new(),
            params: Arc::clone(&variant.params),
            spans: variant.spans.clone(),
            span: self.template.stages[stage].span,
            inputs: NodesByName::new(Arc::clone(&shape.ports), inputs.to_vec()),
            cells: Vec::new(),
        }
    }

    /// The overrides a new node depends on: those on its own stage, and those its inputs depend on.
    fn tag(&self, stage: usize, inputs: &[NodeId], plan: &CellPlan, cell: CellId) -> Tag {
        let upstream: Vec<&ParamPath> = inputs.iter().flat_map(|input| self.paths(*input, plan)).collect();
        let concerns = |path: &ParamPath| path.stage == stage || upstream.contains(&path);
        let overrides = plan.overrides.iter().enumerate().filter(|(_, o)| concerns(&o.path));
        Tag { stage, cell: cell.0, overrides: overrides.map(|(index, _)| index).collect() }
    }

    /// The parameters whose overrides made a node; `current` is the cell that is being added.
    fn paths<'s>(&'s self, node: NodeId, current: &'s CellPlan) -> impl Iterator<Item = &'s ParamPath> {
        let tag = &self.tags[node.0];
        let plan = self.plans.get(tag.cell).unwrap_or(current);
        tag.overrides.iter().map(|index| &plan.overrides[*index].path)
    }

    /// The study, with labels that tell apart the nodes of one stage.
    pub(crate) fn finish(mut self) -> Expanded {
        let mut nodes_of_stage = vec![0_usize; self.template.stages.len()];
        self.tags.iter().for_each(|tag| nodes_of_stage[tag.stage] += 1);
        for (node, tag) in self.nodes.iter_mut().zip(&self.tags) {
            node.label = match nodes_of_stage[tag.stage] {
                1 => node.stage.to_string(),
                _ => format!("{} [{}]", node.stage, self.plans[tag.cell].tell(&tag.overrides)),
            };
        }
        Expanded { cells: self.cells, nodes: self.nodes }
    }
}

fn shape(template: &Template<'_>, stage: usize) -> Shape {
    let mut links: Vec<(&str, usize)> =
        template.links[stage].iter().map(|link| (link.port, link.producer)).collect();
    links.sort_unstable();
    Shape {
        kind: template.stages[stage].spec().kind.into(),
        stage: template.stages[stage].name.as_str().into(),
        producers: links.iter().map(|(_, producer)| *producer).collect(),
        ports: links.iter().map(|(port, _)| Name::from(*port)).collect(),
    }
}
