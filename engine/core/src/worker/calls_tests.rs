use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::{fs, thread};

use rustix::io::Errno;
use rustix::process::{Pid, Resource, getrlimit, prlimit, setpriority_process, setpriority_user};
use rustix::thread::{sched_getaffinity, sched_setaffinity};

use super::*;

/// `None` where the kernel takes no filters, after saying so.
fn refused<T: Send>(test: &str, network: bool, act: impl FnOnce() -> T + Send) -> Option<T> {
    if !are_held() {
        let _unseen = io::Write::write_all(&mut io::stderr(), format!("skipped: {test}\n").as_bytes());
        return None;
    }
    let walled = || {
        refuse(network).unwrap();
        act()
    };
    Some(thread::scope(|scope| scope.spawn(walled).join().unwrap()))
}

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().map(|error| error.raw_os_error().unwrap())
}

#[test]
fn without_a_network_no_socket_leads_out() {
    let test = "without_a_network_no_socket_leads_out";
    let tried = |network| {
        refused(test, network, || {
            assert!(UnixDatagram::pair().is_ok());
            let at = (Ipv4Addr::LOCALHOST, 0);
            [errno(UdpSocket::bind(at)), errno(TcpListener::bind(at))]
        })
    };
    let Some(without) = tried(false) else { return };
    assert_eq!(without, [Some(libc::EACCES); 2]);
    assert_eq!(tried(true).unwrap(), [None, None]);
}

#[test]
fn other_processes_keep_their_limits_and_one_s_own_are_one_s_own() {
    let me = Some(rustix::process::getpid());
    let limit = || getrlimit(Resource::Core);
    let tried = refused("other_processes_keep_their_limits", false, || {
        let processors = sched_getaffinity(None).unwrap();
        prlimit(None, Resource::Core, limit()).unwrap();
        sched_setaffinity(None, &processors).unwrap();
        setpriority_process(None, 19).unwrap();
        [
            prlimit(me, Resource::Core, limit()).err(),
            sched_setaffinity(me, &processors).err(),
            setpriority_process(me, 19).err(),
            setpriority_process(Pid::from_raw(1), 19).err(),
            setpriority_user(rustix::process::Uid::from_raw(0), 19).err(),
        ]
    });
    let Some(tried) = tried else { return };
    assert_eq!(tried, [Some(Errno::PERM); 5]);
}

#[test]
fn nothing_is_made_that_runs_with_the_rights_of_its_owner() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let tried = refused("nothing_is_made_that_runs_with_the_rights_of_its_owner", false, || {
        let change = |mode| errno(fs::set_permissions(&file, fs::Permissions::from_mode(mode)));
        let make = |mode| {
            let path = dir.path().join(format!("{mode:o}"));
            errno(fs::File::options().write(true).create_new(true).mode(mode).open(path))
        };
        assert_eq!([change(0o1755), make(0o755)], [None, None]);
        [change(0o4755), change(0o6755), make(0o4755), make(0o6755)]
    });
    let Some(tried) = tried else { return };
    assert_eq!(tried, [Some(libc::EPERM); 4]);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7000, 0o1000);
}

#[test]
fn what_cannot_be_looked_into_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let here = fs::File::open(dir.path()).unwrap();
    let opened = || {
        let (flags, resolve) = (rustix::fs::OFlags::RDONLY, rustix::fs::ResolveFlags::BENEATH);
        rustix::fs::openat2(&here, ".", flags, rustix::fs::Mode::empty(), resolve).err()
    };
    let Some(tried) = refused("what_cannot_be_looked_into_is_not_there", true, opened) else { return };
    assert_eq!(tried, Some(Errno::NOSYS));
}
