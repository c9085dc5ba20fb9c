//! Any bytes are rows or an error. Those of a parquet file begin with its magic, which the fuzzer need not find.

#![no_main]

use libfuzzer_sys::fuzz_target;
use qpipe_formats::rows;

fuzz_target!(|bytes: &[u8]| {
    rows::read("fuzz", bytes).ok();
});
