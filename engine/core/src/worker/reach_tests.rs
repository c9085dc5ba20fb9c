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
fn of_a_user_s_folder_programs_are_seen_and_not_what_else_lies_beside_them() {
    let place = Place::new();
    let beside = ["lib/a", "share/keyrings", "etc/secret"];
    for name in ["home", "home/.local", "env", "other"] {
        place.file(&format!("{name}/bin/tool"), "");
        for file in beside {
            place.file(&format!("{name}/{file}"), "");
        }
    }
    let reads = |program: &str, prefix: &str| {
        let search =
            std::env::join_paths(["home/bin", "home/.local/bin", "other/bin"].map(|bin| place.path(bin)));
        let variables = [("PATH".into(), search.unwrap()), ("HOME".into(), place.path("home").into())];
        let machine = Machine::new(variables, place.dir.path());
        let reach = Reach { program: place.path(program), ..Reach::default() };
        let names = beside.map(|file| format!("{prefix}/{file}"));
        place.reads(&reach.wall(&machine, Own::Told), &names.each_ref().map(String::as_str))
    };
    // on the search path alone, whatever it is called
    for prefix in ["home", "home/.local", "other"] {
        assert_eq!(reads("env/bin/tool", prefix), [true, false, false], "{prefix}");
    }
    // where the program comes from
    assert_eq!(reads("env/bin/tool", "env"), [true, true, true]);
    assert_eq!(reads("home/bin/tool", "home"), [true, false, false]);
    assert_eq!(reads("home/.local/bin/tool", "home/.local"), [true, false, false]);
}

#[test]
fn of_what_a_plugin_tells_of_files_alone_are_seen() {
    let place = Place::new();
    for name in ["p/a.py", "p/__pycache__/a.pyc", "q/b.py", "else/b.pyc"] {
        place.file(name, "");
    }
    symlink(place.path("else"), place.path("q/__pycache__")).unwrap();
    symlink(place.path("else"), place.path("q/c.py")).unwrap();
    let mut wall = Wall::default();
    let told = ["p/a.py", "q/b.py", "q/c.py", "else"].map(|name| place.path(name));
    parts(&mut wall, told.iter().map(PathBuf::as_path));
    let names = ["p/a.py", "p/__pycache__/a.pyc", "q/b.py", "else/b.pyc"];
    assert_eq!(place.reads(&wall, &names), [true, true, true, false]);
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
