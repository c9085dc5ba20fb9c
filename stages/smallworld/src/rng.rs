//! The generator of random numbers that every text of the small world comes from.
//!
//! A crate from outside may change its streams between versions; this file never may, because a golden hash,
//! a trained model and an evaluation set hang on the exact draws. It is xoshiro256** (Blackman and Vigna, 2018)
//! seeded through SplitMix64 (Steele, Lea and Flood, 2014), as its authors recommend; integers only, so a draw
//! is the same on every platform.

/// A seeded stream of draws.
#[derive(Clone, Debug)]
pub struct Rng {
    state: [u64; 4],
}

/// One step of SplitMix64: advances `state` and returns a well-mixed word.
fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Rng {
    /// The stream of `seed`; streams with different `stream` names are unrelated, so the training corpus and the
    /// evaluation set of one seed share no draws.
    pub fn new(seed: u64, stream: &str) -> Self {
        let mut mixer = seed ^ crate::partition::fnv1a(stream.as_bytes());
        Self { state: std::array::from_fn(|_| splitmix64(&mut mixer)) }
    }

    /// The next 64 uniform bits.
    pub fn next_u64(&mut self) -> u64 {
        let [mut a, mut b, mut c, mut d] = self.state;
        let drawn = b.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = b << 17;
        c ^= a;
        d ^= b;
        b ^= c;
        a ^= d;
        c ^= shifted;
        d = d.rotate_left(45);
        self.state = [a, b, c, d];
        drawn
    }

    /// A number in `0..bound` by the high half of a product; its bias is below `bound / 2^64`. Zero for an empty
    /// range.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next_u64()) * bound as u128) >> 64) as usize
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    /// True with probability `percent` / 100.
    pub fn chance(&mut self, percent: u32) -> bool {
        self.below(100) < percent as usize
    }

    /// One of `items`, uniformly; `None` of an empty slice.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> Option<T> {
        items.get(self.below(items.len())).copied()
    }

    /// One of the first members of `choices`, each with probability proportional to its weight; `None` where no
    /// weight is positive.
    pub fn weighted<T: Copy>(&mut self, choices: &[(T, u32)]) -> Option<T> {
        let total: u32 = choices.iter().map(|choice| choice.1).sum();
        let mut left = self.below(total as usize) as u32;
        choices.iter().find_map(|&(item, weight)| {
            if left < weight {
                return Some(item);
            }
            left -= weight;
            None
        })
    }

    /// Shuffles `items` in place (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitmix_matches_the_published_first_outputs_of_seed_zero() {
        let mut state = 0;
        let drawn: Vec<u64> = (0..3).map(|_| splitmix64(&mut state)).collect();
        assert_eq!(drawn, [0xE220_A839_7B1D_CDAF, 0x6E78_9E6A_A1B9_65F4, 0x06C4_5D18_8009_454F]);
    }

    #[test]
    fn xoshiro_matches_the_reference_outputs_of_state_one_two_three_four() {
        let mut rng = Rng { state: [1, 2, 3, 4] };
        let drawn: Vec<u64> = (0..5).map(|_| rng.next_u64()).collect();
        assert_eq!(drawn, [11520, 0, 1_509_978_240, 1_215_971_899_390_074_240, 1_216_172_134_540_287_360]);
    }

    #[test]
    fn weights_are_followed_and_zero_weights_never_drawn() {
        let mut rng = Rng::new(1, "test");
        let mut counts = [0_u32; 3];
        for _ in 0..30_000 {
            counts[rng.weighted(&[(0, 1), (1, 0), (2, 3)]).unwrap()] += 1;
        }
        assert_eq!(counts[1], 0);
        assert!((7_000..8_000).contains(&counts[0]), "{counts:?}");
        assert_eq!(rng.weighted(&[(0, 0)]), None);
        assert_eq!(rng.pick::<u8>(&[]), None);
    }
}
