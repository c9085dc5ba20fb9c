//! The way from text to a study, step by step; each step reports all it finds.

use std::io;
use std::path::Path;
use std::sync::Arc;

use kdl::KdlNode;
use qpipe_sdk::StageRegistry;

use super::defaults::Defaults;
use super::document::{Document, Naming, header};
use super::error::{Errors, ManifestError, ManifestErrors};
use super::groups::read_groups;
use super::include::splice;
use super::report::read_report;
use super::scope::Scope;
use super::sets;
use super::syntax;
use super::template::Template;
use crate::graph::{ReportSpec, Span, Study};
use crate::limits::Limits;
use crate::run::FailureMode;
use crate::sources::Sources;
use crate::study::{Expanded, Request, expand, refuse_inapplicable};

/// What a manifest's meaning depends on besides its text and path.
#[derive(Clone, Copy)]
pub struct LoadOptions<'a> {
    /// `--set NAME=VALUE`, in order; of two for one name the last counts.
    pub sets: &'a [(String, String)],
    /// The folder that relative paths in `sets` start from; `None`: the manifest's, as for paths written in it.
    pub sets_folder: Option<&'a Path>,
    /// The environment, for `(env)NAME`.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// Texts by their paths, for `include`.
    pub files: &'a dyn Fn(&Path) -> io::Result<String>,
}

impl Default for LoadOptions<'_> {
    /// No overrides, an environment without variables, and no files.
    fn default() -> Self {
        fn no_variable(_: &str) -> Option<String> {
            None
        }
        fn no_file(_: &Path) -> io::Result<String> {
            Err(io::ErrorKind::NotFound.into())
        }
        Self { sets: &[], sets_folder: None, env: &no_variable, files: &no_file }
    }
}

/// Reads and expands a manifest. `path` names it in messages, and its folder is the base of the relative paths in
/// it; the file itself is not read, and what it includes comes from `options` alone.
///
/// # Errors
/// Everything that is wrong with the manifest or the overrides, at once.
pub fn load_study(
    path: &Path,
    text: &str,
    options: &LoadOptions<'_>,
    registry: &StageRegistry,
) -> Result<Study, ManifestErrors> {
    let (mut errors, mut sources) = (Errors::default(), Sources::new(path, text));
    let nodes = read_nodes(text, options, &mut sources, &mut errors);
    let parts = nodes.and_then(|(name, nodes)| {
        let document = Document::read(name, &nodes, registry, &mut errors);
        load(&document, &sources, options, registry, &mut errors)
    });
    match parts {
        Some(parts) if errors.is_empty() => Ok(parts.study(sources, options)),
        _ => Err(errors.into_report(sources)),
    }
}

/// The study's name and every node of the manifest and its includes.
pub(super) fn read_nodes(
    text: &str,
    options: &LoadOptions<'_>,
    sources: &mut Sources,
    errors: &mut Errors,
) -> Option<(String, Vec<KdlNode>)> {
    let tree = syntax::parse(text, errors)?;
    let name = header(&tree, 0, Naming::Required, errors)?;
    Some((name, splice(&tree, options.files, sources, errors)?))
}

/// A study without its texts, which are still borrowed while it is made.
struct Parts {
    name: String,
    expanded: Expanded,
    report: ReportSpec,
    failure: Option<FailureMode>,
    limits: Limits,
}

impl Parts {
    fn study(self, sources: Sources, options: &LoadOptions<'_>) -> Study {
        Study {
            name: self.name,
            sources: Arc::new(sources),
            cells: self.expanded.cells,
            nodes: self.expanded.nodes,
            report: self.report,
            failure: self.failure,
            limits: self.limits,
            overrides: options.sets.to_vec(),
        }
    }
}

fn load(
    document: &Document<'_, '_>,
    sources: &Sources,
    options: &LoadOptions<'_>,
    registry: &StageRegistry,
    errors: &mut Errors,
) -> Option<Parts> {
    let mut scope = Scope::new(sources, sets::variables(options.sets), options.sets_folder, options.env);
    document.vars.iter().for_each(|section| scope.define_all(section, errors));
    scope.check_sets(errors);
    let names = stage_names(document, registry);
    let defaults = Defaults::read(document.defaults, registry, names, &scope, errors);
    let mut template = Template::read(document, &defaults, &scope, errors);
    refuse_empty(document, registry, errors);
    refuse_inapplicable(&template, errors);
    let set = sets::set_params(options.sets, &mut template, &scope, errors);
    let groups = read_groups(&document.groups, &template, &scope, errors);
    let report = read_report(document.report, &template, errors);
    let folder = sources.root().folder();
    let request = Request { template: &template, groups: &groups, set: &set, folder };
    let expanded = expand(&request, errors)?;
    let Defaults { failure, limits, .. } = defaults;
    Some(Parts { name: document.name.clone(), expanded, report, failure, limits })
}

/// Stage types, and the names of the manifest's stages.
fn stage_names<'d>(document: &'d Document<'_, '_>, registry: &'d StageRegistry) -> Vec<&'d str> {
    let mut names: Vec<&str> = registry.kinds().collect();
    let stages = document.stages.iter();
    names.extend(stages.filter_map(|(node, _)| syntax::arguments(node).next()?.value().as_string()));
    names
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
