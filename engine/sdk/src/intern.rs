//! Words that live as long as the program. Declarations name things by `&'static str`; those of a plugin, and the
//! ports that a manifest names, are only known at run time. Each distinct word is kept once, so what is never
//! freed is bounded by what the manifests and plugins of one process say.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

static WORDS: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());

/// The same text, for as long as the program runs.
pub fn intern(text: &str) -> &'static str {
    let mut words = WORDS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = words.get(text) {
        return known;
    }
    let kept: &'static str = Box::leak(text.to_owned().into_boxed_str());
    words.insert(kept);
    kept
}

static LISTS: Mutex<BTreeSet<&'static [&'static str]>> = Mutex::new(BTreeSet::new());

/// The same words in the same order, for as long as the program runs.
pub fn intern_all<'a>(words: impl IntoIterator<Item = &'a str>) -> &'static [&'static str] {
    let words: Vec<&'static str> = words.into_iter().map(intern).collect();
    let mut lists = LISTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = lists.get(words.as_slice()) {
        return known;
    }
    let kept: &'static [&'static str] = Box::leak(words.into_boxed_slice());
    lists.insert(kept);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_kept_once() {
        let (first, second) = (intern_all(["nf4", "fp4"]), intern_all(["nf4", "fp4"]));
        assert!(std::ptr::eq(first, second));
        assert_eq!(first, ["nf4", "fp4"]);
    }

    #[test]
    fn a_word_is_kept_once() {
        let (first, second) = (intern("scheme"), intern(&["sch", "eme"].concat()));
        assert!(std::ptr::eq(first, second));
        assert_eq!(first, "scheme");
    }
}
