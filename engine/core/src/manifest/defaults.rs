//! `defaults { … }`: what stages take where they say nothing themselves.
//!
//! A block named like a stage type holds parameters for every stage of that type. How they meet what a stage says:
//!
//! | node | the default is taken |
//! |---|---|
//! | `compute-dtype bf16`, `scheme nf4 block=128` | value by value, where the stage does not give that value |
//! | `from embedded=tiny` (properties only) | as a whole, by a stage without that node: its properties may exclude each other |
//! | `task boolq` (one of several) | by a stage that names none of them |
//! | `task boolq limit=50` | its properties, by every stage with that task |
//!
//! A default that does not apply to a stage (a block size under `int8`) is dropped there, like those of the schema.

use std::collections::BTreeMap;

use kdl::KdlNode;
use qpipe_sdk::{NodeForm, Schema, StageRegistry};

use super::document::{plain_word, refuse_annotation, refuse_properties, refuse_rest};
use super::error::{Errors, ManifestError};
use super::near::suggest;
use super::policies::Policies;
use super::scope::{Scope, refuse_block};
use super::stages::{Given, StageDecl};
use super::syntax::{arguments, children, entry_span, header_span, name_span};
use crate::graph::Span;
use crate::limits::Limits;
use crate::run::FailureMode;

/// Words of `failure`. A stage is skipped exactly if one that it depends on failed, so two of them mean the same.
const FAILURES: [(&str, FailureMode); 3] = [
    ("fail-fast", FailureMode::FailFast),
    ("keep-going", FailureMode::KeepGoing),
    ("skip-dependents", FailureMode::KeepGoing),
];

/// The defaults of a manifest.
#[derive(Default)]
pub(crate) struct Defaults {
    pub(crate) failure: Option<FailureMode>,
    pub(crate) limits: Limits,
    of_type: BTreeMap<String, StageDefaults>,
}

struct StageDefaults {
    given: BTreeMap<String, Given>,
    sound: bool,
    span: Span,
}

impl Defaults {
    pub(crate) fn read(
        section: Option<&KdlNode>,
        registry: &StageRegistry,
        names: Vec<&str>,
        scope: &Scope<'_>,
        errors: &mut Errors,
    ) -> Self {
        let mut defaults = Self::default();
        let Some(section) = section else { return defaults };
        refuse_rest(section, arguments(section), "a block only: `defaults { … }`", errors);
        refuse_properties(section, "write `defaults { STAGE-TYPE { PARAM VALUE } }`", errors);
        let (mut failure_at, mut policies) = (None, Policies::new(scope, names));
        for node in children(section) {
            refuse_annotation(node, errors);
            match node.name().value() {
                "failure" => defaults.set_failure(node, &mut failure_at, errors),
                name => match (Policies::NODES.iter().find(|known| **known == name), registry.get(name)) {
                    (Some(policy), _) => policies.read(policy, node, errors),
                    (None, Some(stage)) => defaults.set_stage(node, stage.spec(), scope, errors),
                    (None, None) => unknown(node, registry, errors),
                },
            }
        }
        defaults.limits = policies.limits;
        defaults
    }

    fn set_failure(&mut self, node: &KdlNode, at: &mut Option<Span>, errors: &mut Errors) {
        if let Some(first) = at.replace(header_span(node)) {
            return duplicate(node, first, errors);
        }
        refuse_block(node, errors);
        refuse_properties(node, "write `failure MODE`", errors);
        let mut entries = arguments(node);
        let first = entries.next();
        refuse_rest(node, entries, "one argument", errors);
        let Some(entry) = first else {
            return errors.push(ManifestError::MissingArgument {
                node: "failure".into(),
                needs: "a mode".into(),
                span: name_span(node).into(),
                help: Some("write `failure fail-fast`, `keep-going` or `skip-dependents`".into()),
            });
        };
        let Some(word) = plain_word(node, entry, "a mode", errors) else { return };
        self.failure = FAILURES.iter().find(|(known, _)| *known == word).map(|(_, mode)| *mode);
        if self.failure.is_none() {
            errors.push(ManifestError::UnknownChoice {
                param: "failure".into(),
                value: word.to_owned(),
                span: entry_span(entry).into(),
                variable: None,
                help: suggest(word, "choices", FAILURES.iter().map(|(known, _)| *known)),
            });
        }
    }

    fn set_stage(
        &mut self,
        node: &KdlNode,
        spec: &qpipe_sdk::StageSpec,
        scope: &Scope<'_>,
        errors: &mut Errors,
    ) {
        let span = header_span(node);
        if let Some(first) = self.of_type.get(spec.kind) {
            return duplicate(node, first.span, errors);
        }
        let before = errors.len();
        refuse_rest(node, arguments(node), "a block only", errors);
        refuse_properties(node, &format!("write `{} {{ PARAM VALUE }}`", spec.kind), errors);
        let (given, sound) = StageDecl::read_defaults(node, spec, scope, errors);
        let sound = sound && errors.len() == before;
        self.of_type.insert(spec.kind.to_owned(), StageDefaults { given, sound, span });
    }

    /// Gives a stage what it does not give itself.
    pub(crate) fn fill(&self, stage: &mut StageDecl<'_>) {
        let Some(defaults) = self.of_type.get(stage.spec().kind) else { return };
        stage.sound &= defaults.sound;
        let stage_type = stage.stage;
        let schema = &stage_type.spec().schema;
        let own: Vec<String> = stage.given.keys().cloned().collect();
        let (presence, rest): (Vec<_>, Vec<_>) =
            defaults.given.iter().partition(|(path, _)| schema.is_presence(path));
        for (path, given) in presence.into_iter().chain(rest) {
            if !stage.given.contains_key(path) && is_taken(schema, path, &own, stage) {
                stage.given.insert(path.clone(), given.clone());
            }
        }
    }
}

/// Whether a stage that gives the parameters `own` takes the default of `path`.
fn is_taken(schema: &Schema, path: &str, own: &[String], stage: &StageDecl<'_>) -> bool {
    let node = path.split('.').next().unwrap_or(path);
    let says = |node: &str| own.iter().any(|own| own.split('.').next() == Some(node));
    let form = schema.nodes().iter().find(|known| known.name == node).map(|known| &known.form);
    match form {
        Some(NodeForm::Group) => !says(node),
        // either the argument or properties
        Some(NodeForm::Value(arg)) if may_lack_argument(schema, node, arg) => !says(node),
        Some(NodeForm::Keyed { .. }) if schema.is_presence(path) => !says(node),
        Some(NodeForm::Keyed { .. }) => match path.rsplit_once('.') {
            Some((choice, _)) if schema.is_presence(choice) => stage.given.contains_key(choice),
            _ => true,
        },
        _ => true,
    }
}

fn may_lack_argument(schema: &Schema, node: &str, arg: &qpipe_sdk::ParamSpec) -> bool {
    let has_props = schema.nodes().iter().any(|known| known.name == node && !known.props.is_empty());
    has_props && !arg.required && arg.default.is_none()
}

fn duplicate(node: &KdlNode, first: Span, errors: &mut Errors) {
    errors.push(ManifestError::Duplicate {
        what: "default",
        name: node.name().value().to_owned(),
        span: header_span(node).into(),
        first: first.into(),
        help: None,
    });
}

fn unknown(node: &KdlNode, registry: &StageRegistry, errors: &mut Errors) {
    let name = node.name().value();
    errors.push(ManifestError::UnknownParameter {
        parent: "defaults".to_owned(),
        name: name.to_owned(),
        span: name_span(node).into(),
        help: suggest(name, "nodes here", registry.kinds().chain(["failure"]).chain(Policies::NODES)),
    });
}
