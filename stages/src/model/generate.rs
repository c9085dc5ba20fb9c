//! Decoding with a KV cache.

use burn::tensor::{Int, Tensor, TensorData};

use super::cache::KvCache;
use super::llama::Llama;
use super::ops::host_values;

/// A batch of sequences being decoded greedily, in step.
pub struct Decoder<'a> {
    model: &'a Llama,
    cache: KvCache,
    /// The next token of each sequence.
    next: Vec<u32>,
}

impl<'a> Decoder<'a> {
    /// Reads the prompts (all of one length) and picks each sequence's first new token. `room`: how many new
    /// tokens the cache must hold.
    pub fn start(model: &'a Llama, prompts: &[Vec<u32>], room: usize) -> Self {
        let (batch, length) = (prompts.len(), prompts.first().map_or(0, Vec::len));
        let mut cache = KvCache::new(&model.config, batch, length + room, &model.device);
        let ids: Vec<i64> = prompts.iter().flatten().map(|id| i64::from(*id)).collect();
        let next = forward(model, &mut cache, ids, [batch, length]);
        Self { model, cache, next }
    }

    /// The next token of each sequence, before [`Self::step`] consumes it.
    pub fn next_tokens(&self) -> &[u32] {
        &self.next
    }

    /// Feeds the chosen tokens and picks the following ones.
    pub fn step(&mut self) {
        let ids: Vec<i64> = self.next.iter().map(|id| i64::from(*id)).collect();
        let batch = ids.len();
        self.next = forward(self.model, &mut self.cache, ids, [batch, 1]);
    }

    /// Bytes of the cache.
    pub fn cache_bytes(&self) -> usize {
        self.cache.bytes()
    }
}

/// Runs `ids` `[batch, seq]` and returns the greedy token after each sequence's last position.
fn forward(model: &Llama, cache: &mut KvCache, ids: Vec<i64>, [batch, seq]: [usize; 2]) -> Vec<u32> {
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(ids, [batch, seq]), &model.device);
    let hidden = model.hidden(tokens, Some(cache));
    let width = hidden.dims()[1];
    let last = hidden.reshape([batch, seq, width]).narrow(1, seq - 1, 1).reshape([batch, width]);
    let logits = host_values(model.logits(last));
    logits.chunks(model.config.vocab_size).map(argmax).collect()
}

/// Index of the largest value; the first of equals.
fn argmax(values: &[f32]) -> u32 {
    let mut best = 0;
    for (i, v) in values.iter().enumerate() {
        if *v > values[best] {
            best = i;
        }
    }
    best as u32
}

/// Greedy continuation of one prompt by `count` tokens.
pub fn generate(model: &Llama, prompt: &[u32], count: usize) -> Vec<u32> {
    let mut decoder = Decoder::start(model, &[prompt.to_vec()], count);
    let mut out = Vec::with_capacity(count);
    while out.len() < count {
        out.push(decoder.next_tokens()[0]);
        if out.len() < count {
            decoder.step();
        }
    }
    out
}
