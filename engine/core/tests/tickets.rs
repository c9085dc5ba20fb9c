//! Runs by ticket: they leave what any other run leaves, and whatever makes a hit untrue is seen.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod lab;

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};

use lab::Lab;
use qpipe_cache::{GcMode, GcOptions, Store};
use qpipe_engine::manifest::{LoadOptions, load_study};
use qpipe_engine::plan::{Force, PlanOptions, plan};
use qpipe_engine::record::{Recorder, RunDiff, RunStatus, read_run, runs};
use qpipe_engine::report::{Overview, StudyTable};
use qpipe_engine::run::{Counts, RunEvent, RunEventKind, run};
use qpipe_engine::ticket::{Ask, Cached, CachedRun, Watched, keep, run_cached};
use serde_json::Value;

const BASE: &str = "qpipe 1\nload base {\n    from path=\"data.bin\"\n}\n";

const MANIFEST: &str = "\
qpipe 1 name=lab
include \"base.kdl\"
quantize weights {
    model base
    scheme nf4
}
evaluate quality {
    model weights
    task (env)TASK
}
ablate one-at-a-time {
    vary weights.scheme fp4 int8
}
";

const EVERYTHING: usize = 7;

/// A study in a laboratory, and all that it is asked with.
struct Desk {
    lab: Lab,
    text: RefCell<String>,
    tool: RefCell<&'static str>,
    task: RefCell<&'static str>,
    sets: RefCell<Vec<(String, String)>>,
}

impl Desk {
    fn new() -> Self {
        let lab = Lab::new();
        lab.file("data.bin", b"data");
        lab.file("base.kdl", BASE.as_bytes());
        let text = RefCell::new(MANIFEST.to_owned());
        Self { lab, text, tool: RefCell::new("one"), task: RefCell::new("boolq"), sets: RefCell::default() }
    }

    /// One that left a ticket.
    fn with_ticket() -> Self {
        let desk = Self::new();
        assert_eq!(desk.ran(&Force::Nothing), EVERYTHING);
        assert!(desk.by_ticket().is_none(), "that run found nothing cached");
        assert_eq!(desk.ran(&Force::Nothing), 0);
        assert_eq!(desk.by_ticket().unwrap().nodes, EVERYTHING);
        desk
    }

    /// As another process would open it.
    fn store(&self) -> Store {
        Store::open(self.lab.store.root()).unwrap()
    }

    fn asking<T>(&self, act: impl FnOnce(&Ask<'_>, &LoadOptions<'_>, &Watched) -> T) -> T {
        let (watched, sets, text) = (Watched::default(), self.sets.borrow(), self.text.borrow());
        let env = |name: &str| watched.env(name, |_| Some((*self.task.borrow()).to_owned()));
        let files = |path: &Path| watched.text(path, |path| fs::read_to_string(path));
        let (folder, manifest) = (self.lab.dir.path(), self.lab.dir.path().join("lab.kdl"));
        let ask = Ask { tool: *self.tool.borrow(), folder, manifest: &manifest, text: &text, sets: &sets };
        let options = LoadOptions { sets: &sets, sets_folder: Some(folder), env: &env, files: &files };
        act(&ask, &options, &watched)
    }

    fn by_ticket(&self) -> Option<CachedRun> {
        self.asking(|ask, options, _| run_cached(&self.store(), ask, options, &self.lab.registry()))
    }

    /// Plans, runs and records as ever, and leaves a ticket; how many nodes ran.
    fn ran(&self, force: &Force) -> usize {
        self.asking(|ask, options, watched| {
            let (store, registry) = (self.store(), self.lab.registry());
            let study = load_study(ask.manifest, ask.text, options, &registry).unwrap();
            let plan = plan(&study, &registry, &store, &PlanOptions { force: force.clone() }).unwrap();
            let mut recorder = Recorder::create(&store.runs_dir(), &study, &plan).unwrap();
            let result = run(&study, &plan, &registry, &store, &self.lab.options(), &mut recorder);
            let table = StudyTable::new(&study, &result);
            let recorded = recorder.finish(&study, &plan, &result, &table);
            let overview = Overview::new(&table);
            let cached = Cached { study: &study, plan: &plan, recorded: &recorded, overview: &overview };
            keep(&store, ask, watched, &registry, cached);
            result.counts().ran
        })
    }

    /// The files in a folder of the store, by the end of their names.
    fn files(&self, folder: &str, end: &str) -> Vec<PathBuf> {
        let (mut found, mut open) = (Vec::new(), vec![self.lab.store.root().join(folder)]);
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    open.push(path);
                } else if path.to_string_lossy().ends_with(end) {
                    found.push(path);
                }
            }
        }
        found.sort();
        found
    }

    fn latest(&self) -> PathBuf {
        self.store().runs_dir().join(&runs(&self.store().runs_dir()).unwrap().last().unwrap().run.0)
    }
}

/// Puts another file in a file's place, as everything but an editor in place does.
fn replace(path: &Path, bytes: &[u8]) {
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_run_by_ticket_leaves_the_record_of_any_other() {
    let desk = Desk::with_ticket();
    desk.ran(&Force::Nothing);
    let (other, run) = (desk.latest(), desk.by_ticket().unwrap());
    for same in ["plan.json", "table.md", "table.csv", "table.json", "manifest.kdl", "include-1-base.kdl"] {
        assert_eq!(fs::read(run.dir.join(same)).unwrap(), fs::read(other.join(same)).unwrap(), "{same}");
    }
    let without = |dir: &Path, file: &str, names: &[&str]| {
        let mut value = json(&dir.join(file));
        for name in names {
            assert!(value.as_object_mut().unwrap().remove(*name).is_some(), "{file}: {name}");
        }
        value
    };
    for (file, own) in
        [("run.json", &["run", "started", "elapsed_ms"][..]), ("started.json", &["run", "started"])]
    {
        assert_eq!(without(&run.dir, file, own), without(&other, file, own), "{file}");
    }
    let events = |dir: &Path| -> Vec<RunEventKind> {
        let log = fs::read_to_string(dir.join("events.jsonl")).unwrap();
        let event = |line: &str| serde_json::from_str::<RunEvent>(line).unwrap();
        log.lines().map(|line| event(line).kind).filter(|kind| !is_end(kind)).collect()
    };
    assert_eq!((events(&run.dir).len(), events(&run.dir)), (EVERYTHING + 1, events(&other)));
    assert_eq!(run.events, run.dir.join("events.jsonl"));

    let folder = desk.store().runs_dir();
    let listed = runs(&folder).unwrap().pop().unwrap();
    let counts = Counts { cached: EVERYTHING, ..Counts::default() };
    assert_eq!((listed.status, listed.counts), (RunStatus::Done, Some(counts)));
    assert!(run.dir.ends_with(&listed.run.0));
    let id = |dir: &Path| dir.file_name().unwrap().to_string_lossy().into_owned();
    let (a, b) = (read_run(&folder, &id(&other)).unwrap(), read_run(&folder, &id(&run.dir)).unwrap());
    let diff = RunDiff::new(&a, &b, &desk.store());
    assert_eq!((diff.runs.len(), diff.inputs.len(), diff.results.len()), (0, 0, 0));
    assert_eq!((diff.same_inputs, desk.lab.runs()), (9, EVERYTHING));
}

fn is_end(kind: &RunEventKind) -> bool {
    matches!(kind, RunEventKind::RunFinished { .. })
}

/// Changes the world under a ticket; then the ticket does not hold, so many nodes run, and a new ticket is left.
fn seen(what: &str, reruns: usize, change: impl FnOnce(&Desk)) {
    let desk = Desk::with_ticket();
    change(&desk);
    assert!(desk.by_ticket().is_none(), "{what} was not seen");
    assert_eq!(desk.ran(&Force::Nothing), reruns, "{what}");
    assert_eq!(desk.ran(&Force::Nothing), 0, "{what}");
    let again = desk.by_ticket().unwrap_or_else(|| panic!("{what}: no new ticket"));
    assert_eq!(again.nodes, EVERYTHING, "{what}");
}

#[test]
fn what_is_asked_names_the_ticket() {
    seen("another program", 0, |desk| *desk.tool.borrow_mut() = "two");
    seen("a comment", 0, |desk| desk.text.borrow_mut().push_str("// a comment\n"));
    seen("a parameter", 6, |desk| {
        let text = desk
            .text
            .borrow()
            .replace("scheme nf4", "scheme nf5")
            .replace("vary weights.scheme fp4 int8", "vary weights.scheme nf6 nf7");
        *desk.text.borrow_mut() = text;
    });
    seen("an override", 2, |desk| {
        desk.sets.borrow_mut().push(("weights.scheme".into(), "nf9".into()));
    });
    seen("other semantics", 3, |desk| {
        desk.lab.switches.semantics.store(1, std::sync::atomic::Ordering::SeqCst);
    });
}

#[test]
fn what_was_read_is_read_again() {
    seen("a changed source", EVERYTHING, |desk| _ = desk.lab.file("data.bin", b"atad"));
    seen("a changed include", EVERYTHING, |desk| {
        desk.lab.file("base.kdl", BASE.replace('}', "    text more\n}").as_bytes());
    });
    seen("another variable", 3, |desk| *desk.task.borrow_mut() = "mmlu");
    let desk = Desk::with_ticket();
    replace(&desk.lab.dir.path().join("data.bin"), b"data");
    assert!(desk.by_ticket().is_some(), "equal content is the same");
    fs::remove_file(desk.lab.dir.path().join("data.bin")).unwrap();
    assert!(desk.by_ticket().is_none());
}

#[test]
fn what_the_store_lost_is_missed() {
    seen("a removed record", 1, |desk| fs::remove_file(&desk.files("v1/actions", ".json")[0]).unwrap());
    seen("a damaged record", 1, |desk| replace(&desk.files("v1/actions", ".json")[0], b"{"));
    seen("a removed result", 1, |desk| {
        let results = desk.files("v1/blobs", "");
        let result = results.iter().find(|path| fs::read(path).unwrap() == b"data+fp4").unwrap();
        fs::remove_file(result).unwrap();
    });
    seen("a result of another size", 1, |desk| {
        let results = desk.files("v1/blobs", "");
        let result = results.iter().find(|path| fs::read(path).unwrap() == b"data+fp4").unwrap();
        replace(result, b"data+fp");
    });
    seen("results that were made again", 0, |desk| assert_eq!(desk.ran(&Force::Everything), EVERYTHING));
    seen("lost marks", 0, |desk| fs::remove_file(&desk.files("v1/index", "marks")[0]).unwrap());
    seen("gc", 0, |desk| {
        let options = GcOptions { mode: GcMode::Remove, ..GcOptions::default() };
        desk.store().gc(&options).unwrap();
    });
    seen("a gc of everything", EVERYTHING, |desk| {
        let (older_than, grace) = (Some(std::time::Duration::ZERO), std::time::Duration::ZERO);
        let options = GcOptions { mode: GcMode::Remove, older_than, grace, ..GcOptions::default() };
        desk.store().gc(&options).unwrap();
    });
}

#[test]
fn a_ticket_that_is_damaged_or_whose_record_is_gone_is_none() {
    seen("a removed ticket", 0, |desk| fs::remove_file(&desk.files("v1/index", ".ticket")[0]).unwrap());
    seen("a cut ticket", 0, |desk| {
        let path = &desk.files("v1/index", ".ticket")[0];
        let bytes = fs::read(path).unwrap();
        replace(path, &bytes[..bytes.len() - 1]);
    });
    seen("a flipped bit", 0, |desk| {
        let path = &desk.files("v1/index", ".ticket")[0];
        let mut bytes = fs::read(path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        replace(path, &bytes);
    });
    seen("records of runs removed", 0, |desk| {
        fs::remove_dir_all(desk.lab.store.root().join("runs")).unwrap();
    });
    for file in ["plan.json", "table.md", "table.csv", "table.json", "events.jsonl", "run.json"] {
        seen(file, 0, |desk| {
            for path in desk.files("runs", file) {
                let text = fs::read_to_string(&path).unwrap();
                fs::write(&path, text.replacen("weights", "weighty", 9)).unwrap();
            }
        });
    }
}

#[test]
fn a_lost_index_costs_time_only() {
    let desk = Desk::with_ticket();
    let index = desk.files("v1/index", "");
    for path in index.iter().filter(|path| path.extension().is_some_and(|end| end == "idx")) {
        fs::remove_file(path).unwrap();
    }
    assert!(desk.by_ticket().is_some());
}

#[test]
fn a_failed_replay_leaves_no_record() {
    let desk = Desk::with_ticket();
    let before = runs(&desk.store().runs_dir()).unwrap().len();
    desk.files("runs", "run.json").iter().for_each(|path| fs::write(path, "{}").unwrap());
    assert!(desk.by_ticket().is_none());
    assert_eq!(runs(&desk.store().runs_dir()).unwrap().len(), before);
}

#[test]
fn the_memory_of_nodes_stays_that_of_the_last_run() {
    let desk = Desk::with_ticket();
    let original = desk.text.borrow().clone();
    *desk.text.borrow_mut() = original.replace("nf4", "nf5");
    desk.ran(&Force::Nothing);
    *desk.text.borrow_mut() = original;
    assert!(desk.by_ticket().is_none(), "the store remembers `nf5`");
    assert_eq!(desk.ran(&Force::Nothing), 0);
    assert!(desk.by_ticket().is_some());
}

#[test]
fn only_a_run_that_found_everything_leaves_a_ticket() {
    let desk = Desk::new();
    desk.lab.switches.set(|s| &s.fp4_fails, true);
    desk.ran(&Force::Nothing);
    desk.ran(&Force::Nothing);
    assert!(desk.files("v1/index", ".ticket").is_empty());
    desk.lab.switches.set(|s| &s.fp4_fails, false);
    desk.ran(&Force::Everything);
    assert!(desk.files("v1/index", ".ticket").is_empty());
    desk.ran(&Force::Nothing);
    assert_eq!(desk.files("v1/index", ".ticket").len(), 1);
}
