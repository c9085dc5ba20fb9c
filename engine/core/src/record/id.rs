//! Names of runs: sortable by time, unique by a random end.

use std::fmt;
use std::hash::{BuildHasher, RandomState};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// `20261122T203015.042Z-3f9ac1`: start in UTC to the millisecond, and six random hex digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(pub String);

impl RunId {
    pub fn new(at: Timestamp) -> Self {
        // the standard library seeds each `RandomState` from the system's randomness
        let random = RandomState::new().hash_one(at.as_nanosecond());
        Self(format!("{}-{:06x}", at.strftime("%Y%m%dT%H%M%S%.3fZ"), random & 0xff_ffff))
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_time_and_differ_at_the_same_time() {
        let at = |s| RunId::new(Timestamp::from_second(s).unwrap());
        assert!(at(1_795_379_415).0.starts_with("20261122T203015.000Z-"), "{}", at(1_795_379_415));
        assert!(at(1_795_379_415) < at(1_795_379_416));
        let ids: std::collections::BTreeSet<RunId> = (0..50).map(|_| at(1_795_379_415)).collect();
        assert!(ids.len() > 45, "{} of 50 differ", ids.len());
    }
}
