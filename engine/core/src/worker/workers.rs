//! The program's own workers: one for each GPU, and others for stages that want to be alone.
//!
//! A GPU's worker lives as long as the run. Models that it has loaded stay in the device's memory from node to node, and
//! what goes wrong on a device (a crash, an error that sticks to its context) costs one try of one node: the next one gets
//! a new worker.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::error::WorkerError;
use super::machine::Machine;
use super::pool::Pool;
use super::process::{Worker, WorkerCommand};
use super::session::Limits;

/// What the names of GPUs begin with.
const GPU: &str = "cuda";

/// How a worker for a device is started; `None`: for no device in particular.
type Command = dyn Fn(Option<&str>) -> WorkerCommand + Send + Sync;

/// Workers that serve the program's own registry.
pub struct Workers {
    command: Box<Command>,
    machine: Machine,
    limits: Limits,
    alone: Pool,
    of_devices: Mutex<BTreeMap<String, Arc<Pool>>>,
}

impl Workers {
    pub fn new(
        command: impl Fn(Option<&str>) -> WorkerCommand + Send + Sync + 'static,
        machine: Machine,
        limits: Limits,
    ) -> Self {
        // it is the program's own: the run says how long it may take to stop, and then kills it
        let limits = Limits { grace: Duration::MAX, ..limits };
        let alone = Pool::new(command(None), machine.clone(), limits);
        Self { command: Box::new(command), machine, limits, alone, of_devices: Mutex::default() }
    }

    /// Whether a node with this device belongs to the device's worker.
    pub(super) fn has_own(device: &str) -> bool {
        device.strip_prefix(GPU).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
    }

    /// Gives a worker of no device a job.
    pub(super) fn alone<T>(
        &self,
        job: impl FnOnce(&mut Worker) -> Result<T, WorkerError>,
    ) -> Result<T, WorkerError> {
        self.alone.with(job)
    }

    /// Gives the worker of a device a job.
    pub(super) fn of_device<T>(
        &self,
        device: &str,
        job: impl FnOnce(&mut Worker) -> Result<T, WorkerError>,
    ) -> Result<T, WorkerError> {
        self.pool(device).with(job)
    }

    /// Starts the worker of a device before there is work for it: to open a GPU takes a moment, in which others can load.
    /// That it cannot be started is told by whoever has work for it.
    pub fn warm(self: &Arc<Self>, device: &str) {
        let pool = self.pool(device);
        std::thread::spawn(move || pool.fill());
    }

    /// Ends the worker of a device that has nothing to do, with all that it keeps there.
    pub fn release(&self, device: &str) {
        self.pool(device).clear();
    }

    fn pool(&self, device: &str) -> Arc<Pool> {
        let mut pools = self.of_devices.lock().unwrap_or_else(PoisonError::into_inner);
        let new =
            || Arc::new(Pool::new((self.command)(Some(device)), self.machine.clone(), self.limits).strict());
        Arc::clone(pools.entry(device.to_owned()).or_insert_with(new))
    }
}
