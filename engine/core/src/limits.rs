//! What single nodes may take: tries, time, memory. The manifest's `defaults` say it, and the command line over them.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::manifest::{BYTES, TIMES};

/// Limits of a study's nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub retry: Option<Retry>,
    pub timeout: PerStage<Duration>,
    /// Host memory that a node is counted with, bytes; in place of its stage's own estimate.
    pub memory: PerStage<u64>,
    /// The GPUs to use; `None`: every one.
    pub gpus: Option<Gpus>,
}

/// No machine has a GPU of a higher number.
pub const LAST_GPU: usize = 1023;

/// Which GPUs a run may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gpus {
    All,
    /// These, by ordinal.
    These(Vec<usize>),
}

impl Limits {
    /// These limits, and where they say nothing those `below`.
    #[must_use]
    pub fn over(self, below: &Self) -> Self {
        Self {
            retry: self.retry.or(below.retry),
            timeout: self.timeout.over(&below.timeout),
            memory: self.memory.over(&below.memory),
            gpus: self.gpus.or_else(|| below.gpus.clone()),
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

/// A time with its unit: `500ms`, `90s`, `30min`, `1.5h`. `None` for anything else, nothing and more than ten years
/// included.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let milliseconds = with_unit(text, &TIMES)?;
    let known = (1.0..=TEN_YEARS_MS).contains(&milliseconds);
    known.then(|| Duration::from_secs_f64(milliseconds / 1000.0))
}

/// GPUs: `all`, or ordinals such as `0,2`, each once. `None` for anything else.
pub fn parse_gpus(text: &str) -> Option<Gpus> {
    if text == "all" {
        return Some(Gpus::All);
    }
    let ordinals: Vec<usize> = text.split(',').map(str::parse).collect::<Result<_, _>>().ok()?;
    let is_known = |(at, ordinal): (usize, &usize)| ordinals[..at].contains(ordinal);
    let is_wrong =
        ordinals.iter().any(|ordinal| *ordinal > LAST_GPU) || ordinals.iter().enumerate().any(is_known);
    (!is_wrong).then_some(Gpus::These(ordinals))
}

/// A size with its unit: `24GiB`, `500MB`. `None` for anything else, nothing included.
pub fn parse_bytes(text: &str) -> Option<u64> {
    with_unit(text, &BYTES).filter(|bytes| *bytes >= 1.0).map(|bytes| bytes as u64)
}

const TEN_YEARS_MS: f64 = 315_360_000_000.0;

/// A number and one of the units that annotate numbers in manifests.
fn with_unit(text: &str, units: &[(&str, i64)]) -> Option<f64> {
    let split = text.find(|letter: char| letter.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(split);
    let (_, size) = units.iter().find(|(name, _)| *name == unit)?;
    let number: f64 = number.trim_end().parse().ok()?;
    Some(number * *size as f64)
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
    fn times_and_sizes_have_units() {
        assert_eq!(parse_duration("1.5h"), Some(Duration::from_mins(90)));
        assert_eq!(parse_duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!((parse_bytes("24GiB"), parse_bytes("1.5 MB")), (Some(24 << 30), Some(1_500_000)));
        let wrong = ["", "30", "min", "-1s", "0s", "30 minutes", "1e30h", "NaNs", "5GiB"];
        assert!(wrong.iter().all(|text| parse_duration(text).is_none()));
        assert!(["", "5", "5min", "-1GiB", "0GB"].iter().all(|text| parse_bytes(text).is_none()));
    }

    #[test]
    fn gpus_are_all_or_ordinals() {
        assert_eq!(parse_gpus("all"), Some(Gpus::All));
        assert_eq!(parse_gpus("2,0"), Some(Gpus::These(vec![2, 0])));
        assert!(["", "x", "0,", "-1", "0,0", "0 1", "1024"].iter().all(|text| parse_gpus(text).is_none()));
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
