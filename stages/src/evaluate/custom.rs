//! A task described in the manifest: a prompt with `{field}` placeholders, and either choices (written out, or a list in
//! the data) or one continuation to be completed.

use qpipe_sdk::{ParamSpec, ParamType, Params, StageError, Value};
use serde_json::Value as Json;

use super::choice::{self, Question};
use super::rows::Row;
use super::scoring::Scoring;
use super::task::{Figures, Task, TaskResult, question_params};

pub(super) const TASK: Task = Task {
    params,
    run,
    ..choice::task(
        "custom",
        "A task of your own: a prompt with `{field}` placeholders, and choices or one continuation.",
        "Rows with the fields that the placeholders name.",
        |row| Err(row.error("a custom task reads its rows by its own description")),
    )
};

/// Between the choices of `choices`.
const SEPARATOR: char = '|';

fn params() -> Vec<ParamSpec> {
    let mut all = vec![
        ParamSpec::new(
            "prompt",
            ParamType::Text,
            "What stands before a choice or the target. `{field}` is that field of the row, `{a.b}` the field `b` of the \
             object `a`; `{{` and `}}` are braces.",
        )
        .required(),
        ParamSpec::new(
            "choices",
            ParamType::Text,
            "The choices, separated by `|`, each with placeholders if need be: `no|yes`. With exactly two, F1 is measured \
             too, with the second as the positive class.",
        ),
        ParamSpec::new("choices-field", ParamType::Text, "A field with a list of choices: `choices.text`."),
        ParamSpec::new(
            "target",
            ParamType::Text,
            "Instead of choices: the one right continuation, with placeholders; right where greedy decoding gives it.",
        ),
        ParamSpec::new(
            "label",
            ParamType::Text,
            "The field that says which choice is right: its text, its place from 0, or a boolean for two choices; with \
             `labels-field`, its name there.",
        ),
        ParamSpec::new("labels-field", ParamType::Text, "A field with the choices' names: `choices.label`."),
        ParamSpec::new("delimiter", ParamType::Text, "What stands between the prompt and a choice or the target.")
            .default(Value::Text(" ".into())),
    ];
    all.extend(question_params());
    all
}

/// What is wrong with the description, by parameter.
pub(super) fn check(params: &Params) -> Vec<(String, String)> {
    let path = |name: &str| format!("task.custom.{name}");
    let text = |name: &str| params.text(&path(name));
    let mut wrong = Vec::new();
    if !params.has("task.custom") {
        return wrong;
    }
    let kinds =
        ["choices", "choices-field", "target"].into_iter().filter(|name| text(name).is_some()).count();
    if kinds != 1 {
        wrong.push((
            path("prompt"),
            "exactly one of `choices`, `choices-field` and `target` says what is scored".into(),
        ));
    }
    match (text("target"), text("label")) {
        (None, None) if kinds == 1 => {
            wrong.push((path("prompt"), "choices need a `label`: the field that says which is right".into()));
        }
        (Some(_), Some(_)) => {
            wrong.push((path("label"), "a `target` is right by itself: it has no `label`".into()));
        }
        _ => {}
    }
    for name in ["prompt", "choices", "target"] {
        if let Some(Err(what)) = text(name).map(Template::parse) {
            wrong.push((path(name), what));
        }
    }
    wrong
}

fn run(scoring: &Scoring<'_>, _: &Task) -> Result<TaskResult, StageError> {
    let description = Description::of(scoring)?;
    let read = |row: &Row<'_>| description.question(row);
    choice::run(scoring, description.figures(), &read)
}

/// The task as the manifest describes it.
struct Description {
    prompt: Template,
    scored: What,
    label: Option<String>,
    labels: Option<String>,
    delimiter: String,
}

enum What {
    Choices(Vec<Template>),
    Field(String),
    Target(Template),
}

impl Description {
    fn of(scoring: &Scoring<'_>) -> Result<Self, StageError> {
        let template = |text: &str| Template::parse(text).map_err(|e| scoring.error(e));
        let scored = match (scoring.text("choices"), scoring.text("choices-field"), scoring.text("target")) {
            (Some(choices), None, None) => {
                What::Choices(choices.split(SEPARATOR).map(template).collect::<Result<_, _>>()?)
            }
            (None, Some(field), None) => What::Field(field.to_owned()),
            (None, None, Some(target)) => What::Target(template(target)?),
            _ => {
                return Err(scoring.error("exactly one of `choices`, `choices-field` and `target` is needed"));
            }
        };
        let owned = |name: &str| scoring.text(name).map(str::to_owned);
        Ok(Self {
            prompt: template(scoring.text("prompt").unwrap_or_default())?,
            scored,
            label: owned("label"),
            labels: owned("labels-field"),
            delimiter: owned("delimiter").unwrap_or_default(),
        })
    }

    fn figures(&self) -> Figures {
        match &self.scored {
            What::Choices(choices) if choices.len() == 2 => Figures::Binary,
            What::Choices(_) | What::Field(_) => Figures::Normalized,
            What::Target(_) => Figures::Cloze,
        }
    }

    fn question(&self, row: &Row<'_>) -> Result<Question, StageError> {
        let prompt = self.prompt.filled(row)?;
        let choices: Vec<String> = match &self.scored {
            What::Target(target) => {
                return Ok(Question::cloze(prompt, format!("{}{}", self.delimiter, target.filled(row)?)));
            }
            What::Choices(choices) => {
                choices.iter().map(|choice| choice.filled(row)).collect::<Result<_, _>>()?
            }
            What::Field(field) => row.texts(field)?.into_iter().map(str::to_owned).collect(),
        };
        let choices: Vec<&str> = choices.iter().map(String::as_str).collect();
        let label = self.label(row, &choices)?;
        Question::delimited(prompt, &self.delimiter, &choices, label).checked(row)
    }

    fn label(&self, row: &Row<'_>, choices: &[&str]) -> Result<usize, StageError> {
        let field = self.label.as_deref().unwrap_or_default();
        if let Some(labels) = &self.labels {
            return choice::by_name(row, labels, row.text(field)?);
        }
        match row.value(field)? {
            Json::Bool(yes) => Ok(usize::from(*yes)),
            Json::String(text) => match choices.iter().position(|choice| *choice == text.as_str()) {
                Some(at) => Ok(at),
                None => row.index(field).map_err(|_| {
                    row.error(format!("the label `{text}` is neither a choice nor the place of one"))
                }),
            },
            _ => row.index(field),
        }
    }
}

/// A text with placeholders.
#[derive(Debug, PartialEq)]
struct Template(Vec<Piece>);

#[derive(Debug, PartialEq)]
enum Piece {
    Text(String),
    Field(String),
}

impl Template {
    fn parse(text: &str) -> Result<Self, String> {
        let (mut pieces, mut plain) = (Vec::new(), String::new());
        let mut letters = text.chars().peekable();
        while let Some(letter) = letters.next() {
            match letter {
                '{' | '}' if letters.peek() == Some(&letter) => {
                    letters.next();
                    plain.push(letter);
                }
                '{' => {
                    let mut field = String::new();
                    let closed = letters.by_ref().any(|c| {
                        field.extend((c != '}').then_some(c));
                        c == '}'
                    });
                    if field.trim().is_empty() || field.contains('{') || !closed {
                        return Err(format!(
                            "`{{{field}` is no placeholder; write `{{field}}`, or `{{{{` for a brace"
                        ));
                    }
                    pieces.push(Piece::Text(std::mem::take(&mut plain)));
                    pieces.push(Piece::Field(field.trim().to_owned()));
                }
                '}' => return Err("a `}` closes nothing; write `}}` for a brace".to_owned()),
                _ => plain.push(letter),
            }
        }
        pieces.push(Piece::Text(plain));
        pieces.retain(|piece| *piece != Piece::Text(String::new()));
        Ok(Self(pieces))
    }

    fn filled(&self, row: &Row<'_>) -> Result<String, StageError> {
        let mut out = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Field(field) => match row.value(field)? {
                    Json::String(text) => out.push_str(text),
                    value @ (Json::Number(_) | Json::Bool(_)) => out.push_str(&value.to_string()),
                    other => return Err(row.misfit(field, "a text, number or boolean", other)),
                },
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn filled(text: &str, fields: &Json) -> Result<String, String> {
        let row = Row { file: "d", number: 0, fields: fields.as_object().unwrap() };
        Template::parse(text)?.filled(&row).map_err(|e| e.to_string())
    }

    #[test]
    fn placeholders_are_fields_and_doubled_braces_are_braces() {
        let fields = json!({ "q": "why", "n": 3, "a": { "b": "x" }, "l": [1] });
        assert_eq!(filled("{q}? {{{n}}} {a.b}", &fields).unwrap(), "why? {3} x");
        assert_eq!(filled("", &fields).unwrap(), "");
        assert_eq!(
            filled("{l}", &fields).unwrap_err(),
            "`d`, row 1: field `l` is not a text, number or boolean: `[1]`"
        );
        assert!(filled("{who}", &fields).unwrap_err().contains("no field `who`"));
        for broken in ["{q", "q}", "{}", "{a{b}"] {
            assert!(Template::parse(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn a_description_is_checked_before_anything_runs() {
        let of = |pairs: &[(&str, &str)]| {
            let mut params = Params::default();
            params.set("task.custom", Value::Bool(true));
            for (name, value) in pairs {
                params.set(format!("task.custom.{name}"), Value::Text((*value).to_owned()));
            }
            check(&params).into_iter().map(|(path, _)| path).collect::<Vec<_>>()
        };
        assert_eq!(of(&[("prompt", "{q}"), ("choices", "a|b"), ("label", "l")]), [""; 0]);
        assert_eq!(of(&[("prompt", "{q}"), ("target", "{t}")]), [""; 0]);
        assert_eq!(of(&[("prompt", "{q}")]), ["task.custom.prompt"]);
        assert_eq!(of(&[("prompt", "{q}"), ("choices", "a|b")]), ["task.custom.prompt"]);
        assert_eq!(
            of(&[("prompt", "{q"), ("target", "{t}"), ("label", "l")]),
            ["task.custom.label", "task.custom.prompt"]
        );
        assert_eq!(check(&Params::default()), []);
    }
}
