//! Sets and maps of digests. A digest is uniform already, so its first eight bytes serve as its hash.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use crate::digest::Digest;

pub(crate) type DigestSet = HashSet<Digest, BuildHasherDefault<FirstBytes>>;
pub(crate) type DigestMap<V> = HashMap<Digest, V, BuildHasherDefault<FirstBytes>>;

/// Takes the first eight bytes of whatever was written last.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FirstBytes(u64);

impl Hasher for FirstBytes {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_tells_digests_apart() {
        let all: Vec<Digest> = (0..1000_u32).map(|n| Digest::of_bytes(&n.to_le_bytes())).collect();
        let set: DigestSet = all[..500].iter().copied().collect();
        assert_eq!(set.len(), 500);
        assert!(all[..500].iter().all(|d| set.contains(d)));
        assert!(!all[500..].iter().any(|d| set.contains(d)));
    }
}
