//! The codecs against vectors made by the reference implementation (bitsandbytes on CUDA).
//!
//! What is held exactly, and what is not:
//!
//! | | |
//! |---|---|
//! | NF4 codes, absmax | exact, subnormal and all-zero blocks included |
//! | FP4 and int8 codes | one step off in at most 2 of 10,000 (the reciprocal, see the crate's page) |
//! | nested codes, given the offset | exact |
//! | offset | 2e-7 of the value (the order of the sum) |
//! | everything restored from given codes | exact in the dtype of the weights |
//! | NaN and infinity | refused, where the reference makes codes of them |
#![expect(clippy::unwrap_used, reason = "helpers of tests, outside the functions that clippy knows as tests")]
#![expect(clippy::print_stderr, reason = "how many codes differ is worth seeing")]

mod blockwise;
mod codebooks;
mod int8;
mod nested;
mod rtn;
mod tiny;
mod vectors;
