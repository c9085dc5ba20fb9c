//! The machine's CUDA devices, or why this program has none.

#[cfg(feature = "cuda")]
mod driver;
mod settings;

use serde::Serialize;

pub use settings::CudaSettings;

/// What the NVIDIA driver offers. There is at least one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cuda {
    /// The newest CUDA that the driver knows, major and minor.
    pub version: (u32, u32),
    /// By ordinal.
    pub devices: Vec<CudaDevice>,
    /// What computes products of many rows, or why burn's own kernels do, which takes some three times as long.
    pub cublaslt: Result<CublasLt, String>,
}

/// NVIDIA's library of matrix products.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CublasLt {
    pub version: String,
    pub path: std::path::PathBuf,
}

/// A CUDA device, as the driver describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CudaDevice {
    pub name: String,
    /// Its memory, bytes.
    pub memory: u64,
    /// What nobody holds of it, bytes; unknown where the device lets nobody in to ask.
    pub free: Option<u64>,
    /// Its compute capability, major and minor.
    pub capability: (u32, u32),
}

/// Why this program has no CUDA device. `error` is the driver's own, such as `CUDA_ERROR_NO_DEVICE`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum CudaAbsence {
    #[error(
        "this program was built without CUDA; `cargo build --release --features cuda` builds one that has it"
    )]
    NotBuilt,
    #[error("the NVIDIA driver's library (libcuda.so.1) cannot be loaded")]
    NoDriver,
    #[error("the NVIDIA driver finds no GPU ({error})")]
    NoDevice { error: String },
    #[error(
        "the NVIDIA driver gives this program none of the machine's GPUs ({error}): `CUDA_VISIBLE_DEVICES` or the \
         container hides them"
    )]
    Hidden { error: String },
    #[error("the NVIDIA driver cannot be used ({error})")]
    Driver { error: String },
}

impl CudaAbsence {
    /// The reason behind an error of the driver, on a machine with or without GPUs.
    pub fn of_driver(error: String, machine_has_gpus: bool) -> Self {
        match error.as_str() {
            NO_DEVICE if machine_has_gpus => Self::Hidden { error },
            NO_DEVICE => Self::NoDevice { error },
            _ => Self::Driver { error },
        }
    }

    /// Whether somebody who left the choice to the program should hear of it. Who built it with CUDA, or has a GPU,
    /// may expect one; an ordinary program on a machine without has nothing to tell.
    pub fn is_notable(&self, machine_has_gpus: bool) -> bool {
        *self != Self::NotBuilt || machine_has_gpus
    }
}

/// The driver's name for "there is none", which is also what it says when all are hidden.
const NO_DEVICE: &str = "CUDA_ERROR_NO_DEVICE";

/// How many CUDA devices there are, one at the least. The driver is asked once: every node of a study asks.
#[cfg(feature = "cuda")]
pub fn count() -> Result<usize, CudaAbsence> {
    static COUNT: std::sync::OnceLock<Result<usize, CudaAbsence>> = std::sync::OnceLock::new();
    COUNT.get_or_init(driver::count).clone()
}

/// How many CUDA devices there are, one at the least.
#[cfg(not(feature = "cuda"))]
pub fn count() -> Result<usize, CudaAbsence> {
    Err(CudaAbsence::NotBuilt)
}

/// The memory of a device, bytes; unknown where there is none of this number.
#[cfg(feature = "cuda")]
pub(crate) fn memory(index: usize) -> Option<u64> {
    driver::memory(index)
}

/// The memory of a device.
#[cfg(not(feature = "cuda"))]
pub(crate) fn memory(_index: usize) -> Option<u64> {
    None
}

/// What NVIDIA's other tools call a device; unknown where there is none of this number.
#[cfg(feature = "cuda")]
pub(crate) fn uuid(index: usize) -> Option<String> {
    driver::uuid(index)
}

/// What they are. To learn what is free, every device is opened, which takes a moment.
#[cfg(feature = "cuda")]
pub fn describe() -> Result<Cuda, CudaAbsence> {
    driver::describe(count()?)
}

/// What they are.
#[cfg(not(feature = "cuda"))]
pub fn describe() -> Result<Cuda, CudaAbsence> {
    Err(CudaAbsence::NotBuilt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_device_on_a_machine_with_gpus_means_that_they_are_hidden() {
        let none = |gpus| CudaAbsence::of_driver(NO_DEVICE.into(), gpus);
        assert_eq!(none(false), CudaAbsence::NoDevice { error: NO_DEVICE.into() });
        assert!(none(true).to_string().contains("`CUDA_VISIBLE_DEVICES`"));
        for gpus in [false, true] {
            let other = CudaAbsence::of_driver("CUDA_ERROR_UNKNOWN".into(), gpus);
            assert_eq!(other.to_string(), "the NVIDIA driver cannot be used (CUDA_ERROR_UNKNOWN)");
        }
    }

    #[test]
    fn only_an_ordinary_program_on_a_machine_without_gpus_has_nothing_to_tell() {
        assert!(!CudaAbsence::NotBuilt.is_notable(false));
        assert!(CudaAbsence::NotBuilt.is_notable(true));
        assert!(CudaAbsence::NoDriver.is_notable(false));
    }

    #[test]
    fn what_is_counted_is_what_is_described() {
        assert_eq!(count(), describe().map(|cuda| cuda.devices.len()));
    }
}
