//! What else is read off the machine around a run: energy, and a GPU's clock.

use super::energy::{Mark, Meter};
use super::gpu::Gpu;
use crate::device::ComputeDevice;

/// A GPU counts its energy in steps of up to a tenth of a second; of less time than this it tells nothing.
const LEAST_SECONDS: f64 = 1.0;

/// The instruments that this machine has for a device.
pub(super) struct Instruments {
    meter: Option<Meter>,
    gpu: Option<Gpu>,
}

/// A moment to measure from.
pub(super) struct Moment {
    processor: Option<Mark>,
    gpu_joules: Option<f64>,
}

/// Joules since a moment; absent where the machine does not tell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Energy {
    /// Of the processor's packages.
    pub(super) processor: Option<f64>,
    pub(super) gpu: Option<f64>,
}

impl Instruments {
    pub(super) fn of(device: ComputeDevice) -> Self {
        Self { meter: Meter::of_machine(), gpu: Gpu::of(device) }
    }

    pub(super) fn moment(&self) -> Moment {
        Moment { processor: self.meter.as_ref().and_then(Meter::mark), gpu_joules: self.gpu_joules() }
    }

    /// What was used in the `seconds` since then.
    pub(super) fn since(&self, moment: &Moment, seconds: f64) -> Energy {
        let meter = self.meter.as_ref().zip(moment.processor.as_ref());
        let gpu = self.gpu_joules().zip(moment.gpu_joules).map(|(now, then)| now - then);
        Energy {
            processor: meter.and_then(|(meter, mark)| meter.joules_since(mark)),
            gpu: gpu.filter(|_| seconds >= LEAST_SECONDS),
        }
    }

    /// The GPU's clock now, MHz.
    pub(super) fn clock(&self) -> Option<f64> {
        self.gpu.as_ref().and_then(Gpu::clock)
    }

    fn gpu_joules(&self) -> Option<f64> {
        self.gpu.as_ref().and_then(Gpu::joules)
    }
}
