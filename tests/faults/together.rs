//! Many processes over one store.

use std::collections::BTreeSet;

use crate::program::Project;

const PROCESSES: usize = 8;

#[test]
fn eight_processes_running_one_study_compute_each_key_once() {
    let alone = Project::new();
    alone.ok(&["run", "study.kdl"]);
    let project = Project::new();
    let children: Vec<_> = (0..PROCESSES).map(|_| project.start(&["run", "study.kdl"])).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let started = project.started();
    let distinct: BTreeSet<&String> = started.iter().collect();
    assert_eq!(started.len(), distinct.len(), "{started:?}");
    assert_eq!(distinct, alone.started().iter().collect(), "the same work as alone");
    assert_eq!(project.table(), alone.table());
    project.assert_whole();
}
