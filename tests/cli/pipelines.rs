//! The shipped pipelines.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::python;

fn shipped() -> Vec<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests"))
        .join("../../pipelines");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|e| e == "kdl")).collect()
}

#[test]
fn every_shipped_pipeline_is_a_valid_study() {
    let pipelines = shipped();
    assert!(pipelines.len() >= 2);
    for path in pipelines {
        let has_plugin = fs::read_to_string(&path).unwrap().contains("command=\"python3\"");
        if has_plugin && !python::is_here("the shipped pipeline with a plugin") {
            continue;
        }
        let output = Command::new(env!("CARGO_BIN_EXE_qpipe")).arg("check").arg(&path).output().unwrap();
        assert!(output.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&output.stderr));
    }
}
