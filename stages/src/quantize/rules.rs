//! Which scheme a module gets: `skip` leaves it as it is; else the longest `module` pattern that matches decides, and
//! of equally long ones the alphabetically first; else the stage's own scheme.

use qpipe_sdk::{Params, StageError, Value};

use super::scheme::Scheme;
use crate::artifact::ModelArtifact;

/// The node of a rule for some modules: `module PATTERN SCHEME`.
pub(super) const MODULE: &str = "module";

/// A module that one may skip or name although the model does not have it: it is missing where embeddings are tied.
const HEAD: &str = "lm_head";

/// The rules of one stage.
pub(super) struct Rules {
    skip: Vec<String>,
    /// In order of precedence.
    modules: Vec<(String, Option<Scheme>)>,
    otherwise: Option<Scheme>,
}

/// The paths of the `module` rules in a stage's parameters: `module.PATTERN`.
pub(super) fn paths(params: &Params) -> impl Iterator<Item = &str> {
    // a rule's value is a word; so are none of its properties
    params.0.iter().filter_map(|(path, value)| {
        let rule = path.strip_prefix(MODULE).is_some_and(|rest| rest.starts_with('.'));
        (rule && matches!(value, Value::Text(_))).then_some(path.as_str())
    })
}

impl Rules {
    pub(super) fn of(params: &Params) -> Result<Self, StageError> {
        let rule = |path: &str| {
            Ok::<_, StageError>((path[MODULE.len() + 1..].to_owned(), Scheme::of(params, path)?))
        };
        let mut modules = paths(params).map(rule).collect::<Result<Vec<_>, _>>()?;
        // stable: patterns of one length stay in alphabetical order
        modules.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.len()));
        Ok(Self { skip: params.texts("skip"), modules, otherwise: Scheme::of(params, "scheme")? })
    }

    /// The linear modules to quantize, and how. A pattern that matches no linear module is an error, since it is
    /// likely a typo; but for `lm_head`, which a model with tied embeddings does not have.
    pub(super) fn assign(&self, model: &ModelArtifact) -> Result<Vec<(String, Scheme)>, StageError> {
        let linear = || model.modules.iter().filter(|(name, module)| module.is_linear(name));
        let skips = self.skip.iter().map(|pattern| ("skip", pattern));
        for (node, pattern) in skips.chain(self.modules.iter().map(|(pattern, _)| (MODULE, pattern))) {
            let known = node == "skip" && model.modules.keys().any(|name| matches(pattern, name));
            if pattern != HEAD && !known && !linear().any(|(name, _)| matches(pattern, name)) {
                let message = format!("`{node} {pattern}` matches no linear layer of the model");
                return Err(StageError::config(message));
            }
        }
        Ok(linear().filter_map(|(name, _)| Some((name.clone(), self.scheme(name)?))).collect())
    }

    fn scheme(&self, name: &str) -> Option<Scheme> {
        if self.skip.iter().any(|pattern| matches(pattern, name)) {
            return None;
        }
        let rule = self.modules.iter().find(|(pattern, _)| matches(pattern, name));
        rule.map_or(self.otherwise, |(_, scheme)| *scheme)
    }
}

/// Whether a pattern names a module: wholly, by its last parts, or with `*` for any run of characters.
fn matches(pattern: &str, name: &str) -> bool {
    if !pattern.contains('*') {
        return name == pattern || name.strip_suffix(pattern).is_some_and(|rest| rest.ends_with('.'));
    }
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let parts: Vec<&str> = parts.collect();
    for (i, part) in parts.iter().enumerate() {
        if i + 1 == parts.len() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names_ends_and_stars() {
        let name = "model.layers.0.mlp.down_proj";
        for pattern in [name, "down_proj", "mlp.down_proj", "model.layers.0.*", "*mlp*", "*.down_proj"] {
            assert!(matches(pattern, name), "{pattern}");
        }
        for pattern in ["own_proj", "model.layers.1.*", "*gate*", "model"] {
            assert!(!matches(pattern, name), "{pattern}");
        }
    }

    #[test]
    fn skip_comes_first_and_the_longest_pattern_decides() {
        let text = |s: &str| Value::Text(s.to_owned());
        let given = [
            ("scheme", text("nf4")),
            ("skip", Value::List(vec![text("lm_head")])),
            ("module.down_proj", text("int8-weight-only")),
            ("module.*.0.mlp.down_proj", text("rtn")),
            ("module.*.0.mlp.down_proj.bits", Value::Int(8)),
            ("module.o_proj", text("none")),
        ];
        let params = Params(given.into_iter().map(|(path, value)| (path.to_owned(), value)).collect());
        let rules = Rules::of(&params).unwrap();
        let rtn = Some(Scheme::Rtn { bits: 8, group: 128, symmetric: true });
        assert_eq!(rules.scheme("model.layers.0.mlp.down_proj"), rtn);
        assert_eq!(rules.scheme("model.layers.1.mlp.down_proj"), Some(Scheme::Int8WeightOnly));
        assert_eq!(rules.scheme("model.layers.1.self_attn.o_proj"), None);
        assert_eq!(rules.scheme("lm_head"), None);
        assert!(matches!(rules.scheme("model.layers.1.mlp.up_proj"), Some(Scheme::Four { .. })));
    }
}
