//! Bytes from the host to the device, at the speed of the bus: they are copied by all cores into memory that the device reads by
//! itself (pinned), half of which is filled while the other half is on its way. The source may be a mapped file.
//!
//! Bytes: each is read and written once on the host, and read once over the bus. The floor is the bus (55 GB/s for PCIe 5) or,
//! with few cores, the copy. Reached on a machine of 16 cores: 44 to 51 GB/s, the first time, when pages are pinned, 17.
#![allow(unsafe_code, reason = "memory of the driver's, and its copies")]

use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr;
use std::sync::{Mutex, PoisonError};

use cubecl::client::Client;
use cubecl::device::DeviceId;
use cubecl::server::Handle;
use cubecl_environment::stream::StreamId;
use cudarc::driver::sys;
use rayon::prelude::*;

use crate::blas::BlasError;
use crate::blas::stream::{enqueue, with_context};

/// Bytes of a half.
const HALF: usize = 32 << 20;
/// Bytes that a core copies at a time.
const PIECE: usize = 1 << 20;
/// Where parts begin in pinned memory, bytes.
const ALIGNMENT: usize = 256;

/// Pinned memory, in halves.
struct Ring {
    halves: [Half; 2],
    /// The half that is being filled, and how far.
    current: usize,
    filled: usize,
    /// Whose copies are on their way.
    stream: StreamId,
}

struct Half {
    memory: *mut u8,
    /// Passes when all copies from this half have been made.
    copied: sys::CUevent,
}

// SAFETY: plain addresses of the driver's, which are used by one thread at a time
unsafe impl Send for Half {}

/// Rings that nobody uses, by device.
static IDLE: Mutex<Option<HashMap<DeviceId, Vec<Ring>>>> = Mutex::new(None);

/// `parts`, one after the other, in a new buffer of `len` bytes; what is beyond them is not defined.
///
/// # Errors
/// [`BlasError`] where the driver gives no pinned memory. What fails later is found by whoever reads the buffer.
///
/// # Panics
/// If the parts are longer than `len`.
pub fn upload(client: &Client, parts: &[&[u8]], len: usize) -> Result<Handle, BlasError> {
    assert!(parts.iter().map(|part| part.len()).sum::<usize>() <= len, "the parts fit");
    let buffer = client.empty(len.max(1));
    let device = client.service_id().device;
    let mut ring = match idle(|rings| rings.entry(device).or_default().pop()) {
        Some(ring) => ring,
        None => Ring::new(client)?,
    };
    if ring.stream != StreamId::current() {
        ring.wait(client)?;
        ring.stream = StreamId::current();
    }
    let mut at = 0;
    for part in parts {
        let mut rest = *part;
        while !rest.is_empty() {
            if HALF - ring.filled < ALIGNMENT {
                ring.turn(client)?;
            }
            let (now, later) = rest.split_at(rest.len().min(HALF - ring.filled));
            ring.send(client, &buffer, at, now);
            (at, rest) = (at + now.len(), later);
        }
    }
    idle(|rings| rings.entry(device).or_default().push(ring));
    Ok(buffer)
}

fn idle<R>(f: impl FnOnce(&mut HashMap<DeviceId, Vec<Ring>>) -> R) -> R {
    f(IDLE.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default())
}

impl Ring {
    fn new(client: &Client) -> Result<Self, BlasError> {
        let made = with_context(client, || Ok::<_, BlasError>([Half::new()?, Half::new()?]))?;
        Ok(Self { halves: made?, current: 0, filled: 0, stream: StreamId::current() })
    }

    /// Fills pinned memory from `bytes`, which have room there, and enqueues their copy.
    fn send(&mut self, client: &Client, buffer: &Handle, at: usize, bytes: &[u8]) {
        let Half { memory, copied } = &self.halves[self.current];
        // SAFETY: the half has room for so many bytes, and no copy from there is on its way
        let to = unsafe { std::slice::from_raw_parts_mut(memory.add(self.filled), bytes.len()) };
        to.par_chunks_mut(PIECE).zip(bytes.par_chunks(PIECE)).for_each(|(to, from)| to.copy_from_slice(from));
        let (from, event, len) = (to.as_ptr() as usize, *copied as usize, bytes.len());
        self.filled = (self.filled + len).next_multiple_of(ALIGNMENT).min(HALF);
        enqueue(client, vec![buffer.clone()], move |addresses, stream| {
            let stream: sys::CUstream = stream.cast();
            // SAFETY: the buffer has room, and pinned memory is not written before the event has passed
            unsafe {
                driver(
                    "cuMemcpyHtoDAsync",
                    sys::cuMemcpyHtoDAsync_v2(addresses[0] + at as u64, from as *const c_void, len, stream),
                )?;
                driver("cuEventRecord", sys::cuEventRecord(event as sys::CUevent, stream))
            }
        });
    }

    /// Goes on with the other half, once it is free.
    fn turn(&mut self, client: &Client) -> Result<(), BlasError> {
        (self.current, self.filled) = (1 - self.current, 0);
        self.halves[self.current].wait(client)
    }

    /// Waits for all copies.
    fn wait(&mut self, client: &Client) -> Result<(), BlasError> {
        (self.current, self.filled) = (0, 0);
        self.halves.iter().try_for_each(|half| half.wait(client))
    }
}

impl Half {
    fn new() -> Result<Self, BlasError> {
        let (mut memory, mut copied): (*mut c_void, sys::CUevent) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: both are written by the driver
        unsafe {
            driver("cuMemHostAlloc", sys::cuMemHostAlloc(&raw mut memory, HALF, 0))?;
            // no timing
            driver("cuEventCreate", sys::cuEventCreate(&raw mut copied, 2))?;
        }
        Ok(Self { memory: memory.cast(), copied })
    }

    /// Work is enqueued in order, so an event that is waited for has been recorded, or never will be.
    fn wait(&self, client: &Client) -> Result<(), BlasError> {
        let event = self.copied as usize;
        // SAFETY: the event lives as long as the process
        with_context(client, move || unsafe {
            driver("cuEventSynchronize", sys::cuEventSynchronize(event as sys::CUevent))
        })?
    }
}

fn driver(function: &'static str, result: sys::CUresult) -> Result<(), BlasError> {
    if result == sys::CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    Err(BlasError::Status { function, status: result as i32 })
}
