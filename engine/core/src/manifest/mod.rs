//! Manifest text → expanded study, or every reason why not.
//!
//! | step | module | knows |
//! |---|---|---|
//! | text → KDL tree | `syntax` | bounds on nesting; one message per slip |
//! | other files | `include` | whose nodes stand where; spans across files are [`crate::sources`] |
//! | top level | `document` | header, version, which node is what |
//! | plugins | `plugin`, `plugin_words` | programs that bring stage types; before everything below |
//! | values | `scope`, `typed` | variables, paths, environment, units; declared types |
//! | stages | `defaults`, `policies`, `stages`, `template` | schemas, ports, cycles |
//! | overrides | `sets`, `groups` | `--set`; `ablate`, `sweep`, `run` |
//! | cells, nodes | [`crate::study`] | what each cell changes, which work is shared |
//!
//! Every step takes what the one before understood and adds its errors to one list, so a manifest with five slips
//! gives five messages. What follows from an error is not reported: a stage that was refused keeps its name, a
//! variable that was refused is not called unknown, and a misspelt parameter is not called missing too.
//!
//! Nothing is silently ignored: a node, argument or property that no step reads is an error.

mod defaults;
mod document;
mod error;
mod format;
mod groups;
mod include;
mod lexer;
mod load;
mod named;
mod near;
mod plugin;
mod plugin_values;
mod plugin_words;
mod policies;
mod report;
mod scope;
mod sets;
mod stages;
mod syntax;
mod template;
mod typed;

pub use error::{ManifestError, ManifestErrors};
pub use format::format;
pub use load::{LoadOptions, load_study};
pub use plugin::{DeclaredPlugin, load_plugins, read_plugins, why_taken, with_plugins_help};
pub use syntax::MAX_BYTES;

pub(crate) use error::Errors;
pub use near::nearest;
pub(crate) use near::suggest;
pub(crate) use scope::{BYTES, TIMES};

pub(crate) use groups::{Axis, Choice, Form, Group};
pub(crate) use stages::{Giver, StageDecl};
pub(crate) use template::{ParamPath, Template};
