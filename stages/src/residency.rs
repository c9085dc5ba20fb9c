//! Models that stay in a GPU's memory from node to node: evaluating, sampling and comparing read the same weights, and a
//! baseline is compared with again and again. The least recently used ones go first. What is kept takes a part of the memory
//! at most ([`SHARE`]), goes when a benchmark begins, and goes when memory runs out ([`ComputeDevice::computing`]). On the CPU
//! nothing is kept: weights are read from mapped files there.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use qpipe_cache::{Digest, Store};
use qpipe_sdk::{Artifact, StageError};

use crate::artifact::ModelArtifact;
use crate::device::ComputeDevice;
use crate::weights::{LoadedModel, load_model};

/// One in so many bytes of a device's memory is for models that are kept.
const SHARE: u64 = 4;

static KEPT: Mutex<Shelf<Arc<LoadedModel>>> = Mutex::new(Shelf { kept: Vec::new() });

/// The model behind an artifact, on a device: one that was kept, or loaded now. `positions`: the longest sequence it will run.
pub(crate) fn model(
    store: &Store,
    artifact: &Artifact,
    device: ComputeDevice,
    positions: usize,
) -> Result<Arc<LoadedModel>, StageError> {
    let ComputeDevice::Cuda(index) = device else {
        return load_model(store, artifact, device, positions).map(Arc::new);
    };
    let digest = artifact.digest;
    if let Some(model) = shelf().found(device, digest, positions) {
        return Ok(model);
    }
    let bytes = ModelArtifact::read(store, artifact)?.weight_bytes();
    let room = crate::cuda::memory(index).unwrap_or(0) / SHARE;
    shelf().make_room(device, room.saturating_sub(bytes));
    let model = Arc::new(load_model(store, artifact, device, positions)?);
    if bytes <= room {
        let mut shelf = shelf();
        // another node may have kept one meanwhile
        shelf.make_room(device, room - bytes);
        shelf.kept.push(Kept { device, digest, positions, bytes, model: model.clone() });
    }
    Ok(model)
}

/// Lets go of what is kept on a device; whether there was anything.
pub(crate) fn release(device: ComputeDevice) -> bool {
    shelf().release(device)
}

fn shelf() -> MutexGuard<'static, Shelf<Arc<LoadedModel>>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Models of all devices, the most recently used last.
struct Shelf<M> {
    kept: Vec<Kept<M>>,
}

/// A model, ready for another node.
struct Kept<M> {
    device: ComputeDevice,
    /// Of the model's artifact.
    digest: Digest,
    /// The longest sequence that it was loaded for.
    positions: usize,
    /// Of its weights.
    bytes: u64,
    model: M,
}

impl<M: Clone> Shelf<M> {
    fn found(&mut self, device: ComputeDevice, digest: Digest, positions: usize) -> Option<M> {
        let fits = |one: &Kept<M>| one.device == device && one.digest == digest && one.positions >= positions;
        let one = self.kept.remove(self.kept.iter().position(fits)?);
        let model = one.model.clone();
        self.kept.push(one);
        Some(model)
    }

    /// Lets models of a device go, the least recently used first, until the others take `most` bytes.
    fn make_room(&mut self, device: ComputeDevice, most: u64) {
        let of_device = |one: &Kept<M>| one.device == device;
        while self.kept.iter().filter(|one| of_device(one)).map(|one| one.bytes).sum::<u64>() > most {
            let Some(oldest) = self.kept.iter().position(of_device) else { return };
            self.kept.remove(oldest);
        }
    }

    fn release(&mut self, device: ComputeDevice) -> bool {
        let before = self.kept.len();
        self.kept.retain(|one| one.device != device);
        self.kept.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A_GPU: ComputeDevice = ComputeDevice::Cuda(0);
    const ANOTHER: ComputeDevice = ComputeDevice::Cuda(1);

    fn digest(name: &str) -> Digest {
        Digest::of_bytes(name.as_bytes())
    }

    fn shelf(kept: &[(ComputeDevice, &'static str, u64)]) -> Shelf<&'static str> {
        let one = |(device, model, bytes): &(ComputeDevice, &'static str, u64)| Kept {
            device: *device,
            digest: digest(model),
            positions: 100,
            bytes: *bytes,
            model: *model,
        };
        Shelf { kept: kept.iter().map(one).collect() }
    }

    fn names(shelf: &Shelf<&'static str>) -> Vec<&'static str> {
        shelf.kept.iter().map(|one| one.model).collect()
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let mut shelf = shelf(&[(A_GPU, "a", 5), (ANOTHER, "x", 50), (A_GPU, "b", 3), (A_GPU, "c", 2)]);
        assert_eq!(shelf.found(A_GPU, digest("a"), 100), Some("a"));
        shelf.make_room(A_GPU, 7);
        assert_eq!(names(&shelf), ["x", "c", "a"]);
        shelf.make_room(A_GPU, 0);
        assert_eq!(names(&shelf), ["x"]);
    }

    #[test]
    fn a_model_is_of_its_device_and_of_a_length() {
        let mut shelf = shelf(&[(A_GPU, "a", 5)]);
        assert_eq!(shelf.found(ANOTHER, digest("a"), 10), None);
        assert_eq!(shelf.found(A_GPU, digest("a"), 101), None);
        assert_eq!(shelf.found(A_GPU, digest("b"), 10), None);
        assert!(!shelf.release(ANOTHER));
        assert!(shelf.release(A_GPU) && shelf.kept.is_empty());
    }
}
