//! From a template and its groups to cells and nodes.

use std::path::Path;

use super::ablation::check_ablation;
use super::cells::{CellOverride, CellPlan, plan_cells};
use super::merge::{Expanded, Merge};
use super::rules::{given_params, why_inapplicable};
use super::variants::{VariantId, Variants};
use crate::manifest::{Errors, Group, ManifestError, ParamPath, Template};

/// What is to be expanded.
pub(crate) struct Request<'a, 'r> {
    pub(crate) template: &'a Template<'r>,
    pub(crate) groups: &'a [Group],
    /// Parameters that the command line has set in the template, with their names there.
    pub(crate) set: &'a [(String, ParamPath)],
    /// The manifest's folder.
    pub(crate) folder: &'a Path,
}

/// The cells and nodes of a study; `None` if there is any error, new or old.
pub(crate) fn expand(request: &Request<'_, '_>, errors: &mut Errors) -> Option<Expanded> {
    let template = request.template;
    refuse_inapplicable_sets(request, errors);
    let mut variants = Variants::of_template(template, errors);
    let cells = plan_cells(template, request.groups, request.folder, errors);
    let chosen: Vec<Vec<(usize, VariantId)>> =
        cells.iter().map(|cell| overridden_stages(template, cell, &mut variants, errors)).collect();
    if !errors.is_empty() {
        return None;
    }
    let mut merge = Merge::new(template, &variants, cells.len());
    for (cell, chosen) in cells.into_iter().zip(chosen) {
        merge.add(cell, &chosen);
    }
    Some(merge.finish())
}

/// `--set` of a parameter that then has no effect.
fn refuse_inapplicable_sets(request: &Request<'_, '_>, errors: &mut Errors) {
    for (key, path) in request.set {
        let stage = &request.template.stages[path.stage];
        let reason = why_inapplicable(stage.schema(), &path.param, &given_params(stage));
        if let Some(reason) = reason.filter(|_| stage.sound) {
            errors.push(ManifestError::BadSet {
                key: key.clone(),
                reason: format!("has no effect: {}", reason.rule),
                help: None,
            });
        }
    }
}

/// The variants of the stages that a cell overrides, each stage once; stages with errors are left out.
fn overridden_stages(
    template: &Template<'_>,
    cell: &CellPlan,
    variants: &mut Variants<'_, '_>,
    errors: &mut Errors,
) -> Vec<(usize, VariantId)> {
    let mut overrides: Vec<&CellOverride> = cell.overrides.iter().map(AsRef::as_ref).collect();
    overrides.sort_by_key(|o| o.path.stage);
    let (mut chosen, mut stages) = (Vec::new(), 0);
    for on_stage in overrides.chunk_by(|a, b| a.path.stage == b.path.stage) {
        let stage = on_stage[0].path.stage;
        stages += 1;
        chosen.extend(variants.under(stage, on_stage, errors).map(|id| (stage, id)));
    }
    if cell.ablates && chosen.len() == stages {
        check_ablation(template, cell, &chosen, variants, errors);
    }
    chosen
}
