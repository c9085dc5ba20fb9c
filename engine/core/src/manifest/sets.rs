//! `--set NAME=VALUE`: what the command line changes in a manifest before anything else looks at it.
//!
//! A name with a dot is a parameter (`weights.scheme`), one without is a variable (`samples`). A parameter set this
//! way is set in the template, hence in every cell that does not override it.

use std::collections::BTreeMap;

use qpipe_sdk::Value;

use super::error::{Errors, ManifestError};
use super::near::suggest;
use super::scope::Scope;
use super::stages::{Given, Giver};
use super::template::{ParamPath, Template};
use super::typed::coerce_word;

/// The pairs that name variables.
pub(crate) fn variables(sets: &[(String, String)]) -> BTreeMap<String, String> {
    sets.iter().filter(|(name, _)| !name.contains('.')).cloned().collect()
}

/// The parameters that the command line sets, now set in the template too.
pub(crate) fn set_params(
    sets: &[(String, String)],
    template: &mut Template<'_>,
    scope: &Scope<'_>,
    errors: &mut Errors,
) -> Vec<(String, ParamPath)> {
    let mut done = Vec::new();
    for (name, text) in sets.iter().filter(|(name, _)| name.contains('.')) {
        let Some(path) = resolve(name, template, errors) else { continue };
        match coerce_word(text, &template.param_type(&path), scope.sets_folder()) {
            Err(misfit) => errors.push(misfit.in_set(name)),
            Ok(value) => {
                give(template, &path, value);
                done.push((name.clone(), path));
            }
        }
    }
    done
}

/// Sets a parameter of the template; a choice set to `false` is taken out.
fn give(template: &mut Template<'_>, path: &ParamPath, value: Value) {
    let stage = &mut template.stages[path.stage];
    if value == Value::Bool(false) && stage.schema().is_presence(&path.param) {
        stage.given.remove(&path.param);
        return;
    }
    let span = stage.given.get(&path.param).map_or(stage.span, |given| given.span);
    stage.given.insert(path.param.clone(), Given { value, span, from: Giver::Stage });
}

fn resolve(name: &str, template: &Template<'_>, errors: &mut Errors) -> Option<ParamPath> {
    let (stage_name, param) = name.split_once('.')?;
    let Some(stage) = template.index(stage_name) else {
        if template.may_be_refused(stage_name) {
            return None;
        }
        let help = suggest(stage_name, "stages", template.stage_names());
        errors.push(bad_set(name, &format!("no stage has the name `{stage_name}`"), help));
        return None;
    };
    let spec = template.stages[stage].spec();
    if spec.schema.param(param).is_some() || spec.schema.is_presence(param) {
        return Some(ParamPath { stage, param: param.to_owned() });
    }
    let reason = if spec.inputs.iter().any(|port| port.name == param) {
        "inputs cannot be set".to_owned()
    } else {
        format!("`{}` has no parameter `{param}`", spec.kind)
    };
    errors.push(bad_set(name, &reason, template.suggest_param(stage, param)));
    None
}

fn bad_set(key: &str, reason: &str, help: Option<String>) -> ManifestError {
    ManifestError::BadSet { key: key.to_owned(), reason: reason.to_owned(), help }
}
