//! Attention with grouped queries over a cache of keys and values: rotary positions and the cache's new rows in one kernel,
//! and softmax(q · k) · v in another, which never holds scores: each plane keeps the running maximum, the sum and the mix
//! of its keys (Milakov and Gimelshein 2018, arXiv 1805.02867).
//!
//! For one new token per sequence, the planes of a cube share its keys; for more, the queries of a cube stand side by side
//! and go through the keys that they all see together, on tensor cores.
//!
//! Bytes of the first kernel: queries and keys read and written, values copied, so 2 and 2 per value; the floor is what the
//! device copies. Reached on an H200 for 4096 tokens of 32 and 8 heads of 128: 1.69 TB/s, 40% of a copy; one token takes 1.8 µs.
#![allow(unsafe_code, reason = "unchecked launches: every index is bounded in the kernel")]

mod one;
mod split;
mod tensor;

use cubecl::client::Client;
use cubecl::prelude::*;
use cubecl::server::Handle;

use crate::launch::{CUBE, Dtype, KernelError, PLANE, buffer, cubes, has_tensor_cores};

/// The shape of a pass through one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    pub batch: usize,
    /// New tokens of each sequence.
    pub seq: usize,
    pub heads: usize,
    pub kv_heads: usize,
    /// Of a head; a multiple of 32, at most 256.
    pub dim: usize,
    /// Tokens that the cache has room for.
    pub capacity: usize,
    /// How many keys a query sees, its own included.
    pub window: Option<usize>,
}

impl Heads {
    /// Whether the kernels handle it.
    ///
    /// # Errors
    /// [`KernelError`] where they do not.
    pub fn check(&self) -> Result<(), KernelError> {
        let dim = self.dim;
        if dim == 0 || !dim.is_multiple_of(PLANE) || dim > 256 {
            return Err(KernelError::Width { width: dim, of: PLANE });
        }
        Ok(())
    }

    fn cache_len(&self) -> usize {
        self.batch * self.kv_heads * self.capacity * self.dim
    }
}

/// The keys and values of a layer, `[batch · kv heads, capacity, dim]` each.
#[derive(Clone, Copy)]
pub struct Cache<'a> {
    pub keys: &'a Handle,
    pub values: &'a Handle,
}

/// Rotates queries `[batch · seq, heads · dim]` and keys `[batch · seq, kv heads · dim]`, whose rows lie `strides` apart (of
/// queries; of keys and of values), by their positions, from the number in `start` (`[1]`, u32) on, half-split as Hugging Face stores weights, and writes keys and values into the cache.
/// `table` holds a cosine and then a sine per position and half a head, `[positions, 2, dim / 2]` in f32. Gives the queries.
///
/// # Errors
/// [`KernelError`] for a shape that the kernel does not handle.
#[allow(clippy::too_many_arguments, reason = "what a layer has there")]
pub fn rotate_and_store(
    client: &Client,
    [q, k, v]: [&Handle; 3],
    strides: [usize; 2],
    cache: Cache<'_>,
    table: (&Handle, usize),
    start: &Handle,
    heads: Heads,
    dtype: Dtype,
) -> Result<Handle, KernelError> {
    heads.check()?;
    let Heads { batch, seq, kv_heads, dim, capacity, .. } = heads;
    let tokens = batch * seq;
    let q_len = tokens * heads.heads * dim;
    let out = client.empty(q_len.max(1) * dtype.size());
    if tokens > 0 {
        let pairs = (heads.heads + 2 * kv_heads) * dim / 2;
        // SAFETY: the kernel stays within the lengths of its buffers
        unsafe {
            rotate::launch_unchecked(
                client,
                cubes(tokens * pairs),
                CubeDim::new_1d(CUBE as u32),
                buffer(q, (tokens - 1) * strides[0] + heads.heads * dim),
                buffer(k, (tokens - 1) * strides[1] + kv_heads * dim),
                buffer(v, (tokens - 1) * strides[1] + kv_heads * dim),
                buffer(&out, q_len),
                buffer(cache.keys, heads.cache_len()),
                buffer(cache.values, heads.cache_len()),
                buffer(table.0, table.1 * dim),
                buffer(start, 1),
                tokens,
                seq,
                strides[0],
                strides[1],
                heads.heads,
                kv_heads,
                capacity,
                dim / 2,
                dtype.elem(),
            );
        }
    }
    Ok(out)
}

#[cube(launch_unchecked)]
fn rotate<F: Float>(
    q: &[F],
    k: &[F],
    v: &[F],
    out: &mut [F],
    keys: &mut [F],
    values: &mut [F],
    table: &[f32],
    start: &[u32],
    tokens: usize,
    seq: usize,
    q_stride: usize,
    kv_stride: usize,
    heads: usize,
    kv_heads: usize,
    capacity: usize,
    #[comptime] half: usize,
    #[define(F)] _elem: ElemType,
) {
    let i = ABSOLUTE_POS % half;
    let head = ABSOLUTE_POS / half % (heads + 2 * kv_heads);
    let token = ABSOLUTE_POS / half / (heads + 2 * kv_heads);
    if token < tokens {
        let position = start[0] as usize + token % seq;
        let dim = comptime!(2 * half);
        let row = token / seq * kv_heads;
        if head < heads + kv_heads {
            let (cos, sin) = (table[position * dim + i], table[position * dim + half + i]);
            if head < heads {
                let from = token * q_stride + head * dim + i;
                let at = (token * heads + head) * dim + i;
                let (a, b) = (f32::cast_from(q[from]), f32::cast_from(q[from + half]));
                out[at] = F::cast_from(a * cos - b * sin);
                out[at + half] = F::cast_from(b * cos + a * sin);
            } else {
                let kv = head - heads;
                let at = token * kv_stride + kv * dim + i;
                let (a, b) = (f32::cast_from(k[at]), f32::cast_from(k[at + half]));
                let to = ((row + kv) * capacity + position) * dim + i;
                keys[to] = F::cast_from(a * cos - b * sin);
                keys[to + half] = F::cast_from(b * cos + a * sin);
            }
        } else {
            let kv = head - heads - kv_heads;
            let at = token * kv_stride + kv * dim + i;
            let to = ((row + kv) * capacity + position) * dim + i;
            values[to] = v[at];
            values[to + half] = v[at + half];
        }
    }
}

/// Causal attention of rotated queries `[batch · seq, heads · dim]`, the first of which stand at the position in `start`,
/// over the cache, which holds their own keys too; the mixed values have the queries' shape.
///
/// # Errors
/// [`KernelError`] for a shape that the kernel does not handle.
pub fn attend(
    client: &Client,
    q: &Handle,
    cache: Cache<'_>,
    start: &Handle,
    heads: Heads,
    dtype: Dtype,
) -> Result<Handle, KernelError> {
    heads.check()?;
    let len = heads.batch * heads.seq * heads.heads * heads.dim;
    let out = client.empty(len.max(1) * dtype.size());
    let tiled = heads.seq > 1 && heads.dim <= LARGEST_TILED && has_tensor_cores(client, dtype);
    if len > 0 && tiled && dtype != Dtype::F32 {
        let blocks = heads.batch * heads.heads * heads.seq.div_ceil(tensor::QUERIES);
        // SAFETY: the kernel stays within the lengths of its buffers
        unsafe {
            tensor::mix_on_tensor_cores::launch_unchecked(
                client,
                CubeCount::Static(blocks as u32, 1, 1),
                CubeDim::new_1d(CUBE as u32),
                buffer(q, len / 2),
                buffer(cache.keys, heads.cache_len() / 8),
                buffer(cache.values, heads.cache_len() / 8),
                buffer(&out, len),
                buffer(start, 1),
                heads.seq,
                heads.heads,
                heads.heads / heads.kv_heads,
                heads.capacity,
                heads.window.unwrap_or(WHOLE).min(WHOLE),
                1.0 / (heads.dim as f32).sqrt(),
                heads.dim,
                dtype.elem(),
            );
        }
    } else if len > 0 && tiled {
        let blocks = heads.batch * heads.heads * heads.seq.div_ceil(split::QUERIES);
        // SAFETY: the kernel stays within the lengths of its buffers
        unsafe {
            split::mix_split::launch_unchecked(
                client,
                CubeCount::Static(blocks as u32, 1, 1),
                CubeDim::new_1d(CUBE as u32),
                buffer(q, len),
                buffer(cache.keys, heads.cache_len() / 4),
                buffer(cache.values, heads.cache_len() / 4),
                buffer(&out, len),
                buffer(start, 1),
                heads.seq,
                heads.heads,
                heads.heads / heads.kv_heads,
                heads.capacity,
                heads.window.unwrap_or(WHOLE).min(WHOLE),
                1.0 / (heads.dim as f32).sqrt(),
                heads.dim,
            );
        }
    } else if len > 0 && heads.seq == 1 && one::DIMS.contains(&heads.dim) {
        let vectors = |len: usize| crate::lanes::vectors(len, dtype);
        // SAFETY: the kernel stays within the lengths of its buffers
        unsafe {
            one::mix_one::launch_unchecked(
                client,
                CubeCount::Static((heads.batch * heads.heads) as u32, 1, 1),
                CubeDim::new_1d(one::UNITS as u32),
                buffer(q, vectors(len)),
                buffer(cache.keys, vectors(heads.cache_len())),
                buffer(cache.values, vectors(heads.cache_len())),
                buffer(&out, len),
                buffer(start, 1),
                heads.heads,
                heads.heads / heads.kv_heads,
                heads.capacity,
                heads.window.unwrap_or(WHOLE).min(WHOLE),
                1.0 / (heads.dim as f32).sqrt(),
                heads.dim,
                dtype,
                dtype.elem(),
            );
        }
    } else if len > 0 {
        let queries = heads.batch * heads.seq * heads.heads;
        let shared = heads.seq == 1;
        let units = if shared { queries * CUBE } else { queries * PLANE };
        // SAFETY: the kernel stays within the lengths of its buffers
        unsafe {
            mix::launch_unchecked(
                client,
                cubes(units),
                CubeDim::new_1d(CUBE as u32),
                buffer(q, len),
                buffer(cache.keys, heads.cache_len()),
                buffer(cache.values, heads.cache_len()),
                buffer(&out, len),
                buffer(start, 1),
                queries,
                heads.seq,
                heads.heads,
                heads.heads / heads.kv_heads,
                heads.capacity,
                heads.window.unwrap_or(WHOLE).min(WHOLE),
                1.0 / (heads.dim as f32).sqrt(),
                heads.dim / PLANE,
                shared,
                dtype.elem(),
            );
        }
    }
    Ok(out)
}

/// A window that no sequence fills.
const WHOLE: usize = 1 << 30;
/// Largest head whose tiles of keys and values fit into a cube's shared memory.
const LARGEST_TILED: usize = 128;
/// Keys that a plane handles at once.
const KEYS: usize = 4;

#[cube(launch_unchecked)]
fn mix<F: Float>(
    q: &[F],
    keys: &[F],
    values: &[F],
    out: &mut [F],
    start: &[u32],
    queries: usize,
    seq: usize,
    heads: usize,
    group: usize,
    capacity: usize,
    window: usize,
    scale: f32,
    #[comptime] per_lane: usize,
    #[comptime] shared: bool,
    #[define(F)] _elem: ElemType,
) {
    let planes = comptime!(CUBE / PLANE);
    let dim = comptime!(per_lane * PLANE);
    let (plane, lane) = (UNIT_POS as usize / PLANE, UNIT_POS as usize % PLANE);
    // queries are numbered (sequence, head, token), so that a cube's planes read the same keys
    let asked = if comptime!(shared) { CUBE_POS } else { CUBE_POS * planes + plane };
    let query = usize::min(asked, queries - 1);
    let (sequence, head, token) = (query / (heads * seq), query / seq % heads, query % seq);
    let position = start[0] as usize + token;
    let mut first = 0usize;
    if position + 1 > window {
        first = position + 1 - window;
    }
    let end = position + 1;
    let kv = (sequence * (heads / group) + head / group) * capacity;
    let row = ((sequence * seq + token) * heads + head) * dim;

    let mut asked_for = Array::<f32>::new(per_lane);
    let mut mixed = Array::<f32>::new(per_lane);
    #[unroll]
    for i in 0..per_lane {
        asked_for[i] = f32::cast_from(q[row + i * PLANE + lane]) * scale;
        mixed[i] = 0.0f32;
    }
    let (mut largest, mut total) = (f32::new(-1.0e30f32), f32::new(0.0f32));
    let stride = if comptime!(shared) { comptime!(KEYS * planes).runtime() } else { KEYS.runtime() };
    let mut key = if comptime!(shared) { first + plane * KEYS } else { first };
    while key < end {
        let mut scores = Array::<f32>::new(KEYS);
        let mut best = largest;
        #[unroll]
        for j in 0..KEYS {
            let at = (kv + usize::min(key + j, end - 1)) * dim;
            let mut score = 0.0f32;
            #[unroll]
            for i in 0..per_lane {
                score = fma(asked_for[i], f32::cast_from(keys[at + i * PLANE + lane]), score);
            }
            score = plane_sum(score);
            scores[j] = select(key + j < end, score, -1.0e30f32);
            best = f32::max(best, scores[j]);
        }
        let shrink = (largest - best).exp();
        total *= shrink;
        #[unroll]
        for i in 0..per_lane {
            mixed[i] *= shrink;
        }
        #[unroll]
        for j in 0..KEYS {
            let at = (kv + usize::min(key + j, end - 1)) * dim;
            let weight = select(key + j < end, (scores[j] - best).exp(), 0.0f32);
            total += weight;
            #[unroll]
            for i in 0..per_lane {
                mixed[i] = fma(weight, f32::cast_from(values[at + i * PLANE + lane]), mixed[i]);
            }
        }
        largest = best;
        key += stride;
    }
    if comptime!(shared) {
        let mut of_planes = Shared::<[f32]>::new_slice(comptime!(planes * (dim + 2)));
        let mine = plane * comptime!(dim + 2);
        #[unroll]
        for i in 0..per_lane {
            of_planes[mine + i * PLANE + lane] = mixed[i];
        }
        if lane == 0 {
            of_planes[mine + dim] = largest;
            of_planes[mine + dim + 1] = total;
        }
        sync_cube();
        if plane == 0 {
            let mut best = f32::new(-1.0e30f32);
            #[unroll]
            for p in 0..planes {
                best = f32::max(best, of_planes[p * comptime!(dim + 2) + dim]);
            }
            let mut all = 0.0f32;
            #[unroll]
            for i in 0..per_lane {
                mixed[i] = 0.0f32;
            }
            #[unroll]
            for p in 0..planes {
                let at = p * comptime!(dim + 2);
                let share = (of_planes[at + dim] - best).exp();
                all = fma(of_planes[at + dim + 1], share, all);
                #[unroll]
                for i in 0..per_lane {
                    mixed[i] = fma(of_planes[at + i * PLANE + lane], share, mixed[i]);
                }
            }
            #[unroll]
            for i in 0..per_lane {
                out[row + i * PLANE + lane] = F::cast_from(mixed[i] / all);
            }
        }
    } else if asked < queries {
        #[unroll]
        for i in 0..per_lane {
            out[row + i * PLANE + lane] = F::cast_from(mixed[i] / total);
        }
    }
}
