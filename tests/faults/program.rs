//! A project folder, and the program in a process of its own.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use qpipe_cache::{Repair, Store};
use serde_json::Value;

use crate::stages::{STUDY, registry};

/// The child's arguments, one a line.
const LINE: &str = "QPIPE_FAULTS_LINE";

/// The child: does nothing unless another test started it.
#[test]
fn child() {
    let Some(line) = std::env::var_os(LINE) else { return };
    let line = line.into_string().unwrap();
    let side = std::env::current_dir().unwrap().join("side");
    let args = ["qpipe"].into_iter().chain(line.lines()).map(OsString::from);
    let code = qpipe_cli::run_with(&registry(&side), args);
    #[expect(clippy::exit, reason = "the program's end, not the test's")]
    std::process::exit(code.code().into());
}

/// A folder with a manifest, a store and the side file.
pub(crate) struct Project {
    folder: tempfile::TempDir,
}

impl Project {
    pub(crate) fn new() -> Self {
        Self::of(STUDY)
    }

    pub(crate) fn of(manifest: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("study.kdl"), manifest).unwrap();
        Self { folder }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn side(&self) -> PathBuf {
        self.path().join("side")
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "program::child", "--nocapture"]).env(LINE, args.join("\n"));
        command.current_dir(self.path()).env_remove("QPIPE_STORE").stdin(Stdio::null());
        command
    }

    pub(crate) fn start(&self, args: &[&str]) -> Child {
        self.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Exit code and standard error.
    pub(crate) fn run(&self, args: &[&str]) -> (Option<i32>, String) {
        let output = self.command(args).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    pub(crate) fn ok(&self, args: &[&str]) {
        let (code, errors) = self.run(args);
        assert_eq!(code, Some(0), "{args:?}: {errors}");
    }

    pub(crate) fn store(&self) -> Store {
        Store::open(&self.path().join(".qpipe")).unwrap()
    }

    /// Keys of the units that were started, in order.
    pub(crate) fn started(&self) -> Vec<String> {
        fs::read_to_string(self.side()).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// Keys of the actions that have a record.
    pub(crate) fn recorded(&self) -> BTreeSet<String> {
        let (mut open, mut keys) = (vec![self.path().join(".qpipe/v1/actions")], BTreeSet::new());
        while let Some(folder) = open.pop() {
            for path in fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()) {
                if path.is_dir() {
                    open.push(path);
                } else {
                    keys.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
                }
            }
        }
        keys
    }

    /// Everything in the store is whole: records parse, blobs have their digests.
    pub(crate) fn assert_whole(&self) {
        let faults = self.store().verify(Repair::Nothing).faults;
        assert!(faults.is_empty(), "{faults:?}");
    }

    fn runs(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path().join(".qpipe/runs")).into_iter().flatten();
        let mut runs: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        runs.sort();
        runs
    }

    pub(crate) fn last_run(&self) -> PathBuf {
        self.runs().pop().unwrap()
    }

    pub(crate) fn table(&self) -> String {
        fs::read_to_string(self.last_run().join("table.csv")).unwrap()
    }

    pub(crate) fn record(&self) -> Value {
        serde_json::from_slice(&fs::read(self.last_run().join("run.json")).unwrap()).unwrap()
    }
}

/// The signal that ended a process.
pub(crate) fn signal(status: ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}
