//! GPU kernels of the quantization formats, in cubecl: one source for every runtime that has planes of 32 lanes. The
//! arithmetic is that of [`qpipe_codecs`], value for value, and the tests on a device hold every kernel to it.
//!
//! | kernel | what | the CPU's |
//! |---|---|---|
//! | [`quantize4`] | NF4 and FP4 codes and absmax of a tensor | [`qpipe_codecs::quantize4`] |
//! | [`double_quantize4`] | absmax values in codes of 8 bits | [`qpipe_codecs::double_quantize`] |
//! | [`dequantize4`] | the tensor again, in its compute dtype | [`qpipe_codecs::dequantize4`] |
//! | [`multiply4`] | `x · Wᵀ` for few rows of `x`, on the packed bytes | [`qpipe_codecs::matmul_packed4`] |
//! | [`multiply4_batch`] | the same for up to 64, on tensor cores | |
//! | [`multiply_dense`] | the same on a dense weight | |
//! | [`quantize_activations`], [`multiply_int8`] | the LLM.int8 product of few rows | [`qpipe_codecs::int8_linear`] |
//! | [`gemm`](fn@gemm), [`join_int8`] | the same of many rows, on tensor cores | the same |
//! | [`gemm`](fn@gemm) | products of many rows, by cuBLASLt | |
//! | [`dequantize_int8`] | the weight itself | [`qpipe_codecs::dequantize_int8`] |
//! | [`rms_norm`], [`swiglu`] | with the residual sum, the norms and the gate of a layer | the model's host loops |
//! | [`rotate_and_store`], [`attend`] | rotary positions, the cache's new rows, attention over it | the model's host loops |
//! | [`embed`], [`pick_and_advance`] | the ends of a decoding step | |
//! | [`gemm_f32`] | the same in f32, by parts that tensor cores hold | |
//! | [`upload`] | bytes to the device, at the bus's speed | |
//! | [`widen`] | rows with zeros after them, for kernels of whole vectors | |
//! | [`log_softmax_at`] | log-likelihoods and the likeliest token of rows of logits | the model's scores |
//! | [`fn@divergence`] | Kullback-Leibler divergence of two models' rows of logits | the model's scores |
//!
//! A program says first how it is [set up](set_up), and [opens](open) a device before it uses it, so that one can work while
//! another [records](Recording).
//!
//! Buffers are cubecl's handles, contiguous, row-major. Lengths are in elements unless a name says bytes.
#![cfg(feature = "cuda")]
#![allow(
    clippy::used_underscore_binding,
    clippy::manual_is_multiple_of,
    clippy::float_cmp,
    clippy::too_many_lines,
    clippy::assign_op_pattern,
    clippy::range_plus_one,
    clippy::needless_range_loop,
    reason = "of kernels: an argument that only the macro reads defines the type, the language has fewer methods and \
              operators than Rust, a maximum equals the value that it is, and registers cannot be handed to helpers"
)]

mod attention;
mod blas;
mod dense;
mod fourbit;
mod int8;
mod lanes;
mod launch;
mod layer;
mod recording;
mod scores;
mod setup;
mod tf32;
mod transfer;

pub use attention::{Cache, Heads, attend, rotate_and_store};
pub use blas::{BlasError, Gemm, Operands, Search, Second, cublaslt, gemm, gemm_into, search_cublaslt};
pub use dense::multiply_dense;
pub use fourbit::batch::{MOST_BATCH_ROWS, multiply4_batch};
pub use fourbit::dequantize::dequantize4;
pub use fourbit::nested::double_quantize4;
pub use fourbit::product::{MOST_ROWS, Tiling, multiply4, multiply4_tiled};
pub use fourbit::quantize::quantize4;
pub use fourbit::{Absmax, Format4, Nested, Packed4};
pub use int8::{
    Codes, Int8Activations, Int8Weight, Widened, dequantize_int8, join_int8, multiply_int8,
    quantize_activations, widen,
};
pub use launch::{Dtype, KernelError};
pub use layer::{embed, rms_norm, swiglu};
pub use recording::{Recording, open};
pub use scores::{DIVERGENCE, SCORES, divergence, log_softmax_at, pick_and_advance};
pub use setup::set_up;
pub use tf32::{LEAST_GEMM_F32_ROWS, gemm_f32};
pub use transfer::upload;
