//! Disks that are full or may not be written: the store's exit code, a message that names it, and nothing lost.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::program::Project;

/// A small file system in memory, gone when dropped.
struct Disk(PathBuf);

impl Disk {
    /// `None` where this process may not mount anything.
    fn mount(at: &Path, options: &str) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        mount(&["-t", "tmpfs", "-o", options, "tmpfs"], at).then(|| Self(at.to_owned()))
    }

    fn remount(&self, options: &str) {
        assert!(mount(&["-o", &format!("remount,{options}")], &self.0));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn mount(args: &[&str], at: &Path) -> bool {
    Command::new("mount").args(args).arg(at).output().is_ok_and(|output| output.status.success())
}

fn run(project: &Project) -> (Option<i32>, String) {
    project.run(&["run", "study.kdl", "--store", "disk/store"])
}

#[test]
fn a_full_disk_is_told_and_the_run_continues_when_there_is_room() {
    let project = Project::new();
    let Some(disk) = Disk::mount(&project.path().join("disk"), "size=96k") else {
        return eprintln!("SKIPPED: no file system can be mounted here");
    };
    let (code, errors) = run(&project);
    assert_eq!(code, Some(6), "{errors}");
    assert!(errors.contains("no space left"), "{errors}");
    let before = project.started();
    disk.remount("size=64m");
    let (code, errors) = run(&project);
    assert_eq!(code, Some(0), "{errors}");
    let started = project.started();
    let again = started[before.len()..].iter().filter(|key| before.contains(key)).count();
    assert!(again <= 1, "only the unit that met the full disk is done again, not {again}");
}

#[test]
fn a_complete_store_can_be_read_where_it_cannot_be_written() {
    let project = Project::new();
    let Some(disk) = Disk::mount(&project.path().join("disk"), "size=64m") else {
        return eprintln!("SKIPPED: no file system can be mounted here");
    };
    assert_eq!(run(&project).0, Some(0));
    disk.remount("ro");
    let (code, errors) = run(&project);
    assert_eq!(code, Some(0), "{errors}");
    assert!(errors.contains("cached 7 · failed 0") && errors.contains("leaves no record"), "{errors}");
    let (code, errors) = project.run(&["run", "study.kdl", "--store", "disk/store", "--set", "base.seed=8"]);
    assert_eq!(code, Some(6), "{errors}");
    assert!(errors.contains("read-only"), "{errors}");
}

#[test]
fn a_store_cannot_be_made_in_a_read_only_folder() {
    use std::os::unix::fs::PermissionsExt;
    let project = Project::new();
    let folder = project.path().join("disk");
    let mounted = Disk::mount(&folder, "ro");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o555)).unwrap_or_default();
    if mounted.is_none() && fs::write(folder.join("probe"), "").is_ok() {
        return eprintln!("SKIPPED: this user may write everywhere and mount nothing");
    }
    let (code, errors) = run(&project);
    assert_eq!(code, Some(6), "{errors}");
    assert!(errors.contains("read-only"), "{errors}");
}
