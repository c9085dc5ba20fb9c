//! What the machine has to give: job slots, GPUs, memory, and all of it to one node alone.

use std::collections::BTreeSet;

use qpipe_cache::Digest;
use qpipe_sdk::{GpuNeed, Resources, StageError};

use super::options::RunOptions;
use super::residents::Residents;

/// What is free.
#[derive(Debug)]
pub(super) struct Pool {
    jobs: usize,
    gpus: BTreeSet<usize>,
    /// Free or not.
    all_gpus: BTreeSet<usize>,
    /// Whether the run must leave others alone.
    gpus_are_named: bool,
    memory: Option<Memory>,
    running: usize,
    exclusive: bool,
}

#[derive(Debug)]
struct Memory {
    limit: u64,
    used: u64,
}

enum Slot {
    Job,
    Gpu(usize),
}

/// What a running node holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) gpu: Option<usize>,
    memory: u64,
    exclusive: bool,
}

/// Whether a node may start.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fit {
    Now(Lease),
    Later,
    Never(Refusal),
}

/// Why a node can never start.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("needs {} MiB, and the run may use {} MiB (`--memory`)", needed.div_ceil(1 << 20), limit >> 20)]
    Memory { needed: u64, limit: u64 },
    #[error("device `cuda:{gpu}` is not among the GPUs of this run: {}", listed(gpus))]
    Gpu { gpu: usize, gpus: BTreeSet<usize> },
}

fn listed(gpus: &BTreeSet<usize>) -> String {
    gpus.iter().map(|gpu| format!("`cuda:{gpu}`")).collect::<Vec<_>>().join(", ")
}

impl From<Refusal> for StageError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Memory { .. } => Self::OomHost(refusal.to_string()),
            Refusal::Gpu { .. } => Self::Device(refusal.to_string()),
        }
    }
}

impl Pool {
    pub(super) fn new(options: &RunOptions) -> Self {
        Self {
            jobs: options.jobs.get(),
            gpus: options.gpus.iter().copied().collect(),
            all_gpus: options.gpus.iter().copied().collect(),
            gpus_are_named: options.gpus_are_named,
            memory: options.memory.map(|limit| Memory { limit, used: 0 }),
            running: 0,
            exclusive: false,
        }
    }

    /// Whether no node at all can start now.
    pub(super) fn is_full(&self) -> bool {
        self.exclusive || (self.jobs == 0 && self.gpus.is_empty())
    }

    /// Takes what a node needs, all or nothing. Of several GPUs it gets the one that holds most of what it reads.
    pub(super) fn take(&mut self, need: &Resources, reads: &[Digest], residents: &Residents) -> Fit {
        if let Some(memory) = self.memory.as_ref().filter(|memory| need.memory > memory.limit) {
            return Fit::Never(Refusal::Memory { needed: need.memory, limit: memory.limit });
        }
        if let GpuNeed::Ordinal(gpu) = need.gpu
            && self.gpus_are_named
            && !self.all_gpus.contains(&gpu)
        {
            return Fit::Never(Refusal::Gpu { gpu, gpus: self.all_gpus.clone() });
        }
        if self.exclusive || (need.exclusive && self.running > 0) || !self.has_memory(need.memory) {
            return Fit::Later;
        }
        let gpu = match self.slot(need.gpu, reads, residents) {
            Some(Slot::Gpu(gpu)) => self.gpus.take(&gpu),
            Some(Slot::Job) => None,
            None => return Fit::Later,
        };
        self.jobs -= usize::from(gpu.is_none());
        if let Some(memory) = &mut self.memory {
            memory.used += need.memory;
        }
        self.running += 1;
        self.exclusive = need.exclusive;
        Fit::Now(Lease { gpu, memory: need.memory, exclusive: need.exclusive })
    }

    pub(super) fn give_back(&mut self, lease: &Lease) {
        match lease.gpu {
            Some(gpu) => _ = self.gpus.insert(gpu),
            None => self.jobs += 1,
        }
        if let Some(memory) = &mut self.memory {
            memory.used -= lease.memory;
        }
        self.running -= 1;
        self.exclusive &= !lease.exclusive;
    }

    fn has_memory(&self, bytes: u64) -> bool {
        self.memory.as_ref().is_none_or(|memory| bytes <= memory.limit - memory.used)
    }

    /// The slot that is free for such a node. A GPU that the machine does not have is the stage's to refuse, so such a
    /// node takes a job slot.
    fn slot(&self, need: GpuNeed, reads: &[Digest], residents: &Residents) -> Option<Slot> {
        match need {
            GpuNeed::Any if !self.all_gpus.is_empty() => {
                residents.best(reads, self.gpus.iter().copied()).map(Slot::Gpu)
            }
            GpuNeed::Ordinal(gpu) if self.all_gpus.contains(&gpu) => {
                self.gpus.get(&gpu).copied().map(Slot::Gpu)
            }
            _ => (self.jobs > 0).then_some(Slot::Job),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(jobs: usize, gpus: &[usize], memory: Option<u64>) -> Pool {
        let jobs = jobs.try_into().unwrap();
        Pool::new(&RunOptions { jobs, gpus: gpus.to_vec(), memory, ..RunOptions::default() })
    }

    impl Pool {
        fn takes(&mut self, need: &Resources) -> Fit {
            self.take(need, &[], &Residents::default())
        }
    }

    fn lease(fit: Fit) -> Lease {
        match fit {
            Fit::Now(lease) => lease,
            other => panic!("does not fit: {other:?}"),
        }
    }

    #[test]
    fn gpus_are_slots_beside_the_jobs() {
        let mut pool = pool(1, &[0, 1], None);
        let (gpu, cpu) = (Resources { gpu: GpuNeed::Any, ..Resources::default() }, Resources::default());
        let held = [lease(pool.takes(&gpu)), lease(pool.takes(&gpu))];
        assert_eq!([held[0].gpu, held[1].gpu], [Some(0), Some(1)]);
        assert_eq!(pool.takes(&gpu), Fit::Later, "no third GPU, though a job slot is free");
        assert_eq!(lease(pool.takes(&cpu)).gpu, None);
        assert!(pool.is_full());
        pool.give_back(&held[1]);
        let second = Resources { gpu: GpuNeed::Ordinal(0), ..gpu };
        assert_eq!(pool.takes(&second), Fit::Later, "this very one is taken");
        assert_eq!(lease(pool.takes(&gpu)).gpu, Some(1));
    }

    #[test]
    fn without_gpus_any_is_a_job() {
        let mut pool = pool(1, &[], None);
        let gpu = Resources { gpu: GpuNeed::Any, ..Resources::default() };
        assert_eq!(lease(pool.takes(&gpu)).gpu, None);
        assert_eq!(pool.takes(&gpu), Fit::Later);
    }

    #[test]
    fn a_node_gets_the_gpu_that_holds_its_model_if_it_is_free() {
        let mut pool = pool(1, &[0, 1], None);
        let (mut residents, model) = (Residents::default(), Digest::of_bytes(b"model"));
        residents.read(1, [model]);
        let gpu = Resources { gpu: GpuNeed::Any, ..Resources::default() };
        let held = [(); 2].map(|()| lease(pool.take(&gpu, &[model], &residents)).gpu);
        assert_eq!(held, [Some(1), Some(0)]);
    }

    #[test]
    fn a_gpu_that_the_run_may_not_use_is_refused() {
        let options = |gpus_are_named| RunOptions { gpus: vec![1], gpus_are_named, ..RunOptions::default() };
        let first = Resources { gpu: GpuNeed::Ordinal(0), ..Resources::default() };
        let Fit::Never(why) = Pool::new(&options(true)).takes(&first) else { panic!("it was told not to") };
        assert_eq!(why.to_string(), "device `cuda:0` is not among the GPUs of this run: `cuda:1`");
        assert_eq!(
            lease(Pool::new(&options(false)).takes(&first)).gpu,
            None,
            "the stage says that there is none"
        );
    }

    #[test]
    fn memory_adds_up_to_the_limit_and_no_further() {
        let mut pool = pool(4, &[], Some(10 << 20));
        let mib = |n: u64| Resources { memory: n << 20, ..Resources::default() };
        let six = lease(pool.takes(&mib(6)));
        assert_eq!(pool.takes(&mib(5)), Fit::Later);
        lease(pool.takes(&mib(4)));
        pool.give_back(&six);
        lease(pool.takes(&mib(5)));
        let Fit::Never(why) = pool.takes(&mib(11)) else { panic!("more than there is") };
        assert_eq!(why.to_string(), "needs 11 MiB, and the run may use 10 MiB (`--memory`)");
    }

    #[test]
    fn exclusive_is_alone_in_both_directions() {
        let mut pool = pool(4, &[0], None);
        let alone = Resources { exclusive: true, ..Resources::default() };
        let other = lease(pool.takes(&Resources::default()));
        assert_eq!(pool.takes(&alone), Fit::Later);
        pool.give_back(&other);
        let held = lease(pool.takes(&alone));
        assert!(pool.is_full());
        assert_eq!(pool.takes(&Resources { gpu: GpuNeed::Any, ..Resources::default() }), Fit::Later);
        pool.give_back(&held);
        assert!(!pool.is_full());
    }
}
