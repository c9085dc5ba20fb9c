//! Where a plugin is found that names no program: `qpipe-stage-NAME`, in folders of plugins and on the search path.
//!
//! | where, in this order | what |
//! |---|---|
//! | `plugins/` beside the text that names it, then beside the manifest that includes that | a program `qpipe-stage-NAME`, or a folder `NAME` that holds one |
//! | the user's folder of plugins | the same |
//! | the search path | a program `qpipe-stage-NAME` |

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::launch::{LaunchError, is_executable};
use super::machine::Machine;

/// What a plugin's program is called, before the stage type.
pub const PREFIX: &str = "qpipe-stage-";

/// The folder of plugins beside a manifest.
const FOLDER: &str = "plugins";

/// Where a plugin was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// In `plugins/` beside the manifest.
    Beside,
    /// In the user's folder of plugins.
    User,
    /// On the search path.
    Path,
}

/// A program that brings a stage type, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The stage type that it should bring.
    pub name: String,
    pub program: PathBuf,
    pub place: Place,
}

/// No program has the name of a plugin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no program `{program}`; looked in {}", listed(looked))]
pub struct NoPlugin {
    pub program: String,
    /// Every folder that was looked into, in order.
    pub looked: Vec<PathBuf>,
    /// Names of plugins that there are.
    pub known: Vec<String>,
}

fn listed(looked: &[PathBuf]) -> String {
    let looked: Vec<String> = looked.iter().map(|folder| format!("`{}`", folder.display())).collect();
    if looked.is_empty() { "no folder: there is no search path".into() } else { looked.join(", ") }
}

/// The program of the plugin `name`; `beside`: folders of the manifest's texts.
pub(crate) fn find(name: &str, beside: &[PathBuf], machine: &Machine) -> Result<PathBuf, SearchError> {
    let program = format!("{PREFIX}{name}");
    let mut looked = Vec::new();
    for (place, folder) in folders(beside, machine) {
        let inner = (place != Place::Path).then(|| folder.join(name).join(&program));
        for candidate in [Some(folder.join(&program)), inner].into_iter().flatten() {
            match is_executable(&candidate) {
                Some(true) => return Ok(candidate),
                // on the search path, as a shell takes it, it is as good as not there
                Some(false) if place != Place::Path => {
                    return Err(LaunchError::NotExecutable { program: candidate }.into());
                }
                Some(false) | None => {}
            }
        }
        looked.push(folder);
    }
    let known: BTreeSet<String> = all(beside, machine).into_iter().map(|found| found.name).collect();
    Err(NoPlugin { program, looked, known: known.into_iter().collect() }.into())
}

/// Why a plugin's program is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    #[error(transparent)]
    NoPlugin(#[from] NoPlugin),
    #[error(transparent)]
    Launch(#[from] LaunchError),
}

/// Every plugin that a search finds, in the order of the search; of two with one name the first counts.
pub fn all(beside: &[PathBuf], machine: &Machine) -> Vec<Found> {
    let found = folders(beside, machine).into_iter().flat_map(|(place, folder)| {
        let mut names = entries(&folder);
        names.sort_unstable();
        let named = move |entry: String| {
            let (name, program) = match entry.strip_prefix(PREFIX) {
                Some(name) => (name.to_owned(), folder.join(&entry)),
                None if place == Place::Path => return None,
                None => (entry.clone(), folder.join(&entry).join(format!("{PREFIX}{entry}"))),
            };
            // one that cannot be started is told of where somebody put it to be used
            let counts = |executable: bool| executable || place != Place::Path;
            let is_one = !name.is_empty() && is_executable(&program).is_some_and(counts);
            is_one.then_some(Found { name, program, place })
        };
        names.into_iter().filter_map(named).collect::<Vec<_>>()
    });
    found.collect()
}

fn entries(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.filter_map(|name| name.into_string().ok()).collect()
}

/// Each folder once.
fn folders(beside: &[PathBuf], machine: &Machine) -> Vec<(Place, PathBuf)> {
    let beside = beside.iter().map(|folder| (Place::Beside, folder.join(FOLDER)));
    let user = machine.plugins().map(|folder| (Place::User, folder.to_owned()));
    let path = machine.search().map(std::env::split_paths).into_iter().flatten();
    let path = path.filter(|folder| folder.is_absolute()).map(|folder| (Place::Path, folder));
    let mut seen = BTreeSet::new();
    let all = beside.chain(user).chain(path);
    all.filter(|(_, folder)| seen.insert(folder.clone())).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn program(path: &Path, mode: u32) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn the_folder_beside_the_manifest_comes_first_and_the_search_path_last() {
        let dir = tempfile::tempdir().unwrap();
        let (study, user, bin) = (dir.path().join("study"), dir.path().join("user"), dir.path().join("bin"));
        let machine = Machine::new([("PATH".into(), bin.clone().into())], dir.path());
        let machine = machine.with_plugins(Some(user.clone()));
        let find = |name: &str| find(name, std::slice::from_ref(&study), &machine);
        let SearchError::NoPlugin(none) = find("count").unwrap_err() else { panic!("it is not there") };
        assert_eq!(none.looked, [study.join("plugins"), user.clone(), bin.clone()]);
        for place in [
            bin.join("qpipe-stage-count"),
            user.join("qpipe-stage-count"),
            study.join("plugins/count/qpipe-stage-count"),
            study.join("plugins/qpipe-stage-count"),
        ] {
            program(&place, 0o755);
            assert_eq!(find("count").unwrap(), place);
        }
        program(&study.join("plugins/other/qpipe-stage-count"), 0o755);
        program(&bin.join("qpipe-stage-"), 0o644);
        let all: Vec<Place> =
            all(std::slice::from_ref(&study), &machine).into_iter().map(|found| found.place).collect();
        assert_eq!(all, [Place::Beside, Place::Beside, Place::User, Place::Path]);
        let SearchError::NoPlugin(none) = find("cuont").unwrap_err() else { panic!("it is not there") };
        assert_eq!(none.known, ["count"]);
    }

    #[test]
    fn a_plugin_that_is_not_executable_is_an_error_where_plugins_are_put() {
        let dir = tempfile::tempdir().unwrap();
        let machine = Machine::new([("PATH".into(), dir.path().join("bin").into())], dir.path());
        program(&dir.path().join("bin/qpipe-stage-a"), 0o644);
        assert!(matches!(find("a", &[dir.path().to_owned()], &machine), Err(SearchError::NoPlugin(_))));
        assert_eq!(all(&[dir.path().to_owned()], &machine), []);
        program(&dir.path().join("plugins/qpipe-stage-a"), 0o644);
        let error = find("a", &[dir.path().to_owned()], &machine).unwrap_err();
        assert!(matches!(error, SearchError::Launch(LaunchError::NotExecutable { .. })), "{error}");
        assert_eq!(all(&[dir.path().to_owned()], &machine).len(), 1);
    }
}
