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
    /// How it differs from the same metric of another model on the same items.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paired: Option<Paired>,
    /// Shown in the study's summary table.
    #[serde(default)]
    pub headline: bool,
}

/// A difference measured item by item: this result minus that of the model at another port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Paired {
    /// The input port of what is compared with.
    pub port: String,
    pub difference: f64,
    /// The 95 % interval of the difference.
    pub low: f64,
    pub high: f64,
    /// Two-sided, of no difference, not corrected for other comparisons. `None` where a model meets itself: there
    /// is nothing to test.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p: Option<f64>,
    /// The smallest difference that this many items would show with 80 % probability at the 5 % level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detectable: Option<f64>,
    /// Items that the other model had right and this one has wrong, where items are right or wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub right_to_wrong: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wrong_to_right: Option<u64>,
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
            paired: None,
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
    pub fn paired(mut self, paired: Option<Paired>) -> Self {
        self.paired = paired;
        self
    }

    #[must_use]
    pub fn headline(mut self) -> Self {
        self.headline = true;
        self
    }
}
