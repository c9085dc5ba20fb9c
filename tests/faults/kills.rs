//! Kills at random moments: whatever was finished stays finished, and nothing is ever half there.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::program::{Project, signal};

/// How many runs are killed in all.
const KILLS: usize = 200;
/// Projects that are tormented at the same time: most of a run is waiting for the disk.
const AT_ONCE: u64 = 4;

const RUN: [&str; 2] = ["run", "study.kdl"];

/// splitmix64: the moments are random and the same every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: Duration) -> Duration {
        Duration::from_nanos(self.next() % limit.as_nanos().max(1) as u64)
    }
}

#[test]
fn runs_killed_at_random_moments_lose_no_finished_unit_and_break_nothing() {
    let whole = Project::new();
    let clock = Instant::now();
    whole.ok(&RUN);
    let (span, table) = (clock.elapsed(), whole.table());
    let (killed, midway) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for seed in 0..AT_ONCE {
            let (killed, midway, table) = (&killed, &midway, &table);
            scope.spawn(move || {
                let mut random = Random(seed);
                while killed.load(Ordering::SeqCst) < KILLS {
                    midway.fetch_add(torment(&mut random, span, table, killed), Ordering::SeqCst);
                }
            });
        }
    });
    assert!(killed.into_inner() >= KILLS);
    let midway = midway.into_inner();
    assert!(midway > KILLS / 8, "only {midway} of the kills met a run that had done something and not all");
}

/// Kills the runs of one project until one survives; then the same command ends with the same table. Answers how many
/// kills came after something new was finished.
fn torment(random: &mut Random, span: Duration, table: &str, killed: &AtomicUsize) -> usize {
    let (project, mut midway) = (Project::new(), 0);
    loop {
        let (finished, before) = (project.recorded(), project.started().len());
        let mut child = project.start(&RUN);
        sleep(random.below(span / 2));
        child.kill().unwrap();
        let by_signal = signal(child.wait().unwrap());
        assert_none_again(&project, before, &finished);
        project.assert_whole();
        if by_signal.is_none() {
            break;
        }
        killed.fetch_add(1, Ordering::SeqCst);
        midway += usize::from(project.recorded().len() > finished.len());
    }
    let (finished, before) = (project.recorded(), project.started().len());
    project.ok(&RUN);
    assert_none_again(&project, before, &finished);
    assert_eq!(project.table(), table);
    project.ok(&["runs", "ls"]);
    midway
}

/// No unit that had its record was started once more.
fn assert_none_again(project: &Project, before: usize, finished: &BTreeSet<String>) {
    let started = project.started();
    let again: Vec<&String> = started[before..].iter().filter(|key| finished.contains(*key)).collect();
    assert!(again.is_empty(), "finished, and done again: {again:?}");
}
