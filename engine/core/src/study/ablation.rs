//! The promise of `ablate`, checked: a cell differs from the baseline in exactly one effective variable.

use super::cells::CellPlan;
use super::variants::{VariantId, Variants, differences};
use crate::manifest::{Errors, ManifestError, Template};

/// Checks one cell; `variants_of` holds the variants of the stages it overrides.
pub(crate) fn check_ablation(
    template: &Template<'_>,
    cell: &CellPlan,
    variants_of: &[(usize, VariantId)],
    variants: &Variants<'_, '_>,
    errors: &mut Errors,
) {
    let mut found: Vec<String> = Vec::new();
    for (stage, id) in variants_of {
        let Some(base) = variants.base(*stage) else { return };
        let on_stage: Vec<_> = cell.overrides.iter().map(|o| &o.path).filter(|p| p.stage == *stage).collect();
        let changed = differences(&variants.get(base).params, &variants.get(*id).params, &on_stage);
        found.extend(changed.into_iter().map(|param| format!("{}.{param}", template.stages[*stage].name)));
    }
    let (Some(varied), false) = (cell.overrides.first(), found.len() == 1) else { return };
    let stage = &template.stages[varied.path.stage];
    let baseline = stage.given.get(&varied.path.param).map_or(stage.span, |given| given.span).into();
    let span = varied.span().into();
    errors.push(if found.is_empty() {
        let (param, value) = (template.display(&varied.path), varied.value().to_string());
        ManifestError::VariesNothing { param, value, span, baseline }
    } else {
        ManifestError::VariesMany { params: found.join(", "), span, baseline }
    });
}
