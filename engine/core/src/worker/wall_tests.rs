use std::fs;

use super::*;

/// A folder, and what happens behind a wall around a thread.
struct Yard {
    dir: tempfile::TempDir,
}

impl Yard {
    /// `None` where the kernel holds no wall, after saying so.
    fn new(test: &str) -> Option<Self> {
        if let Support::None { why } = support() {
            let _unseen =
                io::Write::write_all(&mut io::stderr(), format!("skipped: {test}: {why}\n").as_bytes());
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("in")).unwrap();
        fs::write(dir.path().join("in/a"), "a").unwrap();
        fs::write(dir.path().join("b"), "b").unwrap();
        Some(Self { dir })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn wall(&self, open: &[(&str, Access)]) -> Wall {
        let mut wall = Wall::default();
        for (name, access) in open {
            wall.open(&self.path(name), *access);
        }
        wall
    }
}

fn behind<T: Send>(wall: &Wall, act: impl FnOnce() -> T + Send) -> T {
    let walled = || {
        wall.enclose().unwrap();
        act()
    };
    std::thread::scope(|scope| scope.spawn(walled).join().unwrap())
}

fn is_denied<T>(result: &io::Result<T>) -> bool {
    result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

#[test]
fn each_access_lets_its_own_be_done() {
    let Some(yard) = Yard::new("each_access_lets_its_own_be_done") else { return };
    let (folder, file, other) = (yard.path("in"), yard.path("in/a"), yard.path("b"));
    let listed = || is_denied(&fs::read_dir(&folder));
    let read = || is_denied(&fs::read(&file));
    let wrote = || is_denied(&fs::write(&file, "a"));
    let denied = |access| behind(&yard.wall(&[("in", access)]), || [listed(), read(), wrote()]);
    assert_eq!(denied(Access::List), [false, true, true]);
    assert_eq!(denied(Access::Read), [false, false, true]);
    assert_eq!(denied(Access::Execute), [false, false, true]);
    assert_eq!(denied(Access::Write), [false, false, false]);
    // a file has no rights of a folder, and its neighbours have none at all
    let one = behind(&yard.wall(&[("in/a", Access::Write)]), || [listed(), read(), wrote()]);
    assert_eq!(one, [true, false, false]);
    assert!(behind(&yard.wall(&[("in", Access::Write)]), || is_denied(&fs::read(&other))));
    assert!(!is_denied(&fs::read(&other)), "this thread stays as it was");
}

#[test]
fn threads_get_names_and_the_machine_keeps_its_settings() {
    let test = "threads_get_names_and_the_machine_keeps_its_settings";
    let Some(yard) = Yard::new(test) else { return };
    let name = |comm: &str| fs::write("/proc/thread-self/comm", comm);
    let writable = |path: &str| fs::OpenOptions::new().write(true).open(path).is_ok();
    let mut wall = yard.wall(&[("in", Access::Read)]);
    wall.open(Path::new("/proc"), Access::Read);
    assert!(behind(&wall, || is_denied(&name("denied"))));
    wall.open_names();
    let (can_name, settings) = behind(&wall, || {
        let settings = ["/proc/sys/kernel/printk", "/proc/sys/vm/swappiness", "/proc/sysrq-trigger"];
        (name("named").is_ok(), settings.map(writable))
    });
    assert_eq!(settings, [false; 3]);
    if !can_name {
        // root that may not mount, in a container whose `/proc` is not kept from it
        assert!(rustix::process::geteuid().is_root());
        let told = format!("skipped: {test}: /proc cannot be kept from root here\n");
        let _unseen = io::Write::write_all(&mut io::stderr(), told.as_bytes());
    }
}

#[test]
fn who_can_write_makes_no_device_and_brings_nothing_in() {
    let Some(yard) = Yard::new("who_can_write_makes_no_device_and_brings_nothing_in") else { return };
    let (inside, outside) = (yard.path("in/link"), yard.path("b"));
    behind(&yard.wall(&[("in", Access::Write)]), || {
        assert!(fs::hard_link(&outside, &inside).is_err());
        assert!(fs::rename(&outside, &inside).is_err());
        std::os::unix::fs::symlink(&outside, &inside).unwrap();
        assert!(is_denied(&fs::read(&inside)));
    });
    assert_eq!(fs::read(&outside).unwrap(), b"b");
}

#[test]
fn a_wall_covers_what_it_has_and_what_lies_below() {
    let Some(yard) = Yard::new("a_wall_covers_what_it_has_and_what_lies_below") else { return };
    let folder = yard.wall(&[("in", Access::Read)]);
    assert!(folder.covers(&yard.wall(&[("in/a", Access::Read)])));
    assert!(folder.covers(&yard.wall(&[("nowhere", Access::Read)])), "nobody reaches it");
    assert!(!folder.covers(&yard.wall(&[("b", Access::Read)])));
    assert!(!folder.covers(&yard.wall(&[("in/a", Access::Write)])));
    let mut network = folder.clone();
    network.open_network();
    assert!(network.covers(&folder) && !folder.covers(&network));
    let mut names = folder.clone();
    names.open_names();
    assert!(names.covers(&folder) && !folder.covers(&names));
    let mut both = yard.wall(&[("b", Access::Read)]);
    both.extend(&network);
    assert!(both.covers(&network) && both.covers(&yard.wall(&[("b", Access::Read)])));

    // another file of the same name is another file
    let file = yard.wall(&[("in/a", Access::Read)]);
    fs::write(yard.path("new"), "a").unwrap();
    fs::rename(yard.path("new"), yard.path("in/a")).unwrap();
    assert!(!file.covers(&yard.wall(&[("in/a", Access::Read)])));
    assert!(folder.covers(&yard.wall(&[("in/a", Access::Read)])));
}

#[test]
fn what_was_put_in_a_file_s_place_is_not_reached() {
    let Some(yard) = Yard::new("what_was_put_in_a_file_s_place_is_not_reached") else { return };
    let (file, secret) = (yard.path("in/a"), yard.path("secret/b"));
    fs::create_dir(yard.path("secret")).unwrap();
    fs::write(&secret, "b").unwrap();
    let file_of = |name: &str| {
        let mut wall = Wall::default();
        wall.open_file(&yard.path(name), Access::Read);
        wall
    };
    assert_eq!(file_of("secret"), Wall::default(), "it is no file");
    let wall = file_of("in/a");
    assert!(behind(&wall, || fs::read(&file).is_ok()));
    // between the moment when it was looked at and that when it is opened
    fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink(yard.path("secret"), &file).unwrap();
    assert!(behind(&wall, || is_denied(&fs::read(&secret)) && is_denied(&fs::read_dir(yard.path("secret")))));
    fs::remove_file(&file).unwrap();
    fs::rename(yard.path("secret"), &file).unwrap();
    assert!(behind(&wall, || is_denied(&fs::read(file.join("b")))));
    assert_eq!(file_of("in/a"), Wall::default());
}

#[test]
fn what_is_a_file_s_link_leads_to_a_file() {
    let Some(yard) = Yard::new("what_is_a_file_s_link_leads_to_a_file") else { return };
    std::os::unix::fs::symlink(yard.path("in/a"), yard.path("link")).unwrap();
    std::os::unix::fs::symlink(yard.path("in"), yard.path("away")).unwrap();
    let mut wall = Wall::default();
    wall.open_file(&yard.path("link"), Access::Read);
    assert!(wall.covers(&yard.wall(&[("in/a", Access::Read)])));
    let mut none = Wall::default();
    none.open_file(&yard.path("away"), Access::Read);
    none.open_folder(&yard.path("."), "away", Access::Read);
    assert_eq!(none, Wall::default());
    none.open_folder(&yard.path("."), "in", Access::Read);
    assert!(none.covers(&yard.wall(&[("in/a", Access::Read)])));
}

#[test]
fn the_root_of_everything_is_no_part_of_a_wall() {
    let mut wall = Wall::default();
    wall.open(Path::new("/"), Access::Write);
    wall.open(Path::new("/proc/.."), Access::Read);
    assert_eq!(wall, Wall::default());
}

#[test]
fn what_is_missing_is_said() {
    let part = Support::Part { missing: vec!["TCP", "that devices are controlled", "signals"] };
    assert_eq!(
        part.note().unwrap(),
        "plugins are walled in but in part: this kernel cannot hold TCP, that devices are controlled and signals"
    );
    assert_eq!(Support::None { why: "no" }.note().unwrap(), "plugins are not walled in: no");
    assert_eq!(Support::Whole.note(), None);
}
