//! Rules for some modules, as a manifest writes them.

use std::fs;

use crate::program::Project;

const RULES: &str = r#"
qpipe 1 name=rules
load base {
    from embedded=tiny
}
quantize weights {
    model base
    scheme nf4 block=64
    skip "*.0.mlp.up_proj"
    module down_proj int8-weight-only
    module "*.1.self_attn.*" rtn bits=8 group=32
}
"#;

/// What a command that fails says.
fn refused(project: &Project, command: &str) -> String {
    let output = project.qpipe(&[command, "study.kdl"]);
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Bytes of the quantized weights in the last run.
fn bytes(project: &Project) -> f64 {
    let table = fs::read_to_string(project.last_run().join("table.csv")).unwrap();
    let (_, rest) = table.split_once(",weights,bytes,").unwrap();
    rest.split(',').next().unwrap().parse().unwrap()
}

#[test]
fn modules_get_the_schemes_that_the_manifest_gives_them() {
    let project = Project::new(RULES);
    project.ok(&["run", "study.kdl"]);
    let eight_bits = bytes(&project);
    project.edit("bits=8", "bits=4");
    let plan = project.ok(&["plan", "study.kdl"]);
    assert!(plan.contains("`weights.module.*.1.self_attn.*.bits` changed from `8` to `4`"), "{plan}");
    project.ok(&["run", "study.kdl"]);
    let four_bits = bytes(&project);
    assert!(four_bits < eight_bits, "{four_bits} {eight_bits}");
    project.edit("    skip \"*.0.mlp.up_proj\"\n", "");
    project.ok(&["run", "study.kdl"]);
    assert!(bytes(&project) < four_bits);
    project.edit("int8-weight-only", "int8-weigth-only");
    let wrong = refused(&project, "check");
    assert!(wrong.contains("did you mean `int8-weight-only`"), "{wrong}");
    project.edit("int8-weigth-only", "int8");
    project.edit("module down_proj", "module sideways_proj");
    let wrong = refused(&project, "run");
    assert!(wrong.contains("sideways_proj"), "{wrong}");
}
