//! Which device computes. One place resolves `auto | cpu | cuda:N`; nothing else chooses.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use burn::tensor::Device;
use qpipe_sdk::StageError;

use crate::cuda::{self, CudaAbsence};
use crate::residency;

/// A device that stages compute on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComputeDevice {
    Cpu,
    Cuda(usize),
}

/// Why a device cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    #[error("unknown device `{0}`, expected `auto`, `cpu` or `cuda:N`")]
    Unknown(String),
    #[error("device `{name}` is not available: {why}")]
    Absent { name: String, why: CudaAbsence },
    #[error("device `cuda:{index}` is not available: the last CUDA device is `cuda:{}`", found - 1)]
    Beyond { index: usize, found: usize },
    #[error("device `cuda:{index}` cannot be opened: {reason}")]
    Refused { index: usize, reason: String },
}

impl ComputeDevice {
    /// The first CUDA device where there is one, else the CPU.
    pub fn auto() -> Self {
        if cuda::count().is_ok() { Self::Cuda(0) } else { Self::Cpu }
    }

    /// Resolves a device's name.
    pub fn resolve(name: &str) -> Result<Self, DeviceError> {
        let index = match name {
            "cpu" => return Ok(Self::Cpu),
            "auto" => return Ok(Self::auto()),
            "cuda" => 0,
            _ => name
                .strip_prefix("cuda:")
                .and_then(|n| n.parse().ok())
                .ok_or_else(|| DeviceError::Unknown(name.to_owned()))?,
        };
        match cuda::count() {
            Ok(found) if index < found => Ok(Self::Cuda(index)),
            Ok(found) => Err(DeviceError::Beyond { index, found }),
            Err(why) => Err(DeviceError::Absent { name: name.to_owned(), why }),
        }
    }

    /// The burn device. Of a GPU, each thread [opens](Self::open) it first.
    pub fn device(self) -> Device {
        match self {
            Self::Cpu => Device::flex(),
            #[cfg(feature = "cuda")]
            Self::Cuda(index) => Device::cuda(index),
            #[cfg(not(feature = "cuda"))]
            Self::Cuda(_) => unreachable!("`resolve` gives no CUDA device in a build without the feature"),
        }
    }

    /// Has a GPU work for the calling thread.
    ///
    /// # Errors
    /// [`DeviceError::Refused`] where its driver does not.
    pub fn open(self) -> Result<(), DeviceError> {
        match self {
            Self::Cpu => Ok(()),
            #[cfg(feature = "cuda")]
            Self::Cuda(index) => crate::model::open_on_cuda(index, &self.device())
                .map_err(|error| DeviceError::Refused { index, reason: error.to_string() }),
            #[cfg(not(feature = "cuda"))]
            Self::Cuda(_) => unreachable!("`resolve` gives no CUDA device in a build without the feature"),
        }
    }

    /// Does what computes on the device, which is open then. That a GPU's memory is exhausted, which burn tells by panicking where a result is
    /// read, is an error; models that were kept there make room first, and `work` is done once more. Afterwards the device
    /// has back what nobody uses. What else goes wrong in the driver may stick to the process, and may not happen in another one:
    /// it is worth trying again there.
    pub(crate) fn computing<T>(self, work: impl Fn() -> Result<T, StageError>) -> Result<T, StageError> {
        if self == Self::Cpu {
            return work();
        }
        self.open().map_err(|e| StageError::Device(e.to_string()))?;
        let make_room = || {
            let was_kept = residency::release(self);
            self.device().memory_cleanup();
            was_kept
        };
        match catch_unwind(AssertUnwindSafe(|| within_memory(&work, &make_room))) {
            Ok(done) => done.unwrap_or_else(|bytes| {
                let gib = bytes as f64 / f64::from(1 << 30);
                Err(StageError::OomDevice(format!("{self} has no room for another {gib:.1} GiB")))
            }),
            Err(panic) => match driver_error(&*panic) {
                Some(error) => Err(StageError::Transient(format!("{self} failed: {error}"))),
                None => resume_unwind(panic),
            },
        }
    }

    /// Lets go of the models that are kept on the device, and has it give back what nobody uses.
    pub(crate) fn release(self) {
        if self != Self::Cpu {
            residency::release(self);
            self.device().memory_cleanup();
        }
    }

    /// The numerics class: what a result's bytes depend on besides its inputs. Device ordinals do not count.
    pub fn numerics(self) -> &'static str {
        match self {
            // `loops-N` and `kernels-N` rise when one takes its sums in another order
            Self::Cpu => "burn-flex-0.22.1/loops-2/f32",
            Self::Cuda(_) => cuda_numerics(),
        }
    }
}

/// What `work` comes to, or how many bytes the device did not have for it. Where that made room, `work` is done again, once: what
/// it keeps itself would be room to make each time.
fn within_memory<T>(work: &dyn Fn() -> T, make_room: &dyn Fn() -> bool) -> Result<T, u64> {
    let attempt = || match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => Ok(done),
        Err(panic) => match refused_bytes(&*panic) {
            Some(bytes) => Err(bytes),
            None => resume_unwind(panic),
        },
    };
    attempt().or_else(|bytes| if make_room() { attempt() } else { Err(bytes) }).inspect_err(|_| {
        make_room();
    })
}

fn panic_text(panic: &(dyn Any + Send)) -> Option<&str> {
    panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref().copied())
}

/// What a panic says, if an error of the driver is behind it.
fn driver_error(panic: &(dyn Any + Send)) -> Option<&str> {
    panic_text(panic).filter(|text| text.contains("CUDA_ERROR_"))
}

/// How many bytes a device did not have, if that is what a panic says.
fn refused_bytes(panic: &(dyn Any + Send)) -> Option<u64> {
    let (_, asked) = panic_text(panic)?.split_once("out of device memory allocating ")?;
    asked.split_whitespace().next()?.parse().ok()
}

/// Products of many rows are cuBLASLt's, whose versions differ in their sums, or burn's where there is none.
#[cfg(feature = "cuda")]
fn cuda_numerics() -> &'static str {
    static NUMERICS: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    NUMERICS.get_or_init(|| match qpipe_kernels::cublaslt() {
        Ok((version, _)) => format!("burn-cuda-0.22.1/kernels-4/cublaslt-{version}/f32"),
        Err(_) => "burn-cuda-0.22.1/kernels-4/f32".to_owned(),
    })
}

#[cfg(not(feature = "cuda"))]
fn cuda_numerics() -> &'static str {
    unreachable!("`resolve` gives no CUDA device in a build without the feature")
}

/// As a manifest names it.
impl fmt::Display for ComputeDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

/// The `device` parameter of stages that compute. The device's *class* enters keys as the numerics class; its
/// name does not.
pub fn param() -> qpipe_sdk::NodeSpec {
    use qpipe_sdk::{NodeSpec, ParamSpec, ParamType, Value};
    NodeSpec::value(
        ParamSpec::new("device", ParamType::Text, "`auto`, `cpu` or `cuda:N`.")
            .default(Value::Text("auto".into()))
            .location(),
    )
}

/// The device that a stage's parameters ask for.
pub fn of(params: &qpipe_sdk::Params) -> Result<ComputeDevice, StageError> {
    let name = params.text("device").unwrap_or("auto");
    ComputeDevice::resolve(name).map_err(|e| StageError::Device(e.to_string()))
}

/// The device of a running stage: the one its parameters name, or under `auto` the one it was assigned.
pub fn of_run(ctx: &qpipe_sdk::Context<'_>) -> Result<ComputeDevice, StageError> {
    let name = ctx.params.text("device").filter(|name| *name != "auto").unwrap_or(ctx.device);
    ComputeDevice::resolve(name).map_err(|e| StageError::Device(e.to_string()))
}

/// What a stage needs that computes with its input models. On the CPU it holds them in host memory, at the least in
/// the size they are stored in; a GPU is fed from the mapped files.
pub fn resources(params: &qpipe_sdk::Params, input_bytes: u64) -> qpipe_sdk::Resources {
    let gpu = qpipe_sdk::GpuNeed::of_device(params.text("device").unwrap_or("auto"));
    let memory = if of(params).is_ok_and(|device| device == ComputeDevice::Cpu) { input_bytes } else { 0 };
    qpipe_sdk::Resources { gpu, memory, exclusive: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_auto_takes_has_a_name_that_resolves_to_it() {
        let auto = ComputeDevice::auto();
        assert_eq!(ComputeDevice::resolve(&auto.to_string()), Ok(auto));
        assert_eq!(ComputeDevice::resolve("gpu"), Err(DeviceError::Unknown("gpu".into())));
    }

    #[test]
    fn a_panic_for_want_of_memory_says_how_much_was_wanted() {
        let panicked = |message: String| catch_unwind(|| std::panic::panic_any(message)).unwrap_err();
        let told =
            "skipped a, since b failed: out of device memory allocating 33554432 bytes\n  at x".to_owned();
        assert_eq!(refused_bytes(&*panicked(told)), Some(33_554_432));
        assert_eq!(refused_bytes(&*panicked("out of luck".to_owned())), None);
        assert_eq!(refused_bytes(&*catch_unwind(|| std::panic::panic_any(7)).unwrap_err()), None);
        let broken =
            "called `Result::unwrap()`: DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \"an illegal access\")";
        assert_eq!(driver_error(&*panicked(broken.to_owned())), Some(broken));
        assert_eq!(driver_error(&*panicked("index out of bounds".to_owned())), None);
    }

    #[test]
    fn work_that_never_fits_is_tried_twice_and_work_that_may_fit_once_more() {
        let exhausted = |tries: &std::cell::Cell<u32>, fits: u32| {
            tries.set(tries.get() + 1);
            if tries.get() < fits {
                std::panic::panic_any("out of device memory allocating 1024 bytes".to_owned());
            }
            tries.get()
        };
        let tries = std::cell::Cell::new(0);
        assert_eq!(within_memory(&|| exhausted(&tries, u32::MAX), &|| true), Err(1024));
        assert_eq!(tries.replace(0), 2);
        assert_eq!(within_memory(&|| exhausted(&tries, 2), &|| true), Ok(2));
        tries.set(0);
        assert_eq!(within_memory(&|| exhausted(&tries, 2), &|| false), Err(1024));
        assert_eq!(tries.get(), 1);
    }

    #[test]
    fn a_device_that_there_is_not_is_refused_with_the_reason() {
        let told = ComputeDevice::resolve("cuda:999").unwrap_err().to_string();
        let why = match cuda::count() {
            Ok(found) => format!("the last CUDA device is `cuda:{}`", found - 1),
            Err(why) => why.to_string(),
        };
        assert_eq!(told, format!("device `cuda:999` is not available: {why}"));
    }
}
