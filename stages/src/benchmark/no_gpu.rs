//! What a program without CUDA knows of GPUs.

use crate::device::ComputeDevice;

/// There is none.
pub(super) enum Gpu {}

impl Gpu {
    pub(super) fn of(_device: ComputeDevice) -> Option<Self> {
        None
    }

    pub(super) fn clock(&self) -> Option<f64> {
        match *self {}
    }

    pub(super) fn joules(&self) -> Option<f64> {
        match *self {}
    }
}
