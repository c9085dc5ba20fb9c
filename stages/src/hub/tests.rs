//! Against a server of a few lines that plays the hub.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use qpipe_sdk::StageEvent;

use super::*;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the server has and does.
#[derive(Default)]
struct Server {
    files: BTreeMap<&'static str, Vec<u8>>,
    /// Close the connection after so many bytes of a body.
    cut_after: Option<usize>,
    /// Answer a range with the whole.
    ignores_ranges: bool,
    wants_token: bool,
    /// Announce a digest that the bytes do not have.
    lies: AtomicBool,
    requests: Mutex<Vec<String>>,
    bodies: AtomicUsize,
}

impl Server {
    fn start(self) -> (Arc<Self>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let server = Arc::new(self);
        let serving = Arc::clone(&server);
        // ends with the test's process
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serving = Arc::clone(&serving);
                std::thread::spawn(move || serving.serve(&stream));
            }
        });
        (server, address)
    }

    fn serve(&self, stream: &TcpStream) {
        let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
        let Some(request) = lines.next() else { return };
        let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
        let header = |name: &str| {
            headers
                .iter()
                .filter_map(|line| line.split_once(": "))
                .find(|(n, _)| n.eq_ignore_ascii_case(name))
        };
        let range = header("range").map(|(_, value)| value.to_owned());
        let shown = range.as_ref().map_or_else(|| request.clone(), |range| format!("{request} {range}"));
        self.requests.lock().unwrap().push(shown);
        let with_token = header("authorization").is_some_and(|(_, value)| value == "Bearer hf_test");
        let _ = self.answer(stream, &request, range.as_deref(), with_token);
    }

    fn answer(
        &self,
        mut stream: &TcpStream,
        request: &str,
        range: Option<&str>,
        with_token: bool,
    ) -> std::io::Result<()> {
        if self.wants_token && !with_token {
            return stream
                .write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
        let (method, path) = request.split_once(' ').unwrap();
        let path = path.split(' ').next().unwrap();
        let file = path
            .trim_start_matches("/datasets")
            .strip_prefix("/org/name/resolve/")
            .and_then(|rest| rest.split_once('/'));
        let Some(bytes) = file.and_then(|(_, file)| self.files.get(file)) else {
            let code = if path.contains("/org/name/") { "EntryNotFound" } else { "RepoNotFound" };
            return write!(
                stream,
                "HTTP/1.1 404 Not Found\r\nX-Error-Code: {code}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
        };
        let digest = if self.lies.load(Ordering::SeqCst) { "00".repeat(32) } else { sha(bytes) };
        let from: usize = range.filter(|_| !self.ignores_ranges).map_or(0, |range| {
            range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap()
        });
        let (status, size) = (if from > 0 { "206 Partial Content" } else { "200 OK" }, bytes.len());
        write!(
            stream,
            "HTTP/1.1 {status}\r\nX-Repo-Commit: {COMMIT}\r\nETag: \"{digest}\"\r\nContent-Length: {}\r\n\
             Content-Range: bytes {from}-{}/{size}\r\nConnection: close\r\n\r\n",
            size - from,
            size - 1
        )?;
        if method == "GET" {
            let first = self.bodies.fetch_add(1, Ordering::SeqCst) == 0;
            let end = self.cut_after.filter(|_| first || !self.ignores_ranges);
            let end = end.map_or(size, |cut| size.min(from + cut));
            stream.write_all(&bytes[from..end])?;
        }
        Ok(())
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn sha(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

/// A checkpoint of three files, the weights in `bytes`.
fn checkpoint(bytes: usize) -> Server {
    let weights = (0..bytes).map(|at| (at * 7 % 251) as u8).collect();
    let files = [(CONFIG, b"{}".to_vec()), (TOKENIZER, b"{\"model\":{}}".to_vec()), (SINGLE, weights)];
    Server { files: files.into(), ..Server::default() }
}

struct Lab {
    cache: tempfile::TempDir,
    server: Arc<Server>,
    settings: HubSettings,
}

impl Lab {
    fn new(server: Server) -> Self {
        let cache = tempfile::tempdir().unwrap();
        let (server, endpoint) = server.start();
        let settings = HubSettings { endpoint, ..HubSettings::new(cache.path()) };
        Self { cache, server, settings }
    }

    fn fetch(&self) -> Result<PathBuf, HubError> {
        self.fetch_with(&(), &Cancel::default())
    }

    fn fetch_with(&self, events: &dyn EventSink, cancel: &Cancel) -> Result<PathBuf, HubError> {
        Hub::new(self.settings.clone()).fetch(&repo(), events, cancel)
    }

    fn refused(&self) -> String {
        self.fetch().unwrap_err().to_string()
    }

    fn check(&self, snapshot: &std::path::Path) {
        for (name, bytes) in &self.server.files {
            assert_eq!(&std::fs::read(snapshot.join(name)).unwrap(), bytes, "{name}");
        }
    }
}

fn repo() -> Repo {
    Repo::new("org/name", "main").unwrap()
}

#[test]
fn a_checkpoint_is_downloaded_once_with_progress() {
    struct Sink(Mutex<Vec<StageEvent>>);
    impl EventSink for Sink {
        fn emit(&self, event: StageEvent) {
            self.0.lock().unwrap().push(event);
        }
    }
    let lab = Lab::new(checkpoint(1 << 20));
    let hub = Hub::new(lab.settings.clone());
    assert_eq!(hub.snapshot(&repo()).unwrap(), None);
    let sink = Sink(Mutex::default());
    let snapshot = lab.fetch_with(&sink, &Cancel::default()).unwrap();
    lab.check(&snapshot);
    assert!(snapshot.ends_with(format!("models--org--name/snapshots/{COMMIT}")));
    let what = format!("bytes of {SINGLE}");
    let last = StageEvent::Progress { done: 1 << 20, total: 1 << 20, what };
    assert!(sink.0.lock().unwrap().contains(&last));

    let before = lab.server.requests().len();
    assert_eq!(lab.fetch().unwrap(), snapshot);
    assert_eq!(hub.snapshot(&repo()).unwrap(), Some(snapshot.clone()));
    assert_eq!(hub.snapshot(&Repo::new("org/name", COMMIT).unwrap()).unwrap(), Some(snapshot));
    assert_eq!(lab.server.requests().len(), before, "what is there is not asked for");
}

#[test]
fn shards_are_those_of_the_index() {
    let index = br#"{"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}}"#.to_vec();
    let mut server = checkpoint(0);
    server.files.remove(SINGLE);
    server.files.extend([(INDEX, index), ("model-1.safetensors", vec![1; 9])]);
    let lab = Lab::new(server);
    assert!(lab.refused().contains("`org/name@main` has no `model-2.safetensors`"), "{}", lab.refused());
    assert_eq!(Hub::new(lab.settings.clone()).snapshot(&repo()).unwrap(), None);

    let mut server = checkpoint(0);
    server.files.remove(SINGLE);
    let index = br#"{"weight_map":{"a":"../../etc/passwd"}}"#.to_vec();
    server.files.insert(INDEX, index);
    assert!(Lab::new(server).refused().contains("`../../etc/passwd`"));
}

#[test]
fn a_cut_download_goes_on_where_it_was_cut() {
    let lab = Lab::new(Server { cut_after: Some(400_000), ..checkpoint(1_000_000) });
    lab.check(&lab.fetch().unwrap());
    let ranges: Vec<String> = lab.server.requests().into_iter().filter(|r| r.contains("bytes=")).collect();
    assert_eq!(ranges.len(), 2, "{ranges:?}");
    assert!(ranges[0].ends_with("bytes=400000-") && ranges[1].ends_with("bytes=800000-"), "{ranges:?}");
}

#[test]
fn a_server_without_ranges_sends_all_of_it_again() {
    let lab = Lab::new(Server { cut_after: Some(1), ignores_ranges: true, ..checkpoint(5000) });
    lab.check(&lab.fetch().unwrap());
}

#[test]
fn a_later_run_goes_on_and_damage_is_removed() {
    let server = checkpoint(10_000);
    let (weights, digest) = (server.files[SINGLE].clone(), sha(&server.files[SINGLE]));
    let lab = Lab::new(server);
    let blobs = lab.cache.path().join("models--org--name/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    let part = blobs.join(format!("{digest}.incomplete"));
    std::fs::write(&part, &weights[..6000]).unwrap();
    lab.check(&lab.fetch().unwrap());
    assert!(lab.server.requests().iter().any(|r| r.ends_with("bytes=6000-")));

    let lab = Lab::new(Server { lies: AtomicBool::new(true), ..checkpoint(100) });
    assert!(lab.refused().contains("arrived damaged"), "{}", lab.refused());
    lab.server.lies.store(false, Ordering::SeqCst);
    lab.check(&lab.fetch().unwrap());
}

#[test]
fn offline_mode_takes_what_is_there_and_nothing_else() {
    let mut lab = Lab::new(checkpoint(100));
    lab.settings.offline = true;
    let error = lab.refused();
    assert!(error.contains("`org/name@main`") && error.contains("HF_HUB_OFFLINE"), "{error}");
    assert!(lab.server.requests().is_empty());
    lab.settings.offline = false;
    let snapshot = lab.fetch().unwrap();
    lab.settings.offline = true;
    assert_eq!(lab.fetch().unwrap(), snapshot);
}

#[test]
fn refusals_name_what_to_do() {
    let mut lab = Lab::new(Server { wants_token: true, ..checkpoint(100) });
    assert!(lab.refused().contains("set HF_TOKEN"), "{}", lab.refused());
    lab.settings.token = Some("wrong".into());
    assert!(lab.refused().contains("may not read it"), "{}", lab.refused());
    std::fs::write(lab.cache.path().join("token"), "hf_test\n").unwrap();
    lab.settings.token = None;
    lab.settings.token_file = Some(lab.cache.path().join("token"));
    lab.check(&lab.fetch().unwrap());

    let lab = Lab::new(Server::default());
    assert!(lab.refused().contains("`org/name@main` has no `config.json`"), "{}", lab.refused());
    let hub = Hub::new(lab.settings.clone());
    let error = hub.fetch(&Repo::new("org/other", "main").unwrap(), &(), &Cancel::default()).unwrap_err();
    assert!(matches!(&error, HubError::NoSuchRepo { repo } if repo == "org/other@main"), "{error}");
    let cancel = Cancel::default();
    cancel.request();
    assert!(matches!(lab.fetch_with(&(), &cancel), Err(HubError::Cancelled)));
}

#[test]
fn a_server_that_is_not_there_is_a_passing_failure() {
    let cache = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let endpoint = format!("http://127.0.0.1:{port}");
    let settings = HubSettings { endpoint, ..HubSettings::new(cache.path()) };
    let error = Hub::new(settings).fetch(&repo(), &(), &Cancel::default()).unwrap_err();
    assert!(error.to_string().contains("cannot download `http://127.0.0.1:"), "{error}");
    let error = qpipe_sdk::StageError::from(error);
    assert_eq!(error.class(), qpipe_sdk::ErrorClass::Transient);
}

#[test]
fn a_file_of_a_data_set_is_downloaded_once_to_its_own_folder() {
    const PATH: &str = "data/validation.jsonl";
    let files = [(PATH, b"{\"text\":\"a\"}".to_vec()), ("data/train.jsonl", b"{}".to_vec())];
    let lab = Lab::new(Server { files: files.into(), ..Server::default() });
    let hub = Hub::new(lab.settings.clone());
    let file = |text: &str| DataFile::parse(text).unwrap().unwrap();
    let fetch = |file: &DataFile| hub.fetch_data(file, &(), &Cancel::default());
    let validation = file("hub:org/name/data/validation.jsonl");
    assert_eq!(hub.data_file(&validation).unwrap(), None);
    let path = fetch(&validation).unwrap();
    assert_eq!(path, lab.cache.path().join(format!("datasets--org--name/snapshots/{COMMIT}/{PATH}")));
    assert_eq!(std::fs::read(&path).unwrap(), lab.server.files[PATH]);
    let link = std::fs::read_link(&path).unwrap();
    assert!(link.starts_with("../../../blobs"), "{}", link.display());

    let before = lab.server.requests();
    assert!(
        before[0].starts_with("HEAD /datasets/org/name/resolve/main/data/validation.jsonl"),
        "{before:?}"
    );
    assert_eq!(fetch(&validation).unwrap(), path);
    assert_eq!(lab.server.requests().len(), before.len(), "what is there is not asked for");
    fetch(&file("hub:org/name/data/train.jsonl")).unwrap();
    let of_commit = format!("HEAD /datasets/org/name/resolve/{COMMIT}/data/train.jsonl");
    assert!(lab.server.requests()[before.len()].starts_with(&of_commit), "a branch stays what it was");

    let error = fetch(&file("hub:org/name/data/test.jsonl")).unwrap_err().to_string();
    assert_eq!(error, "`datasets/org/name@main` has no `data/test.jsonl`");
    let offline = Hub::new(HubSettings { offline: true, ..lab.settings.clone() });
    let error = offline.fetch_data(&file("hub:org/name/x.jsonl"), &(), &Cancel::default()).unwrap_err();
    assert!(error.to_string().starts_with("`datasets/org/name@main/x.jsonl` is not in "), "{error}");
}
