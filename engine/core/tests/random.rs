//! No text makes the reader panic, overflow its stack or hang.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod fake;

use fake::read;
use proptest::prelude::*;

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
