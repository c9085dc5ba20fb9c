//! Workers of one command, which stay between jobs.
//!
//! A worker behind a wall reaches the inputs of the job that it was started for. It gets another job where that has the very
//! same; where no worker fits, a new one is started, and one that is idle ends for it: no more are there than jobs at once.
//! Who is asked something gets no job, and who has had a job is not asked: what one leaves behind is not for the other. One
//! that is only asked ends first.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use qpipe_cache::Store;
use qpipe_sdk::protocol::FailureClass;

use super::content::{Body, Content, Part, differing};
use super::error::WorkerError;
use super::machine::Machine;
use super::process::{Place, Worker, WorkerCommand};
use super::reach::{self, Own, Reach};
use super::room::Room;
use super::session::{Limits, Transport};
use super::wall::{Support, Wall};

/// How often a worker is started anew whose program was changed meanwhile.
pub(super) const TRIES: usize = 5;

/// Workers of one command. A worker that is free and sound is used again: what it has loaded stays loaded.
pub struct Pool {
    command: WorkerCommand,
    machine: Machine,
    limits: Limits,
    transport: Transport,
    /// What its workers' wall is made of; `None`: they reach what their user does.
    reach: Option<Reach>,
    free: Mutex<Vec<Worker>>,
    /// Held while a worker is started before there is work for it; whether there was work.
    has_worked: Mutex<bool>,
    /// Whether what passed by itself elsewhere is a reason not to trust a worker here.
    is_strict: bool,
    /// The files that its workers are made of.
    body: Mutex<Body>,
    /// Whether these are all that its workers need of their own folder.
    is_told: AtomicBool,
}

impl Pool {
    pub fn new(command: WorkerCommand, machine: Machine, limits: Limits) -> Self {
        let (free, body) = (Mutex::new(Vec::new()), Mutex::new(Body::default()));
        let (transport, is_told) = (Transport::Stdio, AtomicBool::new(false));
        let has_worked = Mutex::new(false);
        let (reach, is_strict) = (None, false);
        Self { command, machine, limits, transport, reach, free, has_worked, is_strict, body, is_told }
    }

    /// With another transport.
    #[must_use]
    pub fn over(self, transport: Transport) -> Self {
        Self { transport, ..self }
    }

    /// Of workers that are replaced also after a failure that may pass: on a GPU it may stick to the process.
    #[must_use]
    pub(super) fn strict(self) -> Self {
        Self { is_strict: true, ..self }
    }

    /// Of workers behind a wall, as far as the machine has any.
    #[must_use]
    pub(super) fn behind(self, reach: Reach) -> Self {
        let has_walls = !matches!(self.machine.walls(), Support::None { .. });
        Self { reach: has_walls.then_some(reach), ..self }
    }

    /// Of workers that are made of these files.
    #[must_use]
    pub(super) fn of(self, parts: Vec<Part>, store: Option<&Store>) -> Self {
        Self { body: Mutex::new(Body::new(parts, store)), ..self }
    }

    /// Takes in which files its workers are made of, and whether these are `all`.
    pub(super) fn learn(&self, parts: Vec<Part>, all: bool) {
        lock(&self.body).parts = parts;
        self.is_told.store(all, Ordering::SeqCst);
    }

    /// What it has learned may not be true any more.
    pub(super) fn doubt(&self) {
        self.is_told.store(false, Ordering::SeqCst);
    }

    /// The content of these files at this moment.
    pub(super) fn content(&self) -> Result<Content, WorkerError> {
        lock(&self.body).now()
    }

    /// The content that a worker was made of, where it can be known: what it was started under is the same now, and what was
    /// only learned of since has not been touched. A worker of which it cannot be known gets no more to do.
    pub(super) fn settle(&self, worker: &mut Worker) -> Result<Option<Content>, WorkerError> {
        let mut body = lock(&self.body);
        let now = body.now()?;
        let is_own = body.parts.iter().all(|part| match worker.content.get(&part.name) {
            Some(digest) => now.get(&part.name) == Some(digest),
            None => part.is_untouched_since(worker.started),
        });
        if !is_own {
            return Ok(None);
        }
        worker.content.clone_from(&now);
        Ok(Some(now))
    }

    /// How long its workers may take.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Starts a worker for whatever comes, unless one is free. Jobs wait for it.
    pub(super) fn fill(&self) {
        let (has_worked, needs) = (lock(&self.has_worked), self.needs(Wall::default()));
        if *has_worked {
            return;
        }
        if let Some(worker) = self.take(&needs, None).or_else(|| self.start(&needs, None).ok()) {
            lock(&self.free).push(worker);
        }
    }

    /// Gives a worker, free or new, a job; it is kept for the next one if it is still sound. Behind a wall it is only asked:
    /// what has a store to work in is `run`.
    pub fn with<T>(&self, job: impl FnOnce(&mut Worker) -> Result<T, WorkerError>) -> Result<T, WorkerError> {
        self.with_reach(Wall::default(), job)
    }

    /// The same of a worker that reaches this as well.
    pub(super) fn with_reach<T>(
        &self,
        needs: Wall,
        job: impl FnOnce(&mut Worker) -> Result<T, WorkerError>,
    ) -> Result<T, WorkerError> {
        *lock(&self.has_worked) = true;
        let needs = self.needs(needs);
        let mut worker = self.take(&needs, None).map_or_else(|| self.start(&needs, None), Ok)?;
        let result = job(&mut worker);
        self.put_back(worker, &result);
        result
    }

    /// Gives a worker that reaches just this, and has room in the store, a job of a stage. A worker that had ended, or was about to,
    /// when it got the job has not harmed it: another one gets it. `content`: what the job's key says of the program; no worker
    /// of another one gets the job.
    pub(super) fn run<T>(
        &self,
        content: &Content,
        store: &Store,
        needs: Wall,
        job: impl Fn(&mut Worker) -> Result<T, WorkerError>,
    ) -> Result<T, WorkerError> {
        let needs = self.needs(needs);
        while let Some(mut worker) = self.take(&needs, Some(store)) {
            if differing(content, &worker.content).is_some() {
                continue;
            }
            let result = job(&mut worker);
            if matches!(result, Err(WorkerError::Lost { .. })) && worker.died_between_jobs() {
                continue;
            }
            self.put_back(worker, &result);
            return result;
        }
        let mut worker = self.start(&needs, Some(store))?;
        if let Some(name) = differing(content, &worker.content) {
            return Err(WorkerError::Changing { name: name.to_owned() });
        }
        let result = job(&mut worker);
        self.put_back(worker, &result);
        result
    }

    /// What a worker has to reach: its own program besides.
    fn needs(&self, mut needs: Wall) -> Wall {
        if self.reach.is_some() {
            let body = lock(&self.body);
            reach::parts(&mut needs, body.parts.iter().map(|part| part.path.as_path()));
        }
        needs
    }

    /// A new worker, for a job of that store or to be asked.
    fn start(&self, needs: &Wall, job: Option<&Store>) -> Result<Worker, WorkerError> {
        drop(self.idle(job.is_some()));
        let mut changed = String::new();
        for _ in 0..TRIES {
            let before = self.content()?;
            let place = self.place(needs, job)?;
            let mut worker = Worker::start(&self.command, &self.machine, self.limits, self.transport, place)?;
            let after = self.content()?;
            let Some(name) = differing(&before, &after) else {
                worker.content = before;
                return Ok(worker);
            };
            name.clone_into(&mut changed);
        }
        Err(WorkerError::Changing { name: changed })
    }

    /// What a new worker is started within.
    fn place(&self, needs: &Wall, job: Option<&Store>) -> Result<Place, WorkerError> {
        let Some(reach) = &self.reach else { return Ok(Place::default()) };
        let is_told = self.is_told.load(Ordering::SeqCst);
        let store = job.cloned().or_else(|| lock(&self.body).store.clone());
        let folders = [Some(self.machine.temp()), store.as_ref().map(Store::root)];
        let avoid: Vec<PathBuf> =
            folders.into_iter().flatten().filter_map(|folder| folder.canonicalize().ok()).collect();
        let seen = if is_told { Own::Told } else { Own::Without(&avoid) };
        let mut wall = reach.wall(&self.machine, seen);
        wall.extend(needs);
        if job.is_some() {
            reach::of_jobs(&mut wall);
        }
        let room = job.map(Room::new).transpose()?;
        Ok(Place { wall: Some(wall), granted: needs.clone(), room, is_told })
    }

    /// Keeps a worker for the next job if it is still sound.
    fn put_back<T>(&self, mut worker: Worker, result: &Result<T, WorkerError>) {
        if is_sound(result, self.is_strict) && worker.is_sound() {
            lock(&self.free).push(worker);
        }
    }

    /// A free worker that fits and has not died meanwhile, of a program that is still the same.
    fn take(&self, needs: &Wall, store: Option<&Store>) -> Option<Worker> {
        let content = self.content().ok()?;
        // those of another program are taken out, too
        let is_of_use = |worker: &Worker| worker.content != content || self.fits(worker, needs, store);
        loop {
            let mut worker = {
                let mut free = lock(&self.free);
                let at = free.iter().rposition(is_of_use)?;
                free.remove(at)
            };
            if worker.content == content && worker.is_sound() {
                return Some(worker);
            }
        }
    }

    /// Ends workers that have nothing to do.
    pub(super) fn clear(&self) {
        let free = std::mem::take(&mut *lock(&self.free));
        drop(free);
    }

    /// Whether a worker reaches what it has to. For a job it reaches that and no more, also of its own folder, and has room in
    /// that store.
    fn fits(&self, worker: &Worker, needs: &Wall, job: Option<&Store>) -> bool {
        let Place { wall: Some(wall), granted, room, is_told } = &worker.place else { return true };
        match (job, room) {
            (None, None) => wall.covers(needs),
            (Some(store), Some(room)) => {
                let is_there = room.path().starts_with(store.root());
                is_there && granted == needs && (*is_told || !self.is_told.load(Ordering::SeqCst))
            }
            _ => false,
        }
    }

    /// A worker that ends for a new one: of those that are only asked, or else for a job, the one that has been free for
    /// longest. No job's worker ends for a question, with what it has loaded.
    fn idle(&self, for_job: bool) -> Option<Worker> {
        let mut free = lock(&self.free);
        let is_asked = |worker: &Worker| worker.place.wall.is_some() && worker.place.room.is_none();
        let at = free.iter().position(is_asked).or_else(|| {
            let has_walls = self.reach.is_some();
            (for_job || !has_walls).then_some(0).filter(|_| !free.is_empty())
        })?;
        Some(free.remove(at))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a worker can be trusted with another job: it kept to the protocol, and did not fail in a way that may have
/// left something broken behind (a sticky device error, memory that is not given back).
fn is_sound<T>(result: &Result<T, WorkerError>, is_strict: bool) -> bool {
    match result {
        Ok(_) => true,
        Err(WorkerError::Failed { class, .. }) => match class {
            FailureClass::Config | FailureClass::Store => true,
            FailureClass::Transient => !is_strict,
            _ => false,
        },
        Err(_) => false,
    }
}
