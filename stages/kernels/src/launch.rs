//! What all launches share.
#![allow(unsafe_code, reason = "a kernel's argument is a buffer and the length that its caller vouches for")]

use cubecl::client::Client;
use cubecl::ir::features::MmaConfig;
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;
use cubecl::server::Handle;

/// Lanes of a plane; kernels are written for this many.
pub(crate) const PLANE: usize = 32;
/// Units of a cube.
pub(crate) const CUBE: usize = 256;

/// A floating-point type of activations and weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    F32,
    F16,
    Bf16,
}

impl Dtype {
    /// Bytes of an element.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    pub(crate) fn elem(self) -> ElemType {
        ElemType::Float(match self {
            Self::F32 => FloatKind::F32,
            Self::F16 => FloatKind::F16,
            Self::Bf16 => FloatKind::BF16,
        })
    }
}

/// What a kernel refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelError {
    /// Rows of packed weights must be whole numbers of 32.
    Inner { inner: usize },
    /// A width that is not whole numbers of this, or too large.
    Width { width: usize, of: usize },
    /// More values than an index of 32 bits tells apart.
    Length { len: usize },
    /// More rows of activations than a kernel handles.
    Rows { rows: usize, most: usize },
    /// The device's tensor cores have no such products.
    Dtype { dtype: Dtype },
}

impl std::fmt::Display for KernelError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Inner { inner } => write!(f, "rows of {inner} weights are not whole numbers of 32"),
            Self::Width { width, of } => write!(f, "a width of {width}, the kernel takes multiples of {of}"),
            Self::Length { len } => write!(f, "{len} values, a kernel tells 2³² apart"),
            Self::Rows { rows, most } => write!(f, "{rows} rows of activations, the kernel takes {most}"),
            Self::Dtype { dtype } => {
                write!(f, "products of {dtype:?} on tensor cores are not to be had here")
            }
        }
    }
}

impl std::error::Error for KernelError {}

/// Whether the device has the matrix instructions that kernels for many rows use: `m16n8k16`, or `m16n8k8` of TF32 for f32.
pub(crate) fn has_tensor_cores(client: &Client, dtype: Dtype) -> bool {
    let (elem, k) = match dtype {
        Dtype::F32 => (FloatKind::TF32, 8),
        Dtype::F16 => (FloatKind::F16, 16),
        Dtype::Bf16 => (FloatKind::BF16, 16),
    };
    client.features().matmul.mma.contains(&MmaConfig {
        a_type: ElemType::Float(elem),
        b_type: ElemType::Float(elem),
        cd_type: ElemType::Float(FloatKind::F32),
        m: 16,
        n: 8,
        k,
    })
}

/// A kernel's argument: `len` elements, a vector counting as one. In the kernel `.len()` is that of the whole buffer, which may
/// be longer: only what a kernel fills to the end may be bounded by it.
pub(crate) fn buffer(handle: &Handle, len: usize) -> BufferArg {
    // SAFETY: every caller computes the length from the shape that the handle was made for
    unsafe { BufferArg::from_raw_parts(handle.clone(), len) }
}

/// A bias `[out]` in f32 as an argument, and whether there is one; without it nothing is read.
pub(crate) fn bias_of(bias: Option<&Handle>, out: usize, unread: &Handle) -> (BufferArg, bool) {
    match bias {
        Some(bias) => (buffer(bias, out), true),
        None => (buffer(unread, 1), false),
    }
}

/// Cubes of [`CUBE`] units for so many units; two dimensions where one would be longer than any device takes.
pub(crate) fn cubes(units: usize) -> CubeCount {
    const MOST: usize = 1 << 30;
    let cubes = units.div_ceil(CUBE).max(1);
    let y = cubes.div_ceil(MOST);
    CubeCount::Static(cubes.div_ceil(y) as u32, y as u32, 1)
}
