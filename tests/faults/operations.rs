//! Every single operation of the store fails once, and every fourth is the last one before the process dies: the run
//! fails with a typed error or does without, and a later run ends with the same numbers.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use qpipe_cache::fault::{Fault, Faults};
use qpipe_cache::{Repair, Store};
use qpipe_engine::manifest::{LoadOptions, load_study};
use qpipe_engine::plan::{PlanOptions, plan};
use qpipe_engine::run::{RunOptions, RunOutcome, run};
use qpipe_sdk::ErrorClass;

use crate::stages::{STUDY, registry};

/// How a run in this process ended.
#[derive(Debug, PartialEq)]
enum Ended {
    /// With the sums of all cells.
    Done(Vec<f64>),
    Failed(Vec<ErrorClass>),
}

fn run_once(folder: &Path, faults: &Arc<Faults>) -> Ended {
    let Ok(store) = Store::open_with_faults(&folder.join("store"), Arc::clone(faults)) else {
        return Ended::Failed(vec![ErrorClass::Store]);
    };
    let registry = registry(&folder.join("side"));
    let manifest =
        STUDY.replace("factor 2\n", "factor 2\n    pause-ms 0\n").replace("factor 2 3 5", "factor 2 3");
    let study = load_study(Path::new("study.kdl"), &manifest, &LoadOptions::default(), &registry).unwrap();
    let plan = match plan(&study, &registry, &store, &PlanOptions::default()) {
        Ok(plan) => plan,
        Err(error) => return Ended::Failed(vec![error.class()]),
    };
    let result = run(&study, &plan, &registry, &store, &RunOptions::default(), &mut ());
    match result.outcome {
        RunOutcome::Done => {
            let metrics = result.nodes.iter().flat_map(|node| node.metrics().unwrap());
            Ended::Done(metrics.map(|metric| metric.value).collect())
        }
        _ => Ended::Failed(result.failures().map(|(_, class, _)| class).collect()),
    }
}

/// One operation meets `fault`; then the same study runs undisturbed.
fn disturb(step: u64, fault: Fault, expected: &Ended) {
    let folder = tempfile::tempdir().unwrap();
    match run_once(folder.path(), &Faults::at(step, fault)) {
        // not every operation is needed for a result: a lock that stays is used by the next
        Ended::Done(sums) => assert_eq!(&Ended::Done(sums), expected, "step {step}, {fault:?}"),
        Ended::Failed(classes) => {
            assert!(!classes.is_empty(), "step {step}, {fault:?}: no failure is told");
            let store = classes.iter().all(|class| *class == ErrorClass::Store);
            assert!(store, "step {step}, {fault:?}: {classes:?}");
        }
    }
    assert_eq!(&run_once(folder.path(), &Faults::none()), expected, "step {step}, {fault:?}");
    let store = Store::open(&folder.path().join("store")).unwrap();
    let faults = store.verify(Repair::Nothing).faults;
    assert!(faults.is_empty(), "step {step}, {fault:?}: {faults:?}");
}

#[test]
fn every_operation_of_the_store_may_fail() {
    let folder = tempfile::tempdir().unwrap();
    let faults = Faults::none();
    let expected = run_once(folder.path(), &faults);
    assert!(matches!(&expected, Ended::Done(sums) if sums.len() == 2), "{expected:?}");
    let steps = faults.steps();
    assert!(steps > 100, "{steps}");
    let next = AtomicU64::new(1);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let step = next.fetch_add(1, Ordering::SeqCst);
                    if step > steps {
                        return;
                    }
                    let fault = [Fault::Error(ErrorKind::StorageFull), Fault::Error(ErrorKind::Other)];
                    disturb(step, fault[step as usize % 2], &expected);
                    if step.is_multiple_of(4) {
                        disturb(step, [Fault::Crash, Fault::TornCrash][step as usize / 4 % 2], &expected);
                    }
                }
            });
        }
    });
}
