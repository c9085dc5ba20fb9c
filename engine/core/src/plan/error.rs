//! Why a study cannot be planned: what a stage wants to read is not there. All such errors are reported at once,
//! each with its place in the manifest.

use std::sync::Arc;

use miette::{Diagnostic, LabeledSpan, SourceCode};
use qpipe_sdk::{ErrorClass, StageError};

use crate::graph::{Node, Span, Study};
use crate::sources::Sources;

/// Every error of a plan.
#[derive(Debug, thiserror::Error)]
#[error("the study cannot be planned: {} of its stages cannot be keyed", errors.len())]
pub struct PlanError {
    pub errors: Vec<NodeError>,
}

impl PlanError {
    /// The class that decides the exit code: that of the store if any error is, else that of the first error.
    pub fn class(&self) -> ErrorClass {
        let classes: Vec<ErrorClass> = self.errors.iter().map(|e| e.error.class()).collect();
        match classes.iter().find(|c| **c == ErrorClass::Store) {
            Some(store) => *store,
            None => classes.first().copied().unwrap_or(ErrorClass::Bug),
        }
    }
}

impl Diagnostic for PlanError {
    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        Some(Box::new(self.errors.iter().map(|e| e as &dyn Diagnostic)))
    }
}

/// One node that cannot be keyed.
#[derive(Debug, thiserror::Error)]
#[error("`{label}`: {error}")]
pub struct NodeError {
    pub label: String,
    pub error: StageError,
    pub span: Span,
    sources: Arc<Sources>,
}

impl NodeError {
    /// `param`: the parameter to blame, if one is; else the stage's own place is shown.
    pub(crate) fn new(study: &Study, node: &Node, param: Option<&str>, error: StageError) -> Self {
        let span = param.and_then(|p| node.spans.get(p)).unwrap_or(node.span);
        Self { label: node.label.clone(), error, span, sources: Arc::clone(&study.sources) }
    }
}

impl Diagnostic for NodeError {
    fn code<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        Some(Box::new(match self.error.class() {
            ErrorClass::Store => "qpipe::plan::store",
            _ => "qpipe::plan::source",
        }))
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(self.sources.as_ref())
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let span = (self.span.offset, self.span.len);
        let label = LabeledSpan::new_with_span(Some("needed here".into()), span);
        Some(Box::new(std::iter::once(label)))
    }
}
