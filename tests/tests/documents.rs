//! Every KDL block in any document is a manifest that the program accepts.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; these helpers stand outside its functions"
)]

use std::fs;
use std::path::{Path, PathBuf};

use qpipe_engine::exec::with_exec;
use qpipe_engine::manifest::{LoadOptions, load_study};
use qpipe_engine::worker::Machine;

fn root() -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests")).join("..")
}

fn documents(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !name.starts_with('.') && name != "target" {
            documents(&path, found);
        } else if path.extension().is_some_and(|e| e == "md") {
            found.push(path);
        }
    }
}

/// The fenced `kdl` blocks of a document.
fn blocks(text: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("```kdl\n") {
        let Some((block, after)) = after.split_once("```") else { break };
        all.push(block.to_owned());
        rest = after;
    }
    all
}

#[test]
fn kdl_blocks_of_the_documents_are_valid_manifests() {
    let mut paths = Vec::new();
    documents(&root(), &mut paths);
    let machine = Machine::new(std::env::vars_os(), &std::env::temp_dir());
    let registry = with_exec(qpipe_stages::registry(), &machine);
    let files = |path: &Path| fs::read_to_string(path);
    let options = LoadOptions { files: &files, ..LoadOptions::default() };
    let mut checked = 0;
    for path in paths {
        for block in blocks(&fs::read_to_string(&path).unwrap()) {
            // needs the program that the page shows; the program's tests follow that page
            if block.contains("\nplugin ") {
                continue;
            }
            let result = load_study(&path, &block, &options, &registry);
            assert!(result.is_ok(), "{}: {:?}\n{block}", path.display(), result.err());
            checked += 1;
        }
    }
    assert!(checked > 0, "no document shows a manifest");
}

#[test]
fn the_manifests_page_lists_every_code() {
    let page = fs::read_to_string(root().join("docs/manifest.md")).unwrap();
    let missing: Vec<&str> = qpipe_engine::explain::pages()
        .map(|explained| explained.code)
        .filter(|code| !page.contains(&format!("| `{code}` |")))
        .collect();
    assert_eq!(missing, [""; 0]);
}

#[test]
fn shipped_manifests_and_examples_are_formatted() {
    let mut texts: Vec<(PathBuf, String)> = Vec::new();
    for entry in fs::read_dir(root().join("pipelines")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "kdl") {
            texts.push((path.clone(), fs::read_to_string(path).unwrap()));
        }
    }
    let page = root().join("docs/manifest.md");
    texts.extend(blocks(&fs::read_to_string(&page).unwrap()).into_iter().map(|block| (page.clone(), block)));
    assert!(texts.len() > 5, "the manifests were not found");
    for (path, text) in texts {
        assert_eq!(qpipe_engine::manifest::format(&path, &text).unwrap(), text, "{}", path.display());
    }
}
