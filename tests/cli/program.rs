//! The program under test, in a folder of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

/// A folder with a manifest and a store.
pub(crate) struct Project {
    folder: tempfile::TempDir,
}

/// How a run ended, from its record.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) ran: u64,
    pub(crate) cached: u64,
}

impl Project {
    pub(crate) fn new(manifest: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("study.kdl"), manifest).unwrap();
        Self { folder }
    }

    pub(crate) fn edit(&self, from: &str, to: &str) {
        let path = self.folder.path().join("study.kdl");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "nothing to edit");
        fs::write(path, text.replace(from, to)).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qpipe"));
        command.args(args).current_dir(self.folder.path()).env_remove("QPIPE_STORE").stdin(Stdio::null());
        command
    }

    pub(crate) fn qpipe(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Standard output of a call that must succeed.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.qpipe(args);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{args:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// As [`Self::ok`], with a folder before the others of the search path.
    pub(crate) fn ok_with_path(&self, folder: &Path, args: &[&str]) -> String {
        let old = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(folder.to_owned()).chain(std::env::split_paths(&old));
        let path = std::env::join_paths(folders).unwrap();
        let output = self.command(args).env("PATH", path).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn start(&self, args: &[&str]) -> Child {
        self.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// A file of the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.folder.path().join(".qpipe")
    }

    /// The newest run's folder.
    pub(crate) fn last_run(&self) -> PathBuf {
        let mut runs: Vec<PathBuf> =
            fs::read_dir(self.store().join("runs")).unwrap().map(|e| e.unwrap().path()).collect();
        runs.sort();
        runs.pop().unwrap()
    }

    pub(crate) fn counts(&self) -> Counts {
        let record: Value =
            serde_json::from_slice(&fs::read(self.last_run().join("run.json")).unwrap()).unwrap();
        let count = |name: &str| record["counts"][name].as_u64().unwrap();
        Counts { ran: count("ran"), cached: count("cached") }
    }

    /// The events of a run, in order.
    pub(crate) fn events(run: &Path) -> Vec<Value> {
        let text = fs::read_to_string(run.join("events.jsonl")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

/// A small study on the embedded model: 3 cells, 7 nodes.
pub(crate) const STUDY: &str = r"
qpipe 1 name=small
load base {
    from embedded=tiny
}
quantize weights {
    model base
    scheme nf4 block=64 double-quant=#true
    compute-dtype f32
}
evaluate quality {
    model weights
    task boolq data=tiny limit=100
    task perplexity data=tiny window=128 join=#false limit=200
}
ablate one {
    vary weights.scheme fp4
    vary weights.scheme.block 128
}
";
