//! Broken manifests, and exactly what their authors are told.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod fake;

use std::path::{Path, PathBuf};

use miette::{GraphicalReportHandler, GraphicalTheme};
use qpipe_engine::manifest::{LoadOptions, read_plugins};

/// What is said of a manifest; of one about plugins, what is said before any is looked for.
fn rendered(name: &str, text: &str) -> String {
    let errors = if name.starts_with("plugin") {
        read_plugins(Path::new("study.kdl"), text, &LoadOptions::default()).expect_err("a plugin is broken")
    } else {
        fake::read(text, &[]).expect_err("the manifest is broken")
    };
    let handler = GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor()).with_width(100);
    let mut out = String::new();
    handler.render_report(&mut out, &errors).unwrap();
    out.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

#[test]
fn messages() {
    let folder = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests"))
        .join("tests/broken");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 60, "the corpus is missing");
    for file in files {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&file).unwrap();
        let said = rendered(&name, &text);
        insta::assert_snapshot!(name, said);
    }
}
