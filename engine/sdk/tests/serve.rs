//! The worker's side of the protocol, against the golden transcripts.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod transcript;

use std::collections::BTreeMap;
use std::io::{self, BufReader, Write};
use std::time::Duration;

use qpipe_cache::{Digest, KeyDoc, Store};
use qpipe_sdk::protocol::{LineError, ServeError, serve, serve_plugin, transport};
use qpipe_sdk::{
    Artifact, ArtifactKind, Better, Context, Determinism, KeyedBy, Metric, NodeSpec, Outcome, ParamSpec,
    ParamType, Params, PortSpec, Schema, Stage, StageError, StageRegistry, StageSpec, UnitOutput, Value,
};
use transcript::{Side, Transcript};

/// The stage of the transcripts.
struct Scale(StageSpec);

impl Scale {
    fn registry() -> StageRegistry {
        StageRegistry::default().with(Box::new(Self::new()))
    }

    fn new() -> Self {
        let factor = ParamSpec::new("factor", ParamType::Int { min: 1, max: 9 }, "by how much");
        let port = PortSpec {
            name: "model",
            doc: "what is scaled",
            kind: ArtifactKind::new("model"),
            required: true,
        };
        Self(StageSpec {
            kind: "scale",
            semantics: 4,
            doc: "scales",
            inputs: vec![port],
            output: ArtifactKind::new("model"),
            schema: Schema::new(vec![NodeSpec::value(factor.default(Value::Int(2)))]),
            determinism: Determinism::Exact,
        })
    }
}

impl Stage for Scale {
    fn spec(&self) -> &StageSpec {
        &self.0
    }

    fn check(&self, params: &Params) -> Vec<(String, String)> {
        let bad = params.int("factor") == Some(7);
        bad.then(|| ("factor".to_owned(), "7 is no factor".to_owned())).into_iter().collect()
    }

    fn numerics(&self, _params: &Params) -> Option<String> {
        Some("cpu".into())
    }

    fn run(&self, ctx: &Context<'_>) -> Result<Outcome, StageError> {
        let factor = ctx.params.int("factor").unwrap_or(1) as usize;
        match factor {
            8 => {
                ctx.progress(0, 1, "modules");
                loop {
                    ctx.checkpoint()?;
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
            9 => return Err(StageError::OomHost("9 is too much".into())),
            6 => panic!("the kernel went wild"),
            _ => {}
        }
        ctx.log(format!("on {}", ctx.device));
        let model = ctx.input("model")?.digest;
        let doc = KeyDoc::new("scale/unit", 1).param("factor", factor as i64).input("model", model);
        let record = ctx.unit("scaled", &doc, || {
            let scaled = ctx.store.put_bytes(&ctx.store.read(&model)?.repeat(factor))?;
            Ok(UnitOutput { blobs: BTreeMap::from([("b".into(), scaled)]), metrics: serde_json::Value::Null })
        })?;
        ctx.progress(1, 1, "modules");
        let output = &record.outputs["b"];
        let bytes = Metric::new("bytes", output.bytes as f64, "bytes", Better::Lower).headline();
        let error = Metric::new("error", f64::INFINITY, "", Better::Lower);
        let error = error.n(7).stderr(0.5).range(0.0, f64::INFINITY);
        Ok(Outcome { artifact: Artifact::single("model", output.digest), metrics: vec![bytes, error] })
    }
}

/// A conversation with a worker in a thread.
fn talk(engine: impl FnOnce(&mut BufReader<io::PipeReader>, &mut io::PipeWriter)) -> Result<(), ServeError> {
    let (their_input, mut our_output) = io::pipe().unwrap();
    let (our_input, their_output) = io::pipe().unwrap();
    std::thread::scope(|scope| {
        let worker = scope
            .spawn(move || serve(&Scale::registry(), "scale 1", BufReader::new(their_input), their_output));
        let mut our_input = BufReader::new(our_input);
        engine(&mut our_input, &mut our_output);
        drop(our_output);
        worker.join().unwrap()
    })
}

fn names(dir: &tempfile::TempDir) -> BTreeMap<&'static str, String> {
    let store = Store::open(&dir.path().join("store")).unwrap();
    let weights = store.put_bytes(b"weights").unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    BTreeMap::from([
        ("ENGINE", "qpipe 0.1.0".to_owned()),
        ("STORE", path("store")),
        ("SCRATCH", path("scratch")),
        ("INPUT", store.blob_path(&weights).unwrap().to_str().unwrap().to_owned()),
        ("NOWHERE", path("nowhere")),
        ("WEIGHTS", weights.to_string()),
        ("SCALED", Digest::of_bytes(&b"weights".repeat(3)).to_string()),
        ("UNIT0", Digest::of_bytes(b"0").to_string()),
        ("UNIT1", Digest::of_bytes(b"1").to_string()),
    ])
}

#[test]
fn the_worker_keeps_to_the_transcripts() {
    for name in ["work.txt", "cancel.txt", "failure.txt", "files.txt"] {
        let dir = tempfile::tempdir().unwrap();
        let transcript = Transcript::read(name, &names(&dir));
        talk(|input, output| transcript.play(Side::Engine, input, output)).unwrap();
    }
}

#[test]
fn the_worker_keeps_to_the_transcripts_over_files() {
    for name in ["work.txt", "failure.txt", "files.txt"] {
        let dir = tempfile::tempdir().unwrap();
        let transcript = Transcript::read(name, &names(&dir));
        let talk = dir.path().join("talk");
        std::fs::create_dir(&talk).unwrap();
        let files = transport::Talk::create(&talk).unwrap();
        let (input, output) = transport::worker_ends(&talk, Duration::from_secs(1));
        std::thread::scope(|scope| {
            let worker = scope.spawn(move || serve(&Scale::registry(), "scale 1", input, output));
            let (mut input, mut output) = transport::engine_ends(files, || false);
            transcript.play(Side::Engine, &mut input, &mut output);
            // an engine that is gone says nothing more
            worker.join().unwrap().unwrap();
        });
    }
}

#[test]
fn every_line_of_the_transcripts_is_a_message() {
    let dir = tempfile::tempdir().unwrap();
    let minor_0 = ["work.txt", "cancel.txt", "failure.txt", "plugin.txt"];
    for name in minor_0.into_iter().chain(["units.txt", "documents.txt", "files.txt"]) {
        Transcript::read(name, &names(&dir)).check_messages();
    }
}

/// What a worker answers to these lines, the hello aside, and how it ends.
fn answers(lines: &[&str]) -> (Vec<serde_json::Value>, Result<(), ServeError>) {
    let mut heard = Vec::new();
    let ended = talk(|input, output| {
        use std::io::BufRead;
        writeln!(
            output,
            r#"{{"type":"hello","protocol":{{"min":1,"max":3}},"engine":"e","heartbeat_ms":60000}}"#
        )
        .unwrap();
        let mut line = String::new();
        input.read_line(&mut line).unwrap();
        for said in lines {
            writeln!(output, "{said}").unwrap();
            line.clear();
            input.read_line(&mut line).unwrap();
            heard.push(serde_json::from_str(&line).unwrap());
        }
    });
    (heard, ended)
}

#[test]
fn what_an_engine_must_not_say_is_refused_and_ends_the_conversation() {
    let (said, ended) = answers(&[r#"{"type":"dance","id":1}"#]);
    assert_eq!(said[0]["type"], "error");
    assert_eq!((&said[0]["class"], said[0].get("id")), (&"bug".into(), None));
    assert!(matches!(ended, Err(ServeError::Line(LineError::UnknownType { .. }))));
    let (_, ended) = answers(&["no json"]);
    assert!(matches!(ended, Err(ServeError::Line(LineError::NotJson { .. }))));
}

#[test]
fn a_newer_engine_is_told_the_version() {
    let ended = talk(|_, output| {
        writeln!(
            output,
            r#"{{"type":"hello","protocol":{{"min":2,"max":3}},"engine":"e","heartbeat_ms":9}}"#
        )
        .unwrap();
    });
    assert!(matches!(ended, Err(ServeError::Version { min: 2, max: 3 })));
}

#[test]
fn one_job_at_a_time_and_a_panic_is_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    let run = |id: u64, factor: u64| {
        let store = dir.path().display();
        format!(
            r#"{{"type":"run","id":{id},"stage":"scale","params":{{"factor":{factor}}},"scratch":"/","device":"cpu","store":"{store}"}}"#
        )
    };
    let (said, ended) = answers(&[&run(1, 8), &run(2, 1)]);
    assert_eq!((&said[0]["type"], &said[1]["id"]), (&"progress".into(), &2.into()));
    assert_eq!(said[1]["message"], "job 1 is still running");
    ended.unwrap();
    let (said, _) = answers(&[&run(1, 6)]);
    assert_eq!((&said[0]["class"], &said[0]["id"]), (&"bug".into(), &1.into()));
}

#[test]
fn a_worker_shows_that_it_lives() {
    use std::io::BufRead;
    talk(|input, output| {
        writeln!(
            output,
            r#"{{"type":"hello","protocol":{{"min":1,"max":1}},"engine":"e","heartbeat_ms":5}}"#
        )
        .unwrap();
        let mut lines = input.lines().map(Result::unwrap);
        assert!(lines.next().unwrap().contains("hello"));
        assert_eq!(lines.next().unwrap(), r#"{"type":"heartbeat"}"#);
        assert_eq!(lines.next().unwrap(), r#"{"type":"heartbeat"}"#);
    })
    .unwrap();
}

/// A stage type that says what its keys depend on.
struct Told(Scale, KeyedBy);

impl Stage for Told {
    fn spec(&self) -> &StageSpec {
        self.0.spec()
    }

    fn keyed_by(&self) -> KeyedBy {
        self.1
    }

    fn run(&self, ctx: &Context<'_>) -> Result<Outcome, StageError> {
        self.0.run(ctx)
    }
}

#[test]
fn a_plugin_is_asked_for_a_key_every_time_unless_it_promises_something() {
    let described = |registry: &StageRegistry| {
        let mut said = Vec::new();
        let hello = r#"{"type":"hello","protocol":{"min":1,"max":1},"engine":"e","heartbeat_ms":60000}"#;
        let asked = format!("{hello}\n{}\n", r#"{"type":"describe","id":1}"#);
        serve_plugin(registry, "scale 1", asked.as_bytes(), &mut said, || ()).unwrap();
        let last = String::from_utf8(said).unwrap().lines().last().unwrap().to_owned();
        serde_json::from_str::<serde_json::Value>(&last).unwrap()["stages"][0]["keyed_by"].clone()
    };
    let registry = |stage: Box<dyn Stage>| StageRegistry::default().with(stage);
    assert_eq!(described(&registry(Box::new(Scale::new()))), "machine");
    assert_eq!(described(&registry(Box::new(Told(Scale::new(), KeyedBy::Params)))), "params");
    assert_eq!(described(&registry(Box::new(Told(Scale::new(), KeyedBy::Nothing)))), "nothing");
}
