//! Training sequences: one document each, as an evaluation prompt is alone too. What stands in another document, or in
//! an earlier question, could only distract from the story.

use std::sync::mpsc::{Receiver, sync_channel};

use qpipe_formats::Tokenizer;
use qpipe_smallworld::{Corpus, Document, Sort};
use rayon::prelude::*;

/// Tokens per sequence that are predicted; a sequence holds one more.
pub(crate) const WINDOW: usize = 64;

/// Weights in the loss. Most of a story's words are drawn freely and cannot be known (a portrait's follow from the name);
/// questions are where the story must be read, and the first token of a reply is 1 in about 12 of them.
const STORY_WEIGHT: f32 = 0.3;
const PORTRAIT_WEIGHT: f32 = 1.0;
const QUESTION_WEIGHT: f32 = 1.0;
const REPLY_WEIGHT: f32 = 5.0;

/// Inputs and targets `[batch, WINDOW]`, and each target's weight.
pub(crate) struct Batch {
    pub inputs: Vec<i64>,
    pub targets: Vec<i64>,
    pub weights: Vec<f32>,
    /// Sum of the weights.
    pub total: f32,
}

/// An endless stream of batches.
pub(crate) struct Batches {
    corpus: Corpus,
    tokenizer: Tokenizer,
    /// Tokens that start a question and that stand before a reply.
    question: u32,
    colon: u32,
}

/// Token ids, and each one's weight as a target.
type Sequence = Vec<(u32, f32)>;

impl Batches {
    pub(crate) fn new(corpus: Corpus, tokenizer: Tokenizer) -> Result<Self, String> {
        let one = |text: &str| {
            let ids = tokenizer.encode(text, false).map_err(|e| e.to_string())?;
            <[u32; 1]>::try_from(ids)
                .map(|[id]| id)
                .map_err(|ids| format!("`{text}` is {} tokens, not one", ids.len()))
        };
        Ok(Self { question: one("Question")?, colon: one(":")?, corpus, tokenizer })
    }

    fn document(&self, document: &Document) -> Result<Sequence, String> {
        let ids = self.tokenizer.encode(&document.text, false).map_err(|e| e.to_string())?;
        let story = ids.iter().position(|id| *id == self.question).unwrap_or(ids.len());
        let telling = if document.sort == Sort::Portrait { PORTRAIT_WEIGHT } else { STORY_WEIGHT };
        let weight = |at: usize| match at {
            _ if at < story => telling,
            // "Question:" has a colon too
            _ if ids[at - 1] == self.colon && (at < 2 || ids[at - 2] != self.question) => REPLY_WEIGHT,
            _ => QUESTION_WEIGHT,
        };
        Ok((0..ids.len()).map(|at| (ids[at], weight(at))).collect())
    }

    /// A document of [`WINDOW`] + 1 tokens at most, filled up with tokens that are not scored. A longer one, a portrait of
    /// somebody with a long name, loses its last reply: about one document in nine.
    fn sequence(&self, document: &Document) -> Result<Sequence, String> {
        let mut all = self.document(document)?;
        all.resize(WINDOW + 1, (0, 0.0));
        Ok(all)
    }

    /// Batches of `batch` documents in `parts` equal parts, made by a thread of their own, a few ahead.
    pub(crate) fn ahead(mut self, batch: usize, parts: usize) -> Receiver<Result<Vec<Batch>, String>> {
        let (sender, receiver) = sync_channel(4);
        std::thread::spawn(move || {
            loop {
                let made = (0..parts).map(|_| self.next(batch / parts)).collect();
                if sender.send(made).is_err() {
                    return; // nobody trains any more
                }
            }
        });
        receiver
    }

    fn next(&mut self, batch: usize) -> Result<Batch, String> {
        let documents: Vec<Document> = self.corpus.by_ref().take(batch).collect();
        let sequences =
            documents.par_iter().map(|d| self.sequence(d)).collect::<Result<Vec<Sequence>, String>>()?;
        let mut inputs = Vec::with_capacity(batch * WINDOW);
        let mut targets = Vec::with_capacity(batch * WINDOW);
        let mut weights = Vec::with_capacity(batch * WINDOW);
        for sequence in sequences {
            for pair in sequence.windows(2) {
                inputs.push(i64::from(pair[0].0));
                targets.push(i64::from(pair[1].0));
                weights.push(pair[1].1);
            }
        }
        let total = weights.iter().sum();
        Ok(Batch { inputs, targets, weights, total })
    }
}
