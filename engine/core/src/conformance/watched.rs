//! Files that nobody may change while a job runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use qpipe_cache::Digest;

/// Most files that are looked at.
const MAX_FILES: usize = 10_000;

/// Files of a folder by their paths within it, with their content.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Watched(BTreeMap<PathBuf, Option<Digest>>);

impl Watched {
    /// What lies in a folder, without those of its entries.
    pub(super) fn of(folder: &Path, without: &[&str]) -> Self {
        let mut watched = Self::default();
        watched.walk(folder, Path::new(""), without);
        watched
    }

    fn walk(&mut self, folder: &Path, within: &Path, without: &[&str]) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if self.0.len() >= MAX_FILES || without.iter().any(|name| entry.file_name() == *name) {
                continue;
            }
            let name = within.join(entry.file_name());
            if entry.file_type().is_ok_and(|ty| ty.is_dir()) {
                self.walk(&entry.path(), &name, &[]);
            } else {
                self.0.insert(name, Digest::of_file(&entry.path()).ok());
            }
        }
    }

    /// The files that are new, other or gone since.
    pub(super) fn changed(&self, now: &Self) -> Vec<PathBuf> {
        let paths = self.0.keys().chain(now.0.keys().filter(|path| !self.0.contains_key(*path)));
        paths.filter(|path| self.0.get(*path) != now.0.get(*path)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_other_or_gone_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        fs::create_dir_all(dir.path().join("in/tmp")).unwrap();
        fs::create_dir(dir.path().join("tmp")).unwrap();
        write("same", "a");
        write("other", "a");
        write("in/gone", "a");
        let before = Watched::of(dir.path(), &["tmp"]);
        write("other", "b");
        write("in/tmp/new", "b");
        write("tmp/unseen", "b");
        fs::remove_file(dir.path().join("in/gone")).unwrap();
        let changed = before.changed(&Watched::of(dir.path(), &["tmp"]));
        assert_eq!(changed, ["in/gone", "other", "in/tmp/new"].map(PathBuf::from));
    }
}
