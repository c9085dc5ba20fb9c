//! What is asked of the hub: a file's description, and its bytes from some place on.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use qpipe_sdk::{Cancel, EventSink, StageEvent};
use sha2::{Digest as _, Sha256};
use ureq::{Agent, AgentBuilder, Request, Response};

use super::cache::is_commit;
use super::repo::is_plain;
use super::{HubError, HubSettings, Repo};

/// How often a download goes on without one new byte before it is given up.
const TRIES: u32 = 5;
const WAIT: Duration = Duration::from_millis(200);
const CONNECT: Duration = Duration::from_secs(30);
/// The longest silence of a server.
const SILENCE: Duration = Duration::from_mins(1);
/// Redirects within the hub: a repository that was renamed.
const RENAMES: usize = 5;
const BUFFER: usize = 1 << 18;
/// How often progress is told.
const TELL: Duration = Duration::from_millis(200);

/// A file as the hub describes it.
pub(super) struct Remote {
    url: String,
    pub(super) commit: String,
    /// Names the content: a SHA-256 for large files.
    pub(super) etag: String,
    size: u64,
}

/// The hub's client: requests carry the token, and stop when the run does.
pub(super) struct Client<'a> {
    endpoint: &'a str,
    token: Option<String>,
    /// Follows redirects; the token goes to the hub's own host only.
    agent: Agent,
    /// Follows none.
    asking: Agent,
    events: &'a dyn EventSink,
    cancel: &'a Cancel,
}

impl<'a> Client<'a> {
    pub(super) fn new(
        settings: &'a HubSettings,
        events: &'a dyn EventSink,
        cancel: &'a Cancel,
    ) -> Result<Self, HubError> {
        let bad_proxy = |error: ureq::Error| HubError::Connection {
            url: settings.endpoint.clone(),
            reason: format!("the proxy's address is wrong: {error}"),
        };
        let proxy = settings.proxy.as_deref().map(ureq::Proxy::new).transpose().map_err(bad_proxy)?;
        let builder = || {
            let builder = AgentBuilder::new()
                .user_agent(concat!("qpipe/", env!("CARGO_PKG_VERSION")))
                .redirect_auth_headers(ureq::RedirectAuthHeaders::SameHost)
                .timeout_connect(CONNECT)
                .timeout_read(SILENCE);
            match &proxy {
                Some(proxy) => builder.proxy(proxy.clone()),
                None => builder,
            }
        };
        let (agent, asking) = (builder().build(), builder().redirects(0).build());
        Ok(Self { endpoint: &settings.endpoint, token: settings.find_token(), agent, asking, events, cancel })
    }

    /// Asks for a file without its bytes.
    pub(super) fn describe(&self, repo: &Repo, revision: &str, name: &str) -> Result<Remote, HubError> {
        let revision = revision.replace('/', "%2F");
        let mut url = format!("{}/{}/resolve/{revision}/{name}", self.endpoint, repo.path());
        for _ in 0..RENAMES {
            self.check_cancel()?;
            let answer = self.head(&url)?;
            let location = answer.header("location").filter(|_| (300..400).contains(&answer.status()));
            // to elsewhere: the bytes lie on another host, and this answer describes them
            match location.filter(|to| to.starts_with('/') && !to.starts_with("//")) {
                Some(renamed) => url = format!("{}{renamed}", self.endpoint),
                None => return self.remote(repo, name, url, &answer),
            }
        }
        Err(HubError::Answer { url, reason: "it redirects in circles".into() })
    }

    /// Downloads a file to `blob`, by way of `blob.incomplete`, where an earlier attempt may have left its first bytes.
    pub(super) fn download(&self, remote: &Remote, name: &str, blob: &Path) -> Result<(), HubError> {
        let part = PathBuf::from(format!("{}.incomplete", blob.display()));
        let mut tries = 0;
        loop {
            let before = length(&part);
            if before == remote.size && part.is_file() {
                break;
            }
            match self.go_on(remote, name, &part) {
                Ok(()) => {}
                Err(error @ HubError::Connection { .. }) => {
                    tries = if length(&part) > before { 1 } else { tries + 1 };
                    if tries >= TRIES {
                        return Err(error);
                    }
                    std::thread::sleep(WAIT * 2_u32.pow(tries));
                }
                Err(error) => return Err(error),
            }
        }
        check_content(remote, name, &part)?;
        fs::rename(&part, blob).map_err(HubError::io(blob))
    }

    /// One request for the bytes that `part` lacks.
    fn go_on(&self, remote: &Remote, name: &str, part: &Path) -> Result<(), HubError> {
        self.check_cancel()?;
        let have = length(part);
        let mut request = self.agent.get(&remote.url);
        if have > 0 {
            request = request.set("Range", &format!("bytes={have}-"));
        }
        let answer = self.call(request, &remote.url)?;
        let status = answer.status();
        let continues =
            answer.header("content-range").is_some_and(|r| r.starts_with(&format!("bytes {have}-")));
        match status {
            206 if continues => self.receive(answer, remote, name, &append(part)?, have),
            // a server that knows no ranges sends everything
            200 => self.receive(answer, remote, name, &File::create(part).map_err(HubError::io(part))?, 0),
            // what is there is no beginning of what the hub has now
            206 | 416 => fs::remove_file(part).map_err(HubError::io(part)),
            429 | 500.. => Err(HubError::Connection {
                url: remote.url.clone(),
                reason: format!("the hub answers {status}"),
            }),
            _ => Err(HubError::Status { url: remote.url.clone(), status }),
        }
    }

    fn receive(
        &self,
        answer: Response,
        remote: &Remote,
        name: &str,
        mut file: &File,
        mut have: u64,
    ) -> Result<(), HubError> {
        let mut body = answer.into_reader();
        let (mut buffer, mut told) = (vec![0; BUFFER], None::<Instant>);
        loop {
            self.check_cancel()?;
            let count = body.read(&mut buffer).map_err(|error| connection(&remote.url, &error))?;
            if count == 0 {
                break;
            }
            have += count as u64;
            if have > remote.size {
                let reason = format!("more than the {} bytes announced", remote.size);
                return Err(HubError::Answer { url: remote.url.clone(), reason });
            }
            file.write_all(&buffer[..count]).map_err(HubError::io(Path::new(name)))?;
            if told.is_none_or(|at| at.elapsed() > TELL) || have == remote.size {
                told = Some(Instant::now());
                let what = format!("bytes of {name}");
                self.events.emit(StageEvent::Progress { done: have, total: remote.size, what });
            }
        }
        if have == remote.size {
            return file.sync_all().map_err(HubError::io(Path::new(name)));
        }
        let reason = format!("the connection ended after {have} of {} bytes", remote.size);
        Err(HubError::Connection { url: remote.url.clone(), reason })
    }

    /// A request for headers. A passing failure is tried again.
    fn head(&self, url: &str) -> Result<Response, HubError> {
        let mut tries = 0;
        loop {
            // compressed, the length would be another
            let request = self.asking.head(url).set("Accept-Encoding", "identity");
            tries += 1;
            match self.call(request, url) {
                Err(error) if tries >= TRIES => return Err(error),
                Ok(answer) if tries >= TRIES || answer.status() < 500 => return Ok(answer),
                _ => std::thread::sleep(WAIT * 2_u32.pow(tries)),
            }
            self.check_cancel()?;
        }
    }

    /// Any status is an answer; errors are those of connections.
    fn call(&self, request: Request, url: &str) -> Result<Response, HubError> {
        let request = match &self.token {
            Some(token) => request.set("Authorization", &format!("Bearer {token}")),
            None => request,
        };
        match request.call() {
            Ok(answer) | Err(ureq::Error::Status(_, answer)) => Ok(answer),
            Err(error) => Err(connection(url, &error)),
        }
    }

    fn remote(&self, repo: &Repo, name: &str, url: String, answer: &Response) -> Result<Remote, HubError> {
        let shown = repo.to_string();
        match answer.status() {
            200..=399 => {}
            status @ (401 | 403) => {
                return Err(HubError::Unauthorized { repo: shown, status, with_token: self.token.is_some() });
            }
            404 => {
                return Err(match answer.header("x-error-code") {
                    Some("RepoNotFound" | "RevisionNotFound") => HubError::NoSuchRepo { repo: shown },
                    _ => HubError::NoSuchFile { repo: shown, file: name.to_owned() },
                });
            }
            status => return Err(HubError::Status { url, status }),
        }
        let missing = |what: &str| HubError::Answer { url: url.clone(), reason: format!("no {what}") };
        let commit = answer.header("x-repo-commit").filter(|commit| is_commit(commit));
        let etag = answer.header("x-linked-etag").or_else(|| answer.header("etag"));
        let etag =
            etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"')).filter(|etag| is_plain(etag));
        let size = answer.header("x-linked-size").or_else(|| answer.header("content-length"));
        Ok(Remote {
            commit: commit.ok_or_else(|| missing("X-Repo-Commit"))?.to_owned(),
            etag: etag.ok_or_else(|| missing("ETag"))?.to_owned(),
            size: size.and_then(|size| size.parse().ok()).ok_or_else(|| missing("size"))?,
            url,
        })
    }

    fn check_cancel(&self) -> Result<(), HubError> {
        if self.cancel.requested() { Err(HubError::Cancelled) } else { Ok(()) }
    }
}

/// Where an ETag is a SHA-256, the bytes must have it.
fn check_content(remote: &Remote, name: &str, part: &Path) -> Result<(), HubError> {
    if !(remote.etag.len() == 64 && remote.etag.bytes().all(|b| b.is_ascii_hexdigit())) {
        return Ok(());
    }
    let mut hasher = Sha256::new();
    let mut file = File::open(part).map_err(HubError::io(part))?;
    io::copy(&mut file, &mut hasher).map_err(HubError::io(part))?;
    let found = hasher.finalize().iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    if found.eq_ignore_ascii_case(&remote.etag) {
        return Ok(());
    }
    fs::remove_file(part).map_err(HubError::io(part))?;
    let reason = format!("its sha256 is {found}, expected {}", remote.etag);
    Err(HubError::Damaged { file: name.to_owned(), reason })
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

fn append(path: &Path) -> Result<File, HubError> {
    OpenOptions::new().append(true).create(true).open(path).map_err(HubError::io(path))
}

fn connection(url: &str, error: &dyn std::error::Error) -> HubError {
    HubError::Connection { url: url.to_owned(), reason: error.to_string() }
}
