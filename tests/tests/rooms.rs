//! The rule between rooms: `cache ← sdk ← {engine, stages} ← cli`, and burn in `stages` alone.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; these helpers stand outside its functions"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

/// What each of our crates may depend on among ours.
fn allowed() -> BTreeMap<&'static str, &'static [&'static str]> {
    BTreeMap::from([
        ("qpipe-cache", &[][..]),
        ("qpipe-sdk", &["qpipe-cache"]),
        ("qpipe-engine", &["qpipe-cache", "qpipe-sdk"]),
        ("qpipe-formats", &[]),
        ("qpipe-codecs", &[]),
        ("qpipe-kernels", &["qpipe-codecs"]),
        ("qpipe-smallworld", &[]),
        ("qpipe-stages", &["qpipe-cache", "qpipe-sdk", "qpipe-formats", "qpipe-codecs", "qpipe-kernels"]),
        ("qpipe-recipe", &["qpipe-stages", "qpipe-formats", "qpipe-smallworld"]),
        ("qpipe", &["qpipe-cache", "qpipe-sdk", "qpipe-engine", "qpipe-stages"]),
        ("qpipe-stage-wordstats", &["qpipe-sdk"]),
        ("qpipe-tests", &[]),
        (
            "qpipe-bench",
            &["qpipe", "qpipe-cache", "qpipe-sdk", "qpipe-formats", "qpipe-stages", "qpipe-stage-wordstats"],
        ),
    ])
}

/// Crates that may name burn.
const BURN: [&str; 2] = ["qpipe-stages", "qpipe-recipe"];
/// Crates that may name cubecl, the language of kernels.
const CUBECL: [&str; 2] = ["qpipe-stages", "qpipe-kernels"];

/// The workspace's packages, as `cargo metadata` tells.
fn packages() -> Vec<Value> {
    let root =
        PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests")).join("..");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--no-deps", "--format-version", "1", "--offline"]).current_dir(root);
    let output = cargo.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

#[test]
fn dependencies_point_one_way() {
    let (packages, allowed) = (packages(), allowed());
    for package in &packages {
        let name = package["name"].as_str().unwrap();
        let Some(rule) = allowed.get(name) else { panic!("`{name}` has no place in the rule between rooms") };
        // a normal dependency has no kind; tests may reach wherever they must
        for dependency in package["dependencies"].as_array().unwrap().iter().filter(|d| d["kind"].is_null()) {
            let on = dependency["name"].as_str().unwrap();
            if on.starts_with("qpipe") {
                assert!(rule.contains(&on), "`{name}` must not depend on `{on}`");
            }
            if on.starts_with("burn") {
                assert!(BURN.contains(&name), "`{name}` names `{on}`; only the stages may");
            }
            if on.starts_with("cubecl") {
                assert!(CUBECL.contains(&name), "`{name}` names `{on}`; only the stages and the kernels may");
            }
        }
    }
    assert_eq!(packages.len(), allowed.len());
}
