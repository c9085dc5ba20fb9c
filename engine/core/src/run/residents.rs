//! Which models GPUs hold: their workers keep what the last nodes read, and the next node that reads it is best off there.

use std::collections::{BTreeMap, VecDeque};

use qpipe_cache::Digest;

/// How many artifacts are remembered of a GPU. How many fit is known to its worker alone; what it dropped is loaded again.
const REMEMBERED: usize = 16;

/// By GPU, what its last nodes read, the latest last.
#[derive(Debug, Default)]
pub(super) struct Residents(BTreeMap<usize, VecDeque<Digest>>);

impl Residents {
    /// A node that reads these has started on a GPU.
    pub(super) fn read(&mut self, gpu: usize, inputs: impl IntoIterator<Item = Digest>) {
        let held = self.0.entry(gpu).or_default();
        for input in inputs {
            held.retain(|known| *known != input);
            held.push_back(input);
        }
        held.drain(..held.len().saturating_sub(REMEMBERED));
    }

    /// A GPU's worker is gone, with all that it held.
    pub(super) fn forget(&mut self, gpu: usize) {
        self.0.remove(&gpu);
    }

    /// Of these GPUs the one that holds most of what a node reads, and among equals the first.
    pub(super) fn best(&self, inputs: &[Digest], among: impl Iterator<Item = usize>) -> Option<usize> {
        let held = |gpu: usize| {
            let held = self.0.get(&gpu);
            inputs.iter().filter(|input| held.is_some_and(|held| held.contains(input))).count()
        };
        among.min_by_key(|gpu| (std::cmp::Reverse(held(*gpu)), *gpu))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests<const N: usize>(names: [&str; N]) -> [Digest; N] {
        names.map(|name| Digest::of_bytes(name.as_bytes()))
    }

    #[test]
    fn a_node_goes_where_its_models_are() {
        let [a, b, c] = digests(["a", "b", "c"]);
        let mut residents = Residents::default();
        residents.read(0, [a]);
        residents.read(1, [b]);
        assert_eq!(residents.best(&[b], 0..2), Some(1));
        assert_eq!(residents.best(&[a, b], 0..2), Some(0), "as good as the other");
        assert_eq!(residents.best(&[c], [1, 2].into_iter()), Some(1), "nobody has it");
        assert_eq!(residents.best(&[b], std::iter::once(0)), Some(0), "the one that has it is taken");
        residents.forget(1);
        assert_eq!(residents.best(&[b], 0..2), Some(0));
    }

    #[test]
    fn what_was_read_long_ago_is_no_reason() {
        let many: Vec<Digest> =
            (0..=REMEMBERED).map(|n| Digest::of_bytes(n.to_string().as_bytes())).collect();
        let mut residents = Residents::default();
        residents.read(1, many.iter().copied());
        residents.read(1, [many[1]]);
        assert_eq!(residents.best(&many[..1], 0..2), Some(0));
        assert_eq!(residents.best(&many[1..2], 0..2), Some(1));
    }
}
