//! Decoding on a GPU: a step's some hundred small kernels take longer to start than to run, so they are recorded once, as a
//! CUDA graph, and replayed. Token, position and cache stay on the device; the token is read back after every step. A model
//! keeps the last recording with its cache, for the next batch of the same shape.

use burn::tensor::{Device, Tensor};
use cubecl::bytes::Bytes;
use cubecl::client::{Client, Graph};
use cubecl::server::Handle;
use qpipe_kernels::Recording;

use super::super::cache::KvCache;
use super::super::llama::Llama;
use super::{ALIGNMENT, Gpu, Start, buffer};

/// Steps that run before one is recorded: they compile kernels and fill the memory that the recording takes from.
const WARM: u32 = 2;

/// What decoding in step holds on the device.
pub(in super::super) struct Stepper {
    client: Client,
    /// Of each sequence the token that the next step reads, `[batch]`, u32.
    tokens: Handle,
    batch: usize,
    thread: std::thread::ThreadId,
    start: Start,
    /// Of the last step, `[batch, vocabulary]`.
    logits: Tensor<2>,
    state: State,
}

#[expect(clippy::large_enum_variant, reason = "one of a model")]
enum State {
    /// How many steps have run.
    Warm(u32),
    /// With the logits that it writes.
    Recorded(Graph, Tensor<2>),
    /// The device refused to record; steps go on kernel by kernel.
    Refused,
}

impl Stepper {
    /// After a prompt of `len` tokens each, whose last position has `logits`: picks the likeliest token.
    pub(in super::super) fn new(logits: Tensor<2>, len: usize, device: &Device) -> Option<Self> {
        let client = Gpu::of(device)?.client;
        let [batch, _] = logits.dims();
        let tokens = client.create_from_slice(&padded(&vec![0; batch]));
        // picking moves on to the position after the prompt
        let start = Start::at(len - 1, device)?;
        let thread = std::thread::current().id();
        let stepper = Self { client, tokens, batch, thread, start, logits, state: State::Warm(0) };
        stepper.pick(&stepper.logits);
        Some(stepper)
    }

    /// As [`Self::new`] for as many sequences in the same cache, keeping what was recorded.
    pub(in super::super) fn restart(&mut self, logits: Tensor<2>, len: usize) {
        let Start(start) = &self.start;
        self.client.write(start, Bytes::from_bytes_vec(padded(&[len as u32 - 1])));
        self.logits = logits;
        self.pick(&self.logits);
    }

    /// Whether so many sequences can advance in it: a recording runs on the stream of the thread that made it, and what is
    /// written and read besides it must be on the same.
    pub(in super::super) fn serves(&self, batch: usize) -> bool {
        self.batch == batch && self.thread == std::thread::current().id()
    }

    /// Feeds each sequence's token, and picks the likeliest next ones.
    pub(in super::super) fn step(&mut self, model: &Llama, cache: &mut KvCache) {
        if matches!(self.state, State::Warm(WARM)) {
            self.state = match self.record(model, cache) {
                Some((graph, logits)) => State::Recorded(graph, logits),
                None => State::Refused,
            };
        }
        match &mut self.state {
            State::Recorded(graph, logits) => {
                // SAFETY: what was recorded writes to the cache, the tokens, the position and the logits, which live as
                // long as the graph does, and to memory that the graph keeps for itself
                #[expect(unsafe_code, reason = "see above")]
                let replayed = unsafe { graph.replay() };
                if let Err(error) = replayed {
                    panic!("the device refused to run a decoding step: {error}");
                }
                self.logits = logits.clone();
            }
            State::Warm(steps) => {
                if *steps == 0 {
                    // an error shows when recording begins
                    let _ = self.client.graph_prepare();
                }
                *steps += 1;
                self.logits = self.enqueue(model, cache);
            }
            State::Refused => self.logits = self.enqueue(model, cache),
        }
        cache.len += 1;
    }

    /// The tokens that the next step will read.
    pub(in super::super) fn tokens(&self) -> Vec<u32> {
        let bytes = match self.client.read_one(self.tokens.clone()) {
            Ok(bytes) => bytes,
            Err(error) => panic!("the device failed: {error}"),
        };
        bytes.as_chunks::<4>().0.iter().take(self.batch).map(|bytes| u32::from_le_bytes(*bytes)).collect()
    }

    /// Has the next step read these tokens instead of the likeliest.
    pub(in super::super) fn choose(&self, tokens: &[u32]) {
        self.client.write(&self.tokens, Bytes::from_bytes_vec(padded(tokens)));
    }

    /// Logits `[batch, vocabulary]` after the last step.
    pub(in super::super) fn logits(&self) -> Vec<f32> {
        super::super::ops::host_values(self.logits.clone())
    }

    /// Whether the device refused to record.
    pub(in super::super) fn is_unrecorded(&self) -> bool {
        matches!(self.state, State::Refused)
    }

    fn record(&self, model: &Llama, cache: &mut KvCache) -> Option<(Graph, Tensor<2>)> {
        let _recording = Recording::begin();
        self.client.start_capture().ok()?;
        let logits = self.enqueue(model, cache);
        Some((self.client.stop_capture().ok()?, logits))
    }

    fn enqueue(&self, model: &Llama, cache: &mut KvCache) -> Tensor<2> {
        let logits = model.logits(model.step(&self.tokens, self.batch, &self.start, cache));
        self.pick(&logits);
        logits
    }

    fn pick(&self, logits: &Tensor<2>) {
        let shape = logits.dims();
        let logits = buffer(logits.clone());
        let Start(start) = &self.start;
        qpipe_kernels::pick_and_advance(&self.client, &logits.handle, shape, &self.tokens, start);
    }
}

fn padded(tokens: &[u32]) -> Vec<u8> {
    let mut bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT as usize), 0);
    bytes
}
