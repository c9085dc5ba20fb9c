//! What `libcuda` says. It is looked for when it is asked, so a program with CUDA starts where there is none.

#![expect(unsafe_code, reason = "the driver's library is foreign code")]

use cudarc::driver::result::device;
use cudarc::driver::{CudaContext, DriverError, sys};

use super::{CublasLt, Cuda, CudaAbsence, CudaDevice, NO_DEVICE};
use crate::machine;

pub(super) fn count() -> Result<usize, CudaAbsence> {
    // to call a function of a library that is not there panics
    if !unsafe { sys::is_culib_present() } {
        return Err(CudaAbsence::NoDriver);
    }
    match CudaContext::device_count() {
        Ok(count) if count > 0 => Ok(count as usize),
        Ok(_) => Err(absence(NO_DEVICE.into())),
        Err(error) => Err(absence(name(error))),
    }
}

/// The first `count` devices.
pub(super) fn describe(count: usize) -> Result<Cuda, CudaAbsence> {
    let cuda = || -> Result<Cuda, DriverError> {
        let devices = (0..count).map(describe_one).collect::<Result<_, _>>()?;
        let cublaslt = qpipe_kernels::cublaslt();
        let cublaslt = cublaslt
            .map(|(version, path)| CublasLt { version, path })
            .map_err(|why| format!("{why} (a file can be named in {})", super::settings::LIBRARY));
        Ok(Cuda { version: version()?, devices, cublaslt })
    };
    cuda().map_err(|error| absence(name(error)))
}

fn describe_one(ordinal: usize) -> Result<CudaDevice, DriverError> {
    use sys::CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    let device = device::get(ordinal as i32)?;
    let attribute = |which| unsafe { device::get_attribute(device, which) }.map(|value| value as u32);
    Ok(CudaDevice {
        name: device::get_name(device)?,
        memory: unsafe { device::total_mem(device) }? as u64,
        free: free(ordinal),
        capability: (attribute(MAJOR)?, attribute(MINOR)?),
    })
}

pub(super) fn memory(index: usize) -> Option<u64> {
    let device = device::get(index as i32).ok()?;
    unsafe { device::total_mem(device) }.ok().map(|bytes| bytes as u64)
}

/// `GPU-` and 16 bytes, as NVIDIA writes them.
pub(super) fn uuid(index: usize) -> Option<String> {
    let uuid = device::get_uuid(device::get(index as i32).ok()?).ok()?;
    let hex = format!("{:032x}", u128::from_be_bytes(uuid.bytes.map(i8::cast_unsigned)));
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    Some(format!("GPU-{}", parts.join("-")))
}

/// Only who has opened a device can ask; one that is full or kept for another process is not to be opened.
fn free(ordinal: usize) -> Option<u64> {
    let (free, _) = CudaContext::new(ordinal).ok()?.mem_get_info().ok()?;
    Some(free as u64)
}

/// The driver's CUDA: `13010` is 13.1.
fn version() -> Result<(u32, u32), DriverError> {
    let mut version = 0;
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result()?;
    Ok((version as u32 / 1000, version as u32 % 1000 / 10))
}

fn absence(error: String) -> CudaAbsence {
    CudaAbsence::of_driver(error, machine::has_nvidia_gpus())
}

fn name(error: DriverError) -> String {
    format!("{:?}", error.0)
}
