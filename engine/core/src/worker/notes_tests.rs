use super::*;
use crate::worker::content::Body;

struct Lab {
    dir: tempfile::TempDir,
    store: Store,
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        Self { dir, store }
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn notes(&self, program: &str, args: &[&str]) -> Notes {
        let parts = [Part::new("program", self.dir.path().join(program))];
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let content = Body::new(parts.to_vec(), None).now().unwrap();
        Notes::of(&self.store, &parts, &args, &content)
    }

    fn told(&self, sources: &[&str]) -> Told {
        let source = |name: &&str| ((*name).to_owned(), self.dir.path().join(name));
        let sources = Some(sources.iter().map(source).collect());
        Told { worker: "w 1".into(), minor: 1, stages: vec![], keys: true, estimates: false, sources }
    }

    fn content(&self, told: &Told) -> Content {
        digests(&self.store, told).unwrap()
    }

    fn only_file(&self) -> PathBuf {
        fs::read_dir(folder(&self.store)).unwrap().next().unwrap().unwrap().path()
    }
}

#[test]
fn a_description_holds_for_one_program_and_its_sources() {
    let lab = Lab::new();
    lab.file("a", "program");
    lab.file("b", "program");
    lab.file("module", "m");
    let told = lab.told(&["module"]);
    assert_eq!(lab.notes("a", &[]).told().map(|told| told.0), None);
    lab.notes("a", &[]).keep(&told, &lab.content(&told));
    assert_eq!(lab.notes("a", &[]).told().map(|told| told.0), Some(told.clone()));
    assert_eq!(lab.notes("b", &[]).told().map(|told| told.0), None, "the same program somewhere else");
    assert_eq!(lab.notes("a", &["--fast"]).told().map(|told| told.0), None);
    lab.file("module", "another");
    assert_eq!(lab.notes("a", &[]).told().map(|told| told.0), None);
    lab.file("module", "m");
    assert_eq!(lab.notes("a", &[]).told().map(|told| told.0), Some(told));
    lab.file("a", "changed");
    assert_eq!(lab.notes("a", &[]).told().map(|told| told.0), None);
}

#[test]
fn what_is_damaged_or_another_s_is_none() {
    let lab = Lab::new();
    lab.file("a", "program");
    lab.file("b", "another");
    let told = lab.told(&[]);
    lab.notes("a", &[]).keep(&told, &lab.content(&told));
    let path = lab.only_file();
    let text = fs::read_to_string(&path).unwrap();
    for broken in ["", "{}", "null", &text[..text.len() / 2], &text.replace("w 1", "w 2")] {
        fs::write(&path, broken).unwrap();
        assert_eq!(lab.notes("a", &[]).told().map(|told| told.0), None, "{broken}");
    }
    let other = lab.notes("b", &[]);
    fs::write(other.path(other.name, "json"), &text).unwrap();
    assert_eq!(other.told().map(|told| told.0), None);
    fs::write(&path, &text).unwrap();
    assert_eq!(lab.notes("a", &[]).told().map(|told| told.0), Some(told));
}

#[test]
fn answers_are_kept_by_parameters_and_the_content_of_files() {
    let lab = Lab::new();
    lab.file("a", "program");
    lab.file("module", "m");
    let text = lab.file("text", "one");
    let (notes, told) = (lab.notes("a", &[]), lab.told(&["module"]));
    let mut answers = notes.answers(&lab.content(&told));
    let keyed = Keyed { numerics: Some("abacus".into()), ..Keyed::default() };
    let ask =
        |answers: &Answers| answers.question("s", "{}", [("text", text.as_path())].into_iter()).unwrap();
    let asked = ask(&answers);
    assert_ne!(asked, answers.question("s", "{\"a\":1}", [("text", text.as_path())].into_iter()).unwrap());
    answers.keep(asked, &Keyed { id: 7, ..keyed.clone() });
    let broken = "{\"of\":\"half a li";
    append(&lab.only_file(), broken).unwrap();
    let again = notes.answers(&lab.content(&told));
    assert_eq!(again.get(&ask(&again)), Some(keyed));
    lab.file("text", "two");
    assert_eq!(again.get(&ask(&again)), None);
    lab.file("text", "one");
    lab.file("module", "another");
    let other = notes.answers(&lab.content(&told));
    assert_eq!(other.get(&ask(&other)), None);
}

#[test]
fn the_newest_files_are_kept() {
    let lab = Lab::new();
    let folder = folder(&lab.store);
    fs::create_dir_all(&folder).unwrap();
    for number in 0..MOST + 9 {
        let file = File::create(folder.join(number.to_string())).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(number as u64)).unwrap();
    }
    tidy(&folder).unwrap();
    assert_eq!(fs::read_dir(&folder).unwrap().count(), MOST);
    assert!(!folder.join("8").exists() && folder.join("9").exists());
}
