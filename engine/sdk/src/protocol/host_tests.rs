use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use qpipe_cache::{KeyDoc, Lookup};

use super::*;
use crate::event::{Cancel, EventSink, StageEvent};
use crate::files::FileEntry;
use crate::protocol::{WireBlob, WireInput};
use crate::stage::{Context, UnitOutput};
use crate::value::Params;

/// A job in `folder`, with one input of one blob, a source and what was kept of an earlier try.
fn request(folder: &Path, units: BTreeMap<String, WireBlob>) -> RunRequest {
    let (scratch, given) = (folder.join("scratch"), folder.join("given"));
    fs::create_dir_all(&scratch).unwrap();
    fs::write(&given, "given").unwrap();
    let source = folder.join("source");
    fs::write(&source, "source").unwrap();
    let source = WireBlob { digest: Digest::of_bytes(b"source"), path: source.to_str().unwrap().to_owned() };
    let path = given.to_str().unwrap().to_owned();
    let digest = Digest::of_bytes(b"given");
    let input =
        WireInput { kind: "model".into(), digest, path: path.clone(), refs: vec![WireBlob { digest, path }] };
    RunRequest {
        id: 7,
        stage: "made".into(),
        params: BTreeMap::new(),
        inputs: BTreeMap::from([("model".to_owned(), input)]),
        sources: BTreeMap::from([("text".to_owned(), source)]),
        scratch: scratch.to_str().unwrap().to_owned(),
        device: "cpu".into(),
        store: None,
        seed: None,
        deadline_ms: None,
        units,
    }
}

/// Outputs by name, as the files that lie there.
fn announced(folder: &Path, replies: &[Reply]) -> BTreeMap<String, PathBuf> {
    let place = |reply: &Reply| match reply {
        Reply::Artifact { id: 7, name, path: Some(path), unit: None } => {
            (name.clone(), folder.join("scratch").join(path))
        }
        other => panic!("{other:?}"),
    };
    replies.iter().map(place).collect()
}

#[test]
fn files_lie_under_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let host = Host::open(&request(folder.path(), BTreeMap::new())).unwrap();
    let files = Files::of_texts(&host.store, [("table", "a 1".to_owned()), ("log", String::new())]).unwrap();
    let replies = host.outputs(7, &files.commit(&host.store).unwrap()).unwrap();
    let places = announced(folder.path(), &replies);
    assert_eq!(places.keys().collect::<Vec<_>>(), ["log", "table"]);
    assert_eq!(fs::read_to_string(&places["table"]).unwrap(), "a 1");
    let scratch = folder.path().join("scratch");
    assert!(!scratch.join("outputs").exists(), "nothing is copied for the engine to copy it");

    // what a blob cannot be
    let mut files = files;
    let Some(Output::File(entry)) = files.outputs.get("table").cloned() else { panic!("{files:?}") };
    let folder_of = BTreeMap::from([("in/it".into(), entry.clone())]);
    files.outputs.insert("made".into(), Output::Folder(folder_of));
    files.outputs.insert("run".into(), Output::File(FileEntry { executable: true, ..entry }));
    let places = announced(folder.path(), &host.outputs(7, &files.commit(&host.store).unwrap()).unwrap());
    assert_eq!(fs::read_to_string(places["made"].join("in/it")).unwrap(), "a 1");
    assert_eq!(places["run"], scratch.join("outputs/run"));
    assert_ne!(fs::metadata(&places["run"]).unwrap().permissions().mode() & 0o111, 0);
    assert_eq!(fs::read_to_string(&places["table"]).unwrap(), "a 1");
    assert_eq!(fs::read_dir(scratch.join("outputs")).unwrap().count(), 2);
}

#[test]
fn a_document_names_its_own_blobs_and_keeps_what_was_given() {
    let folder = tempfile::tempdir().unwrap();
    let host = Host::open(&request(folder.path(), BTreeMap::new())).unwrap();
    let (given, source) = (Digest::of_bytes(b"given"), Digest::of_bytes(b"source"));
    assert_eq!(host.store.read(&given).unwrap(), b"given");
    let own = host.store.put_bytes(b"own").unwrap();
    let text = format!(r#"{{"parts":["{given}","{own}","{source}"]}}"#);
    let digest = host.store.put_bytes(text.as_bytes()).unwrap();
    let refs = BTreeSet::from([given, own, source, digest]);
    let artifact = Artifact { kind: ArtifactKind::new("model"), digest, refs };
    let places = announced(folder.path(), &host.outputs(7, &artifact).unwrap());
    let blob = format!("{BLOB}{own}");
    assert_eq!(places.keys().map(String::as_str).collect::<Vec<_>>(), [blob.as_str(), ROOT]);
    assert_eq!(fs::read(&places[&blob]).unwrap(), b"own");
    let document: Value = serde_json::from_slice(&fs::read(&places[ROOT]).unwrap()).unwrap();
    assert_eq!(document["parts"], serde_json::json!([given.to_string(), blob, source.to_string()]));
    let scratch = folder.path().join("scratch").canonicalize().unwrap();
    assert!(places.values().all(|place| place.canonicalize().unwrap().starts_with(&scratch)));
}

#[test]
fn a_document_without_blobs_of_its_own_is_told_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let host = Host::open(&request(folder.path(), BTreeMap::new())).unwrap();
    let digest = host.store.put_bytes(b"no JSON").unwrap();
    let artifact = Artifact::single("notes", digest);
    let places = announced(folder.path(), &host.outputs(7, &artifact).unwrap());
    assert_eq!(fs::read(&places[ROOT]).unwrap(), b"no JSON");
    let blob = host.store.put_bytes(b"own").unwrap();
    let artifact = Artifact { refs: BTreeSet::from([digest, blob]), ..artifact };
    let error = host.outputs(7, &artifact).unwrap_err().to_string();
    assert!(error.contains("a document with blobs is JSON"), "{error}");
}

/// Keeps units as the engine does: as files elsewhere.
struct Engine<'a> {
    host: &'a Host,
    folder: PathBuf,
    kept: Mutex<BTreeMap<String, WireBlob>>,
    found: Mutex<BTreeSet<String>>,
}

impl<'a> Engine<'a> {
    fn of(host: &'a Host, folder: &tempfile::TempDir) -> Self {
        Self { host, folder: folder.path().to_owned(), kept: Mutex::default(), found: Mutex::default() }
    }
}

impl EventSink for Engine<'_> {
    fn emit(&self, _: StageEvent) {}

    fn kept(&self, name: &str, record: &ActionRecord) {
        let (name, path) = self.host.keep(name, record).unwrap();
        let to = self.folder.join(&name);
        fs::rename(Path::new(&self.host.scratch).join(path), &to).unwrap();
        let blob = WireBlob { digest: Digest::of_file(&to).unwrap(), path: to.to_str().unwrap().to_owned() };
        self.kept.lock().unwrap().insert(name, blob);
    }

    fn found(&self, name: &str, record: &ActionRecord) {
        self.found.lock().unwrap().insert(self.host.told_name(name, record));
    }
}

/// A stage's two units, of which `done` says which it had to do.
fn work(host: &Host, events: &dyn EventSink) -> Vec<&'static str> {
    let (params, inputs, sources) = (Params::default(), BTreeMap::new(), BTreeMap::new());
    let (store, cancel) = (&host.store, &Cancel::default());
    let (params, inputs, sources) = (&params, &inputs, &sources);
    let ctx = Context { params, inputs, sources, store, events, cancel, device: "cpu", doc: None };
    let mut done = Vec::new();
    for name in ["layer 0/q", "layer 1"] {
        let record = ctx.unit(name, &KeyDoc::new(format!("made/{name}"), 1), || {
            done.push(name);
            let blobs = [("codes", "abc"), ("scales", "12345678")];
            let put =
                |(name, text): (&str, &str)| (name.to_owned(), store.put_bytes(text.as_bytes()).unwrap());
            let metrics = serde_json::json!({ "mse": 0.5 });
            Ok(UnitOutput { blobs: blobs.into_iter().map(put).collect(), metrics })
        });
        let record = record.unwrap();
        assert_eq!(store.read(&record.outputs["scales"].digest).unwrap(), b"12345678");
        assert_eq!(record.metrics["mse"], 0.5);
    }
    done
}

#[test]
fn units_come_back_in_a_next_try() {
    let (first, second, kept) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let host = Host::open(&request(first.path(), BTreeMap::new())).unwrap();
    let engine = Engine::of(&host, &kept);
    assert_eq!(work(&host, &engine), ["layer 0/q", "layer 1"]);
    let mut units = engine.kept.into_inner().unwrap();
    assert!(units.keys().all(|name| name.starts_with("u-layer-") && !name.contains(['/', ' '])), "{units:?}");
    assert_eq!(units.len(), 2);

    let again = Host::open(&request(second.path(), units.clone())).unwrap();
    let engine = Engine::of(&again, &kept);
    assert_eq!(work(&again, &engine), [""; 0]);
    assert!(engine.found.into_inner().unwrap().iter().eq(units.keys()), "by the names that were told");
    let key = KeyDoc::new("made/layer 1", 1).key();
    assert!(matches!(again.store.lookup(&key), Lookup::Hit(_)));

    let third = tempfile::tempdir().unwrap();
    assert!(units.pop_first().is_some());
    let again = Host::open(&request(third.path(), units)).unwrap();
    assert_eq!(work(&again, &()), ["layer 0/q"]);
}

#[test]
fn a_unit_that_cannot_be_read_is_done_again() {
    let folders = [(); 5].map(|()| tempfile::tempdir().unwrap());
    let [first, kept, then @ ..] = &folders;
    let host = Host::open(&request(first.path(), BTreeMap::new())).unwrap();
    let engine = Engine::of(&host, kept);
    work(&host, &engine);
    let units = engine.kept.into_inner().unwrap();
    let (name, unit) = units.first_key_value().unwrap();
    let bytes = fs::read(&unit.path).unwrap();
    let mut damaged = bytes.clone();
    // the last byte of a blob
    *damaged.last_mut().unwrap() ^= 1;
    let too_long = [&u64::MAX.to_le_bytes()[..], &bytes[8..]].concat();
    let cases = [(damaged, "is damaged"), (too_long, "it is no unit"), (bytes[..4].to_vec(), "")];
    for (folder, (bytes, why)) in then.iter().zip(cases) {
        fs::remove_file(&unit.path).unwrap();
        fs::write(&unit.path, bytes).unwrap();
        let again = Host::open(&request(folder.path(), units.clone())).unwrap();
        let begins = format!("unit `{name}` cannot be read and is done again: ");
        let [said] = again.unread.as_slice() else { panic!("{:?}", again.unread) };
        assert!(said.starts_with(&begins) && said.contains(why), "{said}");
        assert_eq!(work(&again, &()), ["layer 0/q"]);
    }
}
