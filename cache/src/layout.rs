//! Where things lie, and which version of that a store has.
//!
//! ```text
//! <root>/
//!   format.json             {"format":"qpipe-cache","version":1}: written once, read at every opening
//!   runs/                   run records; the engine's, not the cache's
//!   v1/
//!     blobs/ab/<64 hex>          content, named by its digest; mode 0444, never written again
//!     actions/ab/<64 hex>.json   action records, named by their key; creating one is the commit
//!     links/ab/<64 hex>.json     content that stays where its owner keeps it: path, size, times, inode
//!     stat/ab/<64 hex>.json      digest of a file as last seen, named by the digest of its path; advisory
//!     nodes/ab/<64 hex>.json     last key document of a node, named by the digest of its name; advisory
//!     pins/<name>.json           keys that gc keeps, under a name a person chose
//!     staging/                   files being written, each locked by its writer
//!     locks/<64 hex>.lock        single flight per key, only there while somebody holds or awaits it
//!     locks/gc.lock              held by the one gc that runs
//!     leases/<fresh>             what a living process relies on, locked by it
//!     uses/<fresh>               leases of ended processes: when a key was last used; advisory
//!     index/<fresh>.idx          records in a form that is looked up in a microsecond; rebuildable
//!     index/marks                which key is remembered under each node's name; rebuildable
//!     index/census               what `stat` said of the files of each bucket; rebuildable
//!     index/<64 hex>.ticket       what a caller wants to find again; rebuildable
//!     trash/{a,b,l}-<64 hex>     what gc took away and has not judged yet; put back when a gc died
//!     damaged/                   what a check found to be wrong, set aside for a person
//! ```
//!
//! `ab` are the first two hex digits of the name. Blobs, actions, links and pins are the truth; all else can be
//! deleted while nobody uses the store. A change of this tree gets a directory of its own (`v2`), so that programs of
//! different versions never mix.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::StoreError;
use crate::fs::Fs;
use crate::key::ActionKey;

/// Version of the directory tree above.
pub const STORE_VERSION: u32 = 1;

const MARKER_FORMAT: &str = "qpipe-cache";

/// The directories of a store.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) root: PathBuf,
    pub(crate) runs: PathBuf,
    pub(crate) blobs: PathBuf,
    pub(crate) actions: PathBuf,
    pub(crate) links: PathBuf,
    pub(crate) stat: PathBuf,
    pub(crate) nodes: PathBuf,
    pub(crate) staging: PathBuf,
    pub(crate) locks: PathBuf,
    pub(crate) damaged: PathBuf,
    pub(crate) pins: PathBuf,
    pub(crate) leases: PathBuf,
    pub(crate) uses: PathBuf,
    pub(crate) index: PathBuf,
    pub(crate) trash: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Marker {
    format: String,
    version: u32,
}

impl Layout {
    /// The layout under `root`, made where it is missing; a newer store is refused before anything is touched. A store that
    /// goes away with its process has no more than the folder where files are written.
    pub(crate) fn open(root: &Path, fs: &Fs) -> Result<Self, StoreError> {
        let root = std::path::absolute(root).map_err(StoreError::reading("resolve", root))?;
        let marker = root.join("format.json");
        let marked = read_marker(&marker)?;
        let layout = Self::under(root);
        if fs.is_fleeting() {
            fs.ensure_dir_all(&layout.staging)?;
            return Ok(layout);
        }
        for dir in layout.directories() {
            fs.ensure_dir_all(dir)?;
        }
        if !marked {
            layout.write_marker(&marker, fs)?;
        }
        Ok(layout)
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        bucketed(&self.blobs, digest, "")
    }

    pub(crate) fn blob_bucket(&self, bucket: u8) -> PathBuf {
        self.blobs.join(format!("{bucket:02x}"))
    }

    pub(crate) fn action(&self, key: &ActionKey) -> PathBuf {
        bucketed(&self.actions, key.digest(), ".json")
    }

    pub(crate) fn link(&self, digest: &Digest) -> PathBuf {
        bucketed(&self.links, digest, ".json")
    }

    pub(crate) fn stat_of(&self, path: &str) -> PathBuf {
        bucketed(&self.stat, &Digest::of_bytes(path.as_bytes()), ".json")
    }

    pub(crate) fn node(&self, name: &str) -> PathBuf {
        bucketed(&self.nodes, &Digest::of_bytes(name.as_bytes()), ".json")
    }

    pub(crate) fn lock(&self, key: &ActionKey) -> PathBuf {
        self.locks.join(format!("{key}.lock"))
    }

    pub(crate) fn action_bucket(&self, bucket: u8) -> PathBuf {
        self.actions.join(format!("{bucket:02x}"))
    }

    pub(crate) fn pin(&self, name: &str) -> PathBuf {
        self.pins.join(format!("{name}.json"))
    }

    pub(crate) fn census(&self) -> PathBuf {
        self.index.join("census")
    }

    pub(crate) fn marks(&self) -> PathBuf {
        self.index.join("marks")
    }

    pub(crate) fn gc_lock(&self) -> PathBuf {
        self.locks.join("gc.lock")
    }

    fn under(root: PathBuf) -> Self {
        let version = root.join(format!("v{STORE_VERSION}"));
        let of = |name| version.join(name);
        Self {
            runs: root.join("runs"),
            blobs: of("blobs"),
            actions: of("actions"),
            links: of("links"),
            stat: of("stat"),
            nodes: of("nodes"),
            staging: of("staging"),
            locks: of("locks"),
            damaged: of("damaged"),
            pins: of("pins"),
            leases: of("leases"),
            uses: of("uses"),
            index: of("index"),
            trash: of("trash"),
            root,
        }
    }

    fn directories(&self) -> [&Path; 14] {
        [
            &self.runs,
            &self.blobs,
            &self.actions,
            &self.links,
            &self.stat,
            &self.nodes,
            &self.staging,
            &self.locks,
            &self.damaged,
            &self.pins,
            &self.leases,
            &self.uses,
            &self.index,
            &self.trash,
        ]
    }

    fn write_marker(&self, marker: &Path, fs: &Fs) -> Result<(), StoreError> {
        let mut staged = fs.stage(&self.staging)?;
        let text = format!("{{\"format\":\"{MARKER_FORMAT}\",\"version\":{STORE_VERSION}}}\n");
        staged.write_all(text.as_bytes())?;
        staged.sync()?;
        staged.publish(marker)?;
        fs.sync_dir(&self.root)
    }
}

/// Whether the store is marked with a version this program knows.
fn read_marker(path: &Path) -> Result<bool, StoreError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(StoreError::reading("read", path)(e)),
    };
    let bad = |reason: String| StoreError::BadMarker { path: path.to_owned(), reason };
    let marker: Marker = serde_json::from_slice(&text).map_err(|e| bad(e.to_string()))?;
    if marker.format != MARKER_FORMAT {
        return Err(bad(format!("its format is `{}`", marker.format)));
    }
    if marker.version > STORE_VERSION {
        let (found, supported) = (marker.version, STORE_VERSION);
        return Err(StoreError::NewerVersion { found, supported, path: path.to_owned() });
    }
    Ok(true)
}

fn bucketed(dir: &Path, name: &Digest, suffix: &str) -> PathBuf {
    let mut hex = name.to_string();
    let bucket = dir.join(&hex[..2]);
    hex.push_str(suffix);
    bucket.join(hex)
}

/// Every file two levels below `dir`, sorted; a level that vanishes meanwhile is empty.
pub(crate) fn bucket_files(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut files = Vec::new();
    for bucket in list(dir)? {
        if bucket.is_dir() {
            files.extend(list(&bucket)?);
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// What lies in `dir`, in no order.
pub(crate) fn list(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(StoreError::reading("list", dir)(e)),
    };
    entries.map(|entry| entry.map(|e| e.path()).map_err(StoreError::reading("list", dir))).collect()
}

/// The digest that names a file, when it has the given suffix and lies in the right bucket.
pub(crate) fn name_digest(path: &Path, suffix: &str) -> Option<Digest> {
    let name = path.file_name()?.to_str()?.strip_suffix(suffix)?;
    let bucket = path.parent()?.file_name()?.to_str()?;
    name.starts_with(bucket).then(|| name.parse().ok()).flatten()
}
