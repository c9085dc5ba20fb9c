//! From continuations to batches.
//!
//! | rule | why |
//! |---|---|
//! | equal inputs are one input | choices of one token are read from one row of logits |
//! | inputs in a batch differ little in length | padding is computed for nothing; under 5 % of a batch, unless it would be tiny |
//! | inputs that begin alike share the pass over their beginning | four endings of one story read it once |
//!
//! A shared beginning is cut to a multiple of [`PREFIX_STEP`] tokens, so that questions of about one length share a
//! batch too; what is left of it is read again by each choice.

use std::collections::HashMap;

use super::Continuation;

/// Version of these rules; part of the key of what is scored, since rounding depends on how inputs are batched.
pub const PLAN: u32 = 3;

/// Padding that a batch may have.
const PADDING: f64 = 0.05;
/// A batch of fewer tokens takes inputs of other lengths rather than end.
const LEAST_TOKENS: usize = 256;
/// Shared beginnings are cut to a multiple of this.
const PREFIX_STEP: usize = 16;
/// The part of all tokens that sharing must save to be worth a second pass.
const WORTHWHILE: f64 = 0.25;

/// How inputs are batched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Tokens of one forward pass, padding included; an input longer than that has a pass of its own.
    pub tokens: usize,
    /// Whether choices may share the pass over their beginning. Not for a model whose products depend on what else
    /// is in the batch.
    pub share_prefixes: bool,
}

/// A distinct model input, and the scored rows in it.
#[derive(Clone, Debug)]
pub(super) struct Input {
    pub(super) tokens: Vec<u32>,
    pub(super) asked: Vec<Asked>,
    /// Inputs of one group begin with the same context.
    group: usize,
    /// Tokens of the context that are left after truncation.
    context: usize,
}

/// One continuation's part of an input.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// Its place in the list.
    pub(super) owner: usize,
    pub(super) first_row: usize,
    pub(super) targets: Vec<u32>,
}

impl Input {
    /// The first tokens alone, with nothing asked of them.
    pub(super) fn beginning(&self, len: usize) -> Self {
        let tokens = self.tokens[..len].to_vec();
        Self { tokens, asked: Vec::new(), group: self.group, context: len }
    }
}

/// Inputs of one forward pass, after one over their first `prefix` tokens.
pub(super) struct Batch<'a> {
    pub(super) inputs: Vec<&'a Input>,
    pub(super) prefix: usize,
}

impl Batch<'_> {
    /// Tokens of the longest input after the prefix.
    pub(super) fn width(&self) -> usize {
        self.inputs.iter().map(|input| input.tokens.len() - self.prefix).max().unwrap_or(0)
    }
}

/// Model inputs as the harness builds them: `(context + continuation)[-(max + 1):][:-1]`.
pub(super) fn distinct_inputs(asked: &[Continuation], max_len: usize) -> Vec<Input> {
    let mut index: HashMap<Vec<u32>, usize> = HashMap::new();
    let mut inputs: Vec<Input> = Vec::new();
    let (mut group, mut last): (usize, Option<&Continuation>) = (0, None);
    for (owner, ask) in asked.iter().enumerate() {
        let mut tokens = [&ask.context[..], &ask.continuation[..]].concat();
        tokens.drain(..tokens.len().saturating_sub(max_len + 1));
        tokens.pop();
        let targets = ask.continuation[ask.continuation.len().saturating_sub(tokens.len())..].to_vec();
        let first_row = tokens.len() - targets.len();
        // a truncated input begins elsewhere than its neighbours
        let whole = tokens.len() + 1 == ask.context.len() + ask.continuation.len();
        if !whole || last.is_none_or(|before| before.context != ask.context) {
            group += 1;
        }
        last = whole.then_some(ask);
        let at = *index.entry(tokens.clone()).or_insert_with(|| {
            inputs.push(Input { tokens, asked: Vec::new(), group, context: first_row + 1 });
            inputs.len() - 1
        });
        inputs[at].asked.push(Asked { owner, first_row, targets });
    }
    inputs
}

/// 4096 tokens, sharing.
impl Default for Plan {
    fn default() -> Self {
        Self { tokens: 4096, share_prefixes: true }
    }
}

impl Plan {
    /// Batches of all inputs: those with shared beginnings first.
    pub(super) fn batches<'a>(&self, inputs: &'a [Input]) -> Vec<Batch<'a>> {
        let (mut families, mut alone) = (Vec::new(), Vec::new());
        for group in inputs.chunk_by(|a, b| a.group == b.group) {
            match self.shared(group) {
                0 => alone.extend(group),
                prefix => families.push((prefix, group)),
            }
        }
        let mut batches = self.shared_batches(families);
        alone.sort_by_key(|input: &&Input| (std::cmp::Reverse(input.tokens.len()), input.asked[0].owner));
        batches.extend(self.cut(alone));
        batches
    }

    /// Tokens that the inputs of a group read together; 0 where sharing is not worth it.
    fn shared(&self, group: &[Input]) -> usize {
        let rest = |input: &Input| (input.context - 1) / PREFIX_STEP * PREFIX_STEP;
        let prefix = group.iter().map(rest).min().unwrap_or(0);
        let total: usize = group.iter().map(|input| input.tokens.len()).sum();
        let saved = prefix * (group.len() - 1);
        if self.share_prefixes && saved as f64 >= WORTHWHILE * total as f64 { prefix } else { 0 }
    }

    /// Batches of whole groups that share equally long beginnings.
    fn shared_batches<'a>(&self, mut families: Vec<(usize, &'a [Input])>) -> Vec<Batch<'a>> {
        let longest = |group: &[Input]| group.iter().map(|input| input.tokens.len()).max().unwrap_or(0);
        families.sort_by_key(|(prefix, group)| {
            (std::cmp::Reverse((*prefix, longest(group))), group[0].asked[0].owner)
        });
        let mut batches: Vec<Batch<'a>> = Vec::new();
        for (prefix, group) in families {
            let fits = |batch: &&mut Batch<'a>| {
                let rows = batch.inputs.len() + group.len();
                batch.prefix == prefix && rows * (batch.width().max(longest(group) - prefix)) <= self.tokens
            };
            match batches.last_mut().filter(fits) {
                Some(batch) => batch.inputs.extend(group),
                None => batches.push(Batch { inputs: group.iter().collect(), prefix }),
            }
        }
        batches
    }

    /// Batches of inputs that are sorted by falling length.
    fn cut<'a>(&self, inputs: Vec<&'a Input>) -> Vec<Batch<'a>> {
        let mut batches: Vec<Batch<'a>> = Vec::new();
        let (mut width, mut real) = (0, 0);
        for input in inputs {
            let rows = batches.last().map_or(0, |batch| batch.inputs.len()) + 1;
            let padded = rows * width;
            let sparse = (padded - (real + input.tokens.len()).min(padded)) as f64 > PADDING * padded as f64;
            if rows == 1 || padded > self.tokens || (sparse && real >= LEAST_TOKENS) {
                batches.push(Batch { inputs: vec![input], prefix: 0 });
                (width, real) = (input.tokens.len(), input.tokens.len());
            } else if let Some(batch) = batches.last_mut() {
                batch.inputs.push(input);
                real += input.tokens.len();
            }
        }
        batches
    }
}

/// The part of all computed tokens that is padding, for a list under a plan.
pub fn padding(asked: &[Continuation], max_len: usize, plan: Plan) -> f64 {
    let inputs = distinct_inputs(asked, max_len);
    let (mut real, mut computed) = (0, 0);
    for batch in plan.batches(&inputs) {
        computed += batch.inputs.len() * batch.width();
        real += batch.inputs.iter().map(|input| input.tokens.len() - batch.prefix).sum::<usize>();
    }
    1.0 - real as f64 / computed.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(context: std::ops::Range<u32>, continuation: &[u32]) -> Continuation {
        Continuation { context: context.collect(), continuation: continuation.to_vec() }
    }

    const PLAN: Plan = Plan { tokens: 4096, share_prefixes: true };

    #[test]
    fn choices_of_one_token_are_one_input() {
        let asked = [ask(0..40, &[7]), ask(0..40, &[9])];
        let inputs = distinct_inputs(&asked, 512);
        assert_eq!((inputs.len(), inputs[0].asked.len()), (1, 2));
        assert_eq!(inputs[0].tokens, (0..40).collect::<Vec<_>>());
    }

    #[test]
    fn longer_choices_share_their_beginning_but_for_the_last_token_of_the_context() {
        let asked =
            [ask(0..65, &[1, 2, 3]), ask(0..65, &[4, 5]), ask(100..165, &[1, 2]), ask(100..165, &[3, 4])];
        let inputs = distinct_inputs(&asked, 512);
        let batches = PLAN.batches(&inputs);
        assert_eq!(batches.len(), 1);
        assert_eq!((batches[0].prefix, batches[0].inputs.len(), batches[0].width()), (64, 4, 3));
        let alone = Plan { share_prefixes: false, ..PLAN }.batches(&inputs);
        assert!(alone.iter().all(|batch| batch.prefix == 0));
    }

    #[test]
    fn a_truncated_input_keeps_its_end_and_shares_nothing() {
        let asked = [ask(0..40, &[1, 2, 3]), ask(0..40, &[4, 5, 6])];
        let inputs = distinct_inputs(&asked, 20);
        assert!(inputs.iter().all(|input| input.tokens.len() == 20));
        assert_eq!(inputs[0].asked[0].targets, [1, 2, 3]);
        assert!(PLAN.batches(&inputs).iter().all(|batch| batch.prefix == 0));
        let long = distinct_inputs(&[ask(0..1, &(0..30).collect::<Vec<_>>())], 20);
        assert_eq!((long[0].asked[0].targets.len(), long[0].asked[0].first_row), (20, 0));
    }

    #[test]
    fn every_input_is_in_one_batch_within_the_budget_and_padding_is_small() {
        let asked: Vec<Continuation> = (0..500).map(|i| ask(i..i + 30 + i * 7 % 200, &[i, 1])).collect();
        let inputs = distinct_inputs(&asked, 512);
        let batches = PLAN.batches(&inputs);
        assert_eq!(batches.iter().map(|batch| batch.inputs.len()).sum::<usize>(), inputs.len());
        assert!(batches.iter().all(|batch| batch.inputs.len() * batch.width() <= PLAN.tokens));
        assert!(padding(&asked, 512, PLAN) < 0.05, "{}", padding(&asked, 512, PLAN));
    }
}
