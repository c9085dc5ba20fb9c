//! `report { table { column "STAGE.METRIC" … } }`.
//!
//! Which metrics a stage will make is known only once it has run, so a column's stage is checked here and its
//! metric is not.

use std::collections::HashMap;

use kdl::{KdlEntry, KdlNode};

use super::document::{plain_word, refuse_annotation, refuse_properties, refuse_rest};
use super::error::{Errors, ManifestError};
use super::near::suggest;
use super::scope::refuse_block;
use super::syntax::{arguments, children, entry_span, name_span};
use super::template::Template;
use crate::graph::{ReportSpec, Span};

pub(crate) fn read_report(
    node: Option<&KdlNode>,
    template: &Template<'_>,
    errors: &mut Errors,
) -> ReportSpec {
    let mut report = ReportSpec::default();
    let Some(node) = node else { return report };
    refuse_rest(node, arguments(node), "a block only: `report { … }`", errors);
    refuse_properties(node, "write `report { table { column \"STAGE.METRIC\" } }`", errors);
    let mut columns: HashMap<String, Span> = HashMap::new();
    for child in children(node) {
        refuse_annotation(child, errors);
        match child.name().value() {
            "table" => table(child, template, &mut columns, &mut report, errors),
            name @ ("pareto" | "budget") => errors.push(ManifestError::NotSupported {
                what: format!("`{name}` in a report"),
                span: name_span(child).into(),
                help: Some("a report knows `table`".into()),
            }),
            name => unknown("report", name, child, "table", errors),
        }
    }
    report
}

fn unknown(parent: &str, name: &str, node: &KdlNode, known: &str, errors: &mut Errors) {
    errors.push(ManifestError::UnknownParameter {
        parent: parent.to_owned(),
        name: name.to_owned(),
        span: name_span(node).into(),
        help: suggest(name, "nodes here", [known]),
    });
}

fn table(
    node: &KdlNode,
    template: &Template<'_>,
    seen: &mut HashMap<String, Span>,
    report: &mut ReportSpec,
    errors: &mut Errors,
) {
    refuse_rest(node, arguments(node), "a block only: `table { … }`", errors);
    refuse_properties(node, "a table lists its columns: `table { column \"STAGE.METRIC\" }`", errors);
    for child in children(node) {
        refuse_annotation(child, errors);
        if child.name().value() != "column" {
            unknown("table", child.name().value(), child, "column", errors);
            continue;
        }
        refuse_block(child, errors);
        refuse_properties(child, "write `column \"STAGE.METRIC\"`", errors);
        if arguments(child).next().is_none() {
            errors.push(ManifestError::MissingArgument {
                node: "column".into(),
                needs: "a metric".into(),
                span: name_span(child).into(),
                help: Some("write `column \"STAGE.METRIC\"`".into()),
            });
        }
        for entry in arguments(child) {
            report.columns.extend(column(child, entry, template, seen, errors));
        }
    }
}

fn column(
    node: &KdlNode,
    entry: &KdlEntry,
    template: &Template<'_>,
    seen: &mut HashMap<String, Span>,
    errors: &mut Errors,
) -> Option<String> {
    let text = plain_word(node, entry, "a metric as \"STAGE.METRIC\"", errors)?;
    let span = entry_span(entry);
    let (stage, metric) = text.split_once('.').unwrap_or((text, ""));
    template.find(stage, span, errors)?;
    if metric.is_empty() {
        errors.push(ManifestError::BadValue {
            reason: format!("`{text}` names no metric"),
            span: span.into(),
            help: Some(format!("write `{stage}.METRIC`")),
        });
        return None;
    }
    if let Some(first) = seen.insert(text.to_owned(), span) {
        let (what, name) = ("column", text.to_owned());
        errors.push(ManifestError::Duplicate {
            what,
            name,
            span: span.into(),
            first: first.into(),
            help: None,
        });
        return None;
    }
    Some(text.to_owned())
}
