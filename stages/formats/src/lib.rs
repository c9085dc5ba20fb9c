//! Model file formats and tokenizers, without a tensor library.
//!
//! Everything here takes byte slices and gives back typed, validated descriptions plus borrowed
//! bytes: who maps files into memory, where the values go and what computes with them are other
//! crates' business. All input is untrusted: every reader is bounded, and a damaged file is a typed
//! error that names what is missing, never a panic.
//!
//! | module | what |
//! |---|---|
//! | [`architecture`] | the architectures that are computed, one file each |
//! | [`bitsandbytes`] | the names and JSON of checkpoints that are already quantized |
//! | [`config`] | [`LlamaConfig`], the one model configuration, from `config.json` or GGUF metadata |
//! | [`tensors`] | safetensors: [`TensorFile`], deterministic [`write`](tensors::write) |
//! | [`values`] | conversion of stored values: [`to_f32`], [`cast`] |
//! | [`hf`] | [`HfDir`], the files of a Hugging Face checkpoint folder |
//! | [`gguf`] | bounded GGUF reader, dequantization, mapping to Hugging Face names and row order |
//! | [`rows`] | data sets: JSON lines and parquet, a row at a time |
//! | [`tokenizer`] | [`Tokenizer`], from `tokenizer.json` or rebuilt from GGUF metadata |

#![forbid(unsafe_code)]

pub mod architecture;
pub mod bitsandbytes;
pub mod config;
pub mod dtype;
pub mod error;
pub mod gguf;
pub mod hf;
pub mod rows;
pub mod tensors;
pub mod tokenizer;
pub mod values;

pub use config::{Architecture, LlamaConfig};
pub use dtype::DType;
pub use error::{FormatError, TokenizerError};
pub use gguf::{Gguf, GgufError};
pub use hf::HfDir;
pub use tensors::{TensorFile, TensorView};
pub use tokenizer::Tokenizer;
pub use values::{cast, to_f32};
