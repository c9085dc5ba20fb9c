//! What single nodes may take: tries, time, memory. The manifest's `defaults` say it, and the command line over them.

use std::collections::BTreeMap;
use std::time::Duration;

/// Limits of a study's nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub retry: Option<Retry>,
    pub timeout: PerStage<Duration>,
    /// Host memory that a node is counted with, bytes; in place of its stage's own estimate.
    pub memory: PerStage<u64>,
}

impl Limits {
    /// These limits, and where they say nothing those `below`.
    #[must_use]
    pub fn over(self, below: &Self) -> Self {
        Self {
            retry: self.retry.or(below.retry),
            timeout: self.timeout.over(&below.timeout),
            memory: self.memory.over(&below.memory),
        }
    }
}

/// How often what failed for a passing reason is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Tries after the first; `0`: none.
    pub times: u32,
    /// Pause before the first of them; every further one doubles it, up to a minute.
    pub wait: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { times: 2, wait: Duration::from_secs(1) }
    }
}

/// A value for every stage, and others for some of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PerStage<T> {
    pub all: Option<T>,
    /// By the stage's name, or by its type; the name counts more.
    pub of: BTreeMap<String, T>,
}

impl<T> Default for PerStage<T> {
    fn default() -> Self {
        Self { all: None, of: BTreeMap::new() }
    }
}

impl<T: Copy> PerStage<T> {
    /// The value for the stage called `stage` of the type `kind`.
    pub fn get(&self, stage: &str, kind: &str) -> Option<T> {
        self.of.get(stage).or_else(|| self.of.get(kind)).copied().or(self.all)
    }

    /// A value for every stage replaces all that is `below`; one for some stages replaces theirs.
    fn over(self, below: &Self) -> Self {
        if self.all.is_some() {
            return self;
        }
        let mut of = below.of.clone();
        of.extend(self.of);
        Self { all: below.all, of }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn per_stage(all: Option<u64>, of: &[(&str, u64)]) -> PerStage<u64> {
        PerStage { all, of: of.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect() }
    }

    #[test]
    fn the_name_counts_more_than_the_type_and_that_more_than_all() {
        let given = per_stage(Some(1), &[("quantize", 2), ("weights", 3)]);
        assert_eq!(given.get("weights", "quantize"), Some(3));
        assert_eq!(given.get("others", "quantize"), Some(2));
        assert_eq!(given.get("base", "load"), Some(1));
    }

    #[test]
    fn the_command_line_counts_more_than_the_manifest() {
        let manifest = per_stage(Some(1), &[("quantize", 2)]);
        let some = per_stage(None, &[("load", 5)]).over(&manifest);
        assert_eq!(
            [some.get("x", "load"), some.get("x", "quantize"), some.get("x", "y")].map(Option::unwrap),
            [5, 2, 1]
        );
        let all = per_stage(Some(9), &[]).over(&manifest);
        assert_eq!(all.get("x", "quantize"), Some(9));
    }
}
