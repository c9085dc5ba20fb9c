//! The number of weights that share one absmax.

use crate::CodecError;

/// Weights per absmax: a power of two from 32 to 4096, 64 by default.
///
/// Being even, a block always begins at a whole byte of codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockSize(u32);

impl BlockSize {
    /// The smallest block.
    pub const MIN: Self = Self(32);
    /// The largest block.
    pub const MAX: Self = Self(4096);

    /// Weights in a block.
    pub const fn get(self) -> usize {
        self.0 as usize
    }

    /// Blocks that `n` weights fill; the last one may be short.
    pub const fn blocks(self, n: usize) -> usize {
        n.div_ceil(self.get())
    }
}

impl Default for BlockSize {
    fn default() -> Self {
        Self(64)
    }
}

impl TryFrom<u32> for BlockSize {
    type Error = CodecError;

    fn try_from(size: u32) -> Result<Self, CodecError> {
        let known = size.is_power_of_two() && (Self::MIN.0..=Self::MAX.0).contains(&size);
        if known { Ok(Self(size)) } else { Err(CodecError::BlockSize(size)) }
    }
}

impl From<BlockSize> for u32 {
    fn from(block: BlockSize) -> u32 {
        block.0
    }
}

impl std::fmt::Display for BlockSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_exactly_the_powers_of_two_in_range() {
        let accepted: Vec<u32> = (0..=8192).filter(|&b| BlockSize::try_from(b).is_ok()).collect();
        assert_eq!(accepted, [32, 64, 128, 256, 512, 1024, 2048, 4096]);
        assert_eq!(BlockSize::try_from(48), Err(CodecError::BlockSize(48)));
    }

    #[test]
    fn a_short_block_counts() {
        let block = BlockSize::default();
        assert_eq!([0, 1, 64, 65].map(|n| block.blocks(n)), [0, 1, 1, 2]);
    }
}
