//! From texts to token ids, as lm-evaluation-harness encodes them, under an explicit policy for the
//! beginning-of-sequence token.

use qpipe_formats::Tokenizer;
use qpipe_sdk::{Params, StageError};

use crate::model::score::Continuation;

/// Whether a beginning-of-sequence token is put in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bos {
    /// As the tokenizer does by itself.
    Tokenizer,
    Always,
    Never,
}

impl Bos {
    pub(super) fn of(params: &Params) -> Self {
        match params.text("bos") {
            Some("always") => Self::Always,
            Some("never") => Self::Never,
            _ => Self::Tokenizer,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tokenizer => "tokenizer",
            Self::Always => "always",
            Self::Never => "never",
        }
    }
}

/// A tokenizer under a policy.
#[derive(Clone, Copy)]
pub(super) struct Encoder<'a> {
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) bos: Bos,
}

/// What stands before a text that has no context: BOS, else EOS.
pub(super) fn prefix_token(tokenizer: &Tokenizer) -> Result<u32, StageError> {
    let token = tokenizer.bos_token_id().or(tokenizer.eos_token_id());
    token.ok_or_else(|| {
        StageError::config(
            "the model names no beginning- or end-of-sequence token, which a text without context needs",
        )
    })
}

impl Encoder<'_> {
    /// Token ids of a text; never two BOS in a row: a text that begins with one gets none added.
    pub(super) fn text(&self, text: &str) -> Result<Vec<u32>, StageError> {
        let mut ids = self.tokenizer.encode(text, self.bos != Bos::Never).map_err(StageError::config)?;
        if self.bos == Bos::Always && ids.first() != Some(&prefix_token(self.tokenizer)?) {
            ids.insert(0, prefix_token(self.tokenizer)?);
        }
        let bos = self.tokenizer.bos_token_id();
        if self.bos != Bos::Never
            && bos.is_some()
            && ids.first() == bos.as_ref()
            && ids.get(1) == bos.as_ref()
        {
            ids.remove(0);
        }
        Ok(ids)
    }

    /// Token ids of a text alone, whatever the policy.
    pub(super) fn bare(&self, text: &str) -> Result<Vec<u32>, StageError> {
        self.tokenizer.encode(text, false).map_err(StageError::config)
    }

    /// A context with each of several continuations. White space at the context's end moves to the continuation; the
    /// continuation's tokens are those of both together after as many as the context alone has.
    pub(super) fn pairs(
        &self,
        context: &str,
        continuations: &[&str],
    ) -> Result<Vec<Continuation>, StageError> {
        let trimmed = context.trim_end();
        let moved = &context[trimmed.len()..];
        if trimmed.is_empty() {
            return continuations
                .iter()
                .map(|text| self.without_context(&format!("{moved}{text}")))
                .collect();
        }
        let ids = self.text(trimmed)?;
        let pair = |text: &&str| {
            let whole = self.text(&format!("{trimmed}{moved}{text}"))?;
            let continuation = whole.get(ids.len()..).unwrap_or_default().to_vec();
            Ok(Continuation { context: ids.clone(), continuation })
        };
        continuations.iter().map(pair).collect()
    }

    /// An empty context becomes the prefix token, unless the text begins with it.
    fn without_context(&self, text: &str) -> Result<Continuation, StageError> {
        let (ids, prefix) = (self.bare(text)?, prefix_token(self.tokenizer)?);
        Ok(match ids.split_first() {
            Some((first, rest)) if *first == prefix => {
                Continuation { context: vec![prefix], continuation: rest.to_vec() }
            }
            _ => Continuation { context: vec![prefix], continuation: ids },
        })
    }
}

/// A whole text as disjoint windows that predict each token once: the first after the prefix token, each later one with
/// as much context as the model takes (the harness's rolling windows with a context of one).
pub(super) fn rolling(ids: &[u32], prefix: u32, max_len: usize) -> Vec<Continuation> {
    let mut windows = Vec::new();
    let first = max_len.min(ids.len());
    if first > 0 {
        windows.push(Continuation { context: vec![prefix], continuation: ids[..first].to_vec() });
    }
    let mut predicted = first;
    while predicted < ids.len() {
        let count = (ids.len() - predicted).min(max_len);
        let end = predicted + count;
        windows.push(Continuation {
            context: ids[end - max_len - 1..predicted].to_vec(),
            continuation: ids[predicted..end].to_vec(),
        });
        predicted = end;
    }
    windows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rolling_windows_predict_each_token_once_with_full_context() {
        // the example of the harness's documentation: ten tokens, four at a time
        let ids: Vec<u32> = (0..10).collect();
        let windows = rolling(&ids, 99, 4);
        let pairs: Vec<(&[u32], &[u32])> =
            windows.iter().map(|w| (&w.context[..], &w.continuation[..])).collect();
        assert_eq!(
            pairs,
            [(&[99][..], &[0, 1, 2, 3][..]), (&[3][..], &[4, 5, 6, 7][..]), (&[5, 6, 7][..], &[8, 9][..])]
        );
        assert!(rolling(&[], 99, 4).is_empty());
    }
}
