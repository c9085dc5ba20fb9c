//! `/proc` for who is walled in: NVIDIA's driver writes names of its threads there (`/proc/self/task/N/comm`), and does not
//! start where it cannot.
//!
//! The kernel has every process write to its own part of `/proc` alone, but root may also write to what belongs to the
//! whole machine (`/proc/sys`). So for root that part is mounted to be read only, in a name space of mounts that only the
//! plugin has.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount_bind, mount_change, mount_remount};
use rustix::process::geteuid;
use rustix::thread::UnshareFlags;

pub(super) const PROC: &str = "/proc";

/// Sees to it that this thread, and what it starts, can write nowhere in `/proc` but to its own part; whether that is so.
pub(super) fn guard() -> bool {
    !geteuid().is_root() || shared().iter().all(|path| is_read_only(path)) || mounted().is_ok()
}

/// Mounts what is the machine's to be read only, for this thread.
fn mounted() -> Result<(), Errno> {
    #[expect(deprecated, reason = "what is unsafe is to unshare descriptors")]
    rustix::thread::unshare(UnshareFlags::NEWNS)?;
    // what is mounted here is not mounted for others
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    for path in shared().iter().filter(|path| !is_read_only(path)) {
        mount_bind(path, path)?;
        mount_remount(path, MountFlags::BIND | MountFlags::RDONLY, "")?;
    }
    Ok(())
}

/// What of `/proc` is no process's, and might be written to.
fn shared() -> Vec<PathBuf> {
    let entries = fs::read_dir(PROC).into_iter().flatten().flatten();
    let is_shared = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        let is_process = name.iter().all(u8::is_ascii_digit);
        !is_process
            && path.symlink_metadata().is_ok_and(|meta| {
                !meta.is_symlink() && (meta.is_dir() || meta.permissions().mode() & 0o222 != 0)
            })
    };
    entries.map(|entry| entry.path()).filter(is_shared).collect()
}

fn is_read_only(path: &Path) -> bool {
    statvfs(path).is_ok_and(|stat| stat.f_flag.contains(StatVfsMountFlags::RDONLY))
}
