//! Decoding with a KV cache.

use burn::tensor::{Int, Tensor, TensorData};

use super::cache::KvCache;
use super::llama::Llama;
use super::ops::host_values;
use super::sampling::Pick;

/// A batch of sequences being decoded in step.
pub struct Decoder<'a> {
    model: &'a Llama,
    cache: KvCache,
    pick: Pick,
    /// The number of the first sequence, which draws depend on; the others follow.
    first: u64,
    /// Tokens picked of each sequence so far.
    steps: u64,
    /// The next token of each sequence.
    next: Vec<u32>,
    #[cfg(feature = "cuda")]
    on_cuda: Option<super::on_cuda::stepper::Stepper>,
}

impl<'a> Decoder<'a> {
    /// Reads the prompts (all of one length) and picks each sequence's first new token greedily. `room`: how many new
    /// tokens the cache must hold.
    pub fn start(model: &'a Llama, prompts: &[Vec<u32>], room: usize) -> Self {
        Self::picking(model, prompts, room, Pick::Greedy, 0)
    }

    /// Like [`Self::start`], picking tokens in another way; `first` is the first sequence's number.
    pub fn picking(model: &'a Llama, prompts: &[Vec<u32>], room: usize, pick: Pick, first: u64) -> Self {
        let (batch, length) = (prompts.len(), prompts.first().map_or(0, Vec::len));
        #[cfg(not(feature = "cuda"))]
        let cache = model.cache(batch, length + room);
        #[cfg(feature = "cuda")]
        let (cache, kept) = model.cache_with_steps(batch, length + room);
        let mut decoder = Self {
            model,
            cache,
            pick,
            first,
            steps: 0,
            next: Vec::new(),
            #[cfg(feature = "cuda")]
            on_cuda: None,
        };
        let ids = prompts.iter().flatten().map(|id| i64::from(*id)).collect();
        let logits = decoder.logits_after(ids, [batch, length]);
        #[cfg(feature = "cuda")]
        if model.is_on_cuda() {
            decoder.on_cuda = match kept {
                Some(mut stepper) => {
                    stepper.restart(logits, length);
                    Some(stepper)
                }
                None => super::on_cuda::stepper::Stepper::new(logits, length, &model.device),
            };
            decoder.pick_on_cuda();
            return decoder;
        }
        decoder.pick(&host_values(logits));
        decoder
    }

    /// The next token of each sequence, before [`Self::step`] consumes it.
    pub fn next_tokens(&self) -> &[u32] {
        &self.next
    }

    /// Feeds the chosen tokens and picks the following ones.
    pub fn step(&mut self) {
        #[cfg(feature = "cuda")]
        if let Some(stepper) = &mut self.on_cuda {
            stepper.step(self.model, &mut self.cache);
            self.pick_on_cuda();
            return;
        }
        let ids: Vec<i64> = self.next.iter().map(|id| i64::from(*id)).collect();
        let batch = ids.len();
        let logits = self.logits_after(ids, [batch, 1]);
        self.pick(&host_values(logits));
    }

    /// Bytes of the cache.
    pub fn cache_bytes(&self) -> usize {
        self.cache.bytes()
    }

    /// Whether a GPU refused to record steps as a CUDA graph, so that they run kernel by kernel.
    pub fn is_unrecorded(&self) -> bool {
        #[cfg(feature = "cuda")]
        return self.on_cuda.as_ref().is_some_and(super::on_cuda::stepper::Stepper::is_unrecorded);
        #[cfg(not(feature = "cuda"))]
        false
    }

    /// Runs `ids` `[batch, seq]`: logits `[batch, vocabulary]` after each sequence's last position.
    fn logits_after(&mut self, ids: Vec<i64>, [batch, seq]: [usize; 2]) -> Tensor<2> {
        let model = self.model;
        let tokens = Tensor::<2, Int>::from_data(TensorData::new(ids, [batch, seq]), &model.device);
        let hidden = model.hidden(tokens, Some(&mut self.cache));
        let width = hidden.dims()[1];
        model.logits(hidden.reshape([batch, seq, width]).narrow(1, seq - 1, 1).reshape([batch, width]))
    }

    fn pick(&mut self, logits: &[f32]) {
        let rows = logits.chunks(self.model.config.vocab_size).zip(self.first..);
        self.next = rows.map(|(row, sequence)| self.pick.token(row, sequence, self.steps)).collect();
        self.steps += 1;
    }

    /// Reads back what the device picked, or has it go on with what is drawn from its logits.
    #[cfg(feature = "cuda")]
    fn pick_on_cuda(&mut self) {
        let Some(stepper) = self.on_cuda.take() else { return };
        if self.pick == Pick::Greedy {
            self.next = stepper.tokens();
            self.steps += 1;
        } else {
            self.pick(&stepper.logits());
            stepper.choose(&self.next);
        }
        self.on_cuda = Some(stepper);
    }
}

/// What was recorded is the model's, for the next batch.
#[cfg(feature = "cuda")]
impl Drop for Decoder<'_> {
    fn drop(&mut self) {
        if let Some(stepper) = self.on_cuda.take() {
            self.model.keep_steps(std::mem::replace(&mut self.cache, KvCache::nothing()), stepper);
        }
    }
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finish {
    /// The model gave its end-of-sequence token, which is not part of the text.
    Eos,
    /// As many tokens as were asked for.
    Length,
}

/// What is asked of [`generate`].
#[derive(Clone, Debug)]
pub struct Request {
    pub max_tokens: usize,
    pub pick: Pick,
    /// The sequence's number, which draws depend on.
    pub sequence: u64,
    /// The end-of-sequence tokens; without any, nothing stops early.
    pub eos: Vec<u32>,
}

/// Why nothing can be generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GenerateError {
    #[error("the prompt has no tokens")]
    Empty,
    #[error(
        "the prompt's {prompt} tokens and {max_tokens} new ones do not fit the model's context of {context}"
    )]
    Context { prompt: usize, max_tokens: usize, context: usize },
}

impl From<GenerateError> for qpipe_sdk::StageError {
    fn from(error: GenerateError) -> Self {
        Self::config(error)
    }
}

/// Checks that a prompt and what is to follow it fit a model's context of `context` tokens.
pub fn check_context(prompt: usize, max_tokens: usize, context: usize) -> Result<(), GenerateError> {
    match prompt {
        0 => Err(GenerateError::Empty),
        _ if prompt + max_tokens > context => Err(GenerateError::Context { prompt, max_tokens, context }),
        _ => Ok(()),
    }
}

/// Continues one prompt. `after_token` sees how many tokens there are and may stop the work by an error.
pub fn generate<E: From<GenerateError>>(
    model: &Llama,
    prompt: &[u32],
    request: &Request,
    after_token: &mut dyn FnMut(usize) -> Result<(), E>,
) -> Result<(Vec<u32>, Finish), E> {
    let Request { max_tokens, pick, sequence, ref eos } = *request;
    check_context(prompt.len(), max_tokens, model.config.max_position_embeddings)?;
    let mut decoder = Decoder::picking(model, &[prompt.to_vec()], max_tokens, pick, sequence);
    let mut tokens = Vec::with_capacity(max_tokens);
    loop {
        let token = decoder.next_tokens()[0];
        if eos.contains(&token) {
            return Ok((tokens, Finish::Eos));
        }
        tokens.push(token);
        after_token(tokens.len())?;
        if tokens.len() >= max_tokens {
            return Ok((tokens, Finish::Length));
        }
        decoder.step();
    }
}

/// Greedy continuation of one prompt by `count` tokens, whatever they are.
pub fn greedy(model: &Llama, prompt: &[u32], count: usize) -> Result<Vec<u32>, GenerateError> {
    let request = Request { max_tokens: count, pick: Pick::Greedy, sequence: 0, eos: Vec::new() };
    generate(model, prompt, &request, &mut |_| Ok(())).map(|(tokens, _)| tokens)
}
