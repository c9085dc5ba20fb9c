//! The Llama forward pass on burn, for inference and (on an autodiff device) for training.
//!
//! | module | holds |
//! |---|---|
//! | [`compute`] | the compute dtype, and what rounding to it means on each device |
//! | [`linear`] | dense and packed linear layers |
//! | [`resident`] | packed layers in a device's memory |
//! | [`ops`] | RMS norm, rotary embedding, SwiGLU |
//! | [`llama`] | the model: weights in, hidden states and logits out |
//! | `attention` | blocked causal attention with grouped queries and windows |
//! | `host` | fused loops on host buffers |
//! | `on_cuda` | the same operators in kernels of our own, with the feature `cuda` |
//! | [`cache`] | keys and values of past positions |
//! | [`score`] | log-likelihoods of given continuations |
//! | [`generate`] | decoding with a cache |
//! | [`sampling`] | how the next token is picked |

mod attention;
pub mod cache;
pub mod compute;
pub mod generate;
mod host;
pub mod linear;
pub mod llama;
mod llm_int8;
#[cfg(feature = "cuda")]
mod on_cuda;
pub mod ops;
pub mod resident;
pub mod sampling;
pub mod score;

#[cfg(feature = "cuda")]
pub(crate) use on_cuda::{dense as dense_on_cuda, open as open_on_cuda, stored as stored_on_cuda};
