//! Groups → cells: which overrides each has, and its name.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use qpipe_sdk::Value;

use super::names::Names;
use crate::graph::{Name, Override, Span};
use crate::manifest::{Axis, Choice, Errors, Form, Group, ManifestError, ParamPath, Template};

/// Most cells that one sweep may have.
const MAX_CELLS: usize = 100_000;

/// One override: a value of an axis. All cells that have it share it.
#[derive(Debug)]
pub(crate) struct CellOverride {
    /// Unique within the study.
    pub(crate) id: u32,
    pub(crate) path: ParamPath,
    /// The parameter's path within its stage.
    pub(crate) param: Name,
    /// How a cell shows it.
    pub(crate) shown: Arc<Override>,
    /// `scheme=fp4`.
    word: String,
}

impl CellOverride {
    pub(crate) fn value(&self) -> &Value {
        &self.shown.value
    }

    pub(crate) fn span(&self) -> Span {
        self.shown.span
    }
}

/// A cell before its nodes are known.
#[derive(Clone, Debug)]
pub(crate) struct CellPlan {
    pub(crate) name: Name,
    pub(crate) group: Name,
    pub(crate) overrides: Vec<Arc<CellOverride>>,
    /// Whether it is to be compared with the baseline, in exactly one variable.
    pub(crate) ablates: bool,
}

impl CellPlan {
    /// What tells a node of this cell apart that depends on some of the cell's overrides.
    pub(crate) fn tell(&self, overrides: &[usize]) -> String {
        match overrides.len() {
            0 => "baseline".to_owned(),
            all if all == self.overrides.len() => self.name.to_string(),
            _ => words(overrides.iter().map(|index| &self.overrides[*index])),
        }
    }
}

/// The words of overrides: `scheme=fp4,block=64`.
fn words<'a>(overrides: impl Iterator<Item = &'a Arc<CellOverride>>) -> String {
    let mut text = String::with_capacity(64);
    for (index, known) in overrides.enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push_str(&known.word);
    }
    text
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
    let mut next_id = 0;
    for group in groups {
        let axes = shared_overrides(group, template, &names, &mut next_id);
        match &group.form {
            Form::Ablate => cells.extend(ablate(group, &axes)),
            Form::Sweep { exclude } => sweep(group, &axes, exclude, &mut cells, errors),
            Form::Run => cells.push(run(group, axes)),
        }
    }
    make_names_unique(&mut cells);
    cells
}

/// The overrides of a group by axis, each made once for all its cells.
fn shared_overrides(
    group: &Group,
    template: &Template<'_>,
    names: &Names<'_, '_>,
    next_id: &mut u32,
) -> Vec<Vec<Arc<CellOverride>>> {
    let mut of_axis = |axis: &Axis| {
        let (path, param) = (template.display(&axis.path), Name::from(axis.path.param.as_str()));
        let one = |choice: &Choice| {
            *next_id += 1;
            Arc::new(CellOverride {
                id: *next_id,
                path: axis.path.clone(),
                param: Arc::clone(&param),
                word: names.setting(&axis.path, &choice.value),
                shown: Arc::new(Override {
                    path: path.clone(),
                    value: choice.value.clone(),
                    span: choice.span,
                }),
            })
        };
        axis.values.iter().map(one).collect()
    };
    group.axes.iter().map(&mut of_axis).collect()
}

/// The cell without overrides: where an ablation needs one, or where nothing else is asked for.
fn baseline(groups: &[Group]) -> Option<CellPlan> {
    let ablation = groups.iter().find(|group| group.form == Form::Ablate);
    if ablation.is_none() && !groups.is_empty() {
        return None;
    }
    let group = ablation.map_or("baseline", |group| group.name.as_str()).into();
    Some(CellPlan { name: "baseline".into(), group, overrides: Vec::new(), ablates: false })
}

fn ablate(group: &Group, axes: &[Vec<Arc<CellOverride>>]) -> Vec<CellPlan> {
    let name = Name::from(group.name.as_str());
    let cell_of =
        |known: &Arc<CellOverride>| CellPlan { ablates: true, ..cell(&name, vec![Arc::clone(known)]) };
    axes.iter().flatten().map(cell_of).collect()
}

fn run(group: &Group, axes: Vec<Vec<Arc<CellOverride>>>) -> CellPlan {
    let name = Name::from(group.name.as_str());
    CellPlan { name: Arc::clone(&name), ..cell(&name, axes.into_iter().flatten().collect()) }
}

fn sweep(
    group: &Group,
    axes: &[Vec<Arc<CellOverride>>],
    exclude: &[Vec<(usize, usize)>],
    cells: &mut Vec<CellPlan>,
    errors: &mut Errors,
) {
    let sizes: Vec<usize> = axes.iter().map(Vec::len).collect();
    let total = sizes.iter().try_fold(1_usize, |product, size| product.checked_mul(*size));
    let Some(total) = total.filter(|total| *total <= MAX_CELLS) else {
        let (name, span) = (group.name.clone(), group.span.into());
        return errors.push(ManifestError::TooManyCells { name, limit: MAX_CELLS, span });
    };
    let (before, name) = (cells.len(), Name::from(group.name.as_str()));
    let kept = (0..total).map(|index| digits(index, &sizes)).filter(|pick| !excluded(pick, exclude));
    cells.extend(kept.map(|pick| {
        let overrides = axes.iter().zip(pick).map(|(values, index)| Arc::clone(&values[index])).collect();
        cell(&name, overrides)
    }));
    if cells.len() == before {
        errors.push(ManifestError::EmptyGroup {
            kind: "sweep",
            name: group.name.clone(),
            span: group.span.into(),
            help: Some("every combination is excluded".into()),
        });
    }
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

fn cell(group: &Name, overrides: Vec<Arc<CellOverride>>) -> CellPlan {
    CellPlan { name: words(overrides.iter()).into(), group: Arc::clone(group), overrides, ablates: false }
}

/// A later cell with the name of an earlier one is called by its group too: `sizes:scheme=fp4`.
fn make_names_unique(cells: &mut [CellPlan]) {
    let mut taken: HashSet<Name> = HashSet::with_capacity(cells.len());
    for cell in cells {
        if taken.contains(&cell.name) {
            cell.name = format!("{}:{}", cell.group, cell.name).into();
        }
        taken.insert(Arc::clone(&cell.name));
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
