//! What a plugin is: how a manifest declares it, where it is found, what its content is in keys, and when it is started.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

#[path = "../../../tests/support/python.rs"]
mod python;

mod hows;
mod plugin_lab;

use std::fs;
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use hows::hows;
use plugin_lab::{PluginLab, headed, package};
use qpipe_engine::graph::Study;
use qpipe_engine::inventory::{self, PluginEntry, Whence};
use qpipe_engine::manifest::{
    DeclaredPlugin, LoadOptions, ManifestError, ManifestErrors, load_plugins, load_study, read_plugins,
    with_plugins_help,
};
use qpipe_engine::plan::NodeState;
use qpipe_engine::run::RunOptions;
use qpipe_engine::schema::SchemaDoc;
use qpipe_engine::worker::wall::Support;
use qpipe_engine::worker::{Sandbox, Transport, WorkerError};
use qpipe_sdk::StageRegistry;

struct Lab(PluginLab);

impl Deref for Lab {
    type Target = PluginLab;

    fn deref(&self) -> &PluginLab {
        &self.0
    }
}

impl Lab {
    /// `None` where there is no Python, after saying so.
    fn new(test: &str) -> Option<Self> {
        if !python::is_here(test) {
            return None;
        }
        let mut lab = PluginLab::new(&["tests/plugins/ledger.py"]);
        // these plugins note beside themselves what they are asked
        let no_walls = Support::None { why: "the test has none" };
        lab.machine = lab.machine.with_walls(no_walls).with_plugins(Some(lab.dir.path().join("user")));
        Some(Self(lab))
    }

    /// A program that can be found by its name.
    fn program(&self, name: &str) {
        let log = self.path("log").display().to_string();
        let text =
            ledger().replace("LOG, WORDS = sys.argv[1], sys.argv[2:]", &format!("LOG, WORDS = {log:?}, []"));
        self.file(name, &format!("#!/usr/bin/env python3\n{text}"));
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// `s`tarted, `d`escribed itself, asked for a `k`ey, `r`an: all since the last time that this was asked.
    fn log(&self) -> String {
        self.taken("log")
    }

    fn declared(&self, text: &str) -> Result<Vec<DeclaredPlugin>, ManifestErrors> {
        read_plugins(&self.manifest(), &headed(text), &LoadOptions::default())
    }

    fn load(&self, text: &str) -> Result<(Study, StageRegistry), ManifestErrors> {
        let registry = self.plugins(text, &StageRegistry::default(), Some(&self.store))?;
        Ok((self.study(text, &registry)?, registry))
    }

    /// What is wrong with a text.
    fn told(&self, text: &str) -> Vec<String> {
        let errors = self.load(text).err().expect("it is refused");
        errors.errors().iter().map(ToString::to_string).collect()
    }

    fn run(&self, text: &str) -> String {
        let (study, registry) = self.load(text).unwrap();
        hows(&self.run_study(&study, &registry, &RunOptions::default()).0.nodes)
    }

    /// Why the only node must run; nothing where it need not.
    fn why(&self, text: &str) -> Vec<String> {
        let (study, registry) = self.load(text).unwrap();
        plugin_lab::why(&self.plan(&study, &registry).nodes[0].state)
    }

    fn inventory(&self, declared: &[DeclaredPlugin]) -> Vec<PluginEntry> {
        inventory::plugins(declared, Some(self.dir.path()), &self.machine, Some(&self.store))
    }
}

fn ledger() -> String {
    fs::read_to_string(package("tests/plugins/ledger.py")).unwrap()
}

/// A study of one node; `words`: what the plugin's block holds besides.
fn study(lab: &Lab, args: &str, words: &str) -> String {
    let log = lab.path("log").display().to_string();
    format!(
        "plugin ledger {{\n command \"python3\"\n file \"ledger.py\"\n args {log:?} {args}\n {words}\n}}\nledger one"
    )
}

#[test]
fn a_block_says_what_a_line_says_and_more() {
    let Some(lab) = Lab::new("a_block_says_what_a_line_says_and_more") else { return };
    let block = r#"plugin ledger {
        command "python3"
        file "ledger.py"
        args "log" "--fast"
        files "table.json" "lib/helper.py"
        semantics 2
        timeout (min)30
        memory (GiB)4
        transport files
        sandbox required
        network #true
        reads "data" (file)"/srv/words"
    }"#;
    let plugin = &lab.declared(block).unwrap()[0].command;
    let line = "plugin ledger command=\"python3\" \"ledger.py\" \"log\" \"--fast\" timeout=(min)30";
    let old = &lab.declared(line).unwrap()[0].command;
    assert_eq!((&plugin.command, &plugin.file, &plugin.args), (&old.command, &old.file, &old.args));
    assert_eq!(plugin.file, Some(lab.path("ledger.py")));
    assert_eq!(plugin.args, ["log", "--fast"]);
    assert_eq!(
        (plugin.limits.job, old.limits.job),
        (Some(Duration::from_mins(30)), Some(Duration::from_mins(30)))
    );
    assert_eq!((plugin.limits.memory, old.limits.memory), (Some(4 << 30), None));
    assert_eq!((plugin.transport, old.transport), (Transport::Files, Transport::Stdio));
    assert_eq!((plugin.semantics, old.semantics), (Some(2), None));
    assert_eq!((plugin.sandbox, old.sandbox), (Sandbox::Required, Sandbox::Wall));
    assert_eq!((plugin.network, old.network), (true, false));
    assert_eq!((&plugin.reads, &old.reads), (&vec![lab.path("data"), "/srv/words".into()], &Vec::new()));
    let named = |name: &str| (name.to_owned(), lab.path(name));
    assert_eq!(plugin.files, [named("table.json"), named("lib/helper.py")]);
    let mixed =
        "plugin ledger \"a\" memory=(KiB)1024 transport=stdio semantics=3 sandbox=#false { command \"x\" }";
    let mixed = &lab.declared(mixed).unwrap()[0].command;
    assert_eq!(mixed.sandbox, Sandbox::Off);
    assert_eq!((mixed.limits.memory, mixed.semantics), (Some(1 << 20), Some(3)));
}

#[test]
fn a_program_with_its_file_and_arguments_reads_the_same_in_every_form() {
    let test = "a_program_with_its_file_and_arguments_reads_the_same_in_every_form";
    let Some(lab) = Lab::new(test) else { return };
    let line = &lab.declared("plugin ledger command=\"python3\" \"ledger.py\" \"log\" \"-v\"").unwrap()[0];
    for other in [
        "plugin ledger command=\"python3\" (file)\"ledger.py\" \"log\" \"-v\"",
        "plugin ledger {\n command \"python3\" (file)\"ledger.py\" \"log\" \"-v\"\n}",
        "plugin ledger {\n command \"python3\" \"ledger.py\"\n args \"log\" \"-v\"\n}",
        "plugin ledger {\n command \"python3\"\n file (file)\"ledger.py\"\n args \"log\" \"-v\"\n}",
    ] {
        let read = &lab.declared(other).unwrap()[0].command;
        let parts = (&read.command, &read.file, &read.args);
        assert_eq!(parts, (&line.command.command, &line.command.file, &line.command.args), "{other}");
    }
    let twice = "plugin a {\n command \"python3\" \"a.py\" \"-v\"\n file \"b.py\"\n args \"-w\"\n}";
    assert_eq!(lab.told(twice), ["the plugin's `file` stands twice", "the plugin's `args` stands twice"]);
    assert_eq!(lab.told("plugin a (var)\"x\""), ["`plugin` takes a file, not another value"]);
}

#[test]
fn what_is_wrong_with_a_plugin_is_shown_where_it_is_written_with_what_helps() {
    let test = "what_is_wrong_with_a_plugin_is_shown_where_it_is_written_with_what_helps";
    let Some(lab) = Lab::new(test) else { return };
    let told = |text: &str| {
        let errors = lab.load(text).err().expect("it is refused");
        let ManifestError::Plugin { span, help, .. } = &errors.errors()[0] else { panic!("{errors}") };
        (headed(text)[span.offset()..span.offset() + span.len()].to_owned(), help.clone())
    };
    let near = Some("did you mean `ledger.py`?".to_owned());
    assert_eq!(
        told("plugin ledger command=\"python3\" \"legder.py\""),
        ("\"legder.py\"".into(), near.clone())
    );
    assert_eq!(told("plugin ledger \"leger.py\""), ("\"leger.py\"".into(), near));
    let (place, help) = told("plugin ledger \"ledger.py\"");
    assert_eq!(place, "\"ledger.py\"");
    assert!(help.unwrap().starts_with("name what runs it, as in `command=\"python3\" \"ledger.py\"`"));
    for (path, why) in
        [("nope", "No such file"), ("/", "the root of everything"), ("/../", "the root of everything")]
    {
        let words = format!("reads \".\" {path:?}");
        let text = study(&lab, "nothing", &words);
        assert_eq!(told(&text).0, format!("{path:?}"));
        let [said] = &lab.told(&text)[..] else { panic!("{path}") };
        assert!(said.contains("the plugin's `reads`") && said.contains(why), "{said}");
    }
    let small = lab.declared("plugin ledger \"a\" memory=4").unwrap_err();
    let ManifestError::BadValue { reason, help, .. } = &small.errors()[0] else { panic!("{small}") };
    assert_eq!(
        (reason.as_str(), help.as_deref()),
        ("a plugin's memory is at least 1 MiB", Some("write `memory=(GiB)4`"))
    );

    let text = study(&lab, "nothing", "") + "\nplugin ledger";
    let twice = lab.load(&text).err().unwrap();
    let [ManifestError::Duplicate { span, first, .. }] = twice.errors() else { panic!("{twice}") };
    let text = headed(&text);
    assert_eq!(span.offset(), text.rfind("plugin ledger").unwrap());
    assert_eq!(first.offset(), text.find("plugin ledger").unwrap());
}

#[test]
fn a_stage_type_that_some_plugin_has_is_told_of() {
    let Some(lab) = Lab::new("a_stage_type_that_some_plugin_has_is_told_of") else { return };
    let helps = |text: &str| {
        let (path, text, options) = (lab.manifest(), headed(text), LoadOptions::default());
        let none = StageRegistry::default();
        let registry = load_plugins(&path, &text, &options, &none, &lab.machine, None).unwrap();
        let errors = load_study(&path, &text, &options, &registry).unwrap_err();
        let errors = with_plugins_help(errors, (&path, &text), &options, &lab.machine, None);
        let ManifestError::UnknownStage { help, .. } = &errors.errors()[0] else { panic!("{errors}") };
        help.clone().unwrap_or_default()
    };
    assert!(!helps("ledger one").starts_with("add "));
    lab.program("plugins/qpipe-stage-ledger");
    assert_eq!(helps("ledger one"), "add `plugin ledger`: there is a program of this name");
    let two = ledger().replace(
        r#"{"stages": [stage], "sources""#,
        r#"{"stages": [stage, {**stage, "kind": "second"}], "sources""#,
    );
    lab.file("ledger.py", &two);
    let text = study(&lab, "nothing", "") + "\nsecond two";
    assert_eq!(helps(&text), "add `plugin second …` with the words of `plugin ledger`, whose program has it");
}

#[test]
fn a_plugin_of_an_included_text_is_looked_for_beside_both() {
    let Some(lab) = Lab::new("a_plugin_of_an_included_text_is_looked_for_beside_both") else { return };
    lab.file("parts/with.kdl", "qpipe 1\nplugin ledger");
    let files = |path: &Path| fs::read_to_string(path);
    let options = LoadOptions { files: &files, ..LoadOptions::default() };
    let text = headed("include \"parts/with.kdl\"\nledger one");
    let load =
        || load_plugins(&lab.manifest(), &text, &options, &StageRegistry::default(), &lab.machine, None);
    let program = |name: &str| {
        let declared = read_plugins(&lab.manifest(), &text, &options).unwrap();
        let found = lab.inventory(&declared)[0].program.clone();
        assert_eq!(found, Some(lab.path(name)));
    };
    assert!(load().is_err());
    lab.program("plugins/qpipe-stage-ledger");
    load().unwrap();
    program("plugins/qpipe-stage-ledger");
    lab.program("parts/plugins/qpipe-stage-ledger");
    program("parts/plugins/qpipe-stage-ledger");
}

#[test]
fn the_schema_of_a_plugin_is_shown() {
    let Some(lab) = Lab::new("the_schema_of_a_plugin_is_shown") else { return };
    let none = StageRegistry::default();
    let find = |name: &str| inventory::with_found(&none, name, Some(lab.dir.path()), &lab.machine, None);
    assert!(matches!(find("ledger"), Err(WorkerError::NoPlugin(_))));
    lab.program("plugins/qpipe-stage-ledger");
    let registry = find("ledger").unwrap();
    let text = SchemaDoc::new(&registry, Some("ledger")).unwrap().text();
    assert!(text.contains("  entry: "), "{text}");
    let listed = serde_json::to_value(&lab.inventory(&[])[0]).unwrap();
    let paths = |doc: &serde_json::Value| {
        let nodes = doc["nodes"].as_array().unwrap();
        nodes.iter().map(|node| node["params"][0]["path"].clone()).collect::<Vec<_>>()
    };
    assert!(paths(&listed["stages"][0]["schema"]).contains(&"entry".into()), "{listed}");
}

#[test]
fn every_slip_in_a_block_is_told_at_once() {
    let Some(lab) = Lab::new("every_slip_in_a_block_is_told_at_once") else { return };
    let text = r#"plugin a command="python3" "x.py" "-v" timeout=0 fiels="b" files="c" {
        command "python3"
        file "y.py"
        args "-w"
        memroy (GiB)4
        memory -1
        transport pigeon
        semantics "two"
        digest "b3:12"
        files "t" "t" 3
        sandbox "requird"
        network 1
        reads 2
        timeout
    }"#;
    assert_eq!(
        lab.told(text),
        [
            "a timeout is a number of seconds above 0",
            "`plugin` has no property `fiels`",
            "`plugin` has no property `files`",
            "the plugin's `command` stands twice",
            "the plugin's `file` stands twice",
            "the plugin's `args` stands twice",
            "unknown `memroy` in `plugin`",
            "a plugin's memory is at least 1 MiB",
            "`pigeon` is no choice of `transport`",
            "a plugin's semantics is a number, raised with each change",
            "this is no digest: expected 64 hex digits, found 2 bytes",
            "the file `t` stands twice",
            "`files` takes a file, not another value",
            "`requird` is no choice of `sandbox`",
            "a plugin's network is `#true` or `#false`",
            "`reads` takes a file, not another value",
            "`timeout` needs a value",
        ]
    );
}

#[test]
fn a_plugin_that_names_no_program_is_looked_for() {
    let Some(lab) = Lab::new("a_plugin_that_names_no_program_is_looked_for") else { return };
    let text = "plugin ledger\nledger one";
    let errors = lab.load(text).err().unwrap();
    let ManifestError::Plugin { reason, help, .. } = &errors.errors()[0] else { panic!("{errors}") };
    let (beside, user) = (lab.path("plugins"), lab.path("user"));
    let looked = format!(
        "there is no program `qpipe-stage-ledger`; looked in `{}`, `{}`, `",
        beside.display(),
        user.display()
    );
    assert!(reason.starts_with(&looked), "{reason}");
    assert_eq!(help.as_deref(), Some("name its program: `plugin ledger command=\"python3\" \"FILE\"`"));

    lab.program("user/ledger/qpipe-stage-ledger");
    assert_eq!(lab.run(text), "r");
    let near = lab.load("plugin leger\nleger one").err().unwrap();
    let ManifestError::Plugin { help, .. } = &near.errors()[0] else { panic!("{near}") };
    assert_eq!(help.as_deref(), Some("did you mean `ledger`?"));

    lab.program("plugins/qpipe-stage-ledger");
    assert_eq!(lab.run(text), "c", "the same program in the first place");
    fs::set_permissions(lab.path("plugins/qpipe-stage-ledger"), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(lab.told(text)[0].ends_with("plugins/qpipe-stage-ledger` is not executable"));
}

#[test]
fn declared_files_and_told_sources_are_the_plugin_s_content() {
    let Some(lab) = Lab::new("declared_files_and_told_sources_are_the_plugin_s_content") else { return };
    lab.file("lib/table.json", "{}");
    lab.file("helper.txt", "helps");
    let text = study(&lab, "nothing", "files \"lib/table.json\"");
    assert_eq!(lab.run(&text), "r");
    assert_eq!(lab.run(&text), "c");
    lab.file("lib/table.json", "{ }");
    assert_eq!(lab.why(&text), ["plugin `ledger` changed: table.json"]);
    lab.file("helper.txt", "helps more");
    assert_eq!(lab.why(&text), ["plugin `ledger` changed: table.json, helper.txt"]);
    lab.file("ledger.py", &(ledger() + "#\n"));
    lab.file("lib/table.json", "{}");
    lab.file("helper.txt", "helps");
    assert_eq!(lab.why(&text), ["plugin `ledger` changed: ledger.py"]);
    lab.file("ledger.py", &ledger());
    assert_eq!(lab.why(&text), [""; 0]);
    let less = text.replace("files \"lib/table.json\"", "");
    assert_eq!(lab.why(&less), ["plugin `ledger` changed: lib/table.json is gone"]);
    fs::remove_file(lab.path("lib/table.json")).unwrap();
    let refused = &lab.told(&text)[0];
    assert!(refused.contains("cannot read the plugin's `file:lib/table.json` at `/"), "{refused}");
}

#[test]
fn semantics_stands_in_place_of_the_content() {
    let Some(lab) = Lab::new("semantics_stands_in_place_of_the_content") else { return };
    lab.file("helper.txt", "helps");
    let (content, one) = (study(&lab, "nothing", ""), study(&lab, "nothing", "semantics 1"));
    assert_eq!(lab.run(&content), "r");
    assert_eq!(lab.why(&one), ["plugin `ledger` changed: semantics 1 in place of its content"]);
    assert_eq!(lab.run(&one), "r");
    lab.file("helper.txt", "helps more");
    lab.file("ledger.py", &(ledger() + "#\n"));
    assert_eq!(lab.run(&one), "c");
    let two = study(&lab, "nothing", "semantics 2");
    assert_eq!(lab.why(&two), ["plugin `ledger` changed: semantics 1 → 2"]);
    assert_eq!(lab.why(&content), ["plugin `ledger` changed: its content in place of semantics 1"]);
    assert_eq!(
        lab.why(&study(&lab, "nothing more", "semantics 1")),
        ["plugin `ledger` changed: its arguments"]
    );
}

#[test]
fn a_digest_is_what_the_content_must_be() {
    let Some(lab) = Lab::new("a_digest_is_what_the_content_must_be") else { return };
    lab.file("helper.txt", "helps");
    let declared = lab.declared(&study(&lab, "nothing", "")).unwrap();
    let digest = lab.inventory(&declared)[0].digest.clone().unwrap();
    let pinned = study(&lab, "nothing", &format!("digest {digest:?}"));
    assert_eq!(lab.run(&pinned), "r");
    lab.file("helper.txt", "helps more");
    let errors = lab.load(&pinned).err().unwrap();
    let ManifestError::PluginDigest { name, expected, found, span } = &errors.errors()[0] else {
        panic!("{errors}")
    };
    assert_eq!((name.as_str(), expected), ("ledger", &digest));
    assert!(found.starts_with("b3:") && *found != digest, "{found}");
    let text = headed(&pinned);
    assert_eq!(text[span.offset()..span.offset() + span.len()], format!("{digest:?}"));
    let told = errors.errors()[0].to_string();
    assert_eq!(told, format!("the content of plugin `ledger` is {found}, not {digest}"));
    lab.file("helper.txt", "helps");
    lab.load(&pinned).unwrap();
}

#[test]
fn a_plugin_that_has_not_changed_is_not_started_to_plan() {
    let Some(lab) = Lab::new("a_plugin_that_has_not_changed_is_not_started_to_plan") else { return };
    lab.file("helper.txt", "helps");
    let text = study(&lab, "nothing", "");
    assert_eq!((lab.run(&text).as_str(), lab.log().as_str()), ("r", "sdr"));
    assert_eq!((lab.why(&text).len(), lab.log().as_str()), (0, ""));
    assert_eq!((lab.run(&text).as_str(), lab.log().as_str()), ("c", ""));

    lab.file("helper.txt", "helps more");
    let (_, registry) = lab.load(&text).unwrap();
    assert_eq!(registry.get("ledger").unwrap().spec().doc, "helps more");
    assert_eq!(lab.log(), "sd", "a file that it told of has changed");
    lab.file("ledger.py", &(ledger() + "#\n"));
    lab.load(&text).unwrap();
    assert_eq!(lab.log(), "sd", "its script has changed");
    lab.load(&text.replace("nothing", "nothing more")).unwrap();
    assert_eq!(lab.log(), "sd", "another argument");
    lab.load(&text).unwrap();
    assert_eq!(lab.log(), "");
}

#[test]
fn what_is_kept_is_believed_only_if_it_is_whole_and_of_this_plugin() {
    let test = "what_is_kept_is_believed_only_if_it_is_whole_and_of_this_plugin";
    let Some(lab) = Lab::new(test) else { return };
    let text = study(&lab, "nothing", "");
    lab.load(&text).unwrap();
    assert_eq!(lab.log(), "sd");
    let kept = || fs::read_dir(lab.path("store/plugins")).unwrap().map(|entry| entry.unwrap().path());
    let file = kept().next().unwrap();
    let whole = fs::read_to_string(&file).unwrap();
    for broken in
        ["", "[]", "\u{0}", &whole[1..], &whole.replace("no helper", "a helper"), &whole.replace("of", "fo")]
    {
        fs::write(&file, broken).unwrap();
        lab.load(&text).unwrap();
        assert_eq!(lab.log(), "sd", "{broken}");
        lab.load(&text).unwrap();
        assert_eq!(lab.log(), "", "it was kept again");
    }
    lab.load(&text.replace("nothing", "nothing more")).unwrap();
    assert_eq!(lab.log(), "sd");
    let other = kept().find(|path| *path != file).unwrap();
    fs::copy(&other, &file).unwrap();
    lab.load(&text).unwrap();
    assert_eq!(lab.log(), "sd", "another plugin's");
    fs::remove_dir_all(lab.path("store/plugins")).unwrap();
    fs::write(lab.path("store/plugins"), "in the way").unwrap();
    lab.load(&text).unwrap();
    lab.load(&text).unwrap();
    assert_eq!(lab.log(), "sdsd", "nothing can be kept, and nothing fails");
}

#[test]
fn answers_that_depend_on_parameters_alone_are_kept() {
    let Some(lab) = Lab::new("answers_that_depend_on_parameters_alone_are_kept") else { return };
    lab.file("helper.txt", "helps");
    lab.file("book.txt", "a");
    let one = study(&lab, "params", "");
    let two = one.replace("ledger one", "ledger one { entry two; book \"book.txt\"; }");
    assert_eq!((lab.run(&one).as_str(), lab.log().as_str()), ("r", "sdkr"));
    assert_eq!((lab.run(&one).as_str(), lab.log().as_str()), ("c", ""));
    assert_eq!((lab.run(&two).as_str(), lab.log().as_str()), ("r", "skr"));
    assert_eq!((lab.run(&one).as_str(), lab.run(&two).as_str(), lab.log().as_str()), ("c", "c", ""));
    lab.file("book.txt", "b");
    assert_eq!(
        (lab.why(&two).len(), lab.log().as_str()),
        (1, "sk"),
        "a file among the parameters has changed"
    );
    let bad = one.replace("ledger one", "ledger one { entry bad; }");
    assert_eq!((lab.told(&bad), lab.log().as_str()), (vec!["`one.entry`: not this".to_owned()], "sk"));
    assert_eq!((lab.told(&bad), lab.log().as_str()), (vec!["`one.entry`: not this".to_owned()], ""));
    lab.file("helper.txt", "helps more");
    lab.why(&one);
    assert_eq!(lab.log(), "sdk", "the program has changed");
}

#[test]
fn a_plugin_is_asked_as_often_as_it_says() {
    let Some(lab) = Lab::new("a_plugin_is_asked_as_often_as_it_says") else { return };
    for (words, first, then) in [
        ("machine", "sdkr", "sk"),
        ("", "sdkr", "sk"),
        ("params measurement", "sdkr", "sk"),
        ("params old", "sdkr", "sdk"),
        ("nothing", "sdr", ""),
    ] {
        let text = study(&lab, words, "");
        assert_eq!((lab.run(&text).as_str(), lab.log().as_str()), ("r", first), "{words}");
        assert_eq!((lab.run(&text).as_str(), lab.log().as_str()), ("c", then), "{words}");
    }
    let unmeasured = study(&lab, "nothing measurement", "");
    assert!(lab.told(&unmeasured)[0].contains("must say what it measured on"));
}

#[test]
fn without_a_store_everything_is_asked() {
    let Some(lab) = Lab::new("without_a_store_everything_is_asked") else { return };
    let (text, none) = (study(&lab, "nothing", ""), StageRegistry::default());
    for _ in 0..2 {
        lab.plugins(&text, &none, None).unwrap();
        assert_eq!(lab.log(), "sd");
    }
    assert!(!lab.path("store/plugins").exists());

    // the first run keeps what was said before it made the store
    let text = study(&lab, "params", "");
    let registry = lab.plugins(&text, &none, None).unwrap();
    let study = lab.study(&text, &registry).unwrap();
    let done = lab.run_study(&study, &registry, &RunOptions::default()).0;
    assert_eq!((hows(&done.nodes).as_str(), lab.log().as_str()), ("r", "sdkr"));
    let registry = lab.plugins(&text, &none, Some(&lab.store)).unwrap();
    let planned = lab.plan(&study, &registry);
    assert!(matches!(planned.nodes[0].state, NodeState::Hit(_)));
    assert_eq!(lab.log(), "");
}

#[test]
fn every_plugin_is_listed_with_what_it_has_or_why_it_cannot_be_used() {
    let test = "every_plugin_is_listed_with_what_it_has_or_why_it_cannot_be_used";
    let Some(lab) = Lab::new(test) else { return };
    lab.file("helper.txt", "keeps books\nof all kinds");
    lab.program("plugins/ledger/qpipe-stage-ledger");
    lab.program("user/qpipe-stage-other");
    lab.file("user/dead/qpipe-stage-dead", "#!/bin/sh\necho gone >&2\nexit 1\n");
    fs::set_permissions(lab.path("user/dead/qpipe-stage-dead"), fs::Permissions::from_mode(0o755)).unwrap();
    let declared = study(&lab, "nothing", "") + "\nplugin away \"nowhere\"\nplugin ledger";
    let entries = lab.inventory(&lab.declared(&declared).unwrap());
    let of = |name: &str, from: Whence| {
        entries
            .iter()
            .find(|entry| entry.name == name && entry.from == from)
            .unwrap_or_else(|| panic!("{entries:#?}"))
    };
    let own = of("ledger", Whence::Study);
    assert_eq!((own.about(), own.problem.as_deref()), ("keeps books", None));
    assert_eq!((own.worker.as_deref(), own.protocol.as_deref()), (Some("ledger 1"), Some("1.1")));
    assert_eq!(own.script, Some(lab.path("ledger.py")));
    assert!(own.digest.as_ref().unwrap().starts_with(own.short_digest.as_ref().unwrap()));
    assert_eq!((own.stages[0].kind.as_str(), own.stages[0].semantics), ("ledger", 1));
    let found: Vec<Whence> = entries.iter().filter(|e| e.name == "ledger").map(|e| e.from).collect();
    assert_eq!(found, [Whence::Study, Whence::Study], "what the study names is not listed again");
    assert!(of("away", Whence::Study).about().contains("there is no program"));
    assert_eq!(of("away", Whence::Study).file(), Some(lab.path("nowhere").as_path()));
    assert_eq!(of("dead", Whence::User).about(), "gone", "the last line says what happened");
    assert_eq!(of("other", Whence::User).about(), "the worker has no stage type `other`, only `ledger`");
    let dead = of("dead", Whence::User);
    assert_eq!(dead.problem.as_deref(), Some("the worker was lost: exit status 1\ngone"));
    assert_eq!(dead.program.as_deref(), Some(lab.path("user/dead/qpipe-stage-dead").as_path()));
    let json = serde_json::to_value(own).unwrap();
    assert_eq!((&json["from"], json["script"].is_string()), (&"study".into(), true));
    assert!(Path::new(json["program"].as_str().unwrap()).is_absolute());
    lab.log();
    lab.inventory(&lab.declared(&declared).unwrap());
    assert_eq!(lab.log(), "", "what is kept in the store is not asked again");
}
