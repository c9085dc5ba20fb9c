//! Which process behind a wall gets which work.

use std::fs;

use qpipe_engine::worker::Limits;

use crate::hows::hows;
use crate::lab::runs;
use crate::walled::{DENIED, Yard};

#[test]
fn who_is_asked_gets_no_job_and_leaves_nothing_for_one() {
    let Some(yard) = Yard::new("who_is_asked_gets_no_job_and_leaves_nothing_for_one") else { return };
    let registry = yard.registry();
    let asked = registry.get("pry").unwrap().spec().doc;
    let (pid, shared) = asked.split_once(' ').unwrap();
    assert_eq!(shared, "denied");
    let (said, worker) = yard.try_with(&registry, "list", "/dev/shm", "");
    assert_eq!(said, "done");
    assert_ne!(worker, pid);
    assert!(!runs(pid), "it ends for who has a job");
}

const ASKED: &str = "
import os
from dataclasses import dataclass

import qpipe_stage as qpipe


@dataclass
class Params:
    n: int = qpipe.param('a number')


@qpipe.stage('asked', outputs={'pid': 'who'}, numerics=lambda params: 'one kind')
def asked(job, params: Params):
    '''Tells who it is.'''
    job.output('pid').write_text(str(os.getpid()))


qpipe.main()
";

#[test]
fn for_a_question_no_job_s_process_ends() {
    let Some(yard) = Yard::new("for_a_question_no_job_s_process_ends") else { return };
    yard.lab.file("asked.py", ASKED);
    let command = yard.lab.command("asked", "asked.py", &[], Limits::default());
    let registry = yard.lab.start(&command).unwrap();
    let worker = |n: u32| {
        let (result, _) = yard.lab.run(&registry, &format!("asked a {{\n n {n}\n}}"));
        assert_eq!(hows(&result.nodes), "r", "{result:?}");
        yard.lab.output(&result.nodes[0], "pid")
    };
    assert_eq!(worker(1), worker(2));
}

#[test]
fn jobs_of_the_same_inputs_share_a_process_and_others_do_not_see_them() {
    let test = "jobs_of_the_same_inputs_share_a_process_and_others_do_not_see_them";
    let Some(yard) = Yard::new(test) else { return };
    yard.lab.file("a", "a");
    yard.lab.file("b", "b");
    let registry = yard.registry();
    let [a, b] = ["a", "b"].map(|name| format!("book {:?}", yard.path(name)));
    let tried = |at: &str, more: &str| yard.try_with(&registry, "read", at, more);
    let (first, pid) = tried("BOOK", &a);
    assert_eq!(first, "done");
    assert_eq!(tried(&yard.path("a"), &a), ("done".into(), pid.clone()));
    assert_eq!(tried("/nowhere", &a), ("FileNotFoundError".into(), pid.clone()));
    let (second, other) = tried("BOOK", &b);
    assert_eq!(second, "done");
    assert_ne!(other, pid);
    assert!(!runs(&pid), "one that is idle ends for a new one");
    assert_eq!(tried(&yard.path("a"), &b), (DENIED.into(), other.clone()));
    // nor does one that has no inputs
    assert_eq!(tried(&yard.path("b"), "").0, DENIED);
    assert!(!runs(&other));
}

#[test]
fn of_two_jobs_at_once_none_sees_the_other() {
    let Some(yard) = Yard::new("of_two_jobs_at_once_none_sees_the_other") else { return };
    yard.lab.file("a", "a");
    let registry = yard.registry();
    // the folders of a worker's jobs are its own
    let (_, pid) = yard.try_with(&registry, "nothing", "", &format!("book {:?}", yard.path("a")));
    let rooms =
        || fs::read_dir(yard.lab.dir.join("store/scratch")).unwrap().flatten().map(|room| room.path());
    let room = rooms().find(|room| room.is_dir()).unwrap();
    yard.lab.file("b", "b");
    let book = format!("book {:?}", yard.path("b"));
    let other = yard.registry();
    let (said, tried_by) = yard.try_with(&other, "list", &room.display().to_string(), &book);
    assert_eq!(said, DENIED);
    assert_ne!(tried_by, pid);
    drop((registry, other));
    assert_eq!(rooms().count(), 0, "nothing of a worker outlives it");
}
