//! No text makes the reader panic, overflow its stack or hang.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod fake;

use std::path::Path;

use fake::read;
use proptest::prelude::*;
use qpipe_engine::manifest::{ManifestError, format};

/// The example of the design, without what is not supported yet.
const ABLATION: &str = include_str!("fake/ablation.kdl");

/// Pieces that mean something to the reader or to the parser below it.
const PIECES: [&str; 24] = [
    "{",
    "}",
    "\"",
    "\"\"\"",
    "#\"",
    "\"#",
    "/-",
    "/*",
    "*/",
    "//",
    "\\",
    "\n",
    ";",
    "=",
    "(var)",
    "(file)",
    "(GiB)",
    "#true",
    "#null",
    "99999999999999999999",
    "weights.scheme",
    "vary ",
    "run baseline {",
    "\u{feff}",
];

/// An edit of the example: remove `len` bytes at `at`, and put a piece there.
fn edited(edits: &[(usize, usize, usize)]) -> String {
    let mut text = ABLATION.to_owned();
    for (at, len, piece) in edits {
        let start = floor(&text, at % (text.len() + 1));
        let end = floor(&text, (start + len).min(text.len()));
        text.replace_range(start..end, PIECES[piece % PIECES.len()]);
    }
    text
}

/// The nearest character boundary at or before `at`.
fn floor(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// A random manifest that is valid: stages in a chain, variables, defaults, groups, comments, odd white space.
fn valid_manifest() -> impl Strategy<Value = String> {
    let space = prop::sample::select(vec!["  ", "\t", " /* c */ ", " \\\n  ", " "]);
    let end = prop::sample::select(vec![
        "\n",
        ";",
        " // note\n",
        "\n\n\n",
        "\r\n",
        "\n// alone\n",
        "\n/- x 1 { y }\n",
    ]);
    let scheme = prop::sample::select(vec!["nf4", "fp4"]);
    let (block, limit) = (32_i64..4096, 1_i64..100_000);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (space, end, scheme, block, limit, flags).prop_map(|(space, end, scheme, block, limit, flags)| {
        let (defaults, ablate, own_line) = flags;
        let open = if own_line { "{\n" } else { "{" };
        let defaults = if defaults { format!("defaults {open} failure keep-going; load {{ dtype bf16 }}{end}}}{end}") } else { String::new() };
        let group = if ablate {
            format!("ablate a {open}vary{space}weights.compute-dtype f32{end}}}{end}")
        } else {
            format!("sweep s {open} axis weights.scheme.block 64{space}128 {block}1{end}}}{end}")
        };
        let group = if block < 400 || ablate { group } else { String::new() };
        format!(
            "qpipe{space}1 name=\"x\"{end}vars {{ n {limit}{end}}}{end}{defaults}load base{space}{open}from embedded{eq}tiny{end}}}{end}\
             quantize weights {open}model base{end}scheme{space}{scheme} block={block}{end}}}{end}\
             evaluate e {{ model weights; task boolq limit=(var)n{end}}}{end}{group}",
            eq = if own_line { " = " } else { "=" },
        )
    })
}

/// What a study means, without the places in its text.
fn meaning(text: &str) -> Option<String> {
    let study = read(text, &[]).ok()?;
    let nodes: Vec<_> =
        study.nodes.iter().map(|n| (&n.kind, &n.stage, &n.label, &n.params, &n.inputs)).collect();
    let cells: Vec<_> = study.cells.iter().map(|c| (&c.name, &c.group, &c.nodes)).collect();
    Some(format!("{} {:?} {:?} {nodes:?} {cells:?}", study.name, study.report, study.failure))
}

fn formatted(text: &str) -> Option<String> {
    let result = format(Path::new("/studies/study.kdl"), text);
    if let Err(errors) = &result {
        let failed = errors.errors().iter().any(|error| matches!(error, ManifestError::FormatFailed {}));
        assert!(!failed, "cannot be laid out: {text:?}");
    }
    result.ok()
}

/// Formats a text; if it can be, then once is enough and nothing changes its meaning.
fn keeps_its_meaning(text: &str) {
    let Some(once) = formatted(text) else { return };
    assert_eq!(formatted(&once).as_deref(), Some(once.as_str()), "not idempotent: {text:?}");
    assert_eq!(meaning(text), meaning(&once), "{text:?}");
}

/// Reads a text; whatever is refused must also render.
fn survives(text: &str) {
    if let Err(errors) = read(text, &[]) {
        assert!(!errors.errors().is_empty(), "refused without a reason: {text:?}");
        let mut rendered = String::new();
        miette::NarratableReportHandler::new().render_report(&mut rendered, &errors).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        survives(&String::from_utf8_lossy(&bytes));
        survives(&format!("qpipe 1 name=x\n{}", String::from_utf8_lossy(&bytes)));
    }

    #[test]
    fn random_words(words in prop::collection::vec(0..PIECES.len(), 0..60)) {
        let text: String = words.into_iter().map(|word| PIECES[word]).collect();
        survives(&format!("qpipe 1 name=x\n{text}"));
    }

    #[test]
    fn edited_manifests(edits in prop::collection::vec((any::<usize>(), 0..40_usize, any::<usize>()), 1..6)) {
        survives(&edited(&edits));
    }

    #[test]
    fn formatting_is_idempotent_and_keeps_the_meaning(text in valid_manifest()) {
        prop_assert!(meaning(&text).is_some(), "{text}\n{:?}", read(&text, &[]).err());
        prop_assert!(formatted(&text).is_some(), "{text}");
        keeps_its_meaning(&text);
    }

    #[test]
    fn formatting_survives_any_text(
        edits in prop::collection::vec((any::<usize>(), 0..20_usize, any::<usize>()), 0..4),
        words in prop::collection::vec(0..PIECES.len(), 0..20),
    ) {
        keeps_its_meaning(&edited(&edits));
        let text: String = words.into_iter().map(|word| PIECES[word]).collect();
        keeps_its_meaning(&format!("qpipe 1 name=x\n{text}"));
    }

    #[test]
    fn random_sets(name in "[a-z.]{0,12}|weights\\.scheme(\\.block)?|samples", value in ".{0,20}") {
        let _ = read(ABLATION, &[(&name, &value)]);
    }
}

#[test]
fn repeated_pieces() {
    for piece in PIECES.iter().chain(&[")", "(", "a{", "/-{", "a /-{", "a {}", "} a", "a \"\\q {"]) {
        survives(&piece.repeat(2_000));
        survives(&format!("qpipe 1 name=x\n{}", piece.repeat(500)));
    }
}
