//! Products of many rows by NVIDIA's cuBLASLt, on cubecl's buffers and stream. On an H100 it reaches what tensor cores give
//! (700 to 800 TFLOP/s in bf16) where kernels of cubecl's library reach a third, and it needs no tuning on first use.
//!
//! The library is loaded when it is first asked for. Its choice of algorithm is the heuristic's first, made once per shape; f32
//! means f32, TF32 what [`gemm_f32`](crate::gemm_f32) makes f32 of; sums of f16 and bf16 are taken in f32, those of int8 in 32-bit integers.
#![allow(unsafe_code, reason = "calls of a C library with buffers whose lengths the caller vouches for")]

mod library;
pub(crate) mod stream;

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::sync::{Arc, Mutex, PoisonError};

use cubecl::client::Client;
use cubecl::server::Handle;

pub use library::{BlasError, Search, search_cublaslt};
use library::{CublasLt, Found, Object};

use crate::launch::Dtype;

/// Bytes that a product may use besides its operands; what NVIDIA recommends for its largest devices.
const WORKSPACE: usize = 32 << 20;
/// What operands are aligned to, bytes.
const ALIGNMENT: u32 = 16;

/// What cuBLASLt there is: its version and file.
///
/// # Errors
/// [`BlasError::Absent`] says why there is none.
pub fn cublaslt() -> Result<(String, std::path::PathBuf), BlasError> {
    CublasLt::get().map(|library| (library.version(), library.path().to_owned()))
}

/// Types of a product's operands and its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operands {
    /// Floating-point: both operands, and the result.
    Float(Dtype, Dtype),
    /// f32 operands of which tensor cores see the upper 19 bits, an f32 result.
    Tf32,
    /// i8 operands, a result of i32: exact.
    Int8,
}

/// How the second operand lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Second {
    /// `[out, inner]`: a weight, or keys.
    OutInner,
    /// `[inner, out]`: values that are mixed.
    InnerOut,
}

/// Products of a batch, all of one shape: `[rows, inner]` and `[out, inner]` → `[rows, out]`, row-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Gemm {
    pub rows: usize,
    pub out: usize,
    pub inner: usize,
    pub operands: Operands,
    pub second: Second,
    pub batch: usize,
    /// Elements from one row to the next: of the first operand, the second, the result.
    pub row_strides: [usize; 3],
    /// Elements from one member of the batch to the next.
    pub batch_strides: [usize; 3],
}

impl Gemm {
    /// One product with a weight, everything dense.
    #[must_use]
    pub const fn linear([rows, out, inner]: [usize; 3], operands: Operands) -> Self {
        let (row_strides, batch_strides) = ([inner, inner, out], [0; 3]);
        Self { rows, out, inner, operands, second: Second::OutInner, batch: 1, row_strides, batch_strides }
    }

    /// Elements of the result, with what lies between its rows.
    const fn result_len(&self) -> usize {
        (self.batch - 1) * self.batch_strides[2] + self.rows * self.row_strides[2]
    }

    const fn result_size(&self) -> usize {
        match self.operands {
            Operands::Float(_, result) => result.size(),
            Operands::Tf32 | Operands::Int8 => 4,
        }
    }
}

/// The products of `gemm`, in a new buffer. `x` and `second` must hold all that it reads.
///
/// # Errors
/// [`BlasError`] where there is no cuBLASLt or no algorithm for the shape.
pub fn gemm(client: &Client, x: &Handle, second: &Handle, gemm: Gemm) -> Result<Handle, BlasError> {
    let y = client.empty((gemm.result_len() * gemm.result_size()).max(1));
    gemm_into(client, [x, second, &y], gemm)?;
    Ok(y)
}

/// As [`gemm`](fn@gemm), into the last buffer.
///
/// # Errors
/// [`BlasError`] where there is no cuBLASLt or no algorithm for the shape.
pub fn gemm_into(client: &Client, [x, second, y]: [&Handle; 3], gemm: Gemm) -> Result<(), BlasError> {
    if gemm.rows == 0 || gemm.out == 0 || gemm.inner == 0 || gemm.batch == 0 {
        return Err(BlasError::NoAlgorithm(format!("{gemm:?}")));
    }
    let plan = Plan::of(client, gemm)?;
    let workspace = client.empty(plan.workspace.max(1));
    let buffers = vec![x.clone(), second.clone(), workspace, y.clone()];
    stream::enqueue(client, buffers, move |addresses, stream| plan.launch(addresses, stream));
    Ok(())
}

/// A product that is set up: descriptions that live as long as the process.
struct Plan {
    library: &'static CublasLt,
    handle: Object,
    description: Object,
    /// Of the second operand, the first, the result.
    layouts: [Object; 3],
    found: Found,
    workspace: usize,
    is_int: bool,
}

// SAFETY: the library's objects are not bound to a thread, and a plan is not changed once it is made
unsafe impl Send for Plan {}
// SAFETY: as above; launches of one plan only read it
unsafe impl Sync for Plan {}

/// A handle of the library, one per device.
#[derive(Clone, Copy)]
struct Shared(Object);
// SAFETY: cublasLt handles may be used by several threads at once
unsafe impl Send for Shared {}

#[derive(Default)]
struct Known {
    handles: HashMap<String, Shared>,
    plans: HashMap<(String, Gemm), Arc<Plan>>,
}

static KNOWN: Mutex<Option<Known>> = Mutex::new(None);

impl Plan {
    fn of(client: &Client, gemm: Gemm) -> Result<Arc<Self>, BlasError> {
        let library = CublasLt::get()?;
        let device = client.service_id().device.to_string();
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.get_or_insert_default();
        let key = (device, gemm);
        if let Some(plan) = known.plans.get(&key) {
            return Ok(plan.clone());
        }
        let handle = known.handles.get(&key.0).copied();
        let made = stream::with_context(client, move || {
            let handle = match handle {
                Some(handle) => handle,
                None => Shared(created("cublasLtCreate", |object| {
                    // SAFETY: writes a handle for the context that is current here
                    unsafe { (library.create)(object) }
                })?),
            };
            Self::make(library, handle, gemm).map(|plan| (handle, plan))
        })?;
        let (handle, plan) = made?;
        known.handles.insert(key.0.clone(), handle);
        Ok(known.plans.entry(key).or_insert(Arc::new(plan)).clone())
    }

    fn make(library: &'static CublasLt, Shared(handle): Shared, gemm: Gemm) -> Result<Self, BlasError> {
        const TRANSPOSE_A: c_int = 3;
        const TRANSPOSED: c_int = 1;
        const WORKSPACE_BYTES: c_int = 1;
        /// Of A, B, C and D.
        const ALIGNMENTS: [c_int; 4] = [5, 6, 7, 8];
        let (operand, result, compute, scale) = match gemm.operands {
            Operands::Float(dtype, result) => (cuda_type(dtype), cuda_type(result), COMPUTE_F32, REAL_F32),
            Operands::Tf32 => (REAL_F32, REAL_F32, COMPUTE_TF32, REAL_F32),
            Operands::Int8 => (REAL_I8, REAL_I32, COMPUTE_I32, REAL_I32),
        };
        // the library is column-major: what is row-major to us is transposed to it, so the result's transpose is made, whose
        // first operand is our second
        let [first_stride, second_stride, result_stride] = gemm.row_strides;
        let (second, is_transposed) = match gemm.second {
            Second::OutInner => ([gemm.inner, gemm.out], true),
            Second::InnerOut => ([gemm.out, gemm.inner], false),
        };
        let layout = |dtype, [rows, columns]: [usize; 2], stride: usize, batch_stride: usize| {
            let object = created("cublasLtMatrixLayoutCreate", |object| {
                // SAFETY: writes an object
                unsafe { (library.create_layout)(object, dtype, rows as u64, columns as u64, stride as i64) }
            })?;
            if gemm.batch > 1 {
                const BATCH_COUNT: c_int = 5;
                const BATCH_STRIDE: c_int = 6;
                set(
                    "cublasLtMatrixLayoutSetAttribute",
                    library.lay_out,
                    object,
                    BATCH_COUNT,
                    &(gemm.batch as i32),
                )?;
                set(
                    "cublasLtMatrixLayoutSetAttribute",
                    library.lay_out,
                    object,
                    BATCH_STRIDE,
                    &(batch_stride as i64),
                )?;
            }
            Ok(object)
        };
        let layouts = [
            layout(operand, second, second_stride, gemm.batch_strides[1])?,
            layout(operand, [gemm.inner, gemm.rows], first_stride, gemm.batch_strides[0])?,
            layout(result, [gemm.out, gemm.rows], result_stride, gemm.batch_strides[2])?,
        ];
        let description = created("cublasLtMatmulDescCreate", |object| {
            // SAFETY: writes an object
            unsafe { (library.create_description)(object, compute, scale) }
        })?;
        if is_transposed {
            set("cublasLtMatmulDescSetAttribute", library.describe, description, TRANSPOSE_A, &TRANSPOSED)?;
        }
        let preference = created("cublasLtMatmulPreferenceCreate", |object| {
            // SAFETY: writes an object
            unsafe { (library.create_preference)(object) }
        })?;
        set("cublasLtMatmulPreferenceSetAttribute", library.prefer, preference, WORKSPACE_BYTES, &WORKSPACE)?;
        for attribute in ALIGNMENTS {
            set("cublasLtMatmulPreferenceSetAttribute", library.prefer, preference, attribute, &ALIGNMENT)?;
        }
        let (mut found, mut count) = (Found::NOTHING, 0);
        let [a, b, c] = layouts;
        // SAFETY: all objects are of this library, and there is room for the one result that is asked for
        let status = unsafe {
            (library.heuristic)(
                handle,
                description,
                a,
                b,
                c,
                c,
                preference,
                1,
                &raw mut found,
                &raw mut count,
            )
        };
        if status != 0 || count == 0 || found.state != 0 {
            return Err(BlasError::NoAlgorithm(format!("{gemm:?}")));
        }
        let workspace = found.workspace;
        let is_int = gemm.operands == Operands::Int8;
        Ok(Self { library, handle, description, layouts, found, workspace, is_int })
    }

    /// `addresses`: of the first operand, the second, the workspace, the result.
    fn launch(&self, addresses: &[u64], stream: *mut c_void) -> Result<(), BlasError> {
        let &[x, second, workspace, y] = addresses else {
            unreachable!("the buffers that were handed over");
        };
        let [a, b, c] = self.layouts;
        let (one, zero) = if self.is_int { (1, 0) } else { (1.0f32.to_bits() as i32, 0) };
        // SAFETY: the buffers hold what the plan's layouts describe, and the factors are of its scale type, 4 bytes wide
        let status = unsafe {
            (self.library.matmul)(
                self.handle,
                self.description,
                (&raw const one).cast(),
                second,
                a,
                x,
                b,
                (&raw const zero).cast(),
                y,
                c,
                y,
                c,
                &raw const self.found.algorithm,
                workspace,
                self.workspace,
                stream,
            )
        };
        checked("cublasLtMatmul", status)
    }
}

// cudaDataType_t and cublasComputeType_t
const REAL_F32: c_int = 0;
const REAL_F16: c_int = 2;
const REAL_I8: c_int = 3;
const REAL_I32: c_int = 10;
const REAL_BF16: c_int = 14;
const COMPUTE_F32: c_int = 68;
const COMPUTE_TF32: c_int = 77;
const COMPUTE_I32: c_int = 72;

const fn cuda_type(dtype: Dtype) -> c_int {
    match dtype {
        Dtype::F32 => REAL_F32,
        Dtype::F16 => REAL_F16,
        Dtype::Bf16 => REAL_BF16,
    }
}

fn created(function: &'static str, make: impl FnOnce(*mut Object) -> c_int) -> Result<Object, BlasError> {
    let mut object: Object = std::ptr::null_mut();
    checked(function, make(&raw mut object))?;
    Ok(object)
}

fn set<T>(
    function: &'static str,
    setter: unsafe extern "C" fn(Object, c_int, *const c_void, usize) -> c_int,
    object: Object,
    attribute: c_int,
    value: &T,
) -> Result<(), BlasError> {
    // SAFETY: the attribute's value is read from here, of the size that the header gives it
    let status = unsafe { setter(object, attribute, (&raw const *value).cast(), size_of::<T>()) };
    checked(function, status)
}

fn checked(function: &'static str, status: c_int) -> Result<(), BlasError> {
    if status == 0 { Ok(()) } else { Err(BlasError::Status { function, status }) }
}
