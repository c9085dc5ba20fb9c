//! A borrowed view of stored 4-bit weights whose parts are known to fit together.
//!
//! Checkpoints are untrusted: lengths are checked once, here, and everything behind the view may rely on them.

#![expect(clippy::inline_always, reason = "the loops must be compiled for the caller's instruction set")]

use rayon::prelude::*;

use crate::arith::flush;
use crate::{BlockSize, CodecError, FourBit};

/// Weights restored by one parallel task; a multiple of every block size.
const TASK: usize = 1 << 15;

/// Below this absmax a product with the smallest level (1/192) may be subnormal.
const FLUSH_BELOW: f32 = f32::MIN_POSITIVE * 256.0;

/// `n` weights as packed codes and one absmax per block of the flattened tensor.
#[derive(Debug, Clone, Copy)]
pub struct Packed4<'a> {
    kind: FourBit,
    packed: &'a [u8],
    absmax: &'a [f32],
    block: BlockSize,
    n: usize,
}

impl<'a> Packed4<'a> {
    /// Checks that there are `(n + 1) / 2` bytes in `packed` and `n / block` (rounded up) entries in `absmax`.
    pub fn new(
        kind: FourBit,
        packed: &'a [u8],
        absmax: &'a [f32],
        block: BlockSize,
        n: usize,
    ) -> Result<Self, CodecError> {
        CodecError::check_len("packed", n.div_ceil(2), packed.len())?;
        CodecError::check_len("absmax", block.blocks(n), absmax.len())?;
        Ok(Self { kind, packed, absmax, block, n })
    }

    /// Number of weights.
    pub fn len(&self) -> usize {
        self.n
    }

    /// Whether there are no weights.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// Restores all weights in f32: level · absmax, subnormals flushed.
    pub fn dequantize(&self, out: &mut [f32]) -> Result<(), CodecError> {
        CodecError::check_len("out", self.n, out.len())?;
        out.par_chunks_mut(TASK).enumerate().for_each(|(task, out)| self.restore(task * TASK, out));
        Ok(())
    }

    /// Restores the weights from `start` on that `out` has room for, on this thread.
    ///
    /// # Panics
    /// If the range ends behind the last weight.
    pub fn dequantize_range(&self, start: usize, out: &mut [f32]) {
        assert!(
            start.checked_add(out.len()).is_some_and(|end| end <= self.n),
            "range ends behind the last weight"
        );
        self.restore(start, out);
    }

    fn restore(&self, start: usize, out: &mut [f32]) {
        let mut at = start;
        let mut rest = out;
        while !rest.is_empty() {
            let block = at / self.block.get();
            let left = (block + 1) * self.block.get() - at;
            let (now, later) = rest.split_at_mut(left.min(rest.len()));
            self.restore_in_block(at, self.absmax[block], now);
            at += now.len();
            rest = later;
        }
    }

    /// Restores a range that lies inside one block.
    #[inline(always)]
    fn restore_in_block(&self, start: usize, absmax: f32, out: &mut [f32]) {
        let bytes = &self.packed[start / 2..];
        match out.split_first_mut() {
            Some((first, rest)) if start % 2 == 1 => {
                *first = flush_signed(self.kind.pairs()[bytes[0] as usize][1] * absmax);
                restore_block(self.kind, &bytes[1..], absmax, rest);
            }
            _ => restore_block(self.kind, bytes, absmax, out),
        }
    }
}

/// Restores weights of one block, from the high nibble of the first byte on.
#[inline(always)]
pub(crate) fn restore_block(kind: FourBit, bytes: &[u8], absmax: f32, out: &mut [f32]) {
    let pairs = kind.pairs();
    let (body, tail) = out.as_chunks_mut::<2>();
    for (o, &byte) in body.iter_mut().zip(bytes) {
        let [high, low] = pairs[byte as usize];
        *o = [high * absmax, low * absmax];
    }
    if let [last] = tail {
        *last = pairs[bytes[body.len()] as usize][0] * absmax;
    }
    if absmax.abs() < FLUSH_BELOW {
        for o in out {
            *o = flush_signed(*o);
        }
    }
}

/// Flushes to a zero of the same sign, as the hardware does with a product.
fn flush_signed(x: f32) -> f32 {
    flush(x).copysign(x)
}
