use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{RenameFlags, renameat_with};

use super::*;

/// A folder `work` with files and links, beside a secret.
fn lab() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let work = dir.path().join("work");
    fs::create_dir_all(work.join("out/deep")).unwrap();
    fs::create_dir(dir.path().join("secret")).unwrap();
    fs::write(dir.path().join("secret/a"), "secret").unwrap();
    fs::write(work.join("out/a"), "mine").unwrap();
    (dir, work)
}

fn text(found: Result<Found, Lost>) -> String {
    match found {
        Ok(Found::File(mut file)) => {
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            text
        }
        Ok(Found::Folder(_)) => "folder".into(),
        Ok(Found::Special) => "special".into(),
        Err(Lost::Outside) => "outside".into(),
        Err(Lost::Io(error)) => format!("{:?}", error.kind()),
    }
}

#[test]
fn links_are_followed_within_and_no_further() {
    let (dir, work) = lab();
    let link = |target: &Path, name: &str| symlink(target, work.join(name)).unwrap();
    link(Path::new("out/a"), "alias");
    link(&work.join("out"), "absolute");
    link(Path::new("../a"), "out/deep/up");
    link(Path::new("../secret"), "out-of-it");
    link(&dir.path().join("secret/a"), "secret");
    link(Path::new("out/../../secret/a"), "around");
    link(Path::new("loop"), "loop");
    link(Path::new("/proc/self/cwd"), "magic");
    rustix::fs::mknodat(CWD, work.join("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let folder = Folder::open(&work).unwrap();
    for (path, expected) in [
        ("out/a", "mine"),
        ("./out/./a", "mine"),
        ("alias", "mine"),
        ("absolute/a", "mine"),
        ("absolute/deep/up", "mine"),
        ("out", "folder"),
        ("out/deep/..", "folder"),
        ("pipe", "special"),
        ("nowhere", "NotFound"),
        ("out/a/b", "NotADirectory"),
        ("loop", "FilesystemLoop"),
        ("", "outside"),
        (".", "outside"),
        ("out/..", "outside"),
        ("..", "outside"),
        ("../work/out/a", "outside"),
        ("out-of-it/a", "outside"),
        ("secret", "outside"),
        ("around", "outside"),
        ("magic", "outside"),
        ("/etc/hostname", "outside"),
    ] {
        assert_eq!(text(folder.find(Path::new(path))), expected, "{path}");
    }
}

#[test]
fn what_is_swapped_meanwhile_leads_nowhere_else() {
    let (_dir, work) = lab();
    symlink("../secret", work.join("link")).unwrap();
    let (folder, stop) = (Folder::open(&work).unwrap(), AtomicBool::new(false));
    let (mut mine, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let (out, link) = (work.join("out"), work.join("link"));
                renameat_with(CWD, &out, CWD, &link, RenameFlags::EXCHANGE).unwrap();
            }
        });
        for _ in 0..20_000 {
            match text(folder.find(Path::new("out/a"))).as_str() {
                "mine" => mine += 1,
                "outside" | "InvalidInput" | "NotFound" => refused += 1,
                other => panic!("{other}"),
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(mine > 0 && refused > 0, "{mine} {refused}");
}
