//! Which stories may be trained on and which are kept for evaluation. A scene counts as a story here.
//!
//! Seeds alone cannot promise that two streams never tell the same story, and comparing sets needs all of them.
//! So the story itself decides: a hash of its text puts it on one side for ever, whatever seed told it, and a
//! generator drops what belongs to the other side.

/// The side of a story.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// Fifteen stories of sixteen; only these occur in training documents.
    Training,
    /// One story of sixteen; only these occur in evaluation items and held-out text.
    Evaluation,
}

/// One story of this many is kept for evaluation.
const EVALUATION_SHARE: u64 = 16;

impl Split {
    /// The side that the story with this text (one paragraph, no newline) belongs to.
    pub fn of(passage: &str) -> Self {
        // FNV's low bits see little of the first bytes; folding the high half in makes every byte count
        let hash = fnv1a(passage.as_bytes());
        if (hash ^ (hash >> 32)).is_multiple_of(EVALUATION_SHARE) { Self::Evaluation } else { Self::Training }
    }
}

/// FNV-1a, 64 bits (Fowler, Noll and Vo): short, public, and the same everywhere.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fnv_matches_its_published_vectors() {
        assert_eq!(fnv1a(b""), 0xCBF2_9CE4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xAF63_DC4C_8601_EC8C);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_F739_67E8);
    }
}
