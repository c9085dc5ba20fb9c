//! Pages that the program writes itself.

use std::fs;

use crate::program::Project;

#[test]
fn the_page_of_stages_is_what_the_schemas_say() {
    let project = Project::new("");
    let written = project.ok(&["schema", "--format", "md"]);
    let root = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests");
    let page = fs::read_to_string(std::path::Path::new(&root).join("../../docs/stages.md")).unwrap();
    assert!(
        page == written,
        "docs/stages.md is stale: cargo run --release -- schema --format md > docs/stages.md"
    );
}
