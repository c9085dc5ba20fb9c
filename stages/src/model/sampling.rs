//! How the next token is picked from logits: the largest one, or a draw.
//!
//! A draw is a function of a seed, the sequence's number and the token's position alone ([`uniform`]): it does not
//! matter in which order or batch sequences are decoded, nor where a killed run went on.

use crate::evaluate::statistics::splitmix64;

/// How the next token is picked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pick {
    /// The token of the largest logit; the first of equals.
    Greedy,
    Sample(Sampling),
}

/// A draw from the softmax of `logits / temperature`, cut to the `top_k` likeliest tokens and then to the fewest of
/// them that together have probability `top_p` (nucleus sampling: Holtzman et al. 2020, arXiv 1904.09751, section 3.1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// > 0.
    pub temperature: f64,
    /// `None`: all tokens.
    pub top_k: Option<usize>,
    /// In (0, 1]; 1 keeps all.
    pub top_p: f64,
    pub seed: u64,
}

impl Pick {
    /// The token after `step` new ones of a sequence, given the logits `[vocabulary]` there.
    pub fn token(&self, logits: &[f32], sequence: u64, step: u64) -> u32 {
        match self {
            Self::Greedy => argmax(logits),
            Self::Sample(sampling) => sampling.draw(logits, uniform(sampling.seed, sequence, step)),
        }
    }
}

impl Sampling {
    /// The token at quantile `u` of the kept tokens, the likeliest first; of equals, the first.
    fn draw(&self, logits: &[f32], u: f64) -> u32 {
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        let likelier = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        let kept = self.top_k.unwrap_or(order.len()).clamp(1, order.len());
        if kept < order.len() {
            order.select_nth_unstable_by(kept - 1, likelier);
            order.truncate(kept);
        }
        order.sort_unstable_by(likelier);
        let largest = f64::from(logits[order[0] as usize]);
        let weight = |id: &u32| ((f64::from(logits[*id as usize]) - largest) / self.temperature).exp();
        let weights: Vec<f64> = order.iter().map(weight).collect();
        let nucleus = nucleus(&weights, self.top_p);
        let mut left = u * weights[..nucleus].iter().sum::<f64>();
        let drawn = weights[..nucleus].iter().position(|w| {
            left -= w;
            left < 0.0
        });
        order[drawn.unwrap_or(nucleus - 1)]
    }
}

/// How many of the falling `weights` it takes for `share` of their sum.
fn nucleus(weights: &[f64], share: f64) -> usize {
    let wanted = share * weights.iter().sum::<f64>();
    let mut sum = 0.0;
    let enough = weights.iter().position(|w| {
        sum += w;
        sum >= wanted
    });
    enough.map_or(weights.len(), |at| at + 1)
}

/// A number in `[0, 1)` from a seed, a sequence and a step: each is mixed in by a round of `SplitMix64`, and the
/// upper 53 bits of the last round count.
pub fn uniform(seed: u64, sequence: u64, step: u64) -> f64 {
    let mixed = [sequence, step].into_iter().fold(round(seed), |state, with| round(state ^ with));
    (mixed >> 11) as f64 / (1u64 << 53) as f64
}

fn round(mut state: u64) -> u64 {
    splitmix64(&mut state)
}

/// Index of the largest value; the first of equals.
pub fn argmax(values: &[f32]) -> u32 {
    let mut best = 0;
    for (i, v) in values.iter().enumerate() {
        if *v > values[best] {
            best = i;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [1.0, 3.0, 2.0, 3.0, -1.0];

    fn sampling(temperature: f64, top_k: Option<usize>, top_p: f64) -> Sampling {
        Sampling { temperature, top_k, top_p, seed: 7 }
    }

    /// How often each token is drawn, of many draws.
    fn frequencies(sampling: Sampling) -> [f64; 5] {
        let mut counts = [0.0; 5];
        let draws = 40_000;
        for step in 0..draws {
            counts[Pick::Sample(sampling).token(&LOGITS, 0, step) as usize] += 1.0 / draws as f64;
        }
        counts
    }

    #[test]
    fn frequencies_are_those_of_the_softmax() {
        for temperature in [0.5, 1.0, 2.0] {
            let weights = LOGITS.map(|l| (f64::from(l) / temperature).exp());
            let sum: f64 = weights.iter().sum();
            for (drawn, weight) in frequencies(sampling(temperature, None, 1.0)).iter().zip(weights) {
                assert!((drawn - weight / sum).abs() < 0.01, "{temperature}: {drawn} for {}", weight / sum);
            }
        }
    }

    #[test]
    fn what_is_cut_off_is_never_drawn() {
        let zero = |frequency: f64| frequency.abs() < 1e-12;
        let two = frequencies(sampling(1.0, Some(2), 1.0));
        assert!(zero(two[0]) && zero(two[2]) && zero(two[4]) && (two[1] - two[3]).abs() < 0.02, "{two:?}");
        // the two likeliest tokens have .40 each, the third .15
        let nucleus = frequencies(sampling(1.0, None, 0.85));
        assert!(zero(nucleus[0]) && zero(nucleus[4]) && nucleus[2] > 0.1, "{nucleus:?}");
        let first = frequencies(sampling(1.0, None, 1e-9));
        assert!(zero(first[3]) && !zero(first[1]), "the first of equals: {first:?}");
        assert_eq!(Pick::Greedy.token(&LOGITS, 0, 0), 1);
        assert_eq!(Pick::Sample(sampling(1e-6, Some(1), 1.0)).token(&LOGITS, 3, 9), 1);
    }

    #[test]
    fn draws_depend_on_seed_sequence_and_step_and_on_nothing_else() {
        let all: Vec<u64> = (0..3)
            .flat_map(|a| (0..3).flat_map(move |b| (0..3).map(move |c| uniform(a, b, c).to_bits())))
            .collect();
        let distinct: std::collections::BTreeSet<&u64> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
        let mean = (0..10_000).map(|step| uniform(1, 2, step)).sum::<f64>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
    }
}
