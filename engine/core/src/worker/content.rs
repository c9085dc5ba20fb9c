//! What a plugin consists of: its program, its script, and the files that belong to it.
//!
//! | part | what |
//! |---|---|
//! | `program` | what is started: `python3`, or the plugin itself |
//! | `script` | the file that the program reads |
//! | `file:NAME` | what the manifest says belongs to it (`files`) |
//! | `source:NAME` | what its description says belongs to it |
//!
//! Each is a source `plugin:PART` of every key, unless the manifest's `semantics` stands in their place. The plugin's own digest leaves out the program where there is a script:
//! another `python3` is no other plugin.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use qpipe_cache::{Digest, DigestError, Store};

use super::error::WorkerError;

/// What a digest of a plugin begins with: the function that it was taken with.
const FUNCTION: &str = "b3:";

/// The name of a program among a plugin's parts.
pub(super) const PROGRAM: &str = "program";
/// The name of a script.
pub(crate) const SCRIPT: &str = "script";

/// What the parts are called that its description tells of, before their names.
pub(super) const SOURCE: &str = "source:";

/// The digests of a plugin's parts, by name.
pub(super) type Content = BTreeMap<String, Digest>;

/// The name of a part of which `other` has not what `content` has.
pub(super) fn differing<'a>(content: &'a Content, other: &Content) -> Option<&'a str> {
    content.iter().find(|(name, digest)| other.get(*name) != Some(digest)).map(|(name, _)| name.as_str())
}

/// What shows that somebody wrote to a file, without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Device, inode, length, modified.
    file: (u64, u64, u64, (i64, i64)),
    changed: (i64, i64),
}

impl Stamp {
    /// `None` where it cannot be looked at.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let meta = std::fs::metadata(path).ok()?;
        let modified = (meta.mtime(), meta.mtime_nsec());
        let file = (meta.dev(), meta.ino(), meta.len(), modified);
        Some(Self { file, changed: (meta.ctime(), meta.ctime_nsec()) })
    }

    /// Whether it is the same file with the same content, whatever became of its mode and links.
    pub(super) fn is_content_of(&self, other: &Self) -> bool {
        self.file == other.file
    }
}

/// The parts of a plugin as they are on the disk; what has not changed is not read again.
#[derive(Debug, Default)]
pub(super) struct Body {
    pub(super) parts: Vec<Part>,
    pub(super) store: Option<Store>,
    known: BTreeMap<PathBuf, (Stamp, Digest)>,
}

impl Body {
    pub(super) fn new(parts: Vec<Part>, store: Option<&Store>) -> Self {
        Self { parts, store: store.cloned(), known: BTreeMap::new() }
    }

    /// The digests of all parts at this moment.
    pub(super) fn now(&mut self) -> Result<Content, WorkerError> {
        let Self { parts, store, known } = self;
        let digest = |part: &Part| {
            let before = Stamp::of(&part.path);
            if let Some((stamp, digest)) = known.get(&part.path)
                && before.as_ref() == Some(stamp)
            {
                return Ok((part.name.clone(), *digest));
            }
            let digest = part.digest(store.as_ref())?;
            if let Some(stamp) = before.filter(|before| Stamp::of(&part.path).as_ref() == Some(before)) {
                known.insert(part.path.clone(), (stamp, digest));
            }
            Ok((part.name.clone(), digest))
        };
        parts.iter().map(digest).collect()
    }
}

/// One file of a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) path: PathBuf,
}

impl Part {
    pub(super) fn new(name: impl Into<String>, path: PathBuf) -> Self {
        Self { name: name.into(), path }
    }

    /// An error unless it is a file that can be read.
    pub(super) fn check(&self) -> Result<(), WorkerError> {
        let is_file = |meta: Metadata| {
            if meta.is_file() { Ok(()) } else { Err(io::Error::other("it is not a file")) }
        };
        // neither is a pipe waited for, nor a device opened
        let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let open = || File::options().read(true).custom_flags(flags).open(&self.path);
        let looked = std::fs::metadata(&self.path).and_then(is_file);
        let opened = looked.and_then(|()| open()).and_then(|file| file.metadata()).and_then(is_file);
        opened.map_err(|source| self.unreadable(source))
    }

    /// Whether nobody has touched it since then, as far as its times say.
    pub(super) fn is_untouched_since(&self, then: SystemTime) -> bool {
        let since = then.duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = |seconds: i64, nanos: i64| {
            Duration::new(u64::try_from(seconds).unwrap_or(0), u32::try_from(nanos).unwrap_or(0))
        };
        std::fs::metadata(&self.path).is_ok_and(|meta| {
            at(meta.mtime(), meta.mtime_nsec()).max(at(meta.ctime(), meta.ctime_nsec())) <= since
        })
    }

    fn unreadable(&self, source: io::Error) -> WorkerError {
        WorkerError::Unreadable { name: self.name.clone(), path: self.path.clone(), source }
    }

    /// Its digest. A store remembers those of files that have not changed.
    pub(super) fn digest(&self, store: Option<&Store>) -> Result<Digest, WorkerError> {
        self.check()?;
        // a store that cannot be written to knows nothing of the file, and hinders nobody from reading it
        let known = store.and_then(|store| store.link_file(&self.path).ok());
        known.map_or_else(|| Digest::of_file(&self.path).map_err(|source| self.unreadable(source)), Ok)
    }
}

/// The content of a plugin as one digest: BLAKE3 of a line `PART DIGEST` for each of its parts, sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PluginDigest(Digest);

impl PluginDigest {
    pub(super) fn of(parts: &[Part], store: Option<&Store>) -> Result<Self, WorkerError> {
        let has_script = parts.iter().any(|part| part.name == SCRIPT);
        let own = parts.iter().filter(|part| !has_script || part.name != PROGRAM);
        let line = |part: &Part| Ok(format!("{} {}\n", part.name.escape_debug(), part.digest(store)?));
        let mut lines = own.map(line).collect::<Result<Vec<_>, WorkerError>>()?;
        lines.sort_unstable();
        Ok(Self(Digest::of_bytes_here(lines.concat().as_bytes())))
    }

    /// Enough of it for a person.
    pub fn short(&self) -> String {
        format!("{FUNCTION}{}", self.0.short())
    }
}

impl fmt::Display for PluginDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{FUNCTION}{}", self.0)
    }
}

/// Why a text is no digest of a plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PluginDigestError {
    #[error("expected `{FUNCTION}` and 64 hex digits")]
    Function,
    #[error(transparent)]
    Digits(#[from] DigestError),
}

impl FromStr for PluginDigest {
    type Err = PluginDigestError;

    fn from_str(text: &str) -> Result<Self, PluginDigestError> {
        let digits = text.strip_prefix(FUNCTION).ok_or(PluginDigestError::Function)?;
        Ok(Self(digits.parse()?))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn part(dir: &Path, name: &str, text: &str) -> Part {
        let path = dir.join(name.replace(':', "-"));
        std::fs::write(&path, text).unwrap();
        Part::new(name, path)
    }

    #[test]
    fn a_digest_is_of_what_is_the_plugin_s_own() {
        let dir = tempfile::tempdir().unwrap();
        let part = |name: &str, text: &str| part(dir.path(), name, text);
        let of = |parts: &[Part]| PluginDigest::of(parts, None).unwrap();
        let (program, script, file) = (part(PROGRAM, "p"), part(SCRIPT, "s"), part("file:a", "a"));
        let whole = of(&[program.clone(), script.clone(), file.clone()]);
        assert_eq!(whole, of(&[file.clone(), script.clone()]), "neither the interpreter nor the order");
        assert_ne!(whole, of(&[program.clone(), file.clone()]));
        assert_ne!(of(&[program]), of(std::slice::from_ref(&script)));
        let (s, a) = (Digest::of_bytes(b"s"), Digest::of_bytes(b"a"));
        let text = format!("file:a {a}\nscript {s}\n");
        assert_eq!(whole.to_string(), format!("b3:{}", Digest::of_bytes(text.as_bytes())));
        let store = Store::open(&dir.path().join("store")).unwrap();
        assert_eq!(PluginDigest::of(&[script, file], Some(&store)).unwrap(), whole);
    }

    #[test]
    fn a_digest_has_one_spelling() {
        let text = format!("b3:{}", "0a".repeat(32));
        let digest: PluginDigest = text.parse().unwrap();
        assert_eq!((digest.to_string(), digest.short().as_str()), (text, "b3:0a0a0a0a0a0a"));
        let wrong = |text: &str| text.parse::<PluginDigest>().unwrap_err().to_string();
        assert_eq!(wrong("0a"), "expected `b3:` and 64 hex digits");
        assert_eq!(wrong("b3:0a"), "expected 64 hex digits, found 2 bytes");
    }

    #[test]
    fn a_part_that_cannot_be_read_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let of = |path: &Path| Part::new("file:a", path.to_owned()).digest(None).unwrap_err().to_string();
        assert!(of(&dir.path().join("none")).starts_with("cannot read the plugin's `file:a` at `/"));
        assert!(of(dir.path()).ends_with("it is not a file"));
    }
}
