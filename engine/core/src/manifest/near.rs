//! "Did you mean": the nearest known word, for the help line of an error about an unknown one.

/// How many known words a help line lists when none is near.
const LISTED: usize = 16;

/// The candidate nearest to `word`, if it is near enough to be a slip of the keyboard: a third of the letters
/// changed, swapped, added or left out.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .filter(|candidate| candidate.len().abs_diff(word.len()) <= allowed * 4)
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `did you mean `x`?`, or else the known words, if there are any.
pub(crate) fn suggest<'a>(
    word: &str,
    noun: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    let candidates: Vec<&str> = candidates.into_iter().collect();
    match nearest(word, candidates.iter().copied()) {
        Some(near) => Some(format!("did you mean `{near}`?")),
        None if candidates.is_empty() => None,
        None => Some(format!("known {noun}: {}", listed(&candidates))),
    }
}

fn distance(word: &str, candidate: &str) -> usize {
    if word.eq_ignore_ascii_case(candidate) { 0 } else { strsim::osa_distance(word, candidate) }
}

fn listed(words: &[&str]) -> String {
    let shown: Vec<String> = words.iter().take(LISTED).map(|word| format!("`{word}`")).collect();
    let more = words.len().saturating_sub(LISTED);
    let rest = if more > 0 { format!(", and {more} more") } else { String::new() };
    format!("{}{rest}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_near_and_other_words_are_not() {
        let known = ["quantize", "evaluate", "load"];
        assert_eq!(nearest("quantise", known), Some("quantize"));
        assert_eq!(nearest("QUANTIZE", known), Some("quantize"));
        assert_eq!(nearest("laod", known), Some("load"));
        assert_eq!(nearest("benchmark", known), None);
    }

    #[test]
    fn the_known_words_are_listed_when_none_is_near() {
        let help = suggest("zzzz", "schemes", ["nf4", "int8"]);
        assert_eq!(help.as_deref(), Some("known schemes: `nf4`, `int8`"));
        assert_eq!(suggest("zzzz", "schemes", []), None);
    }
}
