//! What the `exec` stage declares.

use std::path::Path;

use qpipe_sdk::{
    ArtifactKind, Determinism, Names, NodeSpec, ParamSpec, ParamType, Params, Schema, StageSpec, Value,
};

use crate::worker::files::{is_file_name, is_inside};

/// What the dotted paths of inputs, outputs and variables begin with.
pub(super) const INPUT: &str = "input.";
pub(super) const OUTPUT: &str = "output.";
pub(super) const ENV: &str = "env.";

pub(super) fn spec() -> StageSpec {
    StageSpec {
        kind: "exec",
        semantics: 1,
        doc: "runs a command with declared inputs and outputs",
        inputs: Vec::new(),
        output: ArtifactKind::new(ArtifactKind::FILES),
        schema: Schema::new(nodes()),
        determinism: Determinism::Exact,
    }
}

fn nodes() -> Vec<NodeSpec> {
    let value = |name, ty, doc| ParamSpec::new(name, ty, doc);
    let timeout = ParamType::Float { min: 0.0, max: f64::INFINITY };
    vec![
        NodeSpec::value(
            value("command", ParamType::list(ParamType::Text), "the program and its arguments").required(),
        ),
        NodeSpec::value(
            value("shell", ParamType::Bool, "whether `sh` reads the command, which is then one text")
                .default(Value::Bool(false)),
        ),
        NodeSpec::named(
            value("input", ParamType::File, "a file or folder that the command finds under this name"),
            Names::ArgumentOrStage,
        ),
        NodeSpec::named(
            value("output", ParamType::Text, "where the command writes this output, relative to its folder"),
            Names::Argument,
        ),
        NodeSpec::value(value("stdout", ParamType::Text, "standard output is the output of this name")),
        NodeSpec::value(value("metrics", ParamType::Text, "a JSON file of metrics that the command writes")),
        NodeSpec::named(
            value("env", ParamType::Text, "a variable of the command's environment"),
            Names::Environment,
        ),
        NodeSpec::value(value("timeout", timeout, "seconds after which the command is stopped").location()),
    ]
}

/// A problem: the path of the parameter, and what is wrong with it.
type Problem = (String, String);

pub(super) fn check(params: &Params) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut add = |path: &str, message: &str| problems.push((path.to_owned(), message.to_owned()));
    let command = params.texts("command");
    if command.first().is_none_or(String::is_empty) {
        add("command", "the program has no name");
    }
    if command.iter().any(|word| word.contains('\0')) {
        add("command", "an argument cannot contain a zero byte");
    }
    if params.bool("shell") == Some(true) && command.len() != 1 {
        add("command", "a shell reads one text: write the whole command in quotes");
    }
    if params.float("timeout").is_some_and(|seconds| seconds <= 0.0) {
        add("timeout", "it must be more than 0 s");
    }
    check_outputs(params, &mut add);
    problems
}

fn check_outputs(params: &Params, add: &mut impl FnMut(&str, &str)) {
    let outputs = outputs(params);
    for (name, path) in &outputs {
        check_path(&format!("{OUTPUT}{name}"), path, add);
    }
    let stdout = params.text("stdout");
    if let Some(name) = stdout {
        if !is_file_name(name) {
            add("stdout", "the name of an output has letters, digits, `.`, `-` and `_`");
        }
        if outputs.iter().any(|(known, _)| *known == name) {
            add("stdout", "another output has this name");
        }
    }
    if let Some(path) = params.text("metrics") {
        check_path("metrics", path, add);
    }
    if outputs.is_empty() && stdout.is_none() {
        add("output", "a command needs an output: `output NAME PATH`, or `stdout NAME`");
    }
}

fn check_path(path: &str, value: &str, add: &mut impl FnMut(&str, &str)) {
    if !is_inside(Path::new(value.trim_start_matches("./"))) {
        add(path, "it must be a path within the command's folder");
    }
}

/// Declared outputs: name and path.
pub(super) fn outputs(params: &Params) -> Vec<(&str, &str)> {
    texts(params, OUTPUT)
}

/// Variables: name and value.
pub(super) fn variables(params: &Params) -> Vec<(&str, &str)> {
    texts(params, ENV)
}

fn texts<'p>(params: &'p Params, prefix: &str) -> Vec<(&'p str, &'p str)> {
    let named = params.0.iter().filter_map(|(path, value)| Some((path.strip_prefix(prefix)?, value)));
    named
        .filter_map(|(name, value)| if let Value::Text(t) = value { Some((name, t.as_str())) } else { None })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(pairs: &[(&str, Value)]) -> Params {
        Params(pairs.iter().map(|(path, value)| ((*path).to_owned(), value.clone())).collect())
    }

    fn text(word: &str) -> Value {
        Value::Text(word.into())
    }

    fn paths(pairs: &[(&str, Value)]) -> Vec<String> {
        check(&params(pairs)).into_iter().map(|(path, _)| path).collect()
    }

    #[test]
    fn a_command_with_an_output_is_in_order() {
        let command = Value::List(vec![text("sort"), text("words")]);
        assert!(paths(&[("command", command.clone()), ("output.sorted", text("./out/sorted"))]).is_empty());
        assert!(paths(&[("command", command), ("stdout", text("sorted"))]).is_empty());
    }

    #[test]
    fn each_rule_names_its_parameter() {
        let command = || ("command", Value::List(vec![text("a"), text("b")]));
        assert_eq!(paths(&[command()]), ["output"]);
        let shell = ("shell", Value::Bool(true));
        assert_eq!(paths(&[command(), shell, ("stdout", text("x"))]), ["command"]);
        for path in ["/etc/passwd", "../x", "", "."] {
            assert_eq!(paths(&[command(), ("output.x", text(path))]), ["output.x"], "{path}");
        }
        let twice = [command(), ("output.x", text("x")), ("stdout", text("x"))];
        assert_eq!(paths(&twice), ["stdout"]);
        assert_eq!(paths(&[command(), ("stdout", text("x")), ("timeout", Value::Float(0.0))]), ["timeout"]);
    }
}
