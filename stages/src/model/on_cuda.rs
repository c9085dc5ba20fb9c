//! What a CUDA device computes in kernels of our own ([`qpipe_kernels`]): burn's tensors in, burn's tensors out. Activations
//! are in the compute dtype itself; sums are taken in f32.

use std::pin::Pin;

use burn::tensor::{DType, Device, FloatDType, Int, Shape, Tensor};
use burn_cubecl::kernel::matmul::{MatmulStrategy, matmul};
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeBackend, CubeDevice, kernel};
use cubecl::bytes::Bytes;
use cubecl::client::Client;
use cubecl::server::{Handle, ServerError};
use half::{bf16, f16};
use qpipe_codecs::{DoubleQuantized, NESTED_BLOCK, OutlierThreshold};
use qpipe_formats::{DType as StoredDtype, LlamaConfig, TensorView};
use qpipe_kernels::{
    self as kernels, Cache, Codes, DIVERGENCE, Dtype, Format4, Gemm, Heads, KernelError, LEAST_GEMM_F32_ROWS,
    MOST_BATCH_ROWS, MOST_ROWS, Operands, Packed4, SCORES, Widened,
};
use rayon::prelude::*;

pub(super) mod stepper;

use super::compute::ComputeDtype;
use super::linear::{Absmax, Int8Product};
use super::score::TokenScore;

/// What lies in a handle must be aligned to this for a kernel's vectors, bytes.
const ALIGNMENT: u64 = 16;
/// Largest head that the attention kernels hold in registers.
const LARGEST_HEAD: usize = 256;

/// Whether the kernels handle a model of these dimensions.
pub(super) fn supports(config: &LlamaConfig) -> bool {
    let of_8 = [config.hidden_size, config.intermediate_size].iter().all(|width| width.is_multiple_of(8));
    of_8 && config.head_dim.is_multiple_of(32) && (1..=LARGEST_HEAD).contains(&config.head_dim)
}

/// Opens a GPU for the calling thread, before its first use.
pub(crate) fn open(index: usize, device: &Device) -> Result<(), kernels::BlasError> {
    kernels::open(index, || Gpu::of(device).map(|gpu| gpu.client))
}

/// Whether a device is a GPU that the kernels run on.
pub(super) fn is_gpu(device: &Device) -> bool {
    Gpu::of(device).is_some()
}

/// The dtype of tensors that hold values of a compute dtype.
pub(crate) fn stored(compute: ComputeDtype) -> DType {
    match compute {
        ComputeDtype::F32 => DType::F32,
        ComputeDtype::F16 => DType::F16,
        ComputeDtype::Bf16 => DType::BF16,
    }
}

fn kernel_dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::Bf16,
        _ => Dtype::F32,
    }
}

/// A device's client, and the device as its tensors name it.
#[derive(Clone)]
pub(super) struct Gpu {
    client: Client,
    device: CubeDevice,
}

impl Gpu {
    pub(super) fn of(device: &Device) -> Option<Self> {
        let probe: CubeTensor = Tensor::<1>::empty([1], device).try_into_primitive::<CubeBackend>().ok()?;
        Some(Self { client: probe.client, device: probe.device })
    }

    fn of_tensor(tensor: &CubeTensor) -> Self {
        Self { client: tensor.client.clone(), device: tensor.device.clone() }
    }

    /// Bytes in the device's memory, in a buffer of whole units of what kernels read.
    fn upload(&self, parts: &[&[u8]]) -> Handle {
        let len = parts.iter().map(|part| part.len()).sum::<usize>().next_multiple_of(ALIGNMENT as usize);
        match qpipe_kernels::upload(&self.client, parts, len) {
            Ok(handle) => handle,
            // no pinned memory is to be had: a copy that the driver makes
            Err(_) => self.client.create(Bytes::from_bytes_vec({
                let mut bytes = parts.concat();
                bytes.resize(len, 0);
                bytes
            })),
        }
    }

    /// A handle as a tensor of its own.
    fn tensor<const D: usize>(&self, handle: Handle, shape: [usize; D], dtype: DType) -> Tensor<D> {
        let (client, device) = (self.client.clone(), self.device.clone());
        let tensor = CubeTensor::new_contiguous(client, device, Shape::from(shape), handle, dtype);
        Tensor::from_primitive::<CubeBackend>(tensor)
    }
}

/// A tensor's values in row-major order, aligned for the kernels.
fn buffer<const D: usize>(x: Tensor<D>) -> CubeTensor {
    let plain = kernel::into_contiguous(primitive(x));
    if plain.handle.offset_start.unwrap_or(0).is_multiple_of(ALIGNMENT) {
        return plain;
    }
    let copy = Tensor::<D>::from_primitive::<CubeBackend>(plain).add_scalar(0.0);
    kernel::into_contiguous(primitive(copy))
}

fn primitive<const D: usize>(x: Tensor<D>) -> CubeTensor {
    match x.try_into_primitive::<CubeBackend>() {
        Ok(x) => x,
        Err(error) => unreachable!("the model's tensors are where the model is: {error:?}"),
    }
}

/// What [`supports`] has asked before.
fn handled<T>(result: Result<T, KernelError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => unreachable!("the model's dimensions were checked: {error}"),
    }
}

/// Values in the device's memory, in the compute dtype. What is exact in it is widened there.
pub(crate) fn dense<const D: usize>(
    view: &TensorView<'_>,
    shape: [usize; D],
    compute: ComputeDtype,
    device: &Device,
) -> Option<Tensor<D>> {
    let gpu = Gpu::of(device)?;
    let from = match view.dtype {
        StoredDtype::F32 => DType::F32,
        StoredDtype::F16 => DType::F16,
        StoredDtype::BF16 => DType::BF16,
        _ => return None,
    };
    let to = stored(compute);
    if from == to || to == DType::F32 {
        let tensor = gpu.tensor(gpu.upload(&[view.bytes]), shape, from);
        return Some(if from == to { tensor } else { tensor.cast(float(compute)) });
    }
    let mut values = qpipe_formats::to_f32(view);
    qpipe_codecs::round_slice(&mut values, compute.rounding());
    let bytes: Vec<u8> = match compute {
        ComputeDtype::F32 => return None,
        ComputeDtype::F16 => values.par_iter().flat_map_iter(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        ComputeDtype::Bf16 => values.par_iter().flat_map_iter(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
    };
    Some(gpu.tensor(gpu.upload(&[&bytes]), shape, to))
}

/// `x · Wᵀ` and a bias `[out]` in f32, for so few rows that a kernel of ours makes it; rounded to `result` after the bias is
/// added.
pub(super) fn multiply_biased(
    x: &Tensor<2>,
    weight: &Tensor<2>,
    bias: &Tensor<1>,
    result: ComputeDtype,
) -> Option<Tensor<2>> {
    let ([rows, inner], [out, _], dtype) = (x.dims(), weight.dims(), stored(result));
    if !(1..=MOST_ROWS).contains(&rows) {
        return None;
    }
    let (x, weight, bias) = (buffer(x.clone()), buffer(weight.clone()), buffer(bias.clone()));
    let dtypes = [kernel_dtype(x.dtype), kernel_dtype(dtype)];
    let shape = [rows, out, inner];
    let y = qpipe_kernels::multiply_dense(
        &x.client,
        &x.handle,
        &weight.handle,
        Some(&bias.handle),
        shape,
        dtypes,
    );
    Some(Gpu::of_tensor(&x).tensor(y.ok()?, [rows, out], dtype))
}

/// `x · Wᵀ`: `[rows, inner]` and `[out, inner]` of one dtype → `[rows, out]` of `result`. Few rows are our kernel's, many are
/// cuBLASLt's, and burn's where that is not installed, by a fixed choice of kernel.
pub(super) fn multiply(x: Tensor<2>, weight: Tensor<2>, result: ComputeDtype) -> Tensor<2> {
    let ([rows, inner], [out, _], dtype) = (x.dims(), weight.dims(), stored(result));
    if rows == 0 {
        return Tensor::empty([0, out], (&x.device(), dtype));
    }
    let (x, weight) = (buffer(x), buffer(weight));
    let (gpu, shape) = (Gpu::of_tensor(&x), [rows, out, inner]);
    let (from, to) = (kernel_dtype(x.dtype), kernel_dtype(dtype));
    if rows <= MOST_ROWS
        && let Ok(y) =
            qpipe_kernels::multiply_dense(&x.client, &x.handle, &weight.handle, None, shape, [from, to])
    {
        return gpu.tensor(y, [rows, out], dtype);
    }
    if rows >= LEAST_GEMM_F32_ROWS
        && (from, to) == (Dtype::F32, Dtype::F32)
        && let Ok(y) = qpipe_kernels::gemm_f32(&x.client, &x.handle, &weight.handle, shape)
    {
        return gpu.tensor(y, [rows, out], dtype);
    }
    let product = Gemm::linear(shape, Operands::Float(from, to));
    if let Ok(y) = qpipe_kernels::gemm(&x.client, &x.handle, &weight.handle, product) {
        return gpu.tensor(y, [rows, out], dtype);
    }
    let weight = primitive(Tensor::<2>::from_primitive::<CubeBackend>(weight).transpose());
    match matmul(x, weight, None, MatmulStrategy::Cube, dtype) {
        Ok(y) => Tensor::from_primitive::<CubeBackend>(y),
        Err(error) => panic!("burn has no product of {shape:?} on this device: {error:?}"),
    }
}

/// A dtype by burn's name for casts.
pub(super) fn float(compute: ComputeDtype) -> FloatDType {
    match compute {
        ComputeDtype::F32 => FloatDType::F32,
        ComputeDtype::F16 => FloatDType::F16,
        ComputeDtype::Bf16 => FloatDType::BF16,
    }
}

/// The residual stream `x`, or the rounded sum `x + y`, and its norm; `weight` in f32.
pub(super) fn rms_norm(x: Tensor<2>, y: Option<Tensor<2>>, weight: &Tensor<1>, eps: f64) -> [Tensor<2>; 2] {
    let shape = x.dims();
    let (x, y, weight) = (buffer(x), y.map(buffer), buffer(weight.clone()));
    let (place, dtype) = (Gpu::of_tensor(&x), x.dtype);
    let y = y.as_ref().map(|y| &y.handle);
    let made = qpipe_kernels::rms_norm(
        &x.client,
        &x.handle,
        y,
        &weight.handle,
        shape,
        eps as f32,
        kernel_dtype(dtype),
    );
    let (sum, normed) = handled(made);
    [sum, normed].map(|handle| place.tensor(handle, shape, dtype))
}

/// `silu(gate) · up`.
pub(super) fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    let [_, width] = gate.dims();
    let (gate, up) = (buffer(gate), buffer(up));
    gated(&gate, &up.handle, width, width)
}

/// The same of a product's rows that hold a gate and then what it is multiplied with.
pub(super) fn swiglu_joined(y: &Tensor<2>) -> Tensor<2> {
    let (y, [_, both]) = (buffer(y.clone()), y.dims());
    let width = both / 2;
    let up = y.handle.clone().offset_start((width * y.dtype.size()) as u64);
    gated(&y, &up, width, both)
}

fn gated(gate: &CubeTensor, up: &Handle, width: usize, stride: usize) -> Tensor<2> {
    let shape = [gate.meta.shape()[0], width];
    let dtype = kernel_dtype(gate.dtype);
    let made = qpipe_kernels::swiglu(&gate.client, &gate.handle, up, shape, stride, dtype);
    Gpu::of_tensor(gate).tensor(handled(made), shape, gate.dtype)
}

/// The position of a pass's first token, where kernels read it.
#[derive(Clone)]
pub(super) struct Start(Handle);

impl Start {
    pub(super) fn at(position: usize, device: &Device) -> Option<Self> {
        let mut bytes = [0; ALIGNMENT as usize];
        bytes[..4].copy_from_slice(&(position as u32).to_le_bytes());
        Some(Self(Gpu::of(device)?.client.create_from_slice(&bytes)))
    }
}

/// Queries, keys and values as products gave them.
#[expect(clippy::large_enum_variant, reason = "one at a time, of handles")]
pub(super) enum Projected {
    /// `[batch · seq, heads · dim]`, and keys and values `[batch · seq, kv heads · dim]`.
    Apart([Tensor<2>; 3]),
    /// Side by side in rows of one tensor.
    Joined(Tensor<2>),
}

/// Rotates, stores and attends over a cache `[batch · kv heads, capacity, dim]`, which is written in place. `table`: see
/// [`super::ops::Rope`]. Gives `[batch · seq, heads · dim]`.
pub(super) fn attend(
    given: Projected,
    cache: [&Tensor<3>; 2],
    table: &Tensor<2>,
    start: &Start,
    heads: Heads,
) -> Tensor<2> {
    let widths = [heads.heads * heads.dim, heads.kv_heads * heads.dim];
    let (first, [q, k, v], strides) = match given {
        Projected::Apart(parts) => {
            let parts = parts.map(buffer);
            let handles = parts.each_ref().map(|part| part.handle.clone());
            let [q, _, _] = parts;
            (q, handles, widths)
        }
        Projected::Joined(y) => {
            let y = buffer(y);
            let from = |at: usize| y.handle.clone().offset_start((at * y.dtype.size()) as u64);
            let handles = [from(0), from(widths[0]), from(widths[0] + widths[1])];
            (y, handles, [widths[0] + 2 * widths[1]; 2])
        }
    };
    let [keys, values] = cache.map(|tensor| primitive(tensor.clone()));
    let (positions, table) = (table.dims()[0], primitive(table.clone()));
    let (client, dtype) = (&first.client, kernel_dtype(first.dtype));
    let cache = Cache { keys: &keys.handle, values: &values.handle };
    let table = (&table.handle, positions);
    let given = [&q, &k, &v];
    let rotated = handled(qpipe_kernels::rotate_and_store(
        client, given, strides, cache, table, &start.0, heads, dtype,
    ));
    let mixed = handled(qpipe_kernels::attend(client, &rotated, cache, &start.0, heads, dtype));
    Gpu::of_tensor(&first).tensor(mixed, [heads.batch * heads.seq, widths[0]], first.dtype)
}

/// The rows of an embedding `[vocabulary, hidden]` of tokens in the device's memory.
pub(super) fn embed(table: &Tensor<2>, tokens: &Handle, rows: usize) -> Tensor<2> {
    let [vocabulary, width] = table.dims();
    let table = buffer(table.clone());
    let dtype = kernel_dtype(table.dtype);
    let made = qpipe_kernels::embed(&table.client, (&table.handle, vocabulary), tokens, [rows, width], dtype);
    Gpu::of_tensor(&table).tensor(handled(made), [rows, width], table.dtype)
}

/// Scores that are on their way from the device.
pub(super) struct Scores<'a> {
    read: Pin<Box<dyn Future<Output = Result<Vec<Bytes>, ServerError>> + Send + 'a>>,
    targets: Vec<u32>,
}

/// Scores of `targets` under logits `[targets, vocabulary]` in f32; nothing is waited for.
pub(super) fn token_scores<'a>(gpu: &'a Gpu, logits: Tensor<2>, targets: &[u32]) -> Scores<'a> {
    let shape = logits.dims();
    let logits = buffer(logits);
    let mut bytes: Vec<u8> = targets.iter().flat_map(|target| target.to_le_bytes()).collect();
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT as usize), 0);
    let wanted = logits.client.create_from_slice(&bytes);
    let scores = qpipe_kernels::log_softmax_at(&logits.client, &logits.handle, &wanted, shape);
    Scores { read: Box::pin(gpu.client.read_async(vec![scores])), targets: targets.to_vec() }
}

impl Scores<'_> {
    pub(super) fn wait(self) -> Vec<TokenScore> {
        let parts = match cubecl::future::block_on(self.read) {
            Ok(parts) => parts,
            Err(error) => panic!("the device failed: {error}"),
        };
        let values =
            parts.iter().flat_map(|bytes| bytes.as_chunks::<4>().0).map(|bytes| f32::from_le_bytes(*bytes));
        let values: Vec<f32> = values.collect();
        let rows = values.as_chunks::<SCORES>().0.iter().zip(&self.targets);
        rows.map(|([largest, log_sum, logit, likeliest], target)| TokenScore {
            log_likelihood: f64::from(logit - largest) - f64::from(*log_sum),
            greedy: likeliest.to_bits() == *target,
        })
        .collect()
    }
}

/// Divergences of `variant` from `base`, both logits `[rows, vocabulary]` in f32: of each row in nats, and whether both hold
/// the same token likeliest.
pub(super) fn divergences(base: Tensor<2>, variant: Tensor<2>) -> Vec<(f32, bool)> {
    let shape = base.dims();
    let (base, variant) = (buffer(base), buffer(variant));
    let found = qpipe_kernels::divergence(&base.client, &base.handle, &variant.handle, shape);
    let bytes = match base.client.read_one(found) {
        Ok(bytes) => bytes,
        Err(error) => panic!("the device failed: {error}"),
    };
    let values: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let rows = values.as_chunks::<DIVERGENCE>().0.iter().take(shape[0]);
    // rounding can leave equal distributions a hair below nothing
    rows.map(|[kl, agrees]| (if *kl < 0.0 { 0.0 } else { *kl }, *agrees != 0.0)).collect()
}

/// The product with an int8 weight whose codes `[out, inner]` and `scb` lie in the device's memory: `[rows, inner]` →
/// `[rows, out]` of `result`. `None` for a shape that the kernels do not handle.
pub(super) fn int8(
    x: &Tensor<2>,
    weight: &super::llm_int8::Int8Weight,
    product: Int8Product,
    result: ComputeDtype,
) -> Option<Tensor<2>> {
    let ([rows, inner], [out, _], to) = (x.dims(), weight.codes.dims(), stored(result));
    if rows == 0 {
        return Some(Tensor::empty([0, out], (&x.device(), to)));
    }
    let (codes, scb) = (int_buffer(weight.codes.clone()), buffer(weight.scb.clone()));
    let stored = qpipe_kernels::Int8Weight { codes: &codes.handle, scb: &scb.handle, out, inner };
    let threshold = match product {
        Int8Product::WeightOnly => {
            let restored =
                qpipe_kernels::dequantize_int8(&codes.client, stored, kernel_dtype(x.dtype())).ok()?;
            let restored = Gpu::of_tensor(&codes).tensor(restored, [out, inner], x.dtype());
            return Some(multiply(x.clone(), restored, result));
        }
        Int8Product::LlmInt8(OutlierThreshold::Off) => None,
        Int8Product::LlmInt8(OutlierThreshold::AtLeast(limit)) => Some(limit),
    };
    let given = buffer(x.clone());
    let (gpu, client) = (Gpu::of_tensor(&given), given.client.clone());
    let client = &client;
    let (dtype, to_dtype) = (kernel_dtype(given.dtype), kernel_dtype(to));
    let width = inner.next_multiple_of(16);
    let wide = |handle: &Handle, rows: usize, what: Widened| {
        if width == inner {
            return Some(handle.clone());
        }
        qpipe_kernels::widen(client, handle, [rows, inner], width, what).ok()
    };
    let given = wide(&given.handle, rows, Widened::Activations(dtype))?;
    let codes = wide(&codes.handle, out, Widened::Codes)?;
    let stored = qpipe_kernels::Int8Weight { codes: &codes, inner: width, ..stored };
    let quantized = |form| {
        qpipe_kernels::quantize_activations(client, &given, [rows, width], threshold, dtype, form).ok()
    };
    if rows > MOST_ROWS {
        let x = quantized(Codes::Byte)?;
        let product = Gemm::linear([rows, out, width], Operands::Int8);
        if let Ok(sums) = qpipe_kernels::gemm(client, &x.codes, &codes, product) {
            let y = qpipe_kernels::join_int8(client, &sums, &x, stored, dtype, to_dtype).ok()?;
            return Some(gpu.tensor(y, [rows, out], to));
        }
    }
    // few rows, and without cuBLASLt all; the sums are exact, so both give the same
    let x = quantized(Codes::Half)?;
    let y = qpipe_kernels::multiply_int8(client, &x, stored, dtype, to_dtype).ok()?;
    Some(gpu.tensor(y, [rows, out], to))
}

/// Codes of int8 weights that stand one after the other, `shape` together.
pub(super) fn int8_codes(codes: &[&[i8]], shape: [usize; 2], device: &Device) -> Option<Tensor<2, Int>> {
    let Gpu { client, device } = Gpu::of(device)?;
    let parts: Vec<&[u8]> = codes.iter().map(|part| bytemuck::cast_slice(part)).collect();
    let handle = Gpu { client: client.clone(), device: device.clone() }.upload(&parts);
    let codes = CubeTensor::new_contiguous(client, device, Shape::from(shape), handle, DType::I8);
    Some(Tensor::from_primitive::<CubeBackend>(codes))
}

fn int_buffer(x: Tensor<2, Int>) -> CubeTensor {
    match x.try_into_primitive::<CubeBackend>() {
        Ok(x) => kernel::into_contiguous(x),
        Err(error) => unreachable!("the model's tensors are where the model is: {error:?}"),
    }
}

/// Nested absmax values of weights that stand one after the other, as kernels read them.
struct Joined<'a> {
    codes: Vec<&'a [u8]>,
    table: Vec<f32>,
    group: usize,
}

/// Each weight has scales for every 256 of its codes, and an offset: both are repeated for as many codes as begin in step in
/// all of them. `None` where some are not nested, or that is hardly any, which would take more than it saves.
fn nested<'a>(parts: &[&'a Absmax]) -> Option<Joined<'a>> {
    const LEAST: usize = 16;
    let nested = |part: &&'a Absmax| match part {
        Absmax::Nested(nested) => Some(nested),
        Absmax::Plain(_) => None,
    };
    let parts = parts.iter().map(nested).collect::<Option<Vec<&DoubleQuantized>>>()?;
    let (_, all_but_last) = parts.split_last()?;
    let zeros = all_but_last.iter().map(|part| part.codes.len().trailing_zeros()).min();
    let group = zeros.map_or(NESTED_BLOCK, |zeros| NESTED_BLOCK.min(1 << zeros.min(8)));
    if group < LEAST {
        return None;
    }
    let mut table = qpipe_codecs::dynamic_map().to_vec();
    for part in &parts {
        let groups = part.codes.len().div_ceil(group);
        let scale = |i: usize| part.nested_absmax.get(i * group / NESTED_BLOCK).copied().unwrap_or(0.0);
        table.extend((0..groups).flat_map(|i| [scale(i), part.offset]));
    }
    Some(Joined { codes: parts.iter().map(|part| &part.codes[..]).collect(), table, group })
}

/// An NF4 or FP4 weight in a device's memory.
pub(super) struct Four {
    packed: Packed4,
    place: Gpu,
}

impl Four {
    /// Uploads codes and absmax of weights that stand one after the other; `None` where the device is not a GPU of cubecl's.
    pub(super) fn upload(
        format: Format4,
        len: usize,
        codes: &[&[u8]],
        absmax: &[&Absmax],
        device: &Device,
    ) -> Option<Self> {
        let place = Gpu::of(device)?;
        let codes = place.upload(codes);
        let absmax = if let Some(Joined { codes, table, group }) = nested(absmax) {
            let table = place.upload(&[bytemuck::cast_slice(&table)]);
            kernels::Absmax::Nested(kernels::Nested { codes: place.upload(&codes), table, group })
        } else {
            let values: Vec<_> = absmax.iter().map(|part| part.values()).collect();
            let parts: Vec<&[u8]> = values.iter().map(|part| bytemuck::cast_slice(part)).collect();
            kernels::Absmax::Plain(place.upload(&parts))
        };
        Some(Self { packed: Packed4 { format, len, codes, absmax }, place })
    }

    /// `x`: `[rows, inner]` → `[rows, out]` of `result`.
    pub(super) fn forward(&self, x: Tensor<2>, [out, inner]: [usize; 2], result: ComputeDtype) -> Tensor<2> {
        if let Some(y) = self.on_packed(&x, None, [out, inner], result) {
            return y;
        }
        let from = x.dtype();
        let restored = qpipe_kernels::dequantize4(&self.place.client, &self.packed, kernel_dtype(from));
        multiply(x, self.place.tensor(restored, [out, inner], from), result)
    }

    /// The same, and a bias `[out]` in f32, on the packed bytes; `None` for more rows than that is good for.
    pub(super) fn on_packed(
        &self,
        x: &Tensor<2>,
        bias: Option<&Tensor<1>>,
        [out, inner]: [usize; 2],
        result: ComputeDtype,
    ) -> Option<Tensor<2>> {
        let (rows, to) = (x.dims()[0], stored(result));
        if !(1..=MOST_BATCH_ROWS).contains(&rows) {
            return None;
        }
        let (x, bias) = (buffer(x.clone()), bias.cloned().map(buffer));
        let (shape, dtypes) = ([rows, out, inner], [kernel_dtype(x.dtype), kernel_dtype(to)]);
        let (client, bias) = (&self.place.client, bias.as_ref().map(|bias| &bias.handle));
        let one_by_one = || qpipe_kernels::multiply4(client, &x.handle, &self.packed, bias, shape, dtypes);
        let on_tensor_cores =
            || qpipe_kernels::multiply4_batch(client, &x.handle, &self.packed, bias, shape, dtypes);
        // as measured: tensor cores take no longer for 8 rows than for 1, and longer than the other way does for 2
        let y = if rows <= 2 { one_by_one() } else { on_tensor_cores().or_else(|_| one_by_one()) };
        Some(self.place.tensor(y.ok()?, [rows, out], to))
    }
}
