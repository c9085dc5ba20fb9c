use std::fs::{self, File};
use std::io::Read;

use super::*;

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn launch(&self, script: &str) -> Launch {
        Launch {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            env: vec![("PATH".into(), std::env::var_os("PATH").unwrap())],
            folder: self.dir.path().to_owned(),
            stderr: self.dir.path().join("stderr"),
        }
    }

    /// The number that the command wrote to a file, once it is there.
    fn number(&self, name: &str) -> u32 {
        for _ in 0..1000 {
            let text = fs::read_to_string(self.dir.path().join(name)).unwrap_or_default();
            if let Ok(number) = text.trim().parse() {
                return number;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("`{name}` never came");
    }
}

fn said(launch: &Launch) -> String {
    crate::worker::log::tail(&File::open(&launch.stderr).unwrap())
}

/// Whether a process runs; one that is dead and not yet waited for does not.
fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

fn ends(pid: u32) -> bool {
    (0..1000).any(|_| {
        std::thread::sleep(Duration::from_millis(5));
        !runs(pid)
    })
}

fn wait(group: &mut Group) -> ExitStatus {
    loop {
        if let Some(status) = group.ended().unwrap() {
            return status;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn streams_arguments_and_the_status_are_the_command_s() {
    let place = Place::new();
    let mut launch = place.launch("cat; echo \"$1\" >&2; exit 3");
    launch.args.extend(["x".into(), "a 'b' $c".into()]);
    let input = place.dir.path().join("input");
    fs::write(&input, "hello").unwrap();
    let (mut read, write) = io::pipe().unwrap();
    let mut group =
        Group::start(&launch, None, Stdio::from(File::open(input).unwrap()), Stdio::from(write)).unwrap();
    let mut out = String::new();
    read.read_to_string(&mut out).unwrap();
    assert_eq!((out.as_str(), ending(wait(&mut group)).as_str()), ("hello", "exit status 3"));
    assert_eq!(said(&launch), "a 'b' $c");
}

#[test]
fn what_a_command_leaves_behind_is_killed_with_it() {
    let place = Place::new();
    let launch = place.launch("sleep 1000 & echo $! > child");
    let mut group = Group::start(&launch, None, Stdio::null(), Stdio::null()).unwrap();
    assert!(wait(&mut group).success());
    assert!(ends(place.number("child")));
}

#[test]
fn a_stop_is_gentle_first_and_then_is_not() {
    let place = Place::new();
    let launch =
        place.launch("trap 'echo stopped > said; exit 0' TERM; echo $$ > pid; while :; do sleep 0.01; done");
    let mut group = Group::start(&launch, None, Stdio::null(), Stdio::null()).unwrap();
    assert_eq!(place.number("pid"), group.id());
    assert!(group.stop(Duration::from_secs(20), || false).unwrap().success());
    assert_eq!(fs::read_to_string(place.dir.path().join("said")).unwrap(), "stopped\n");

    let place = Place::new();
    let launch = place.launch("trap '' TERM; sleep 1000 & echo $! > child; echo $$ > pid; wait; sleep 1000");
    let mut group = Group::start(&launch, None, Stdio::null(), Stdio::null()).unwrap();
    let (pid, child) = (place.number("pid"), place.number("child"));
    assert_eq!(ending(group.stop(Duration::from_millis(50), || false).unwrap()), "killed by signal 9");
    assert!(ends(pid) && ends(child));
}

#[test]
fn a_command_that_waits_for_all_its_children_does_not_wait_for_the_watchdog() {
    let place = Place::new();
    let code = "import os\ntry:\n    os.wait()\nexcept ChildProcessError:\n    print('none', flush=True)";
    let mut launch = place.launch("");
    let Ok(python) = find_program("python3", Path::new("/"), std::env::var_os("PATH").as_deref()) else {
        let _unseen = io::Write::write_all(&mut io::stderr(), b"skipped: this test needs python3\n");
        return;
    };
    launch.program = python;
    launch.args = vec!["-c".into(), code.into()];
    let (mut read, write) = io::pipe().unwrap();
    let mut group = Group::start(&launch, None, Stdio::null(), Stdio::from(write)).unwrap();
    let mut out = String::new();
    read.read_to_string(&mut out).unwrap();
    assert_eq!(out, "none\n", "{}", said(&launch));
    assert!(wait(&mut group).success());
}

/// Runs as a process of its own: starts a command and then lives until it is killed.
#[test]
#[ignore = "the victim of the test below"]
fn victim() {
    let folder = PathBuf::from(std::env::var_os("QPIPE_TEST_FOLDER").expect("the test below sets it"));
    let place = Place { dir: tempfile::tempdir().unwrap() };
    let mut launch = place.launch("echo $$ > pid; trap '' TERM; sleep 1000 & echo $! > child; wait");
    launch.folder = folder;
    let _group = Group::start(&launch, None, Stdio::null(), Stdio::null()).unwrap();
    std::thread::sleep(Duration::from_secs(1000));
}

#[test]
fn a_group_does_not_outlive_an_engine_that_is_killed() {
    let place = Place::new();
    let mut engine = Command::new(std::env::current_exe().unwrap());
    engine.args(["--exact", "worker::launch::tests::victim", "--ignored"]);
    engine.env("QPIPE_TEST_FOLDER", place.dir.path()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut engine = engine.spawn().unwrap();
    let (pid, child) = (place.number("pid"), place.number("child"));
    assert!(runs(pid) && runs(child));
    engine.kill().unwrap();
    engine.wait().unwrap();
    assert!(ends(pid) && ends(child), "the command outlived its engine");
}

#[test]
fn programs_are_found_like_a_shell_finds_them() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tool"), "").unwrap();
    let search = Some(dir.path().as_os_str());
    let not_found = find_program("tool", dir.path(), search).unwrap_err();
    assert_eq!(not_found.to_string(), "there is no program `tool` on the search path");
    let refused = find_program("./tool", dir.path(), search).unwrap_err();
    assert!(matches!(refused, LaunchError::NotExecutable { .. }), "{refused}");
    assert!(find_program("sh", dir.path(), Some(OsStr::new("/usr/bin:/bin"))).unwrap().is_absolute());
}
