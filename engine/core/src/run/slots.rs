//! What the machine has to give: job slots, GPUs, memory, and all of it to one node alone.

use std::collections::BTreeSet;

use qpipe_sdk::{GpuNeed, Resources};

use super::options::RunOptions;

/// What is free.
#[derive(Debug)]
pub(super) struct Pool {
    jobs: usize,
    gpus: BTreeSet<usize>,
    /// Free or not.
    all_gpus: BTreeSet<usize>,
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
    /// It needs more memory than there is; in words.
    Never(String),
}

impl Pool {
    pub(super) fn new(options: &RunOptions) -> Self {
        Self {
            jobs: options.jobs.get(),
            gpus: options.gpus.iter().copied().collect(),
            all_gpus: options.gpus.iter().copied().collect(),
            memory: options.memory.map(|limit| Memory { limit, used: 0 }),
            running: 0,
            exclusive: false,
        }
    }

    /// Whether no node at all can start now.
    pub(super) fn is_full(&self) -> bool {
        self.exclusive || (self.jobs == 0 && self.gpus.is_empty())
    }

    /// Takes what a node needs, all or nothing.
    pub(super) fn take(&mut self, need: &Resources) -> Fit {
        if let Some(memory) = self.memory.as_ref().filter(|memory| need.memory > memory.limit) {
            return Fit::Never(format!(
                "needs {} MiB, and the run may use {} MiB (`--memory`)",
                need.memory.div_ceil(1 << 20),
                memory.limit >> 20
            ));
        }
        if self.exclusive || (need.exclusive && self.running > 0) || !self.has_memory(need.memory) {
            return Fit::Later;
        }
        let gpu = match self.slot(need.gpu) {
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

    /// The slot that is free for such a node. A GPU that this run does not have is the stage's to refuse, so such a
    /// node takes a job slot.
    fn slot(&self, need: GpuNeed) -> Option<Slot> {
        match need {
            GpuNeed::Any if !self.all_gpus.is_empty() => self.gpus.first().copied().map(Slot::Gpu),
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
        let held = [lease(pool.take(&gpu)), lease(pool.take(&gpu))];
        assert_eq!([held[0].gpu, held[1].gpu], [Some(0), Some(1)]);
        assert_eq!(pool.take(&gpu), Fit::Later, "no third GPU, though a job slot is free");
        assert_eq!(lease(pool.take(&cpu)).gpu, None);
        assert!(pool.is_full());
        pool.give_back(&held[1]);
        let second = Resources { gpu: GpuNeed::Ordinal(0), ..gpu };
        assert_eq!(pool.take(&second), Fit::Later, "this very one is taken");
        assert_eq!(lease(pool.take(&gpu)).gpu, Some(1));
    }

    #[test]
    fn without_gpus_any_is_a_job() {
        let mut pool = pool(1, &[], None);
        let gpu = Resources { gpu: GpuNeed::Any, ..Resources::default() };
        assert_eq!(lease(pool.take(&gpu)).gpu, None);
        assert_eq!(pool.take(&gpu), Fit::Later);
    }

    #[test]
    fn memory_adds_up_to_the_limit_and_no_further() {
        let mut pool = pool(4, &[], Some(10 << 20));
        let mib = |n: u64| Resources { memory: n << 20, ..Resources::default() };
        let six = lease(pool.take(&mib(6)));
        assert_eq!(pool.take(&mib(5)), Fit::Later);
        lease(pool.take(&mib(4)));
        pool.give_back(&six);
        lease(pool.take(&mib(5)));
        let Fit::Never(why) = pool.take(&mib(11)) else { panic!("more than there is") };
        assert_eq!(why, "needs 11 MiB, and the run may use 10 MiB (`--memory`)");
    }

    #[test]
    fn exclusive_is_alone_in_both_directions() {
        let mut pool = pool(4, &[0], None);
        let alone = Resources { exclusive: true, ..Resources::default() };
        let other = lease(pool.take(&Resources::default()));
        assert_eq!(pool.take(&alone), Fit::Later);
        pool.give_back(&other);
        let held = lease(pool.take(&alone));
        assert!(pool.is_full());
        assert_eq!(pool.take(&Resources { gpu: GpuNeed::Any, ..Resources::default() }), Fit::Later);
        pool.give_back(&held);
        assert!(!pool.is_full());
    }
}
