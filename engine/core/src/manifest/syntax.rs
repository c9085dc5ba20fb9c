//! Text → KDL tree, with the bounds that untrusted text needs.
//!
//! The KDL parser recurses on blocks and nested comments, and some of its recoveries double the work per level: a
//! scan of the text refuses deep nesting, unmatched braces and forbidden characters before the parser sees them. The
//! parser also recurses once per piece of junk that it skips, so it runs on a thread whose stack is sized for a text
//! that is all junk, and the text's size is bounded.
//!
//! One slip makes the parser report several errors; the first one of each line is kept.

use kdl::{KdlDiagnostic, KdlDocument, KdlEntry, KdlError, KdlNode};
use miette::SourceSpan;

use super::error::{Checked, Errors, ManifestError};
use crate::graph::Span;

/// Longest text that reaches the parser, in bytes.
pub const MAX_BYTES: u64 = 1 << 20;

/// Stack of the parser: a base, and what a byte of junk costs at most (measured: 1.4 KiB, unoptimized).
const STACK_BASE: usize = 8 << 20;
const STACK_PER_BYTE: usize = 2 << 10;

/// Deepest nesting of blocks and comments that reaches the parser.
const MAX_DEPTH: usize = 16;

/// The syntax tree, or why there is none.
pub(crate) fn parse(text: &str, errors: &mut Errors) -> Option<KdlDocument> {
    if let Err(error) = bounded(text) {
        errors.push(*error);
        return None;
    }
    match parse_on_large_stack(text) {
        Ok(Ok(document)) => Some(document),
        Ok(Err(failure)) => {
            for error in syntax_errors(text, &failure.diagnostics) {
                errors.push(error);
            }
            None
        }
        Err(fault) => {
            errors.push(ManifestError::ParserFailed { fault });
            None
        }
    }
}

/// Refuses what the parser must not see, and texts that are certainly no manifests.
fn bounded(text: &str) -> Checked<()> {
    if text.len() as u64 > MAX_BYTES {
        return Err(Box::new(ManifestError::TooLarge { limit: MAX_BYTES }));
    }
    if !text.contains("qpipe") {
        let start = text.len() - text.trim_start().len();
        let line = text[start..].lines().next().map_or(0, str::len);
        return Err(Box::new(ManifestError::MissingHeader { span: SourceSpan::new(start.into(), line) }));
    }
    let forbidden = text.char_indices().find(|(at, letter)| *at > 0 && is_forbidden(*letter));
    if let Some((at, letter)) = forbidden {
        let (code, span) = (u32::from(letter), SourceSpan::new(at.into(), letter.len_utf8()));
        return Err(Box::new(ManifestError::ForbiddenCharacter { code, span }));
    }
    Scan::new(text).run()
}

/// Code points that KDL 2 forbids anywhere in a document (a byte order mark may begin it).
fn is_forbidden(letter: char) -> bool {
    matches!(letter, '\0'..='\u{8}' | '\u{e}'..='\u{1f}' | '\u{7f}' | '\u{200e}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// The parser's answer, or why it gave none.
fn parse_on_large_stack(text: &str) -> Result<Result<KdlDocument, KdlError>, String> {
    let stack = STACK_BASE + STACK_PER_BYTE * text.len();
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("manifest".into()).stack_size(stack);
        let parser = thread.spawn_scoped(scope, || KdlDocument::parse_v2(text));
        let parser = parser.map_err(|error| format!("no thread for it: {error}"))?;
        parser.join().map_err(|_| "it panicked, which is a defect of the KDL parser".to_owned())
    })
}

/// From the node's name to the end of its arguments: what a label underlines, without the block.
pub(crate) fn header_span(node: &KdlNode) -> Span {
    let start = node.name().span().offset();
    let end = node.entries().last().map_or(node.name().span(), KdlEntry::span);
    Span { offset: start, len: (end.offset() + end.len()).saturating_sub(start) }
}

pub(crate) fn name_span(node: &KdlNode) -> Span {
    from_source(node.name().span())
}

pub(crate) fn entry_span(entry: &KdlEntry) -> Span {
    from_source(entry.span())
}

/// The span of a property's name, or of an argument.
pub(crate) fn key_span(entry: &KdlEntry) -> Span {
    entry.name().map_or_else(|| entry_span(entry), |name| from_source(name.span()))
}

pub(crate) fn arguments(node: &KdlNode) -> impl Iterator<Item = &KdlEntry> {
    node.entries().iter().filter(|entry| entry.name().is_none())
}

/// Properties with their names, in order, duplicates included.
pub(crate) fn properties(node: &KdlNode) -> impl Iterator<Item = (&str, &KdlEntry)> {
    node.entries().iter().filter_map(|entry| entry.name().map(|name| (name.value(), entry)))
}

pub(crate) fn children(node: &KdlNode) -> &[KdlNode] {
    node.children().map_or(&[], KdlDocument::nodes)
}

fn from_source(span: SourceSpan) -> Span {
    Span { offset: span.offset(), len: span.len() }
}

/// The parser's diagnostics as ours: at most one per line, since one slip makes it report several.
fn syntax_errors(text: &str, diagnostics: &[KdlDiagnostic]) -> Vec<ManifestError> {
    // said again of the block's contents, after it was said of the block
    let repeats = |d: &&KdlDiagnostic| d.message.as_deref() == Some("Closing '}' was not found after nodes");
    let mut placed: Vec<(SourceSpan, &KdlDiagnostic)> =
        diagnostics.iter().filter(|d| !repeats(d)).map(|d| (place(text, d.span), d)).collect();
    placed.sort_by_key(|(span, diagnostic)| (span.offset(), diagnostic.message.is_none()));
    let mut last_line = None;
    placed.retain(|(span, _)| {
        let line = text[..span.offset()].matches('\n').count();
        last_line.replace(line) != Some(line)
    });
    placed.into_iter().map(|(span, diagnostic)| syntax_error(text, span, diagnostic)).collect()
}

fn syntax_error(text: &str, span: SourceSpan, diagnostic: &KdlDiagnostic) -> ManifestError {
    let message = diagnostic.message.as_deref().unwrap_or("this is not KDL");
    let mut letters = message.chars();
    let message =
        letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect());
    let keyword = text.get(span.offset()..span.offset() + span.len());
    let help = match keyword {
        Some(word @ ("true" | "false")) => Some(format!("write `#{word}`")),
        _ => diagnostic.help.clone(),
    };
    ManifestError::Syntax {
        message,
        label: diagnostic.label.clone().unwrap_or_else(|| "here".into()),
        span,
        help: help.or_else(|| Some("manifests are written in KDL 2, see kdl.dev".into())),
    }
}

/// A parser's span inside the text and within one line. A longer one begins where the parser last knew its way and
/// ends where it lost it, so its last character is the place.
fn place(text: &str, span: SourceSpan) -> SourceSpan {
    let mut end = (span.offset() + span.len()).min(text.len());
    let mut start = span.offset().min(end);
    if !text.is_char_boundary(start) || !text.is_char_boundary(end) {
        return SourceSpan::new(0.into(), 0);
    }
    if text[start..end].contains('\n') {
        end = start + text[start..end].trim_end().len();
        start = text[..end].char_indices().next_back().map_or(end, |(at, _)| at);
    }
    SourceSpan::new(start.into(), end - start)
}

/// Length of the string that begins `text`, raw ones included; `None` if none does.
pub(crate) fn string_len(text: &str) -> Option<usize> {
    let scan = Scan::new(text);
    if text.starts_with('"') { scan.string(0) } else { scan.raw_string() }
}

/// Finds nesting that the parser must not see. It knows strings and comments well enough to skip their braces; a
/// string that KDL would refuse is not skipped, since the parser recovers into its inside.
struct Scan<'a> {
    text: &'a [u8],
    at: usize,
    depth: usize,
}

impl<'a> Scan<'a> {
    fn new(text: &'a str) -> Self {
        Self { text: text.as_bytes(), at: 0, depth: 0 }
    }

    fn run(mut self) -> Checked<()> {
        while let Some(byte) = self.text.get(self.at) {
            match byte {
                b'{' => self.open()?,
                b'}' => self.close()?,
                b'"' => self.at += self.string(0).unwrap_or(1),
                b'#' => self.at += self.raw_string().unwrap_or(1),
                b'/' if self.starts_with(b"//") => self.at += self.to_newline(),
                b'/' if self.starts_with(b"/*") => self.at += self.comment()?,
                _ => self.at += 1,
            }
        }
        Ok(())
    }

    fn starts_with(&self, prefix: &[u8]) -> bool {
        self.text[self.at..].starts_with(prefix)
    }

    fn open(&mut self) -> Checked<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(too_deep(self.at));
        }
        self.at += 1;
        Ok(())
    }

    fn close(&mut self) -> Checked<()> {
        let Some(depth) = self.depth.checked_sub(1) else {
            return Err(Box::new(ManifestError::UnmatchedBrace { span: SourceSpan::new(self.at.into(), 1) }));
        };
        self.depth = depth;
        self.at += 1;
        Ok(())
    }

    fn to_newline(&self) -> usize {
        let rest = &self.text[self.at..];
        rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len())
    }

    /// Length of the string at the cursor, whose quotes are followed by `hashes` hash marks; `None` if KDL would
    /// refuse it.
    fn string(&self, hashes: usize) -> Option<usize> {
        let rest = &self.text[self.at + hashes..];
        let quotes = if rest.starts_with(b"\"\"\"") { 3 } else { 1 };
        let mut at = quotes;
        while at < rest.len() {
            match rest[at] {
                b'\\' if hashes == 0 => at += escape_len(&rest[at..])?,
                b'\n' if quotes == 1 => return None,
                b'"' if closes(&rest[at..], quotes, hashes) => return Some(hashes + at + quotes + hashes),
                _ => at += 1,
            }
        }
        None
    }

    fn raw_string(&self) -> Option<usize> {
        let hashes = self.text[self.at..].iter().take_while(|byte| **byte == b'#').count();
        (self.text.get(self.at + hashes) == Some(&b'"')).then(|| self.string(hashes)).flatten()
    }

    /// Length of the comment at the cursor; of its opening alone if it never ends.
    fn comment(&self) -> Checked<usize> {
        let rest = &self.text[self.at..];
        let (mut at, mut depth) = (2, 1);
        while at < rest.len() && depth > 0 {
            if rest[at..].starts_with(b"/*") {
                depth += 1;
                at += 2;
            } else if rest[at..].starts_with(b"*/") {
                depth -= 1;
                at += 2;
            } else {
                at += 1;
            }
            if depth > MAX_DEPTH {
                return Err(too_deep(self.at + at - 2));
            }
        }
        Ok(if depth == 0 { at } else { 2 })
    }
}

fn too_deep(at: usize) -> Box<ManifestError> {
    Box::new(ManifestError::TooDeep { limit: MAX_DEPTH, span: SourceSpan::new(at.into(), 1) })
}

fn closes(rest: &[u8], quotes: usize, hashes: usize) -> bool {
    rest.iter().take_while(|byte| **byte == b'"').count() >= quotes
        && rest[quotes..].iter().take_while(|byte| **byte == b'#').count() >= hashes
}

/// Length of the escape that begins `rest`; `None` if it is none.
fn escape_len(rest: &[u8]) -> Option<usize> {
    match rest.get(1)? {
        b'n' | b'r' | b't' | b'\\' | b'"' | b'b' | b'f' | b's' | b'u' | b' ' | b'\n' | b'\r' | b'\t' => {
            Some(2)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(text: &str) -> Checked<()> {
        Scan::new(text).run()
    }

    #[test]
    fn braces_in_strings_and_comments_do_not_count() {
        let braces = "{".repeat(40);
        for text in [
            format!("a \"{braces}\""),
            format!("a #\"{braces}\" {braces}\"#"),
            format!("a \"\"\"\n{braces}\n\"\"\""),
            format!("// {braces}\na"),
            format!("/* {braces} */ a"),
            "a \"\\\"}\"".to_owned(),
        ] {
            assert_eq!(scan(&text), Ok(()), "{text}");
        }
    }

    #[test]
    fn deep_and_unmatched_braces_are_refused() {
        assert!(matches!(*scan(&"a{".repeat(20)).unwrap_err(), ManifestError::TooDeep { .. }));
        assert!(matches!(*scan(&"/*".repeat(20)).unwrap_err(), ManifestError::TooDeep { .. }));
        assert!(matches!(*scan("a {} }").unwrap_err(), ManifestError::UnmatchedBrace { .. }));
        let in_broken_string = format!("a \"\\q {}", "b {".repeat(20));
        assert!(matches!(*scan(&in_broken_string).unwrap_err(), ManifestError::TooDeep { .. }));
    }

    #[test]
    fn one_slip_gives_one_message() {
        let mut errors = Errors::default();
        assert!(parse("qpipe 1 name=x\nload base {\n  from embedded=\"tiny\n}\n", &mut errors).is_none());
        assert!(errors.len() <= 2, "{errors:?}");
    }

    #[test]
    fn a_text_of_junk_does_not_overflow_the_stack() {
        for junk in ["a {}", ")", "\"", "=", "\"\"", "(var)"] {
            let mut errors = Errors::default();
            let text = format!("qpipe {}", junk.repeat(8_000 / junk.len()));
            assert!(parse(&text, &mut errors).is_none(), "{junk}");
            assert!(!errors.is_empty(), "{junk}");
        }
    }

    #[test]
    fn forbidden_and_oversized_texts_are_refused() {
        assert!(matches!(
            *bounded("qpipe \u{0}").unwrap_err(),
            ManifestError::ForbiddenCharacter { code: 0, .. }
        ));
        assert!(bounded("\u{feff}qpipe").is_ok());
        assert!(matches!(*bounded(&"qpipe ".repeat(200_000)).unwrap_err(), ManifestError::TooLarge { .. }));
    }
}
