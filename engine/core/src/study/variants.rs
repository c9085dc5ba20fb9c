//! Effective parameters of a stage under a cell's overrides.
//!
//! A study of many cells has few distinct parameter sets per stage. Each is computed and checked once, found again
//! by its overrides, and shared by its value: two sets of overrides that lead to equal effective parameters lead to
//! one variant, hence to one node.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use qpipe_cache::Digest;
use qpipe_sdk::{Params, Value};

use super::cells::CellOverride;
use super::rules::{given_params, missing, place_of, why_inapplicable};
use crate::graph::{Name, Span, Spans};
use crate::manifest::{Errors, ManifestError, ParamPath, StageDecl, Template};

/// Index of a distinct set of effective parameters of one stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct VariantId(usize);

/// Effective parameters, and the places of the given ones among them.
#[derive(Clone, Debug)]
pub(crate) struct Variant {
    pub(crate) params: Arc<Params>,
    pub(crate) spans: Spans,
}

type Overrides<'c> = [&'c CellOverride];

pub(crate) struct Variants<'a, 'r> {
    template: &'a Template<'r>,
    list: Vec<Variant>,
    /// By stage, without overrides; `None` for a stage with errors.
    base: Vec<Option<VariantId>>,
    /// By the overrides' numbers, in the order in which the cell has them.
    by_overrides: HashMap<Vec<u32>, Option<VariantId>>,
    /// By the digest of stage and effective parameters.
    by_params: HashMap<Digest, VariantId>,
    /// The bytes that are digested, kept to be used again.
    buffer: Vec<u8>,
    /// Inapplicable overrides, with what makes them so: each is reported for the first of its values only.
    refused: HashSet<(ParamPath, Option<Span>)>,
}

impl<'a, 'r> Variants<'a, 'r> {
    /// The variants of the template itself, checked.
    pub(crate) fn of_template(template: &'a Template<'r>, errors: &mut Errors) -> Self {
        let mut variants = Self {
            template,
            list: Vec::new(),
            base: Vec::new(),
            by_overrides: HashMap::new(),
            by_params: HashMap::new(),
            buffer: Vec::new(),
            refused: HashSet::new(),
        };
        for (index, stage) in template.stages.iter().enumerate() {
            let id = if stage.sound { variants.make(index, &[], errors) } else { None };
            variants.base.push(id);
        }
        variants
    }

    pub(crate) fn get(&self, id: VariantId) -> &Variant {
        &self.list[id.0]
    }

    pub(crate) fn base(&self, stage: usize) -> Option<VariantId> {
        self.base[stage]
    }

    /// The variant of a stage under overrides, all of which are on that stage; `None` after an error.
    pub(crate) fn under(
        &mut self,
        stage: usize,
        overrides: &Overrides<'_>,
        errors: &mut Errors,
    ) -> Option<VariantId> {
        let base = self.base[stage]?;
        if overrides.is_empty() {
            return Some(base);
        }
        let key: Vec<u32> = overrides.iter().map(|o| o.id).collect();
        if let Some(known) = self.by_overrides.get(&key) {
            return *known;
        }
        let id = self.make(stage, overrides, errors);
        self.by_overrides.insert(key, id);
        id
    }

    fn make(&mut self, index: usize, overrides: &Overrides<'_>, errors: &mut Errors) -> Option<VariantId> {
        let stage = &self.template.stages[index];
        let base = self.base.get(index).copied().flatten().map(|id| &self.list[id.0]);
        let plain = base.and_then(|base| replaced(stage, base, overrides));
        let is_plain = plain.is_some();
        let variant = plain.unwrap_or_else(|| apply(stage, overrides));
        let check = Check { template: self.template, index, overrides, variant: &variant };
        let sound =
            if is_plain { check.own_rules_hold(errors) } else { check.run(&mut self.refused, errors) };
        sound.then(|| self.intern(index, variant))
    }

    fn intern(&mut self, stage: usize, variant: Variant) -> VariantId {
        self.buffer.clear();
        self.buffer.extend(stage.to_le_bytes());
        for (path, value) in &variant.params.0 {
            write_text(&mut self.buffer, path);
            write_value(&mut self.buffer, value);
        }
        let next = VariantId(self.list.len());
        let id = *self.by_params.entry(Digest::of_bytes(&self.buffer)).or_insert(next);
        if id == next {
            self.list.push(variant);
        }
        id
    }
}

/// The base variant with other values, where the overrides change nothing but values: every one is of a parameter
/// that is effective already and decides nothing about others. `None` where that cannot be said.
fn replaced(stage: &StageDecl<'_>, base: &Variant, overrides: &Overrides<'_>) -> Option<Variant> {
    let only_a_value = |o: &&CellOverride| base.params.has(&o.param) && !stage.schema().decides(&o.param);
    if !overrides.iter().all(only_a_value) {
        return None;
    }
    let mut params = Params::clone(&base.params);
    for o in overrides {
        params.0.get_mut(o.param.as_ref())?.clone_from(o.value());
    }
    let own = overrides.iter().map(|o| (Arc::clone(&o.param), o.span())).collect();
    Some(Variant { params: Arc::new(params), spans: base.spans.with(own) })
}

/// The stage's given parameters with the overrides in place, and what is effective of them.
fn apply(stage: &StageDecl<'_>, overrides: &Overrides<'_>) -> Variant {
    let given = overridden(stage, overrides);
    let params = stage.schema().effective(&given);
    let effective = |(path, span): (&String, Span)| params.has(path).then(|| (path.clone(), span));
    let places = stage.given.iter().map(|(path, given)| (path, given.span)).filter_map(effective);
    let own = overrides.iter().filter(|o| params.has(&o.param));
    let own: Vec<(Name, Span)> = own.map(|o| (Arc::clone(&o.param), o.span())).collect();
    Variant { spans: places.collect::<Spans>().with(own), params: Arc::new(params) }
}

/// The given parameters of a stage with overrides in place; a choice overridden with `false` is taken out.
fn overridden(stage: &StageDecl<'_>, overrides: &Overrides<'_>) -> Params {
    let mut given = given_params(stage);
    for o in overrides {
        if is_removal(stage, o) {
            given.0.remove(&o.path.param);
        } else {
            given.set(o.path.param.clone(), o.value().clone());
        }
    }
    given
}

fn is_removal(stage: &StageDecl<'_>, o: &CellOverride) -> bool {
    *o.value() == Value::Bool(false) && stage.schema().is_presence(&o.path.param)
}

/// The checks of one variant.
struct Check<'c, 'r> {
    template: &'c Template<'r>,
    index: usize,
    overrides: &'c Overrides<'c>,
    variant: &'c Variant,
}

impl<'r> Check<'_, 'r> {
    fn stage(&self) -> &StageDecl<'r> {
        &self.template.stages[self.index]
    }

    /// Whether the variant is in order.
    fn run(&self, refused: &mut HashSet<(ParamPath, Option<Span>)>, errors: &mut Errors) -> bool {
        let inapplicable: Vec<&CellOverride> =
            self.overrides.iter().copied().filter(|o| self.has_no_effect(o)).collect();
        for o in &inapplicable {
            self.refuse_inapplicable(o, refused, errors);
        }
        let before = errors.len();
        if inapplicable.is_empty() {
            self.required(errors);
        }
        if inapplicable.is_empty() && errors.len() == before {
            self.own_rules(errors);
        }
        inapplicable.is_empty() && errors.len() == before
    }

    fn has_no_effect(&self, o: &CellOverride) -> bool {
        !self.variant.params.has(&o.path.param) && !is_removal(self.stage(), o)
    }

    fn refuse_inapplicable(
        &self,
        o: &CellOverride,
        refused: &mut HashSet<(ParamPath, Option<Span>)>,
        errors: &mut Errors,
    ) {
        let stage = self.stage();
        let given = overridden(stage, self.overrides);
        let Some(reason) = why_inapplicable(stage.schema(), &o.path.param, &given) else { return };
        let overriding = self.overrides.iter().find(|other| other.path.param == reason.decided_by);
        let because = overriding.map(|other| other.span()).or_else(|| self.given_place(&reason.decided_by));
        if !refused.insert((o.path.clone(), because)) {
            return;
        }
        let help = match overriding {
            Some(_) => "leave this combination out (`exclude`), and name the cell by a `run` of its own",
            None => "a parameter without effect cannot be varied",
        };
        errors.push(ManifestError::Inapplicable {
            param: self.template.display(&o.path),
            rule: reason.rule,
            span: o.span().into(),
            because: because.map(Into::into),
            help: Some(help.into()),
        });
    }

    fn given_place(&self, path: &str) -> Option<Span> {
        self.stage().given.get(path).map(|given| given.span)
    }

    fn required(&self, errors: &mut Errors) {
        let stage = self.stage();
        for (param, help) in missing(stage.schema(), &self.variant.params) {
            errors.push(ManifestError::MissingParameter {
                stage: stage.name.clone(),
                param,
                span: stage.span.into(),
                because: self.overrides.first().map(|o| o.span().into()),
                help: Some(help),
            });
        }
    }

    fn own_rules_hold(&self, errors: &mut Errors) -> bool {
        let before = errors.len();
        self.own_rules(errors);
        errors.len() == before
    }

    fn own_rules(&self, errors: &mut Errors) {
        let stage = self.stage();
        for (path, message) in stage.stage.check(&self.variant.params) {
            let about = place_of(&path, &self.variant.spans, stage.span);
            let span = self.overrides.first().map_or(about, |o| o.span());
            errors.push(ManifestError::StageRule {
                path: format!("{}.{path}", stage.name),
                message,
                kind: stage.spec().kind,
                span: span.into(),
                about: (about != span).then(|| about.into()),
            });
        }
    }
}

/// The parameters in which a stage under `overrides` differs from the baseline. A parameter that the other side
/// does not have is not counted unless it was overridden: it came or went as a consequence.
pub(crate) fn differences(baseline: &Params, cell: &Params, overridden: &[&ParamPath]) -> Vec<String> {
    let mut paths: Vec<&String> = baseline.0.keys().chain(cell.0.keys()).collect();
    paths.sort_unstable();
    paths.dedup();
    let differs = |path: &str| match (baseline.get(path), cell.get(path)) {
        (Some(before), Some(after)) => before != after,
        _ => overridden.iter().any(|known| known.param == path),
    };
    paths.into_iter().filter(|path| differs(path)).cloned().collect()
}

fn write_text(key: &mut Vec<u8>, text: &str) {
    key.extend(text.len().to_le_bytes());
    key.extend(text.as_bytes());
}

/// An encoding in which distinct values are distinct bytes. It is not the encoding of action keys and never
/// leaves the process.
fn write_value(key: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Bool(flag) => key.extend([0, u8::from(*flag)]),
        Value::Int(integer) => {
            key.push(1);
            key.extend(integer.to_le_bytes());
        }
        Value::Float(number) => {
            key.push(2);
            key.extend(number.to_bits().to_le_bytes());
        }
        Value::Text(text) => {
            key.push(3);
            write_text(key, text);
        }
        Value::File(path) => {
            key.push(4);
            let bytes = path.as_os_str().as_encoded_bytes();
            key.extend(bytes.len().to_le_bytes());
            key.extend(bytes);
        }
        Value::List(items) => {
            key.push(5);
            key.extend(items.len().to_le_bytes());
            for item in items {
                write_value(key, item);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(pairs: &[(&str, i64)]) -> Params {
        Params(pairs.iter().map(|(k, v)| ((*k).to_owned(), Value::Int(*v))).collect())
    }

    #[test]
    fn consequences_are_not_differences() {
        let path = ParamPath { stage: 0, param: "scheme".into() };
        let (baseline, cell) = (params(&[("scheme", 4), ("block", 64)]), params(&[("scheme", 8)]));
        assert_eq!(differences(&baseline, &cell, &[&path]), ["scheme"]);
    }

    #[test]
    fn two_changed_values_are_two_differences() {
        let path = ParamPath { stage: 0, param: "a".into() };
        let (baseline, cell) = (params(&[("a", 1), ("b", 1)]), params(&[("a", 2), ("b", 2)]));
        assert_eq!(differences(&baseline, &cell, &[&path]), ["a", "b"]);
        assert!(differences(&baseline, &baseline, &[&path]).is_empty());
    }
}
