//! The words of a KDL text that parses, as far as layout needs them: everything that is not white space is either
//! punctuation or a word whose inside is nobody's business.

use super::syntax::string_len;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token<'t> {
    Space(&'t str),
    Newline,
    Open,
    Close,
    Equals,
    Semicolon,
    /// `/-`
    Slashdash,
    /// `\` at the end of a line.
    Continuation,
    /// A name, a number, a string, a `(type)`, or a `/* comment */`.
    Word(&'t str),
    /// `// …` without the end of the line.
    LineComment(&'t str),
}

pub(crate) struct Lexer<'t> {
    rest: &'t str,
}

impl<'t> Lexer<'t> {
    pub(crate) fn new(text: &'t str) -> Self {
        Self { rest: text }
    }

    fn take(&mut self, len: usize) -> &'t str {
        let (taken, rest) = self.rest.split_at(len);
        self.rest = rest;
        taken
    }

    fn punctuation(&mut self, token: Token<'t>, len: usize) -> Token<'t> {
        self.take(len);
        token
    }

    /// Length of the word at the cursor: of a string or comment as a whole, else up to the next letter that ends a
    /// word.
    fn word_len(&self) -> usize {
        if self.rest.starts_with("/*") {
            return comment_len(self.rest);
        }
        if let Some(len) = string_len(self.rest) {
            return len;
        }
        let ends = |letter: char| {
            is_newline(letter)
                || is_space(letter)
                || matches!(letter, '{' | '}' | '=' | ';' | '"' | '\\' | '/')
        };
        let mut letters = self.rest.char_indices().skip(1);
        letters.find(|(_, letter)| ends(*letter)).map_or(self.rest.len(), |(at, _)| at)
    }
}

impl<'t> Iterator for Lexer<'t> {
    type Item = Token<'t>;

    fn next(&mut self) -> Option<Token<'t>> {
        let first = self.rest.chars().next()?;
        Some(match first {
            '\r' if self.rest.starts_with("\r\n") => self.punctuation(Token::Newline, 2),
            letter if is_newline(letter) => self.punctuation(Token::Newline, letter.len_utf8()),
            letter if is_space(letter) => {
                let len = self.rest.find(|letter: char| !is_space(letter)).unwrap_or(self.rest.len());
                Token::Space(self.take(len))
            }
            '{' => self.punctuation(Token::Open, 1),
            '}' => self.punctuation(Token::Close, 1),
            '=' => self.punctuation(Token::Equals, 1),
            ';' => self.punctuation(Token::Semicolon, 1),
            '\\' => self.punctuation(Token::Continuation, 1),
            '/' if self.rest.starts_with("/-") => self.punctuation(Token::Slashdash, 2),
            '/' if self.rest.starts_with("//") => {
                let len = self.rest.find(is_newline).unwrap_or(self.rest.len());
                Token::LineComment(self.take(len))
            }
            _ => {
                let len = self.word_len();
                Token::Word(self.take(len))
            }
        })
    }
}

/// Length of the `/* … */` that begins `text`, comments in it included.
fn comment_len(text: &str) -> usize {
    let (mut at, mut depth) = (2, 1);
    while depth > 0 && at < text.len() {
        let rest = &text.as_bytes()[at..];
        let (len, step) = match rest {
            [b'/', b'*', ..] => (2, 1),
            [b'*', b'/', ..] => (2, -1),
            _ => (1, 0),
        };
        at += len;
        depth += step;
    }
    at.min(text.len())
}

fn is_newline(letter: char) -> bool {
    matches!(letter, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

fn is_space(letter: char) -> bool {
    matches!(
        letter,
        '\t' | ' ' | '\u{a0}' | '\u{1680}' | '\u{2000}'..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_in_a_token() {
        let text = "a (t)\"b c\" d=#true /* { /* */ } */ { e; } // f\n/-g \\\r\n\u{a0}#\"h\"\"#";
        let mut lexer = Lexer::new(text);
        let words: Vec<&str> =
            lexer.by_ref().filter_map(|t| if let Token::Word(w) = t { Some(w) } else { None }).collect();
        assert_eq!(words, ["a", "(t)", "\"b c\"", "d", "#true", "/* { /* */ } */", "e", "g", "#\"h\"\"#"]);
        assert!(lexer.rest.is_empty());
    }
}
