//! What plugins said of themselves, kept in the store, so that one that has not changed need not be started to plan a study.
//!
//! ```text
//! STORE/plugins/NAME.json    what it described
//! STORE/plugins/NAME.keyed   answers to `key`, one a line, where they depend on the program and the parameters alone
//! ```
//!
//! The name of a description is the digest of the plugin's parts (content and place), its arguments, the engine's version and
//! the protocol's; it holds while every file that it tells (`sources`) has the digest it had. The name of the answers is that
//! name and those digests.
//!
//! All of it is advice: written whole or by whole lines, sealed with a digest, never synced. What is lost, damaged or
//! somebody else's is none, and the plugin is started and asked. The newest [`MOST`] files are kept.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use qpipe_cache::{Digest, Store};
use qpipe_sdk::protocol::{Keyed, MINOR, PROTOCOL, StageDescription};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::content::{Content, Part, SOURCE};
use super::error::WorkerError;
use super::scratch::Scratch;
use super::session::ENGINE;

/// Most files that are kept.
const MOST: usize = 128;
/// A file of answers that is longer begins anew.
const MOST_ANSWERS: u64 = 8 << 20;
/// The version of these files, and what else is written in a name.
const LAYOUT: u32 = 2;

/// What a plugin described.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Told {
    /// Its program and version, for a person.
    pub(super) worker: String,
    pub(super) minor: u32,
    pub(super) stages: Vec<StageDescription>,
    /// Whether it answers `key` and `estimate`.
    pub(super) keys: bool,
    pub(super) estimates: bool,
    /// Files that belong to it: absolute paths by name; `None` where it is too old to say.
    pub(super) sources: Option<BTreeMap<String, PathBuf>>,
}

impl Told {
    /// Those files, as parts of the plugin.
    pub(super) fn parts(&self) -> impl Iterator<Item = Part> {
        let sources = self.sources.iter().flatten();
        sources.map(|(name, path)| Part::new(format!("{SOURCE}{name}"), path.clone()))
    }
}

#[derive(Serialize, Deserialize)]
struct Kept {
    told: Told,
    digests: Content,
}

/// An answer to the question that has this digest.
#[derive(Serialize, Deserialize)]
struct Answer {
    asked: Digest,
    keyed: Keyed,
}

/// The name of what is kept of a plugin with these parts and arguments.
fn name(parts: &[Part], args: &[String], content: &Content) -> Digest {
    let mut lines =
        vec![format!("layout {LAYOUT}"), format!("engine {ENGINE}"), format!("protocol {PROTOCOL}.{MINOR}")];
    for part in parts {
        let digest = content.get(&part.name).map(Digest::to_string).unwrap_or_default();
        lines.push(format!("{} {digest} {}", part.name.escape_debug(), part.path.display()));
    }
    lines.extend(args.iter().map(|arg| format!("argument {}", arg.escape_debug())));
    Digest::of_bytes_here(lines.join("\n").as_bytes())
}

/// What a plugin described before there was a store to keep it in.
pub(super) struct Unkept {
    name: Digest,
    content: Content,
    told: Told,
}

impl Unkept {
    /// `content`: what the plugin was when it said this, and every file that it told.
    pub(super) fn new(parts: &[Part], args: &[String], told: &Told, content: &Content) -> Self {
        Self { name: name(parts, args, content), content: content.clone(), told: told.clone() }
    }

    /// Keeps it; the place of the plugin's answers.
    pub(super) fn keep(self, store: &Store) -> Answers {
        let notes = Notes { store: store.clone(), name: self.name };
        notes.keep(&self.told, &self.content);
        notes.answers(&self.content)
    }
}

/// What is kept of one plugin.
pub(super) struct Notes {
    store: Store,
    name: Digest,
}

impl Notes {
    /// The notes of a plugin with these parts, of this content, and arguments.
    pub(super) fn of(store: &Store, parts: &[Part], args: &[String], content: &Content) -> Self {
        Self { store: store.clone(), name: name(parts, args, content) }
    }

    /// What the plugin described, if that still holds; and the digests of what it told.
    pub(super) fn told(&self) -> Option<(Told, Content)> {
        let text = fs::read_to_string(self.path(self.name, "json")).ok()?;
        let kept: Kept = open(self.name, &text)?;
        let now = digests(&self.store, &kept.told).ok()?;
        (now == kept.digests).then_some((kept.told, now))
    }

    /// Keeps what the plugin described. Whether it can be is nobody's concern: it will be asked again.
    pub(super) fn keep(&self, told: &Told, content: &Content) {
        let kept = Kept { told: told.clone(), digests: of_sources(content) };
        let _unwritten = self.write("json", &seal(self.name, &kept));
    }

    /// The answers to `key` of a plugin whose description told files of this content.
    pub(super) fn answers(&self, content: &Content) -> Answers {
        let sources = of_sources(content).into_iter();
        let sources = sources.map(|(name, digest)| format!(" {} {digest}", name.escape_debug()));
        let text = self.name.to_string() + &sources.collect::<String>();
        let name = Digest::of_bytes_here(text.as_bytes());
        let path = self.path(name, "keyed");
        let text = fs::read(&path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let answers = text.lines().filter_map(|line| open::<Answer>(name, line));
        let known = answers.map(|answer| (answer.asked, answer.keyed)).collect();
        Answers { store: self.store.clone(), name, path, known }
    }

    fn path(&self, name: Digest, extension: &str) -> PathBuf {
        folder(&self.store).join(format!("{name}.{extension}"))
    }

    fn write(&self, extension: &str, text: &str) -> io::Result<()> {
        let folder = folder(&self.store);
        fs::create_dir_all(&folder)?;
        let scratch = Scratch::new(&self.store).map_err(io::Error::other)?;
        let staged = scratch.path().join("note");
        File::create(&staged)?.write_all(text.as_bytes())?;
        fs::rename(&staged, self.path(self.name, extension))?;
        tidy(&folder)
    }
}

/// What a plugin answered to `key`, by what it was asked.
pub(super) struct Answers {
    store: Store,
    name: Digest,
    path: PathBuf,
    known: BTreeMap<Digest, Keyed>,
}

impl Answers {
    /// The name of a question: parameters as JSON, and the content of the files among them.
    pub(super) fn question<'a>(
        &self,
        kind: &str,
        params: &str,
        files: impl Iterator<Item = (&'a str, &'a Path)>,
    ) -> Result<Digest, WorkerError> {
        let mut lines = vec![format!("{kind} {params}")];
        for (name, path) in files {
            let digest = Part::new(name, path.to_owned()).digest(Some(&self.store))?;
            lines.push(format!("{name} {digest}"));
        }
        Ok(Digest::of_bytes_here(lines.join("\n").as_bytes()))
    }

    pub(super) fn get(&self, asked: &Digest) -> Option<Keyed> {
        self.known.get(asked).cloned()
    }

    /// Keeps an answer, for this process and others.
    pub(super) fn keep(&mut self, asked: Digest, keyed: &Keyed) {
        let keyed = Keyed { id: 0, ..keyed.clone() };
        let line = seal(self.name, &Answer { asked, keyed: keyed.clone() });
        let _unwritten = append(&self.path, &line);
        self.known.insert(asked, keyed);
    }
}

/// One write, so that lines of several processes do not mix.
fn append(path: &Path, line: &str) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    let mut file = OpenOptions::new().append(true).create(true).open(path)?;
    if file.metadata()?.len() > MOST_ANSWERS {
        file.set_len(0)?;
    }
    file.write_all(line.as_bytes())
}

fn folder(store: &Store) -> PathBuf {
    store.root().join("plugins")
}

/// What of a plugin's content are files that it told.
fn of_sources(content: &Content) -> Content {
    let sources = content.iter().filter(|(name, _)| name.starts_with(SOURCE));
    sources.map(|(name, digest)| (name.clone(), *digest)).collect()
}

/// The digests of the files that a plugin tells, as parts of it.
fn digests(store: &Store, told: &Told) -> Result<Content, WorkerError> {
    told.parts().map(|part| Ok((part.name.clone(), part.digest(Some(store))?))).collect()
}

/// A note on one line. The text within is sealed as it is: reading numbers may change them.
#[derive(Serialize, Deserialize)]
struct Sealed {
    of: Digest,
    digest: Digest,
    note: String,
}

fn seal<T: Serialize>(of: Digest, note: &T) -> String {
    let note = serde_json::to_string(note).unwrap_or_default();
    let sealed = Sealed { of, digest: Digest::of_bytes_here(note.as_bytes()), note };
    serde_json::to_string(&sealed).unwrap_or_default() + "\n"
}

fn open<T: DeserializeOwned>(of: Digest, text: &str) -> Option<T> {
    let sealed: Sealed = serde_json::from_str(text).ok()?;
    let is_whole = sealed.of == of && sealed.digest == Digest::of_bytes_here(sealed.note.as_bytes());
    is_whole.then(|| serde_json::from_str(&sealed.note).ok()).flatten()
}

/// Takes the oldest of too many files away.
fn tidy(folder: &Path) -> io::Result<()> {
    let entry = |entry: io::Result<fs::DirEntry>| {
        let entry = entry.ok()?;
        Some((entry.metadata().ok()?.modified().ok()?, entry.path()))
    };
    let mut files: Vec<(SystemTime, PathBuf)> = fs::read_dir(folder)?.filter_map(entry).collect();
    files.sort_unstable_by(|a, b| b.cmp(a));
    files.iter().skip(MOST).try_for_each(|(_, path)| fs::remove_file(path))
}

#[cfg(test)]
#[path = "notes_tests.rs"]
mod tests;
