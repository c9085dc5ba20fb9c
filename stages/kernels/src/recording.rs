//! Recording graphs while other devices work. While a thread records, CUDA refuses calls of others, such as for memory or to
//! wait for an event, and spoils the recording, unless their thread has said that it has nothing to do with it. Two kinds of
//! threads make such calls, and say so here: cubecl's of every device, before anything else, and every thread that reads
//! results. None begins to work while another records.
#![allow(unsafe_code, reason = "a setting of the driver's")]

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError, RwLock, RwLockWriteGuard};

use cubecl::client::Client;
use cudarc::driver::sys;

use crate::blas::BlasError;
use crate::blas::stream::with_context;

/// Held by who records, and shared by who opens a device.
static RECORDING: RwLock<()> = RwLock::new(());
/// Devices that are open.
static OPEN: Mutex<Option<HashSet<usize>>> = Mutex::new(None);

/// While it lives, its thread may record a graph.
pub struct Recording(#[expect(dead_code, reason = "held")] RwLockWriteGuard<'static, ()>);

impl Recording {
    /// Waits until nobody else records, and no device is being opened.
    pub fn begin() -> Self {
        Self(RECORDING.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Opens the device of this number, which `client` does, so that it and the calling thread can work while others record. Every
/// thread that uses the device calls it before its first use; the first call opens.
///
/// # Errors
/// [`BlasError`] where the driver refuses.
pub fn open(index: usize, client: impl FnOnce() -> Option<Client>) -> Result<(), BlasError> {
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let open = open.get_or_insert_default();
    if !open.contains(&index) {
        let _nobody_records = RECORDING.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = client() {
            with_context(&client, stand_apart)??;
        }
        open.insert(index);
    }
    stand_apart()
}

/// Says that what the calling thread does is no part of what others record.
fn stand_apart() -> Result<(), BlasError> {
    let mut mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
    // SAFETY: exchanges a setting of this thread
    let status = unsafe { sys::cuThreadExchangeStreamCaptureMode(&raw mut mode) };
    if status == sys::CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    Err(BlasError::Status { function: "cuThreadExchangeStreamCaptureMode", status: status as i32 })
}
