//! Many lookups at once: about a microsecond each.
//!
//! A hit is a hit for the same reasons as in [`Store::lookup`]: the record is sound, and each blob is there with its
//! size. What is saved is asking: a record that the index knows is not read again while its file is the same, a blob
//! that many records need is looked at once, and one look at a bucket directory that has not changed stands for a look
//! at each of its files (the census). Whatever is in doubt goes [`Store::lookup`]'s way.

use std::cell::OnceCell;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};

use crate::catalog::{Identity, identify};
use crate::commit::Lookup;
use crate::digest::Digest;
use crate::error::RecordFault;
use crate::index::{Area, Found, View};
use crate::key::ActionKey;
use crate::layout;
use crate::store::Store;

/// Looking at a directory pays for itself from so many names on.
const OPEN_FROM: usize = 2;

/// The answer to one of many lookups.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The action was done, and everything it made is there.
    Hit(Found),
    /// The action was never committed here.
    Absent,
    /// There is a record, but it is of no use, and why.
    Damaged(RecordFault),
}

impl Store {
    /// Looks many actions up; the answers are in the order of `keys`, and those of [`Store::lookup`] for each. Only a blob
    /// that was cut short *in place*, which nothing in this crate does, may go unseen until it is read or verified.
    pub fn lookup_many(&self, keys: &[ActionKey]) -> Vec<Answer> {
        self.protect_reading(keys, []);
        let quiet = Quiet::now(self);
        let mut answers: Vec<Option<Answer>> = vec![None; keys.len()];
        let mut candidates = self.known(keys, &mut answers);
        self.drop_incomplete(&mut candidates);
        for (at, found) in candidates {
            answers[at] = Some(Answer::Hit(found));
        }
        let trust_absence = quiet.is_some_and(|before| Quiet::now(self) == Some(before));
        let each = answers.into_iter().zip(keys);
        let settle = |(answer, key): (Option<Answer>, &ActionKey)| match answer {
            Some(Answer::Absent) if !trust_absence => self.lookup_slowly(key),
            Some(answer) => answer,
            None => self.lookup_slowly(key),
        };
        each.map(settle).collect()
    }

    /// Those of `keys` that the index knows, with their places; notes those without a record as absent.
    fn known(&self, keys: &[ActionKey], answers: &mut [Option<Answer>]) -> Vec<(usize, Found)> {
        let mut order: Vec<usize> = (0..keys.len()).collect();
        order.sort_unstable_by_key(|at| keys[*at]);
        let mut known = Vec::with_capacity(keys.len());
        for group in order.chunk_by(|a, b| bucket(keys[*a].digest()) == bucket(keys[*b].digest())) {
            let mut dir = Bucket::open(self, Area::Actions(bucket(keys[group[0]].digest())), group.len());
            for &at in group {
                match dir.identity(keys[at].digest(), ".json") {
                    Ok(identity) => {
                        known.extend(
                            self.index().find(self.disk(), &keys[at], &identity).map(|found| (at, found)),
                        );
                    }
                    Err(e) if e.kind() == io::ErrorKind::NotFound => answers[at] = Some(Answer::Absent),
                    Err(_) => {}
                }
            }
            dir.close();
        }
        known
    }

    /// Drops candidates of which a blob is missing or has another size; the slow way says what is wrong.
    fn drop_incomplete(&self, candidates: &mut Vec<(usize, Found)>) {
        let mut refs: Vec<(Digest, u64, usize)> = Vec::with_capacity(candidates.len());
        for (n, (_, found)) in candidates.iter().enumerate() {
            refs.extend(found.refs().map(|(digest, bytes)| (digest, bytes, n)));
        }
        refs.sort_unstable();
        self.protect_reading(&[], refs.chunk_by(|a, b| a.0 == b.0).map(|same| &same[0].0));
        let mut is_whole = vec![true; candidates.len()];
        for group in refs.chunk_by(|a, b| bucket(&a.0) == bucket(&b.0)) {
            let mut dir = Bucket::open(self, Area::Blobs(bucket(&group[0].0)), group.len());
            for same in group.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
                let (digest, bytes, _) = same[0];
                let is_there = dir.identity(&digest, "").is_ok_and(|identity| identity.bytes == bytes)
                    || self.locate_sized(&digest, bytes).is_ok();
                if !is_there {
                    for (_, _, n) in same {
                        is_whole[*n] = false;
                    }
                }
            }
            dir.close();
        }
        let mut n = 0;
        candidates.retain(|_| {
            n += 1;
            is_whole[n - 1]
        });
    }

    fn lookup_slowly(&self, key: &ActionKey) -> Answer {
        match self.lookup_found(key) {
            (Lookup::Hit(_), Some(found)) => Answer::Hit(found),
            (Lookup::Hit(_), None) => {
                let (path, reason) = (self.layout().action(key), "it is larger than 4 GiB".to_owned());
                Answer::Damaged(RecordFault::Unparsable { path, reason })
            }
            (Lookup::Absent, _) => Answer::Absent,
            (Lookup::Damaged(fault), _) => Answer::Damaged(fault),
        }
    }
}

/// The trash was empty, and had not changed for a moment: if it still is the same later, no gc had anything in hand
/// between, and what was not found is not there.
#[derive(PartialEq)]
struct Quiet(Identity);

impl Quiet {
    fn now(store: &Store) -> Option<Self> {
        let trash = &store.layout().trash;
        let identity = identify(trash).ok()??;
        let is_empty = layout::list(trash).is_ok_and(|left| left.is_empty());
        (identity.is_settled() && is_empty).then_some(Self(identity))
    }
}

fn bucket(digest: &Digest) -> u8 {
    digest.as_bytes()[0]
}

/// A bucket, asked for many of its files.
struct Bucket<'a> {
    store: &'a Store,
    area: Area,
    path: PathBuf,
    /// The directory as it was before any of its files was asked for, if a later change must show.
    stamp: Option<Identity>,
    view: Option<View<'a>>,
    fd: OnceCell<Option<OwnedFd>>,
    learned: Vec<(Digest, Identity)>,
}

impl<'a> Bucket<'a> {
    fn open(store: &'a Store, area: Area, names: usize) -> Self {
        let path = area.path(store.layout());
        let is_worth_a_look = names >= OPEN_FROM;
        let now = if is_worth_a_look { identify(&path).ok().flatten() } else { None };
        let stamp = now.filter(Identity::is_settled);
        let view = stamp.map(|stamp| store.census().view(store.disk(), area, &stamp));
        let fd = OnceCell::new();
        if !is_worth_a_look {
            let _unset = fd.set(None);
        }
        Self { store, area, path, stamp, view, fd, learned: Vec::new() }
    }

    /// What `stat` says of the regular file named by `digest` and `suffix`.
    fn identity(&mut self, digest: &Digest, suffix: &str) -> io::Result<Identity> {
        if let Some(known) = self.view.as_ref().and_then(|view| view.find(digest)) {
            return Ok(known);
        }
        let mut name = [0; 70];
        name[..64].copy_from_slice(&digest.hex());
        name[64..64 + suffix.len()].copy_from_slice(suffix.as_bytes());
        let name = str::from_utf8(&name[..64 + suffix.len()]).map_err(io::Error::other)?;
        let stat = match self.fd.get_or_init(|| open_dir(&self.path)) {
            Some(fd) => rustix::fs::statat(fd, name, AtFlags::empty())?,
            None => rustix::fs::stat(self.path.join(name))?,
        };
        let identity = Identity::of_stat(&stat)?;
        self.learned.push((*digest, identity));
        Ok(identity)
    }

    /// Hands what was learned to the census.
    fn close(mut self) {
        drop(self.view.take());
        if let Some(stamp) = self.stamp.filter(|_| !self.learned.is_empty()) {
            self.store.census().learn(self.area, stamp, self.learned);
        }
    }
}

fn open_dir(path: &Path) -> Option<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).ok()
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
