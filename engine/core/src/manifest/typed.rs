//! Values against their declared types.
//!
//! The result is canonical, so that equal settings are equal values whatever their spelling: an integer given to a
//! number is a number, one value given to a list is a list of one, a path is absolute.

use std::path::Path;

use qpipe_sdk::{ParamType, Value};

use super::error::ManifestError;
use super::near::{nearest, suggest};
use super::scope::{Literal, file, unquoted, word};

/// Why a value does not fit a type.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Misfit {
    Type { expected: String, found: String, help: Option<String> },
    Range { expected: String, found: String },
    Choice { value: String, words: &'static [&'static str], or_file: bool },
}

impl Misfit {
    /// The error of a value in the manifest.
    pub(crate) fn at(self, param: &str, literal: &Literal) -> ManifestError {
        let (param, span) = (param.to_owned(), literal.span.into());
        let variable = literal.variable.map(Into::into);
        let help = self.help();
        match self {
            Self::Type { expected, found, .. } => {
                ManifestError::WrongType { param, expected, found, span, variable, help }
            }
            Self::Range { expected, found } => {
                ManifestError::OutOfRange { param, expected, found, span, variable }
            }
            Self::Choice { value, .. } => ManifestError::UnknownChoice { param, value, span, variable, help },
        }
    }

    /// The error of a value on the command line.
    pub(crate) fn in_set(self, key: &str) -> ManifestError {
        let help = self.help();
        let reason = match self {
            Self::Type { expected, found, .. } => format!("takes {expected}, not {found}"),
            Self::Range { expected, found } => format!("takes {expected}; {found} is out of range"),
            Self::Choice { value, .. } => format!("`{value}` is no choice"),
        };
        ManifestError::BadSet { key: key.to_owned(), reason, help }
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::Type { help, .. } => help.clone(),
            Self::Range { .. } => None,
            Self::Choice { value, words, or_file } => {
                let near = nearest(value, words.iter().copied());
                let path = format!("for a path write `\"./{value}\"`");
                let words = suggest(value, "choices", words.iter().copied());
                if *or_file && near.is_none() { Some(join(words, &path)) } else { words }
            }
        }
    }
}

fn join(first: Option<String>, second: &str) -> String {
    first.map_or_else(|| second.to_owned(), |first| format!("{first}; {second}"))
}

/// The canonical value of type `ty`; relative paths start at `folder`.
pub(crate) fn coerce(value: &Value, ty: &ParamType, folder: &Path) -> Result<Value, Misfit> {
    match (ty, value) {
        (ParamType::List(of), Value::List(items)) => {
            let items: Result<Vec<_>, _> = items.iter().map(|item| coerce(item, of, folder)).collect();
            items.map(Value::List)
        }
        (ParamType::List(of), single) => Ok(Value::List(vec![coerce(single, of, folder)?])),
        (ParamType::Bool, Value::Bool(_))
        | (ParamType::Text, Value::Text(_))
        | (ParamType::File | ParamType::FileOr(_), Value::File(_)) => Ok(value.clone()),
        (ParamType::Int { min, max }, Value::Int(integer)) => {
            if (min..=max).contains(&integer) {
                Ok(value.clone())
            } else {
                Err(range(ty, value))
            }
        }
        (ParamType::Float { .. }, Value::Int(integer)) => coerce(&Value::Float(*integer as f64), ty, folder),
        (ParamType::Float { min, max }, Value::Float(number)) => {
            if (min..=max).contains(&number) {
                Ok(value.clone())
            } else {
                Err(range(ty, value))
            }
        }
        (ParamType::Choice(words), Value::Text(text)) if words.contains(&text.as_str()) => Ok(value.clone()),
        (ParamType::Choice(words), Value::Text(text)) => {
            Err(Misfit::Choice { value: text.clone(), words, or_file: false })
        }
        (ParamType::FileOr(words), Value::Text(text)) if ParamType::is_word(words, text) => Ok(value.clone()),
        (ParamType::FileOr(_), Value::Text(path)) if looks_like_a_path(path) => Ok(file(folder, path)),
        (ParamType::FileOr(words), Value::Text(text)) => {
            Err(Misfit::Choice { value: text.clone(), words, or_file: true })
        }
        (ParamType::File, Value::Text(path)) if !path.is_empty() => Ok(file(folder, path)),
        _ => Err(wrong_type(ty, value)),
    }
}

/// A word from the command line as a value of type `ty`: separated by commas where the type is a list.
pub(crate) fn coerce_word(text: &str, ty: &ParamType, folder: &Path) -> Result<Value, Misfit> {
    let value = match ty {
        ParamType::List(of) => {
            let items: Result<Vec<_>, _> =
                text.split(',').map(|item| coerce_word(item, of, folder)).collect();
            return items.map(Value::List);
        }
        ParamType::Bool => bool_word(text),
        ParamType::FileOr(words) if !ParamType::is_word(words, text.trim()) => file_word(text.trim()),
        ParamType::Text | ParamType::Choice(_) | ParamType::File | ParamType::FileOr(_) => {
            Value::Text(unquoted(text.trim()).to_owned())
        }
        ParamType::Int { .. } | ParamType::Float { .. } => word(text),
    };
    match value {
        Value::File(path) => Ok(file(folder, &path.to_string_lossy())),
        other => coerce(&other, ty, folder),
    }
}

fn bool_word(text: &str) -> Value {
    match text.trim() {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        other => word(other),
    }
}

/// `(file)p` on the command line.
fn file_word(text: &str) -> Value {
    match text.strip_prefix("(file)") {
        Some(path) => Value::File(path.trim_matches('"').into()),
        None => Value::Text(unquoted(text).to_owned()),
    }
}

/// Where a word or a path may stand, a word has none of these; a folder beside the manifest is `./name`.
fn looks_like_a_path(text: &str) -> bool {
    text.contains(['/', '\\', '.'])
}

fn range(ty: &ParamType, value: &Value) -> Misfit {
    Misfit::Range { expected: ty.describe(), found: value.to_string() }
}

fn wrong_type(ty: &ParamType, value: &Value) -> Misfit {
    let help = match (ty, value) {
        (ParamType::Bool, Value::Text(text)) if text == "true" || text == "false" => {
            Some(format!("write `#{text}`"))
        }
        (ParamType::Text | ParamType::Choice(_) | ParamType::File, Value::Int(_) | Value::Float(_)) => {
            Some(format!("write it in quotes: `\"{value}\"`"))
        }
        (ParamType::Int { .. } | ParamType::Float { .. }, Value::Text(text)) => match word(text) {
            Value::Text(_) => None,
            number => Some(format!("write it without quotes: `{number}`")),
        },
        _ => None,
    };
    let found = match (ty, value) {
        (ParamType::Int { .. }, Value::Float(_)) => "a fraction",
        _ => value.type_name(),
    };
    Misfit::Type { expected: ty.describe(), found: found.to_owned(), help }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit(value: &Value, ty: &ParamType) -> Result<Value, Misfit> {
        coerce(value, ty, Path::new("/studies"))
    }

    #[test]
    fn spellings_of_one_value_are_one_value() {
        let number = ParamType::Float { min: 0.0, max: 1.0 };
        assert_eq!(fit(&Value::Int(1), &number), fit(&Value::Float(1.0), &number));
        let list = ParamType::list(ParamType::at_least(1));
        assert_eq!(fit(&Value::Int(8), &list), Ok(Value::List(vec![Value::Int(8)])));
        assert_eq!(fit(&Value::Text("a/b".into()), &ParamType::File), Ok(Value::File("/studies/a/b".into())));
    }

    #[test]
    fn misfits_are_told_apart() {
        assert!(matches!(fit(&Value::Int(0), &ParamType::at_least(1)), Err(Misfit::Range { .. })));
        assert!(matches!(fit(&Value::Text("1".into()), &ParamType::at_least(1)), Err(Misfit::Type { .. })));
        assert!(matches!(
            fit(&Value::Text("nf5".into()), &ParamType::Choice(&["nf4"])),
            Err(Misfit::Choice { .. })
        ));
        let quoted = fit(&Value::Text("true".into()), &ParamType::Bool).unwrap_err();
        assert_eq!(quoted.help().as_deref(), Some("write `#true`"));
    }

    #[test]
    fn words_of_the_command_line_follow_the_type() {
        let of = |text, ty: &ParamType| coerce_word(text, ty, Path::new("/studies"));
        assert_eq!(of("false", &ParamType::Bool), Ok(Value::Bool(false)));
        assert_eq!(of("#true", &ParamType::Bool), Ok(Value::Bool(true)));
        assert_eq!(of("16", &ParamType::Text), Ok(Value::Text("16".into())));
        let list = ParamType::list(ParamType::at_least(1));
        assert_eq!(of("1,8", &list), Ok(Value::List(vec![Value::Int(1), Value::Int(8)])));
        assert_eq!(
            of("(file)c.txt", &ParamType::FileOr(&["auto"])),
            Ok(Value::File("/studies/c.txt".into()))
        );
    }

    #[test]
    fn a_path_is_told_from_a_word_by_its_look() {
        let ty = ParamType::FileOr(&["tiny", "hub:*"]);
        let text = |text: &str| Value::Text(text.into());
        for word in ["tiny", "hub:org/name"] {
            assert_eq!(fit(&text(word), &ty), Ok(text(word)));
            assert_eq!(coerce_word(word, &ty, Path::new("/studies")), Ok(text(word)));
        }
        for path in ["m.gguf", "./m", "m/n"] {
            let file = Ok(Value::File(Path::new("/studies").join(path)));
            assert_eq!(fit(&text(path), &ty), file);
            assert_eq!(coerce_word(path, &ty, Path::new("/studies")), file);
        }
        for neither in ["tinny", "hub:", ""] {
            assert!(matches!(fit(&text(neither), &ty), Err(Misfit::Choice { .. })), "{neither}");
        }
    }
}
