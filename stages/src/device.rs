//! Which device computes. One place resolves `auto | cpu | cuda:N`; nothing else chooses.

use std::fmt;

use burn::tensor::Device;

use crate::cuda::{self, CudaAbsence};

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

    /// The burn device.
    pub fn device(self) -> Device {
        match self {
            Self::Cpu => Device::flex(),
            #[cfg(feature = "cuda")]
            Self::Cuda(index) => Device::cuda(index),
            #[cfg(not(feature = "cuda"))]
            Self::Cuda(_) => unreachable!("`resolve` gives no CUDA device in a build without the feature"),
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

/// Products of many rows are cuBLASLt's, whose versions differ in their sums, or burn's where there is none.
#[cfg(feature = "cuda")]
fn cuda_numerics() -> &'static str {
    static NUMERICS: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    NUMERICS.get_or_init(|| match qpipe_kernels::cublaslt() {
        Ok((version, _)) => format!("burn-cuda-0.22.1/kernels-2/cublaslt-{version}/f32"),
        Err(_) => "burn-cuda-0.22.1/kernels-2/f32".to_owned(),
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
pub fn of(params: &qpipe_sdk::Params) -> Result<ComputeDevice, qpipe_sdk::StageError> {
    let name = params.text("device").unwrap_or("auto");
    ComputeDevice::resolve(name).map_err(|e| qpipe_sdk::StageError::Device(e.to_string()))
}

/// The device of a running stage: the one its parameters name, or under `auto` the one it was assigned.
pub fn of_run(ctx: &qpipe_sdk::Context<'_>) -> Result<ComputeDevice, qpipe_sdk::StageError> {
    let name = ctx.params.text("device").filter(|name| *name != "auto").unwrap_or(ctx.device);
    ComputeDevice::resolve(name).map_err(|e| qpipe_sdk::StageError::Device(e.to_string()))
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
    fn a_device_that_there_is_not_is_refused_with_the_reason() {
        let told = ComputeDevice::resolve("cuda:999").unwrap_err().to_string();
        let why = match cuda::count() {
            Ok(found) => format!("the last CUDA device is `cuda:{}`", found - 1),
            Err(why) => why.to_string(),
        };
        assert_eq!(told, format!("device `cuda:999` is not available: {why}"));
    }
}
