//! A page for every diagnostic code: what it means, why the program is strict about it, and what to do.
//!
//! The pages are one Markdown file, so that they can be read and reviewed as a text; a test holds them against the
//! codes that the error types declare, in both directions.

use crate::manifest::nearest;

const PAGES: &str = include_str!("pages.md");

/// A code with its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// `qpipe::manifest::syntax`.
    pub code: &'static str,
    pub text: &'static str,
}

impl Page {
    /// The first sentence, for a list.
    pub fn summary(&self) -> String {
        let first = self.text.split("\n\n").next().unwrap_or_default().replace('\n', " ");
        let end = first.find(". ").unwrap_or(first.len());
        first[..end].trim_end_matches(['.', ':']).to_owned()
    }
}

/// Every page, in the order of the file: from the text of a manifest to the program.
pub fn pages() -> impl Iterator<Item = Page> {
    PAGES.split("\n# ").filter_map(|part| {
        let (code, text) = part.trim_start_matches("# ").split_once('\n')?;
        Some(Page { code, text: text.trim() })
    })
}

/// Codes near to an unknown one, for a help line.
pub fn suggest(code: &str) -> Option<String> {
    let whole: Vec<&str> = pages().map(|page| page.code).collect();
    let ends = whole.iter().filter_map(|code| code.rsplit("::").next());
    nearest(code, whole.iter().copied().chain(ends)).map(|near| format!("did you mean `{near}`?"))
}

/// The page of a code, which may be given without its beginning (`cycle` for `qpipe::manifest::cycle`) where that is
/// unambiguous.
pub fn explain(code: &str) -> Option<Page> {
    let exact = pages().find(|page| page.code == code);
    exact.or_else(|| {
        let mut ends = pages().filter(|page| page.code.rsplit("::").next() == Some(code));
        ends.next().filter(|_| ends.next().is_none())
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// Every code that the error types of engine and program declare.
    fn declared() -> BTreeSet<String> {
        // not `env!`: two checkouts may share a target folder
        let engine = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests");
        let engine = Path::new(&engine);
        let files =
            ["src/manifest/error.rs", "src/plan/error.rs", "src/run/select.rs", "../cli/src/error.rs"];
        let mut codes = BTreeSet::new();
        for file in files {
            let text = std::fs::read_to_string(engine.join(file)).unwrap();
            for (at, _) in text.match_indices("qpipe::") {
                let code = |letter: char| letter.is_ascii_lowercase() || matches!(letter, '_' | ':');
                let end = text[at..].find(|letter| !code(letter)).unwrap_or(text.len() - at);
                let opened = text[..at].ends_with("code(") || text[..at].ends_with('"');
                codes.extend(opened.then(|| text[at..at + end].to_owned()));
            }
        }
        codes
    }

    #[test]
    fn every_code_has_a_page_and_every_page_a_code() {
        let explained: BTreeSet<String> = pages().map(|page| page.code.to_owned()).collect();
        let declared = declared();
        assert!(declared.len() > 50, "the codes were not found: {declared:?}");
        assert_eq!(declared.difference(&explained).collect::<Vec<_>>(), [""; 0], "codes without a page");
        assert_eq!(explained.difference(&declared).collect::<Vec<_>>(), [""; 0], "pages without a code");
        for page in pages() {
            assert!(page.text.len() > 60 && !page.summary().is_empty(), "`{}` says too little", page.code);
        }
    }

    #[test]
    fn a_code_is_found_by_its_end() {
        assert_eq!(explain("cycle").map(|page| page.code), Some("qpipe::manifest::cycle"));
        assert_eq!(explain("qpipe::plan::store").map(|page| page.code), Some("qpipe::plan::store"));
        assert_eq!(explain("store"), None, "two codes end like this");
        assert_eq!(suggest("cylce").as_deref(), Some("did you mean `cycle`?"));
    }
}
