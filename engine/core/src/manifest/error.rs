//! Why a manifest was refused: one variant per reason, each with a stable code, the place in the text, and what to
//! do about it.
//!
//! All reasons found are reported together in [`ManifestErrors`], which owns the text; the single errors carry
//! spans only. A reason that merely follows from another one is never reported: whoever pushes an error decides
//! whether it is a cause (see [`super::stages`] for how names of broken stages stay known).

use std::collections::HashSet;

use miette::{Diagnostic, LabeledSpan, SourceSpan};

use crate::graph::Span;
use crate::sources::Sources;

impl From<Span> for SourceSpan {
    fn from(span: Span) -> Self {
        Self::new(span.offset.into(), span.len)
    }
}

/// Everything that is wrong with a manifest, with its text and those it includes.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[error("`{path}` has {} error{}", errors.len(), if errors.len() == 1 { "" } else { "s" })]
#[diagnostic(code(qpipe::manifest))]
pub struct ManifestErrors {
    path: String,
    #[source_code]
    sources: Sources,
    #[related]
    errors: Vec<ManifestError>,
}

impl ManifestErrors {
    /// At least one error, in the order of their places in the text.
    pub fn errors(&self) -> &[ManifestError] {
        &self.errors
    }

    pub(super) fn errors_mut(&mut self) -> &mut [ManifestError] {
        &mut self.errors
    }
}

/// A result whose error is on the heap: errors are large, and rare.
pub(crate) type Checked<T> = Result<T, Box<ManifestError>>;

/// Collects errors, each once.
#[derive(Debug, Default)]
pub(crate) struct Errors {
    list: Vec<ManifestError>,
    seen: HashSet<String>,
}

impl Errors {
    pub(crate) fn push(&mut self, error: ManifestError) {
        if self.seen.insert(format!("{error:?}")) {
            self.list.push(error);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The errors with the text they point into, ordered by place; those of the command line come first.
    pub(crate) fn into_report(self, sources: Sources) -> ManifestErrors {
        let mut errors = self.list;
        errors.sort_by_key(ManifestError::offset);
        let path = sources.root().path.display().to_string();
        ManifestErrors { path, sources, errors }
    }

    pub(crate) fn into_list(self) -> Vec<ManifestError> {
        self.list
    }
}

/// One reason to refuse a manifest. `span` is the place to change; a second span is the other side of a conflict.
#[derive(Clone, Debug, PartialEq, thiserror::Error, Diagnostic)]
pub enum ManifestError {
    // ---- the text
    #[error("{message}")]
    #[diagnostic(code(qpipe::manifest::syntax))]
    Syntax {
        message: String,
        label: String,
        #[label("{label}")]
        span: SourceSpan,
        #[help]
        help: Option<String>,
    },
    #[error("the manifest has more than {limit} bytes")]
    #[diagnostic(code(qpipe::manifest::too_large), help("name fewer values, or split the study"))]
    TooLarge { limit: u64 },
    #[error("the character U+{code:04X} is not allowed")]
    #[diagnostic(code(qpipe::manifest::forbidden_character), help("remove this invisible character"))]
    ForbiddenCharacter {
        code: u32,
        #[label("here")]
        span: SourceSpan,
    },
    #[error("the text could not be parsed: {fault}")]
    #[diagnostic(code(qpipe::manifest::parser_failed))]
    ParserFailed { fault: String },
    #[error("the text cannot be laid out without changing what it means, so it is left as it is")]
    #[diagnostic(code(qpipe::manifest::format_failed))]
    FormatFailed {},
    #[error("nodes or comments are nested more than {limit} deep")]
    #[diagnostic(code(qpipe::manifest::too_deep), help("no manifest needs more than four levels"))]
    TooDeep {
        limit: usize,
        #[label("this level is too deep")]
        span: SourceSpan,
    },
    #[error("unexpected `}}`")]
    #[diagnostic(code(qpipe::manifest::unmatched_brace), help("remove it, or add the `{{` it should close"))]
    UnmatchedBrace {
        #[label("closes nothing")]
        span: SourceSpan,
    },

    // ---- the header
    #[error("the manifest does not begin with `qpipe 1 name=…`")]
    #[diagnostic(
        code(qpipe::manifest::missing_header),
        help("begin with a line like `qpipe 1 name=my-study`")
    )]
    MissingHeader {
        #[label("expected the header here")]
        span: SourceSpan,
    },
    #[error("the header `qpipe` must come first")]
    #[diagnostic(code(qpipe::manifest::misplaced_header), help("move this line to the top"))]
    MisplacedHeader {
        #[label("header")]
        span: SourceSpan,
        #[label("this stands before it")]
        first: SourceSpan,
    },
    #[error("manifest version {found} is not supported; this program reads version 1")]
    #[diagnostic(code(qpipe::manifest::unsupported_version))]
    UnsupportedVersion {
        found: i64,
        #[label("version")]
        span: SourceSpan,
        #[help]
        help: Option<String>,
    },
    #[error("the study has no name")]
    #[diagnostic(code(qpipe::manifest::missing_study_name), help("add `name=my-study`"))]
    MissingStudyName {
        #[label("no `name` here")]
        span: SourceSpan,
    },

    // ---- includes
    #[error("cannot include `{path}`: {reason}")]
    #[diagnostic(
        code(qpipe::manifest::unreadable_include),
        help("paths are relative to the file that includes")
    )]
    UnreadableInclude {
        path: String,
        reason: String,
        #[label("included here")]
        span: SourceSpan,
    },
    #[error("manifests include each other in a circle: {path}")]
    #[diagnostic(code(qpipe::manifest::include_cycle), help("remove one of these includes"))]
    IncludeCycle {
        path: String,
        #[label(collection)]
        links: Vec<LabeledSpan>,
    },
    #[error("the manifest includes more than {limit} files")]
    #[diagnostic(code(qpipe::manifest::too_many_includes), help("put what belongs together into one file"))]
    TooManyIncludes {
        limit: usize,
        #[label("one too many")]
        span: SourceSpan,
    },

    // ---- shape
    #[error("unknown stage type or section `{name}`")]
    #[diagnostic(code(qpipe::manifest::unknown_stage))]
    UnknownStage {
        name: String,
        #[label("not known")]
        span: SourceSpan,
        #[help]
        help: Option<String>,
    },
    #[error("unknown `{name}` in `{parent}`")]
    #[diagnostic(code(qpipe::manifest::unknown_parameter))]
    UnknownParameter {
        parent: String,
        name: String,
        #[label("not known here")]
        span: SourceSpan,
        #[help]
        help: Option<String>,
    },
    #[error("`{node}` has no property `{name}`")]
    #[diagnostic(code(qpipe::manifest::unknown_property))]
    UnknownProperty {
        node: String,
        name: String,
        #[label("not known here")]
        span: SourceSpan,
        #[help]
        help: Option<String>,
    },
    #[error("`{node}` takes {takes}")]
    #[diagnostic(code(qpipe::manifest::unexpected_argument))]
    UnexpectedArgument {
        node: String,
        takes: String,
        #[label("too much")]
        span: SourceSpan,
        #[help]
        help: Option<String>,
    },
    #[error("`{node}` takes no block of children")]
    #[diagnostic(code(qpipe::manifest::unexpected_block))]
    UnexpectedBlock {
        node: String,
        #[label("this node")]
        span: SourceSpan,
        #[help]
        help: Option<String>,
    },
    #[error("`{node}` needs {needs}")]
    #[diagnostic(code(qpipe::manifest::missing_argument))]
    MissingArgument {
        node: String,
        needs: String,
        #[label("here")]
        span: SourceSpan,
        #[help]
        help: Option<String>,
    },
    #[error("`{name}` cannot be the name of {what}")]
    #[diagnostic(
        code(qpipe::manifest::invalid_name),
        help("names are made of `a`-`z`, `0`-`9`, `_` and `-`, and begin with a letter or digit")
    )]
    InvalidName {
        what: &'static str,
        name: String,
        #[label("rename this")]
        span: SourceSpan,
    },
    #[error("`{port}` is an input of `{kind}`, and inputs have no defaults")]
    #[diagnostic(code(qpipe::manifest::input_default), help("every stage names its inputs itself"))]
    InputDefault {
        port: String,
        kind: String,
        #[label("an input, not a parameter")]
        span: SourceSpan,
    },
    #[error("plugin `{name}` cannot be used: {reason}")]
    #[diagnostic(code(qpipe::manifest::plugin))]
    Plugin {
        name: String,
        reason: String,
        #[label("declared here")]
        span: SourceSpan,
        #[help]
        help: Option<String>,
    },
    #[error("the content of plugin `{name}` is {found}, not {expected}")]
    #[diagnostic(
        code(qpipe::manifest::plugin_digest),
        help("look at what changed in its files; if it is as it should be, write `{found}` here")
    )]
    PluginDigest {
        name: String,
        expected: String,
        found: String,
        #[label("not its content")]
        span: SourceSpan,
    },
    #[error("{what} is not supported yet")]
    #[diagnostic(code(qpipe::manifest::not_supported))]
    NotSupported {
        what: String,
        #[label("remove this")]
        span: SourceSpan,
        #[help]
        help: Option<String>,
    },

    // ---- duplicates
    #[error("{what} `{name}` stands twice")]
    #[diagnostic(code(qpipe::manifest::duplicate))]
    Duplicate {
        what: &'static str,
        name: String,
        #[label("again here")]
        span: SourceSpan,
        #[label("first here")]
        first: SourceSpan,
        #[help]
        help: Option<String>,
    },
    #[error("the cell name `baseline` is taken")]
    #[diagnostic(
        code(qpipe::manifest::reserved_name),
        help("`baseline` is the cell without overrides; choose another name")
    )]
    ReservedName {
        #[label("rename this")]
        span: SourceSpan,
    },

    // ---- values
    #[error("unknown variable `{name}`")]
    #[diagnostic(code(qpipe::manifest::unknown_variable))]
    UnknownVariable {
        name: String,
        #[label("not defined above")]
        span: SourceSpan,
        #[help]
        help: Option<String>,
    },
    #[error("the environment variable `{name}` is not set")]
    #[diagnostic(
        code(qpipe::manifest::unset_environment),
        help("set it before the run, or write the value here")
    )]
    UnsetEnvironment {
        name: String,
        #[label("read here")]
        span: SourceSpan,
    },
    #[error("unknown type annotation `({name})`")]
    #[diagnostic(code(qpipe::manifest::unknown_annotation))]
    UnknownAnnotation {
        name: String,
        #[label("not known")]
        span: SourceSpan,
        #[help]
        help: Option<String>,
    },
    #[error("`({annotation})` takes {takes}")]
    #[diagnostic(code(qpipe::manifest::bad_annotation))]
    BadAnnotation {
        annotation: String,
        takes: &'static str,
        #[label("not {takes}")]
        span: SourceSpan,
    },
    #[error("{reason}")]
    #[diagnostic(code(qpipe::manifest::bad_value))]
    BadValue {
        reason: String,
        #[label("this value")]
        span: SourceSpan,
        #[help]
        help: Option<String>,
    },
    #[error("`{param}` takes {expected}, not {found}")]
    #[diagnostic(code(qpipe::manifest::wrong_type))]
    WrongType {
        param: String,
        expected: String,
        found: String,
        #[label("{found}")]
        span: SourceSpan,
        #[label("from this variable")]
        variable: Option<SourceSpan>,
        #[help]
        help: Option<String>,
    },
    #[error("`{param}` takes {expected}; {found} is out of range")]
    #[diagnostic(code(qpipe::manifest::out_of_range))]
    OutOfRange {
        param: String,
        expected: String,
        found: String,
        #[label("out of range")]
        span: SourceSpan,
        #[label("from this variable")]
        variable: Option<SourceSpan>,
    },
    #[error("`{value}` is no choice of `{param}`")]
    #[diagnostic(code(qpipe::manifest::unknown_choice))]
    UnknownChoice {
        param: String,
        value: String,
        #[label("not a choice")]
        span: SourceSpan,
        #[label("from this variable")]
        variable: Option<SourceSpan>,
        #[help]
        help: Option<String>,
    },

    // ---- the template graph
    #[error("there is no stage in this manifest")]
    #[diagnostic(code(qpipe::manifest::no_stage))]
    NoStage {
        #[label("nothing to run")]
        span: SourceSpan,
        #[help]
        help: Option<String>,
    },
    #[error("stage `{stage}` needs `{param}`")]
    #[diagnostic(code(qpipe::manifest::missing_parameter))]
    MissingParameter {
        stage: String,
        param: String,
        #[label("`{param}` is missing")]
        span: SourceSpan,
        #[label("needed because of this")]
        because: Option<SourceSpan>,
        #[help]
        help: Option<String>,
    },
    #[error("input `{port}` of stage `{stage}` is not connected")]
    #[diagnostic(code(qpipe::manifest::missing_input))]
    MissingInput {
        stage: String,
        port: String,
        #[label("needs `{port} STAGE`")]
        span: SourceSpan,
        #[help]
        help: Option<String>,
    },
    #[error("unknown stage `{name}`")]
    #[diagnostic(code(qpipe::manifest::unknown_stage_name))]
    UnknownStageName {
        name: String,
        #[label("no stage has this name")]
        span: SourceSpan,
        #[help]
        help: Option<String>,
    },
    #[error("input `{port}` takes a stage that makes `{expected}`, but `{name}` makes `{found}`")]
    #[diagnostic(code(qpipe::manifest::wrong_artifact))]
    WrongArtifact {
        port: String,
        name: String,
        expected: String,
        found: String,
        #[label("wrong kind of stage")]
        span: SourceSpan,
        #[label("makes `{found}`")]
        producer: SourceSpan,
        #[help]
        help: Option<String>,
    },
    #[error("stages depend on each other in a circle: {path}")]
    #[diagnostic(code(qpipe::manifest::cycle), help("remove one of these inputs"))]
    Cycle {
        path: String,
        #[label(collection)]
        links: Vec<LabeledSpan>,
    },
    #[error("`{param}` does not apply here: {rule}")]
    #[diagnostic(code(qpipe::manifest::inapplicable))]
    Inapplicable {
        param: String,
        rule: String,
        #[label("has no effect")]
        span: SourceSpan,
        #[label("because of this")]
        because: Option<SourceSpan>,
        #[help]
        help: Option<String>,
    },
    #[error("`{path}`: {message}")]
    #[diagnostic(code(qpipe::manifest::stage_rule))]
    StageRule {
        /// The stage's name and the dotted path the rule is about.
        path: String,
        message: String,
        kind: &'static str,
        #[label("this breaks a rule of `{kind}`")]
        span: SourceSpan,
        #[label("the rule is about this")]
        about: Option<SourceSpan>,
    },

    // ---- cells
    #[error("this cell varies nothing: `{param}` is `{value}` in the baseline already")]
    #[diagnostic(
        code(qpipe::manifest::varies_nothing),
        help("an ablation's cell differs from the baseline in exactly one variable; remove this value")
    )]
    VariesNothing {
        param: String,
        value: String,
        #[label("equals the baseline")]
        span: SourceSpan,
        #[label("the baseline's value")]
        baseline: SourceSpan,
    },
    #[error("this cell varies more than one variable: {params}")]
    #[diagnostic(
        code(qpipe::manifest::varies_many),
        help(
            "an ablation's cell differs from the baseline in exactly one variable; use `run` or `sweep` instead"
        )
    )]
    VariesMany {
        params: String,
        #[label("this override")]
        span: SourceSpan,
        #[label("the baseline's value")]
        baseline: SourceSpan,
    },
    #[error("`{path}` is no parameter of this study")]
    #[diagnostic(code(qpipe::manifest::unknown_path))]
    UnknownPath {
        path: String,
        #[label("not known")]
        span: SourceSpan,
        #[help]
        help: Option<String>,
    },
    #[error("`{path}` is an input of stage `{stage}`, and inputs cannot be overridden")]
    #[diagnostic(
        code(qpipe::manifest::input_override),
        help("declare a second stage with the other input instead")
    )]
    InputOverride {
        path: String,
        stage: String,
        #[label("an input, not a parameter")]
        span: SourceSpan,
    },
    #[error("`{kind} {name}` is empty")]
    #[diagnostic(code(qpipe::manifest::empty_group))]
    EmptyGroup {
        kind: &'static str,
        name: String,
        #[label("no cells come from this")]
        span: SourceSpan,
        #[help]
        help: Option<String>,
    },
    #[error("`sweep {name}` has more than {limit} cells")]
    #[diagnostic(code(qpipe::manifest::too_many_cells), help("split it, or remove values"))]
    TooManyCells {
        name: String,
        limit: usize,
        #[label("the cross product is too large")]
        span: SourceSpan,
    },
    #[error("`exclude` names `{what}`, which this sweep does not have")]
    #[diagnostic(code(qpipe::manifest::excludes_nothing))]
    ExcludesNothing {
        what: String,
        #[label("excludes nothing")]
        span: SourceSpan,
        #[help]
        help: Option<String>,
    },

    // ---- the command line
    #[error("`--set {key}`: {reason}")]
    #[diagnostic(code(qpipe::manifest::bad_set))]
    BadSet {
        key: String,
        reason: String,
        #[help]
        help: Option<String>,
    },
}

impl ManifestError {
    /// An error of the text alone, as the error of a text that begins at `base`.
    pub(crate) fn moved(mut self, base: usize) -> Self {
        if let Self::Syntax { span, .. }
        | Self::ForbiddenCharacter { span, .. }
        | Self::TooDeep { span, .. }
        | Self::UnmatchedBrace { span }
        | Self::MissingHeader { span } = &mut self
        {
            *span = SourceSpan::new((span.offset() + base).into(), span.len());
        }
        self
    }

    /// Where the first label of the error stands; errors of the command line stand nowhere, before everything.
    pub fn offset(&self) -> Option<usize> {
        self.labels().and_then(|mut labels| labels.next()).map(|label| label.offset())
    }
}
