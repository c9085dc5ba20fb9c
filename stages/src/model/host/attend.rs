//! Attention on the host, in tasks that each keep their scores in the cache: some queries of a sequence, one group of
//! heads after the other. The cut depends on the shape alone, so results do not depend on the number of threads.

use std::ops::Range;

use qpipe_codecs::{Strided, multiply};
use rayon::prelude::*;

use super::{causal_softmax, rows_per_task, widest};

/// Queries of one task.
const QUERIES: usize = 32;

/// Heads that share keys and values, and where a pass stands.
#[derive(Clone, Copy)]
pub(in super::super) struct Grouped {
    /// New tokens of each sequence.
    pub(in super::super) seq: usize,
    /// The position of the first of them.
    pub(in super::super) start: usize,
    pub(in super::super) heads: usize,
    pub(in super::super) kv_heads: usize,
    pub(in super::super) dim: usize,
    /// How many keys a query sees, its own included.
    pub(in super::super) window: Option<usize>,
}

/// What a task needs room for.
#[derive(Default)]
struct Buffers {
    queries: Vec<f32>,
    scores: Vec<f32>,
    mixed: Vec<f32>,
}

/// Some queries, and the part of the result that is theirs.
struct Task<'a> {
    sequence: usize,
    tokens: Range<usize>,
    kv_heads: Range<usize>,
    /// `[tokens, heads of the task, dim]`.
    out: &'a mut [f32],
}

/// Causal attention of projected queries `q` `[batch · seq, heads · dim]` over keys and values
/// `[batch, kv heads, capacity, dim]`, whose last valid position is the last token's; the mixed values have the queries'
/// shape. `write` makes a query's row from its stored one: rotated and scaled.
pub(in super::super) fn attend(
    shape: Grouped,
    q: &[f32],
    [keys, values]: [&[f32]; 2],
    write: impl Fn(usize, &[f32], &mut [f32]) + Sync,
) -> Vec<f32> {
    let Grouped { seq, heads, kv_heads, dim, .. } = shape;
    let mut out = vec![0.0; q.len()];
    let run = |buffers: &mut Buffers, task: Task<'_>| shape.run(task, q, [keys, values], &write, buffers);
    if seq == 1 {
        // a token's heads lie side by side: every group is a task
        let group = heads / kv_heads * dim;
        let least = rows_per_task((shape.start + 1) * dim);
        let parts = out.par_chunks_mut(group).with_min_len(least).enumerate();
        parts.for_each_init(Buffers::default, |buffers, (index, out)| {
            let (sequence, head) = (index / kv_heads, index % kv_heads);
            run(buffers, Task { sequence, tokens: 0..1, kv_heads: head..head + 1, out });
        });
        return out;
    }
    out.par_chunks_mut(seq * heads * dim).enumerate().for_each(|(sequence, out)| {
        let parts = out.par_chunks_mut(QUERIES * heads * dim).with_max_len(1).enumerate();
        parts.for_each_init(Buffers::default, |buffers, (index, out)| {
            let tokens = index * QUERIES..((index + 1) * QUERIES).min(seq);
            run(buffers, Task { sequence, tokens, kv_heads: 0..kv_heads, out });
        });
    });
    out
}

impl Grouped {
    /// The first key that any of `tokens` sees, and how many there are.
    fn keys_of(&self, tokens: &Range<usize>) -> (usize, usize) {
        let at = self.start + tokens.start;
        let first = self.window.map_or(0, |window| (at + 1).saturating_sub(window));
        (first, at + tokens.len() - first)
    }

    fn run(
        &self,
        task: Task<'_>,
        q: &[f32],
        [keys, values]: [&[f32]; 2],
        write: &impl Fn(usize, &[f32], &mut [f32]),
        buffers: &mut Buffers,
    ) {
        let Self { seq, heads, kv_heads, dim, .. } = *self;
        let Task { sequence, tokens, kv_heads: mine, out } = task;
        let (group, len) = (heads / kv_heads, tokens.len());
        let rows = group * len;
        let (first, seen) = self.keys_of(&tokens);
        // as many positions as there is room for
        let capacity = keys.len() * seq * heads / (q.len() * kv_heads);
        buffers.queries.resize(rows * dim, 0.0);
        buffers.scores.resize(rows * seen, 0.0);
        buffers.mixed.resize(rows * dim, 0.0);
        for (index, kv_head) in mine.clone().enumerate() {
            let query = |row: usize| {
                let (head, token) = (kv_head * group + row / len, tokens.start + row % len);
                (token, ((sequence * seq + token) * heads + head) * dim)
            };
            widest(
                #[inline(always)]
                || {
                    for (row, to) in buffers.queries.chunks_exact_mut(dim).enumerate() {
                        let (token, at) = query(row);
                        write(token, &q[at..at + dim], to);
                    }
                },
            );
            let at = ((sequence * kv_heads + kv_head) * capacity + first) * dim;
            let part = at..at + seen * dim;
            let keys = Strided::rows(&keys[part.clone()], [seen, dim]).transposed();
            multiply(Strided::rows(&buffers.queries, [rows, dim]), keys, &mut buffers.scores);
            let position = self.start + tokens.start - first;
            causal_softmax(&mut buffers.scores, seen, len, position, self.window.unwrap_or(usize::MAX));
            let values = Strided::rows(&values[part], [seen, dim]);
            multiply(Strided::rows(&buffers.scores, [rows, seen]), values, &mut buffers.mixed);
            for (row, mixed) in buffers.mixed.chunks_exact(dim).enumerate() {
                let head = index * group + row / len;
                let to = (row % len * mine.len() * group + head) * dim;
                out[to..to + dim].copy_from_slice(mixed);
            }
        }
    }
}
