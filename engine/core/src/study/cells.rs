//! Groups → cells: which overrides each has, and its name.

use std::collections::HashSet;
use std::path::Path;

use qpipe_sdk::Value;

use super::names::Names;
use crate::graph::Span;
use crate::manifest::{Axis, Choice, Errors, Form, Group, ManifestError, ParamPath, Template};

/// Most cells that one sweep may have.
const MAX_CELLS: usize = 100_000;

/// One override of a cell.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CellOverride {
    pub(crate) path: ParamPath,
    pub(crate) value: Value,
    pub(crate) span: Span,
}

/// A cell before its nodes are known.
#[derive(Clone, Debug)]
pub(crate) struct CellPlan {
    pub(crate) name: String,
    pub(crate) group: String,
    pub(crate) overrides: Vec<CellOverride>,
    /// `scheme=fp4`, for each override.
    words: Vec<String>,
    /// Whether it is to be compared with the baseline, in exactly one variable.
    pub(crate) ablates: bool,
}

impl CellPlan {
    /// What tells a node of this cell apart that depends on some of the cell's overrides.
    pub(crate) fn tell(&self, overrides: &[usize]) -> String {
        match overrides.len() {
            0 => "baseline".to_owned(),
            all if all == self.words.len() => self.name.clone(),
            _ => overrides.iter().map(|index| self.words[*index].as_str()).collect::<Vec<_>>().join(","),
        }
    }
}

/// The cells of a study, the baseline first if there is one; names are unique.
pub(crate) fn plan_cells(
    template: &Template<'_>,
    groups: &[Group],
    folder: &Path,
    errors: &mut Errors,
) -> Vec<CellPlan> {
    let varied = groups.iter().flat_map(|group| group.axes.iter().map(|axis| &axis.path));
    let names = Names::new(template, folder, varied);
    let mut cells: Vec<CellPlan> = baseline(groups).into_iter().collect();
    for group in groups {
        let found = match &group.form {
            Form::Ablate => ablate(group, &names),
            Form::Sweep { exclude } => sweep(group, exclude, &names, errors),
            Form::Run => vec![run(group, &names)],
        };
        cells.extend(found);
    }
    make_names_unique(&mut cells);
    cells
}

/// The cell without overrides: where an ablation needs one, or where nothing else is asked for.
fn baseline(groups: &[Group]) -> Option<CellPlan> {
    let ablation = groups.iter().find(|group| group.form == Form::Ablate);
    if ablation.is_none() && !groups.is_empty() {
        return None;
    }
    let group = ablation.map_or_else(|| "baseline".to_owned(), |group| group.name.clone());
    Some(CellPlan {
        name: "baseline".into(),
        group,
        overrides: Vec::new(),
        words: Vec::new(),
        ablates: false,
    })
}

fn ablate(group: &Group, names: &Names<'_, '_>) -> Vec<CellPlan> {
    let cell_of = |setting| CellPlan { ablates: true, ..cell(group, &[setting], names) };
    settings(group).map(cell_of).collect()
}

fn run(group: &Group, names: &Names<'_, '_>) -> CellPlan {
    let settings: Vec<_> = settings(group).collect();
    CellPlan { name: group.name.clone(), ..cell(group, &settings, names) }
}

/// Every axis with every value of its own.
fn settings(group: &Group) -> impl Iterator<Item = (&Axis, &Choice)> {
    group.axes.iter().flat_map(|axis| axis.values.iter().map(move |choice| (axis, choice)))
}

fn sweep(
    group: &Group,
    exclude: &[Vec<(usize, usize)>],
    names: &Names<'_, '_>,
    errors: &mut Errors,
) -> Vec<CellPlan> {
    let sizes: Vec<usize> = group.axes.iter().map(|axis| axis.values.len()).collect();
    let total = sizes.iter().try_fold(1_usize, |product, size| product.checked_mul(*size));
    let Some(total) = total.filter(|total| *total <= MAX_CELLS) else {
        let (name, span) = (group.name.clone(), group.span.into());
        errors.push(ManifestError::TooManyCells { name, limit: MAX_CELLS, span });
        return Vec::new();
    };
    let kept = (0..total).map(|index| digits(index, &sizes)).filter(|pick| !excluded(pick, exclude));
    let cells: Vec<CellPlan> = kept
        .map(|pick| {
            let settings: Vec<_> = group.axes.iter().zip(pick).map(|(a, i)| (a, &a.values[i])).collect();
            cell(group, &settings, names)
        })
        .collect();
    if cells.is_empty() {
        errors.push(ManifestError::EmptyGroup {
            kind: "sweep",
            name: group.name.clone(),
            span: group.span.into(),
            help: Some("every combination is excluded".into()),
        });
    }
    cells
}

/// The `index`-th combination of a cross product, the last axis running fastest.
fn digits(mut index: usize, sizes: &[usize]) -> Vec<usize> {
    let mut pick = vec![0; sizes.len()];
    for (place, size) in pick.iter_mut().zip(sizes).rev() {
        *place = index % size;
        index /= size;
    }
    pick
}

fn excluded(pick: &[usize], exclude: &[Vec<(usize, usize)>]) -> bool {
    exclude.iter().any(|combination| combination.iter().all(|(axis, value)| pick[*axis] == *value))
}

fn cell(group: &Group, settings: &[(&Axis, &Choice)], names: &Names<'_, '_>) -> CellPlan {
    let words: Vec<String> =
        settings.iter().map(|(axis, choice)| names.setting(&axis.path, &choice.value)).collect();
    CellPlan {
        name: words.join(","),
        group: group.name.clone(),
        overrides: settings.iter().copied().map(override_of).collect(),
        words,
        ablates: false,
    }
}

fn override_of((axis, choice): (&Axis, &Choice)) -> CellOverride {
    CellOverride { path: axis.path.clone(), value: choice.value.clone(), span: choice.span }
}

/// A later cell with the name of an earlier one is called by its group too: `sizes:scheme=fp4`.
fn make_names_unique(cells: &mut [CellPlan]) {
    let mut taken: HashSet<String> = HashSet::new();
    for cell in cells {
        if taken.contains(&cell.name) {
            cell.name = format!("{}:{}", cell.group, cell.name);
        }
        taken.insert(cell.name.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_axis_runs_fastest() {
        let all: Vec<Vec<usize>> = (0..6).map(|index| digits(index, &[2, 3])).collect();
        assert_eq!(all, [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]);
    }

    #[test]
    fn a_combination_is_excluded_only_as_a_whole() {
        let exclude = vec![vec![(0, 1), (1, 0)]];
        assert!(excluded(&[1, 0, 7], &exclude));
        assert!(!excluded(&[1, 1, 7], &exclude));
    }
}
