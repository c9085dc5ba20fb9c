//! When a parameter applies, in words; and what a stage's own rules say.

use qpipe_sdk::{NodeForm, Params, Schema};

use crate::graph::{Span, Spans};
use crate::manifest::{Errors, Giver, ManifestError, StageDecl, Template};

/// Why a parameter does not apply.
pub(crate) struct Reason {
    /// `it applies only while `scheme` is nf4 or fp4, and `scheme` is int8`.
    pub(crate) rule: String,
    /// The parameter that decides it.
    pub(crate) decided_by: String,
}

/// Why the parameter at `path` does not apply under `given` (defaults not yet filled in); `None` if it does, or if
/// the parameter that decides is missing although required, which is the error to report.
pub(crate) fn why_inapplicable(schema: &Schema, path: &str, given: &Params) -> Option<Reason> {
    let effective = schema.effective(given);
    if schema.applies(path, &effective) {
        return None;
    }
    if let Some((presence, _)) = path.rsplit_once('.')
        && schema.is_presence(presence)
        && !effective.has(presence)
    {
        let words = presence.replacen('.', " ", 1);
        let rule = format!("it applies only together with `{words}`");
        return Some(Reason { rule, decided_by: presence.to_owned() });
    }
    let applies = schema.param(path)?.applies.as_ref()?;
    let decided_by = schema.decider(path)?;
    let only = format!("it applies only while `{decided_by}` is {}", applies.values.join(" or "));
    let now = match effective.get(&decided_by) {
        Some(value) => format!("`{decided_by}` is {value}"),
        None if schema.param(&decided_by).is_some_and(|spec| spec.required) => return None,
        None => format!("`{decided_by}` is not set"),
    };
    Some(Reason { rule: format!("{only}, and {now}"), decided_by })
}

/// Refuses parameters that a stage gives although they do not apply to it as it is written. (One that stops
/// applying through a cell's override, or through `--set`, is dropped there without a word.)
pub(crate) fn refuse_inapplicable(template: &Template<'_>, errors: &mut Errors) {
    for stage in template.stages.iter().filter(|stage| stage.sound) {
        let given = given_params(stage);
        let effective = stage.schema().effective(&given);
        let written = stage.given.iter().filter(|(_, given)| given.from == Giver::Stage);
        for (path, place) in written.filter(|(path, _)| !effective.has(path)) {
            if let Some(reason) = why_inapplicable(stage.schema(), path, &given) {
                errors.push(ManifestError::Inapplicable {
                    param: path.clone(),
                    because: stage.given.get(&reason.decided_by).map(|given| given.span.into()),
                    rule: reason.rule,
                    span: place.span.into(),
                    help: Some("remove it".into()),
                });
            }
        }
    }
}

pub(crate) fn given_params(stage: &StageDecl<'_>) -> Params {
    Params(stage.given.iter().map(|(path, given)| (path.clone(), given.value.clone())).collect())
}

/// Required parameters that are missing from effective ones: path, and what to write.
pub(crate) fn missing(schema: &Schema, effective: &Params) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (path, spec) in schema.params() {
        if spec.required && !effective.has(path) && schema.applies(path, effective) {
            found.push((path.to_owned(), format!("{}: {}", spec.doc, spec.ty.describe())));
        }
    }
    for node in schema.nodes() {
        if let NodeForm::Keyed { choices, required: true } = &node.form {
            let present = |name: &str| effective.has(&format!("{}.{name}", node.name));
            if !choices.iter().any(|choice| present(choice.name)) {
                let names: Vec<String> =
                    choices.iter().map(|c| format!("`{} {}`", node.name, c.name)).collect();
                found.push((node.name.to_owned(), format!("add at least one of {}", names.join(", "))));
            }
        }
    }
    found
}

/// The place of a path that a stage's rule names: the parameter's, or that of a part of it (`from` for
/// `from.path`), or else the stage's.
pub(crate) fn place_of(path: &str, spans: &Spans, stage: Span) -> Span {
    let mut prefix = Some(path);
    while let Some(path) = prefix {
        if let Some(span) = spans.get(path).or_else(|| spans.below(path)) {
            return span;
        }
        prefix = path.rsplit_once('.').map(|(parent, _)| parent);
    }
    stage
}
