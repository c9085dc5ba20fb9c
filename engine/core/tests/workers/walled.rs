//! What a plugin can reach, and what it cannot: over real processes and the kernel's own walls.

use std::fs;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::PathBuf;

use qpipe_engine::worker::wall::Support;
use qpipe_engine::worker::{Limits, PluginCommand, Sandbox, WorkerError};
use qpipe_sdk::{ErrorClass, StageRegistry};

use crate::hows::hows;
use crate::lab::{Lab, failure, is_walled};

/// A laboratory with `pry.py` in a folder of its own, and a secret beside that.
pub(crate) struct Yard {
    pub(crate) lab: Lab,
}

impl Yard {
    /// `None` where there is no Python, or the kernel holds no whole wall, after saying so.
    pub(crate) fn new(test: &str) -> Option<Self> {
        if !is_walled(test) {
            return None;
        }
        let lab = Lab::new(test)?;
        let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests"));
        fs::create_dir(lab.dir.join("pry")).unwrap();
        fs::copy(root.join("tests/plugins/pry.py"), lab.dir.join("pry/pry.py")).unwrap();
        lab.file("secret", "a secret");
        lab.file("pry/note", "a note");
        Some(Self { lab })
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.lab.dir.join(name).display().to_string()
    }

    pub(crate) fn command(&self) -> PluginCommand {
        self.lab.command("pry", "pry/pry.py", &[], Limits::default())
    }

    pub(crate) fn registry(&self) -> StageRegistry {
        self.lab.start(&self.command()).unwrap()
    }

    /// What comes of one try.
    pub(crate) fn try_it(&self, registry: &StageRegistry, how: &str, at: &str) -> String {
        self.try_with(registry, how, at, "").0
    }

    /// The same with more words; and who tried.
    pub(crate) fn try_with(
        &self,
        registry: &StageRegistry,
        how: &str,
        at: &str,
        more: &str,
    ) -> (String, String) {
        let (result, _) = self.lab.run(registry, &format!("pry a {{\n how {how}\n at {at:?}\n {more}\n}}"));
        assert_eq!(hows(&result.nodes).replace('c', "r"), "r", "{result:?}");
        let output = |name: &str| self.lab.output(&result.nodes[0], name);
        (output("out"), output("pid"))
    }
}

pub(crate) const DENIED: &str = "PermissionError";

#[test]
fn a_plugin_reaches_nothing_that_it_was_not_given() {
    let Some(yard) = Yard::new("a_plugin_reaches_nothing_that_it_was_not_given") else { return };
    let registry = yard.registry();
    let other = yard.lab.store().put_bytes(b"of another job").unwrap();
    let other = yard.lab.store().blob_path(&other).unwrap().display().to_string();
    let home = std::env::var("HOME").ok().filter(|home| std::path::Path::new(home).is_dir());
    let home = home.unwrap_or_else(|| yard.path("."));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let engine = std::process::id().to_string();
    let name = format!("qpipe-test-{engine}");
    let _socket = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let program = fs::read(yard.lab.dir.join("pry/pry.py")).unwrap();
    yard.lab.file("book", "a book");
    for (how, at) in [
        ("read", yard.path("secret")),
        ("truncate", yard.path("secret")),
        ("append", yard.path("secret")),
        ("remove", yard.path("secret")),
        ("make", yard.path("new")),
        ("make", yard.path("pry/new")),
        ("read", yard.path("pry/note")),
        ("append", "SELF".into()),
        ("read", other.clone()),
        ("remove", other.clone()),
        ("list", yard.path("store")),
        ("list", yard.path("store/scratch")),
        ("list", home.clone()),
        ("make", format!("{home}/qpipe-was-here")),
        ("list", "/tmp".into()),
        ("make", "/etc/qpipe-was-here".into()),
        ("read", format!("/proc/{engine}/environ")),
        ("kill", engine.clone()),
        ("connect", port.clone()),
        ("bind", "0".into()),
        ("abstract", name),
        ("multipath", port.clone()),
        ("at-once", port.clone()),
        ("datagram", port),
        ("listen", String::new()),
        ("limit", engine.clone()),
        ("priority", engine.clone()),
        ("affinity", engine),
        ("set-user", String::new()),
        ("give-away", String::new()),
        ("keys", String::new()),
        ("terminal", "/dev/tty".into()),
    ] {
        assert_eq!(yard.try_it(&registry, how, &at), DENIED, "{how} {at}");
    }
    let book = format!("book {:?}", yard.path("book"));
    assert_eq!(yard.try_with(&registry, "read", "BOOK", &book).0, "done");
    assert_eq!(yard.try_with(&registry, "append", "BOOK", &book).0, DENIED);
    assert_eq!(yard.try_with(&registry, "truncate", "BOOK", &book).0, DENIED);
    let kept = ["secret", "pry/note", "book"].map(|name| yard.lab.read(name));
    assert_eq!(kept, ["a secret", "a note", "a book"]);
    assert_eq!(fs::read(yard.lab.dir.join("pry/pry.py")).unwrap(), program);
    assert_eq!(fs::read(other).unwrap(), b"of another job");
    assert!(!yard.lab.dir.join("new").exists() && !yard.lab.dir.join("pry/new").exists());
}

#[test]
fn what_programs_do_with_themselves_they_may() {
    let Some(yard) = Yard::new("what_programs_do_with_themselves_they_may") else { return };
    assert_eq!(yard.try_it(&yard.registry(), "ordinary", ""), "done");
    let network = PluginCommand { network: true, ..yard.command() };
    fs::remove_dir_all(yard.lab.dir.join("store")).unwrap();
    let registry = yard.lab.start(&network).unwrap();
    for how in ["ordinary", "listen", "names"] {
        assert_eq!(yard.try_it(&registry, how, ""), "done", "{how}");
    }
}

#[test]
fn what_the_engine_looks_at_is_not_the_plugins_to_replace() {
    let Some(yard) = Yard::new("what_the_engine_looks_at_is_not_the_plugins_to_replace") else { return };
    let registry = yard.registry();
    for (how, at, said) in [
        ("append", "LOG", "done"),
        ("remove", "LOG", DENIED),
        ("make", "LOG.new", DENIED),
        ("make", "SCRATCH/../zz.lock", DENIED),
        ("make", "SCRATCH/../../zz.lock", DENIED),
        ("make", "SCRATCH/../inputs/new", DENIED),
        ("move", "SCRATCH/../inputs", DENIED),
        ("move", "SCRATCH", DENIED),
    ] {
        assert_eq!(yard.try_it(&registry, how, at), said, "{how} {at}");
    }
}

#[test]
fn inputs_that_are_laid_out_can_only_be_read() {
    let Some(yard) = Yard::new("inputs_that_are_laid_out_can_only_be_read") else { return };
    let registry = yard.registry();
    for (how, at, said) in [
        ("read", "GIVEN/out", "done"),
        ("list", "GIVEN", "done"),
        ("append", "GIVEN/out", DENIED),
        ("remove", "GIVEN/out", DENIED),
        ("move", "GIVEN/out", DENIED),
        ("move", "GIVEN", DENIED),
        ("make", "GIVEN/new", DENIED),
    ] {
        let stages = format!("pry a {{\n how nothing\n}}\npry b {{\n how {how}\n at {at:?}\n given a\n}}");
        let (result, _) = yard.lab.run(&registry, &stages);
        assert!(["rr", "cr"].contains(&hows(&result.nodes).as_str()), "{result:?}");
        assert_eq!(yard.lab.output(&result.nodes[1], "out"), said, "{how} {at}");
    }
}

#[test]
fn of_a_job_nothing_is_left_to_the_next_one() {
    let Some(yard) = Yard::new("of_a_job_nothing_is_left_to_the_next_one") else { return };
    let registry = yard.registry();
    let (said, pid) = yard.try_with(&registry, "make", "SCRATCH/left", "");
    assert_eq!(said, "done");
    assert_eq!(yard.try_with(&registry, "read", "SCRATCH/left", ""), ("FileNotFoundError".into(), pid));
}

#[test]
fn what_is_denied_costs_one_node_and_is_explained() {
    let Some(yard) = Yard::new("what_is_denied_costs_one_node_and_is_explained") else { return };
    let secret = yard.path("secret");
    let stages = format!("pry a {{\n how read\n at {secret:?}\n loud #true\n}}\npry b {{\n how nothing\n}}");
    let (result, _) = yard.lab.run(&yard.registry(), &stages);
    assert_eq!(hows(&result.nodes), "Fr", "{result:?}");
    let (class, message) = failure(&result);
    assert_eq!(class, ErrorClass::Bug);
    assert!(message.contains("Permission denied") && message.contains("`reads`"), "{message}");
    // without a wall, a wall is no help
    let open = PluginCommand { sandbox: Sandbox::Off, ..yard.command() };
    let stages = "pry a {\n how read\n at \"/nowhere/PermissionError\"\n loud #true\n}";
    let (result, _) = yard.lab.run(&yard.lab.start(&open).unwrap(), stages);
    assert!(!failure(&result).1.contains("`reads`"));
}

const LATE: &str = "
import qpipe_stage as qpipe


@qpipe.stage('late', outputs={'out': 'nothing'})
def late(job):
    '''Imports late.'''
    import helpers.beside
    job.output('out').write_text(helpers.beside.TEXT)


qpipe.main()
";

#[test]
fn a_module_that_no_key_knows_is_named() {
    let Some(yard) = Yard::new("a_module_that_no_key_knows_is_named") else { return };
    fs::create_dir(yard.lab.dir.join("helpers")).unwrap();
    yard.lab.file("late.py", LATE);
    yard.lab.file("helpers/beside.py", "TEXT = 'helps'\n");
    let run = |command: &PluginCommand| yard.lab.run(&yard.lab.start(command).unwrap(), "late a").0;
    let command = yard.lab.command("late", "late.py", &[], Limits::default());
    let (class, message) = failure(&run(&command));
    assert_eq!(class, ErrorClass::Config);
    let says = ["module `beside`", "helpers/beside.py", "import it where the program begins"];
    assert!(says.iter().all(|text| message.contains(text)), "{message}");
    // of a package, all is told
    yard.lab.file("helpers/__init__.py", "");
    assert_eq!(hows(&run(&command).nodes), "r");
}

#[test]
fn each_word_opens_its_part() {
    let Some(yard) = Yard::new("each_word_opens_its_part") else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    yard.lab.file("beside", "not told of");
    let tries = [
        ("read", yard.path("secret")),
        ("append", yard.path("secret")),
        ("read", yard.path("beside")),
        ("read", yard.path("pry/note")),
        ("connect", port),
        ("make", yard.path("made")),
    ];
    let opened = |command: &PluginCommand| {
        let registry = yard.lab.start(command).unwrap();
        let done = |(how, at): &(&str, String)| yard.try_it(&registry, how, at) == "done";
        let all: Vec<bool> = tries.iter().map(done).collect();
        fs::remove_dir_all(yard.lab.dir.join("store")).unwrap();
        all
    };
    let base = yard.command();
    assert_eq!(opened(&base), [false, false, false, false, false, false]);
    let reads = PluginCommand { reads: vec![yard.path("secret").into()], ..base.clone() };
    assert_eq!(opened(&reads), [true, false, false, false, false, false]);
    let network = PluginCommand { network: true, ..base.clone() };
    assert_eq!(opened(&network), [false, false, false, false, true, false]);
    let files = PluginCommand { files: vec![("note".into(), yard.path("pry/note").into())], ..base.clone() };
    assert_eq!(opened(&files), [false, false, false, true, false, false]);
    let off = PluginCommand { sandbox: Sandbox::Off, ..base };
    assert_eq!(opened(&off), [true; 6]);
}

#[test]
fn a_wall_that_is_required_is_there_or_the_plugin_is_refused() {
    let Some(yard) = Yard::new("a_wall_that_is_required_is_there_or_the_plugin_is_refused") else { return };
    let command = PluginCommand { sandbox: Sandbox::Required, ..yard.command() };
    assert_eq!(yard.try_it(&yard.lab.start(&command).unwrap(), "read", &yard.path("secret")), DENIED);
    for (walls, why) in [
        (
            Support::None { why: "there is no such kernel" },
            "plugins are not walled in: there is no such kernel",
        ),
        (Support::Part { missing: vec!["TCP"] }, "this kernel cannot hold TCP"),
    ] {
        let lab = yard.lab.on(walls);
        let error = lab.start(&command).err().unwrap();
        assert!(matches!(error, WorkerError::Unwalled { .. }), "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
    // where it is not required, it runs without
    let lab = yard.lab.on(Support::None { why: "there is no such kernel" });
    fs::remove_dir_all(yard.lab.dir.join("store")).unwrap();
    assert_eq!(yard.try_it(&lab.start(&yard.command()).unwrap(), "read", &yard.path("secret")), "done");
}
