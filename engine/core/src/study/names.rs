//! What a parameter is called in a cell's name: its shortest ending that means one parameter only in the whole
//! study, `double-quant` rather than `weights.scheme.double-quant`.
//!
//! Names depend on the template's stages, never on which parameters are varied, so adding a `vary` renames no cell.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use qpipe_sdk::Value;

use crate::manifest::{ParamPath, Template};

/// Short names of parameters.
pub(crate) struct Names<'a, 'r> {
    template: &'a Template<'r>,
    folder: &'a Path,
    /// How many parameters of the study have this ending; kept for endings of varied parameters only.
    endings: HashMap<String, usize>,
}

impl<'a, 'r> Names<'a, 'r> {
    /// Names for the parameters `varied`, in a study whose manifest lies in `folder`.
    pub(crate) fn new(
        template: &'a Template<'r>,
        folder: &'a Path,
        varied: impl Iterator<Item = &'a ParamPath>,
    ) -> Self {
        let wanted: BTreeSet<&str> = varied.flat_map(|path| endings(&path.param)).collect();
        let mut stages_of_kind: HashMap<&str, usize> = HashMap::new();
        let mut samples = HashMap::new();
        for stage in &template.stages {
            *stages_of_kind.entry(stage.spec().kind).or_default() += 1;
            samples.entry(stage.spec().kind).or_insert(stage);
        }
        let mut counts: HashMap<String, usize> = HashMap::new();
        for (kind, stage) in samples {
            for path in paths(stage.schema()) {
                for ending in endings(&path).filter(|ending| wanted.contains(ending)) {
                    *counts.entry(ending.to_owned()).or_default() += stages_of_kind[kind];
                }
            }
        }
        Self { template, folder, endings: counts }
    }

    /// The parameter's name in cell names.
    pub(crate) fn param(&self, path: &ParamPath) -> String {
        let short = endings(&path.param).find(|ending| self.endings.get(*ending) == Some(&1));
        short.map_or_else(|| self.template.display(path), str::to_owned)
    }

    /// `scheme=fp4`.
    pub(crate) fn setting(&self, path: &ParamPath, value: &Value) -> String {
        format!("{}={}", self.param(path), self.value(value))
    }

    /// Files by their path within the manifest's folder, so that names are equal on every machine.
    fn value(&self, value: &Value) -> String {
        match value {
            Value::File(path) => path.strip_prefix(self.folder).unwrap_or(path).display().to_string(),
            Value::List(items) => items.iter().map(|item| self.value(item)).collect::<Vec<_>>().join("+"),
            other => other.to_string(),
        }
    }
}

/// Endings of a dotted path, the shortest first, the whole path last.
fn endings(path: &str) -> impl Iterator<Item = &str> {
    let starts = path.rmatch_indices('.').map(|(dot, _)| dot + 1).chain(std::iter::once(0));
    starts.map(move |start| &path[start..])
}

fn paths(schema: &qpipe_sdk::Schema) -> Vec<String> {
    let mut all: Vec<String> = schema.params().map(|(path, _)| path.to_owned()).collect();
    for node in schema.nodes() {
        if let qpipe_sdk::NodeForm::Keyed { choices, .. } = &node.form {
            all.extend(choices.iter().map(|choice| format!("{}.{}", node.name, choice.name)));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_grow() {
        assert_eq!(
            endings("task.boolq.limit").collect::<Vec<_>>(),
            ["limit", "boolq.limit", "task.boolq.limit"]
        );
    }
}
