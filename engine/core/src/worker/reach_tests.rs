use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn machine(&self, search: &str) -> Machine {
        Machine::new([("PATH".into(), self.path(search).into())], self.dir.path())
    }

    /// Whether the wall lets these be read.
    fn reads(&self, wall: &Wall, names: &[&str]) -> Vec<bool> {
        let covers = |name: &&str| {
            assert!(self.path(name).exists(), "{name}");
            let mut wanted = Wall::default();
            wanted.open(&self.path(name), Access::Read);
            wall.covers(&wanted)
        };
        names.iter().map(covers).collect()
    }
}

#[test]
fn of_a_plugin_s_own_folder_the_hidden_the_engine_s_and_what_leads_away_stay_out() {
    let place = Place::new();
    for name in ["p/a.py", "p/kit/b.py", "p/.env", "p/.git/config", "p/store/blob", "else/secret", "c.py"] {
        place.file(name, "");
    }
    symlink(place.path("else"), place.path("p/away")).unwrap();
    symlink(place.path("c.py"), place.path("p/c.py")).unwrap();
    let reach = Reach { program: "/bin/sh".into(), file: Some(place.path("p/a.py")), ..Reach::default() };
    let names =
        ["p/a.py", "p/kit/b.py", "p/c.py", "p/.env", "p/.git/config", "p/store/blob", "p/away/secret"];
    let avoid = [place.path("p/store").canonicalize().unwrap()];
    let wall = reach.wall(&place.machine("none"), Own::Without(&avoid));
    assert_eq!(place.reads(&wall, &names), [true, true, true, false, false, false, false]);

    let mut wall = reach.wall(&place.machine("none"), Own::Told);
    assert_eq!(place.reads(&wall, &names), [false; 7]);
    parts(&mut wall, [place.path("p/kit/b.py").as_path()].into_iter());
    assert_eq!(place.reads(&wall, &names[..3]), [false, true, false]);
}

#[test]
fn a_program_is_followed_to_where_it_comes_from() {
    let place = Place::new();
    place.file("python/bin/python3.12", "");
    place.file("python/lib/os.py", "");
    place.file("venv/lib/torch.py", "");
    place.file("venv/pyvenv.cfg", "");
    place.file("venv/notes", "");
    place.file("manager/versions/1/bin/tool", "");
    place.file("manager/libexec/manager", "");
    place.file("manager/secret", "");
    place.file("manager/shims/tool", &format!("#!{}\n", place.path("manager/libexec/manager").display()));
    place.file("tools/run", "#!/usr/bin/env -S tool --fast\n");
    fs::create_dir(place.path("venv/bin")).unwrap();
    symlink("../../python/bin/python3.12", place.path("venv/bin/python3")).unwrap();

    let reads = |program: &str, names: &[&str]| {
        let reach = Reach { program: place.path(program), ..Reach::default() };
        place.reads(&reach.wall(&place.machine("manager/shims"), Own::Told), names)
    };
    let names =
        ["venv/bin/python3", "venv/lib/torch.py", "venv/pyvenv.cfg", "python/lib/os.py", "venv/notes"];
    assert_eq!(reads("venv/bin/python3", &names), [true, true, true, true, false]);
    let names = [
        "tools/run",
        "manager/shims/tool",
        "manager/versions/1/bin/tool",
        "manager/libexec/manager",
        "manager/secret",
    ];
    assert_eq!(reads("tools/run", &names), [true, true, true, true, false]);
}

#[test]
fn the_interpreter_of_a_script_is_found() {
    let place = Place::new();
    let tool = place.file("bin/tool", "");
    let search = place.path("bin");
    let of = |text: &str| interpreter(&place.file("script", text), Some(search.as_os_str()));
    assert_eq!(of("#! /usr/bin/env tool\n"), Some(tool.clone()));
    assert_eq!(of("#!/usr/bin/env -S A=b tool -x"), Some(tool));
    assert_eq!(of("#!/opt/x/python3 -u\n"), Some("/opt/x/python3".into()));
    assert_eq!([of("#!\n"), of("tool\n"), of(""), of("#!/usr/bin/env nothing\n")], [None, None, None, None]);
}
