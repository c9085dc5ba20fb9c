//! Run-time choice of the instruction set for loops that the compiler vectorises.
//!
//! The loops are plain Rust without fused operations, so their results do not depend on the choice; the speed does:
//! a program is compiled for any processor of its kind, and most have wider registers than that promises.

/// Runs `work`, compiled for the widest instruction set that this processor has. What `work` calls profits if it is
/// inlined (`#[inline(always)]`).
#[inline]
pub(crate) fn widest<R>(work: impl FnOnce() -> R) -> R {
    macerator::AutoArch::new().dispatch(work)
}
