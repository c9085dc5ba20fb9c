//! Any bytes are a safetensors file, all of whose tensors can be read and written again, or an error.

#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use qpipe_formats::{TensorFile, tensors, to_f32};

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = TensorFile::parse(bytes) else { return };
    let all: Vec<_> = file.tensors().map(|(name, view)| (name, view.dtype, view.shape.clone(), view.bytes)).collect();
    for (_, view) in file.tensors() {
        assert_eq!(to_f32(&view).len(), view.shape.iter().product::<usize>());
    }
    let written = tensors::write(&all, &BTreeMap::new()).expect("what was read can be written");
    let again = TensorFile::parse(&written).expect("what was written can be read");
    assert!(file.names().eq(again.names()));
});
