//! What NVIDIA's management library tells of a GPU: the clock it runs at, and the energy it has used.

use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::Clock;

use crate::cuda;
use crate::device::ComputeDevice;

/// The library's names: drivers bring the first, development packages the second.
const LIBRARIES: [&str; 2] = ["libnvidia-ml.so.1", "libnvidia-ml.so"];

/// A GPU that can be asked.
pub(super) struct Gpu {
    library: Nvml,
    uuid: String,
}

impl Gpu {
    /// `None` where there is no such library, or it does not know the device (a part of a GPU has another name there).
    pub(super) fn of(device: ComputeDevice) -> Option<Self> {
        let ComputeDevice::Cuda(index) = device else { return None };
        let open = |name: &&str| Nvml::builder().lib_path(name.as_ref()).init().ok();
        let (library, uuid) = (LIBRARIES.iter().find_map(open)?, cuda::uuid(index)?);
        library.device_by_uuid(uuid.as_str()).ok()?;
        Some(Self { library, uuid })
    }

    /// Of its multiprocessors, now, MHz.
    pub(super) fn clock(&self) -> Option<f64> {
        self.device()?.clock_info(Clock::SM).ok().map(f64::from)
    }

    /// Since its driver was loaded.
    pub(super) fn joules(&self) -> Option<f64> {
        self.device()?.total_energy_consumption().ok().map(|millijoules| millijoules as f64 / 1e3)
    }

    fn device(&self) -> Option<nvml_wrapper::Device<'_>> {
        self.library.device_by_uuid(self.uuid.as_str()).ok()
    }
}
