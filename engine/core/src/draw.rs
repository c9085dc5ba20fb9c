//! The graph of a study as a picture, collapsed by cell: one box per stage of the template with the number of its
//! distinct nodes, one arrow per connected input.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::graph::Study;

/// Sizes of the SVG in pixels.
const BOX: (usize, usize) = (170, 46);
const GAP: (usize, usize) = (70, 24);
const MARGIN: usize = 16;

/// A box.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    pub name: String,
    pub kind: String,
    pub nodes: usize,
    /// How many arrows lead to it at most, one after the other.
    pub layer: usize,
}

/// An arrow from one stage's artifact to another's input port; indices into [`Drawing::stages`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arrow {
    pub from: usize,
    pub to: usize,
    pub port: String,
}

/// What is drawn.
#[derive(Clone, Debug)]
pub struct Drawing {
    pub study: String,
    pub cells: usize,
    /// Producers first.
    pub stages: Vec<Stage>,
    pub arrows: Vec<Arrow>,
}

impl Drawing {
    pub fn new(study: &Study) -> Self {
        let mut index: BTreeMap<&str, usize> = BTreeMap::new();
        let (mut stages, mut arrows): (Vec<Stage>, BTreeSet<Arrow>) = (Vec::new(), BTreeSet::new());
        // nodes come after their inputs, so a stage's layer is known when its first user is met
        for node in &study.nodes {
            let to = *index.entry(node.stage.as_ref()).or_insert_with(|| {
                let (name, kind) = (node.stage.to_string(), node.kind.to_string());
                stages.push(Stage { name, kind, nodes: 0, layer: 0 });
                stages.len() - 1
            });
            stages[to].nodes += 1;
            for (port, input) in node.inputs.iter() {
                let from = index[study.nodes[input.0].stage.as_ref()];
                stages[to].layer = stages[to].layer.max(stages[from].layer + 1);
                arrows.insert(Arrow { from, to, port: port.to_owned() });
            }
        }
        let arrows = arrows.into_iter().collect();
        Self { study: study.name.clone(), cells: study.cells.len(), stages, arrows }
    }

    /// Graphviz.
    pub fn dot(&self) -> String {
        let mut out = format!("digraph \"{}\" {{\n    rankdir=LR;\n    node [shape=box];\n", self.study);
        for stage in &self.stages {
            let _ = writeln!(out, "    \"{}\" [label=\"{}\\n{}\"];", stage.name, stage.name, below(stage));
        }
        for arrow in &self.arrows {
            let (from, to) = (&self.stages[arrow.from].name, &self.stages[arrow.to].name);
            let _ = writeln!(out, "    \"{from}\" -> \"{to}\" [label=\"{}\"];", arrow.port);
        }
        out.push_str("}\n");
        out
    }

    /// Mermaid, as Markdown renderers show it.
    pub fn mermaid(&self) -> String {
        let mut out = "flowchart LR\n".to_owned();
        for (index, stage) in self.stages.iter().enumerate() {
            let _ = writeln!(out, "    s{index}[\"{}<br/>{}\"]", stage.name, below(stage));
        }
        for arrow in &self.arrows {
            let _ = writeln!(out, "    s{} -->|{}| s{}", arrow.from, arrow.port, arrow.to);
        }
        out
    }

    /// One line per stage.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for (index, stage) in self.stages.iter().enumerate() {
            let _ = write!(out, "{} ({})", stage.name, below(stage));
            let inputs = self.arrows.iter().filter(|arrow| arrow.to == index);
            let inputs: Vec<String> =
                inputs.map(|arrow| format!("{} {}", arrow.port, self.stages[arrow.from].name)).collect();
            if !inputs.is_empty() {
                let _ = write!(out, " ← {}", inputs.join(", "));
            }
            out.push('\n');
        }
        out
    }

    /// A self-contained picture: a column per layer, arrows from left to right.
    pub fn svg(&self) -> String {
        let places = self.places();
        let width = places.iter().map(|(x, _)| x + BOX.0).max().unwrap_or(0) + MARGIN;
        let height = places.iter().map(|(_, y)| y + BOX.1).max().unwrap_or(0) + MARGIN;
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} \
             {height}\" font-family=\"sans-serif\" font-size=\"12\" text-anchor=\"middle\">\n<title>{}</title>\n\
             <defs><marker id=\"a\" markerWidth=\"8\" markerHeight=\"8\" refX=\"7\" refY=\"4\" orient=\"auto\">\
             <path d=\"M0,0 L8,4 L0,8 z\"/></marker></defs>\n",
            escaped(&self.study)
        );
        for arrow in &self.arrows {
            out.push_str(&svg_arrow(arrow, &places));
        }
        for (stage, place) in self.stages.iter().zip(&places) {
            out.push_str(&svg_box(stage, *place));
        }
        out.push_str("</svg>\n");
        out
    }

    /// The upper left corner of every box: stages of a layer stand one below the other.
    fn places(&self) -> Vec<(usize, usize)> {
        let mut rows: BTreeMap<usize, usize> = BTreeMap::new();
        let place = |stage: &Stage| {
            let row = rows.entry(stage.layer).or_default();
            let place = (MARGIN + stage.layer * (BOX.0 + GAP.0), MARGIN + *row * (BOX.1 + GAP.1));
            *row += 1;
            place
        };
        self.stages.iter().map(place).collect()
    }
}

/// `quantize, 5 nodes`.
fn below(stage: &Stage) -> String {
    let plural = if stage.nodes == 1 { "" } else { "s" };
    format!("{}, {} node{plural}", stage.kind, stage.nodes)
}

fn svg_box(stage: &Stage, (x, y): (usize, usize)) -> String {
    let (middle, first, second) = (x + BOX.0 / 2, y + 19, y + 36);
    format!(
        "<rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\" rx=\"6\" fill=\"#fff\" stroke=\"#444\"/>\n\
         <text x=\"{middle}\" y=\"{first}\" font-weight=\"bold\">{}</text>\n\
         <text x=\"{middle}\" y=\"{second}\" fill=\"#555\">{}</text>\n",
        BOX.0,
        BOX.1,
        escaped(&stage.name),
        escaped(&below(stage)),
    )
}

fn svg_arrow(arrow: &Arrow, places: &[(usize, usize)]) -> String {
    let ((from_x, from_y), (to_x, to_y)) = (places[arrow.from], places[arrow.to]);
    let (x1, y1, x2, y2) = (from_x + BOX.0, from_y + BOX.1 / 2, to_x, to_y + BOX.1 / 2);
    let bend = GAP.0 / 2;
    let (label_x, label_y) = (x2 - bend, usize::midpoint(y1, y2) - 4);
    format!(
        "<path d=\"M{x1},{y1} C{},{y1} {},{y2} {x2},{y2}\" fill=\"none\" stroke=\"#888\" marker-end=\"url(#a)\"/>\n\
         <text x=\"{label_x}\" y=\"{label_y}\" fill=\"#777\" font-size=\"10\">{}</text>\n",
        x1 + bend,
        x2 - bend,
        escaped(&arrow.port),
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
