//! `qpipe fmt`: one layout for manifests, made by moving white space in the original text.
//!
//! The text is never printed from its tree: a printer would lose comments, and spellings that someone chose. So only
//! indentation, blank lines and the spaces between words change, and what is inside a string or a comment never does.
//! The result is read again and compared, so a text that this module misunderstands is refused, not damaged.
//!
//! | what | becomes |
//! |---|---|
//! | indentation | four spaces per open block, and four more after a `\` |
//! | blank lines | one at most; none at a block's or the text's begin and end |
//! | spaces between words | one; none around `=` and before `;` |
//! | spaces before a `//` at a line's end | as they are, at least one: comments may be aligned |
//! | a block on one line | stays on one line |

use std::path::Path;

use kdl::{KdlDocument, KdlEntry, KdlNode};

use super::error::{Errors, ManifestError, ManifestErrors};
use super::lexer::{Lexer, Token};
use super::syntax;
use crate::sources::Sources;

const INDENT: &str = "    ";

/// The text in its one layout. Formatting it again changes nothing.
///
/// # Errors
/// What is wrong with the text as KDL; whether it is a meaningful manifest is not asked.
pub fn format(path: &Path, text: &str) -> Result<String, ManifestErrors> {
    let mut errors = Errors::default();
    let formatted = syntax::parse(text, &mut errors).and_then(|tree| {
        let formatted = laid_out(text);
        let again = syntax::parse(&formatted, &mut Errors::default());
        if again.is_some_and(|again| same_nodes(&tree, &again)) {
            return Some(formatted);
        }
        errors.push(ManifestError::FormatFailed {});
        None
    });
    formatted.ok_or_else(|| errors.into_report(Sources::new(path, text)))
}

fn laid_out(text: &str) -> String {
    let mut layout = Layout::default();
    for token in Lexer::new(text.strip_prefix('\u{feff}').unwrap_or(text)) {
        layout.token(token);
    }
    layout.finish()
}

/// What the last token was, as far as the space after it depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Before {
    #[default]
    LineStart,
    Word,
    Open,
    Close,
    Equals,
    Semicolon,
    Slashdash,
    Continuation,
}

#[derive(Default)]
struct Layout<'t> {
    out: String,
    before: Before,
    space: &'t str,
    depth: usize,
    /// Empty lines since the last line with text.
    blank: usize,
    /// Whether the last line with text opened a block at its end.
    opened: bool,
    /// Whether the last line ended with a `\`.
    continued: bool,
}

impl<'t> Layout<'t> {
    fn token(&mut self, token: Token<'t>) {
        match token {
            Token::Space(space) => self.space = space,
            Token::Newline => self.newline(),
            Token::Open => self.emit("{", Before::Open, &token),
            Token::Close => {
                self.depth = self.depth.saturating_sub(1);
                self.emit("}", Before::Close, &token);
            }
            Token::Equals => self.emit("=", Before::Equals, &token),
            Token::Semicolon => self.emit(";", Before::Semicolon, &token),
            Token::Slashdash => self.emit("/-", Before::Slashdash, &token),
            Token::Continuation => self.emit("\\", Before::Continuation, &token),
            Token::Word(text) => self.emit(text, Before::Word, &token),
            Token::LineComment(text) => {
                let before = if self.before == Before::Continuation { self.before } else { Before::Word };
                self.emit(text.trim_end(), before, &token);
            }
        }
        if token == Token::Open {
            self.depth += 1;
        }
    }

    fn newline(&mut self) {
        if self.before == Before::LineStart {
            self.blank += 1;
            self.continued = false;
        } else {
            self.opened = self.before == Before::Open;
            self.continued = self.before == Before::Continuation;
            self.out.push('\n');
            self.blank = 0;
        }
        (self.before, self.space) = (Before::LineStart, "");
    }

    fn emit(&mut self, text: &str, now: Before, token: &Token<'t>) {
        if self.before == Before::LineStart {
            self.start_line(token);
        } else {
            self.separate(token);
        }
        self.out.push_str(text);
        (self.before, self.space) = (now, "");
    }

    fn start_line(&mut self, token: &Token<'t>) {
        let at_edge = self.out.is_empty() || self.opened || *token == Token::Close;
        if self.blank > 0 && !at_edge {
            self.out.push('\n');
        }
        self.blank = 0;
        let level = self.depth + usize::from(self.continued);
        self.out.extend(std::iter::repeat_n(INDENT, level));
    }

    /// The space between two tokens of one line.
    fn separate(&mut self, token: &Token<'t>) {
        let space = match (self.before, token) {
            (_, Token::LineComment(_)) if self.space.is_empty() => " ",
            (_, Token::LineComment(_)) => self.space,
            (Before::Equals, _) | (_, Token::Equals | Token::Semicolon) | (Before::Open, Token::Close) => "",
            (Before::Slashdash, _) if self.space.is_empty() => "",
            (Before::Open | Before::Close | Before::Semicolon, _) | (_, Token::Open | Token::Close) => " ",
            _ if self.space.is_empty() => "",
            _ => " ",
        };
        self.out.push_str(space);
    }

    fn finish(mut self) -> String {
        self.out.truncate(self.out.trim_end_matches('\n').len());
        if !self.out.is_empty() {
            self.out.push('\n');
        }
        self.out
    }
}

/// Whether two trees mean the same, wherever their words stand.
fn same_nodes(a: &KdlDocument, b: &KdlDocument) -> bool {
    a.nodes().len() == b.nodes().len() && a.nodes().iter().zip(b.nodes()).all(|(a, b)| same_node(a, b))
}

fn same_node(a: &KdlNode, b: &KdlNode) -> bool {
    let types = a.ty().map(kdl::KdlIdentifier::value) == b.ty().map(kdl::KdlIdentifier::value);
    let entries = a.entries().len() == b.entries().len()
        && a.entries().iter().zip(b.entries()).all(|(a, b)| same_entry(a, b));
    let children = match (a.children(), b.children()) {
        (None, None) => true,
        (Some(a), Some(b)) => same_nodes(a, b),
        _ => false,
    };
    types && entries && children && a.name().value() == b.name().value()
}

fn same_entry(a: &KdlEntry, b: &KdlEntry) -> bool {
    let words = |entry: &KdlEntry| {
        let word = |known: Option<&kdl::KdlIdentifier>| known.map(|known| known.value().to_owned());
        (word(entry.name()), word(entry.ty()))
    };
    words(a) == words(b) && a.value() == b.value()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn formatted(text: &str) -> String {
        let once = format(Path::new("a.kdl"), text).unwrap();
        assert_eq!(format(Path::new("a.kdl"), &once).unwrap(), once, "not idempotent");
        once
    }

    #[test]
    fn white_space_has_one_layout() {
        let text = "\n\nqpipe   1 name = x \r\nload base{\n\n  from   embedded=tiny;dtype f16 ;\n\n\n\n\tdtype f16\n\n}\n\n\nvars {a 1;b 2}\nload c {}";
        let expected = "qpipe 1 name=x\nload base {\n    from embedded=tiny; dtype f16;\n\n    dtype f16\n}\n\nvars { a 1; b 2 }\nload c {}\n";
        assert_eq!(formatted(text), expected);
    }

    #[test]
    fn comments_stay_where_they_are() {
        let text = "qpipe 1 name=x      // the study\n// base\nload base { from embedded=tiny } // one line\n/* a\n   b */ vars { /- a 1\n b /* c */ 2\n// end\n}\n";
        let expected = "qpipe 1 name=x      // the study\n// base\nload base { from embedded=tiny } // one line\n/* a\n   b */ vars { /- a 1\n    b /* c */ 2\n    // end\n}\n";
        assert_eq!(formatted(text), expected);
    }

    #[test]
    fn strings_are_not_touched() {
        let text = "qpipe 1 name=\"x  {\"\nvars {\n a \"\"\"\n   two  lines {\n   here\n   \"\"\" b\n c #\"raw \"  { \"#\n}\n";
        let expected = "qpipe 1 name=\"x  {\"\nvars {\n    a \"\"\"\n   two  lines {\n   here\n   \"\"\" b\n    c #\"raw \"  { \"#\n}\n";
        assert_eq!(formatted(text), expected);
    }

    #[test]
    fn a_continued_line_is_indented() {
        let text = "qpipe 1 \\ // goes on\nname=x\nload a {\nfrom \\\nembedded=tiny\n}\n";
        let expected = "qpipe 1 \\ // goes on\n    name=x\nload a {\n    from \\\n        embedded=tiny\n}\n";
        assert_eq!(formatted(text), expected);
    }

    #[test]
    fn a_broken_text_is_refused_with_its_place() {
        let errors = format(Path::new("a.kdl"), "qpipe 1 name=x\nload base {").unwrap_err();
        assert!(matches!(errors.errors(), [ManifestError::Syntax { .. }]), "{errors:?}");
    }
}
