//! Equal work → one node.
//!
//! A node's identity is its stage of the template, its effective parameters and the nodes it takes as inputs. Two
//! stages that happen to be equal stay two nodes (their records meet in the cache, where keys know no names), so
//! that every stage of every cell has a node under its own name.

use std::collections::{BTreeMap, HashMap};

use super::cells::CellPlan;
use super::variants::{VariantId, Variants};
use crate::graph::{Cell, CellId, Node, NodeId, Override};
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

/// Collects cells one by one.
pub(crate) struct Merge<'a, 'r> {
    template: &'a Template<'r>,
    variants: &'a Variants<'a, 'r>,
    /// Stages, producers first.
    order: Vec<usize>,
    known: HashMap<Identity, NodeId>,
    nodes: Vec<Node>,
    tags: Vec<Tag>,
    plans: Vec<CellPlan>,
    cells: Vec<Cell>,
}

impl<'a, 'r> Merge<'a, 'r> {
    /// Needs a template without errors, all of whose stages have a base variant.
    pub(crate) fn new(template: &'a Template<'r>, variants: &'a Variants<'a, 'r>, cells: usize) -> Self {
        Self {
            template,
            variants,
            order: template.order(),
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
        let mut nodes = BTreeMap::new();
        for position in 0..self.order.len() {
            let stage = self.order[position];
            let overridden = chosen.iter().find(|(known, _)| *known == stage).map(|(_, variant)| *variant);
            let Some(variant) = overridden.or_else(|| self.variants.base(stage)) else { continue };
            let inputs: Vec<NodeId> =
                self.template.links[stage].iter().filter_map(|link| placed[link.producer]).collect();
            let node = self.node((stage, variant, inputs), &plan, id);
            self.nodes[node.0].cells.push(id);
            placed[stage] = Some(node);
            nodes.insert(self.template.stages[stage].name.clone(), node);
        }
        let baseline = plan.ablates.then(|| self.cells.first().map(|cell| cell.id)).flatten();
        let overrides = plan.overrides.iter().map(|o| Override {
            path: self.template.display(&o.path),
            value: o.value.clone(),
            span: o.span,
        });
        let (name, group) = (plan.name.clone(), plan.group.clone());
        self.cells.push(Cell { id, name, group, overrides: overrides.collect(), baseline, nodes });
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
        let decl = &self.template.stages[stage];
        let variant = self.variants.get(variant);
        let ports = self.template.links[stage].iter().map(|link| link.port.to_owned());
        Node {
            id,
            kind: decl.spec().kind.to_owned(),
            stage: decl.name.clone(),
            label: decl.name.clone(),
            params: variant.params.clone(),
            spans: variant.spans.clone(),
            span: decl.span,
            inputs: ports.zip(inputs.iter().copied()).collect(),
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
            if nodes_of_stage[tag.stage] > 1 {
                let plan = &self.plans[tag.cell];
                node.label = format!("{} [{}]", node.stage, plan.tell(&tag.overrides));
            }
        }
        Expanded { cells: self.cells, nodes: self.nodes }
    }
}
