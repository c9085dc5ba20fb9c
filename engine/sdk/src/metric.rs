//! One measured number, with what a reader needs to judge it.

use serde::{Deserialize, Serialize};

/// Which direction is better, if either is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Better {
    Higher,
    Lower,
    Neither,
}

/// A metric of a stage's result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// Dotted name within the stage: `boolq.f1`, `decode.b1.tokens-per-s`.
    pub name: String,
    pub value: f64,
    /// `bytes`, `s`, `tokens/s`, `nat`, or empty for a pure number.
    pub unit: String,
    pub better: Better,
    /// How many samples (items, tokens, repeats) it rests on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<u64>,
    /// Standard error, where one can be stated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<f64>,
    /// Smallest and largest sample, for measurements repeated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<(f64, f64)>,
    /// What a trivial answer would score (majority class, always-yes), so that nobody is misled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trivial: Option<f64>,
    /// Shown in the study's summary table.
    #[serde(default)]
    pub headline: bool,
}

impl Metric {
    pub fn new(name: impl Into<String>, value: f64, unit: impl Into<String>, better: Better) -> Self {
        Self {
            name: name.into(),
            value,
            unit: unit.into(),
            better,
            n: None,
            stderr: None,
            range: None,
            trivial: None,
            headline: false,
        }
    }

    #[must_use]
    pub fn n(mut self, n: u64) -> Self {
        self.n = Some(n);
        self
    }

    #[must_use]
    pub fn stderr(mut self, stderr: f64) -> Self {
        self.stderr = Some(stderr);
        self
    }

    #[must_use]
    pub fn range(mut self, low: f64, high: f64) -> Self {
        self.range = Some((low, high));
        self
    }

    #[must_use]
    pub fn trivial(mut self, value: f64) -> Self {
        self.trivial = Some(value);
        self
    }

    #[must_use]
    pub fn headline(mut self) -> Self {
        self.headline = true;
        self
    }
}
