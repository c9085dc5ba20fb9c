//! The way from text to a study, step by step; each step reports all it finds.

use std::path::Path;

use qpipe_sdk::StageRegistry;

use super::document::Document;
use super::error::{Errors, ManifestError, ManifestErrors};
use super::groups::read_groups;
use super::report::read_report;
use super::scope::Scope;
use super::sets;
use super::syntax;
use super::template::Template;
use crate::graph::{Span, Study};
use crate::study::{Request, expand, refuse_inapplicable};

/// What a manifest's meaning depends on besides its text and path.
#[derive(Clone, Copy)]
pub struct LoadOptions<'a> {
    /// `--set NAME=VALUE`, in order; of two for one name the last counts.
    pub sets: &'a [(String, String)],
    /// The folder that relative paths in `sets` start from; `None`: the manifest's, as for paths written in it.
    pub sets_folder: Option<&'a Path>,
    /// The environment, for `(env)NAME`.
    pub env: &'a dyn Fn(&str) -> Option<String>,
}

impl Default for LoadOptions<'_> {
    /// No overrides, and an environment without variables.
    fn default() -> Self {
        fn nothing(_: &str) -> Option<String> {
            None
        }
        Self { sets: &[], sets_folder: None, env: &nothing }
    }
}

/// Reads and expands a manifest. `path` names it in messages, and its folder is the base of the relative paths in
/// it; the file itself is not read.
///
/// # Errors
/// Everything that is wrong with the manifest or the overrides, at once.
pub fn load_study(
    path: &Path,
    text: &str,
    options: &LoadOptions<'_>,
    registry: &StageRegistry,
) -> Result<Study, ManifestErrors> {
    let mut errors = Errors::default();
    match load(path, text, options, registry, &mut errors) {
        Some(study) if errors.is_empty() => Ok(study),
        _ => Err(errors.into_report(path, text)),
    }
}

fn load(
    path: &Path,
    text: &str,
    options: &LoadOptions<'_>,
    registry: &StageRegistry,
    errors: &mut Errors,
) -> Option<Study> {
    let tree = syntax::parse(text, errors)?;
    let document = Document::read(&tree, registry, errors)?;
    let mut scope = Scope::new(path, sets::variables(options.sets), options.sets_folder, options.env);
    document.vars.iter().for_each(|section| scope.define_all(section, errors));
    scope.check_sets(errors);
    let mut template = Template::read(&document, &scope, errors);
    refuse_empty(&document, registry, errors);
    refuse_inapplicable(&template, errors);
    let set = sets::set_params(options.sets, &mut template, &scope, errors);
    let groups = read_groups(&document.groups, &template, &scope, errors);
    let report = read_report(document.report, &template, errors);
    let request = Request { template: &template, groups: &groups, set: &set, folder: scope.folder() };
    let expanded = expand(&request, errors)?;
    Some(Study {
        name: document.name,
        path: path.to_owned(),
        text: text.to_owned(),
        cells: expanded.cells,
        nodes: expanded.nodes,
        report,
        overrides: options.sets.to_vec(),
    })
}

fn refuse_empty(document: &Document<'_, '_>, registry: &StageRegistry, errors: &mut Errors) {
    if document.stages.is_empty() && document.unknown.is_empty() {
        let kinds: Vec<String> = registry.kinds().map(|kind| format!("`{kind}`")).collect();
        errors.push(ManifestError::NoStage {
            span: Span::default().into(),
            help: Some(format!("stage types are {}", kinds.join(", "))),
        });
    }
}
