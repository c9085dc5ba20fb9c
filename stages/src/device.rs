//! Which device computes. One place resolves `auto | cpu | cuda:N`; nothing else asks what exists.

use burn::tensor::Device;

/// A device that stages compute on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComputeDevice {
    Cpu,
    Cuda(usize),
}

/// Why a device cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("unknown device `{0}`, expected `auto`, `cpu` or `cuda:N`")]
    Unknown(String),
    #[error("device `{0}` is not available: this program was built without the `cuda` feature")]
    NotBuilt(String),
    #[error("device `cuda:{index}` is not available: {found} CUDA devices found")]
    Absent { index: usize, found: usize },
}

impl ComputeDevice {
    /// Resolves a device's name; `auto` takes the first CUDA device where there is one, else the CPU.
    pub fn resolve(name: &str) -> Result<Self, DeviceError> {
        let index = match name {
            "cpu" => return Ok(Self::Cpu),
            "auto" => return Ok(if cuda_devices() > 0 { Self::Cuda(0) } else { Self::Cpu }),
            "cuda" => 0,
            _ => name
                .strip_prefix("cuda:")
                .and_then(|n| n.parse().ok())
                .ok_or_else(|| DeviceError::Unknown(name.to_owned()))?,
        };
        if !cfg!(feature = "cuda") {
            return Err(DeviceError::NotBuilt(name.to_owned()));
        }
        let found = cuda_devices();
        if index < found { Ok(Self::Cuda(index)) } else { Err(DeviceError::Absent { index, found }) }
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
            // `loops-N` rises when a host loop takes its sums in another order
            Self::Cpu => "burn-flex-0.22.1/loops-2/f32",
            Self::Cuda(_) => "burn-cuda-0.22.1/f32",
        }
    }
}

/// How many CUDA devices this program could use. Probing never panics, with or without a driver.
pub fn cuda_devices() -> usize {
    #[cfg(feature = "cuda")]
    {
        burn::tensor::Device::enumerate(burn::tensor::DeviceType::Cuda).into_vec().len()
    }
    #[cfg(not(feature = "cuda"))]
    {
        0
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
