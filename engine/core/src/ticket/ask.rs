//! What names a ticket, and what reading a manifest asked of the world besides.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use qpipe_cache::Digest;
use qpipe_sdk::StageRegistry;

/// Version of a ticket's content and of what it stands for.
const VERSION: u32 = 1;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// The program: anything that differs between two builds.
    pub tool: &'a str,
    /// The folder that relative paths start from.
    pub folder: &'a Path,
    /// As given.
    pub manifest: &'a Path,
    pub text: &'a str,
    /// `--set`, as given.
    pub sets: &'a [(String, String)],
}

impl Ask<'_> {
    /// The ticket's name.
    pub fn name(&self, registry: &StageRegistry) -> Digest {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        let mut put = |part: &[u8]| {
            bytes.extend((part.len() as u64).to_le_bytes());
            bytes.extend(part);
        };
        put(self.tool.as_bytes());
        put(self.folder.as_os_str().as_encoded_bytes());
        put(self.manifest.as_os_str().as_encoded_bytes());
        put(self.text.as_bytes());
        for (name, value) in self.sets {
            put(name.as_bytes());
            put(value.as_bytes());
        }
        for stage in registry.kinds().filter_map(|kind| registry.get(kind)) {
            put(stage.spec().kind.as_bytes());
            put(&stage.spec().semantics.to_le_bytes());
        }
        Digest::of_bytes_here(&bytes)
    }
}

/// Notes what reading a manifest asks of the world, so that a ticket can ask the same again.
#[derive(Debug, Default)]
pub struct Watched {
    env: RefCell<BTreeMap<String, Option<String>>>,
    texts: RefCell<BTreeMap<PathBuf, Digest>>,
}

impl Watched {
    /// A variable of the environment, as `env` answers.
    pub fn env(&self, name: &str, env: impl FnOnce(&str) -> Option<String>) -> Option<String> {
        let value = env(name);
        self.env.borrow_mut().insert(name.to_owned(), value.clone());
        value
    }

    /// A text, as `read` answers.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn text(&self, path: &Path, read: impl FnOnce(&Path) -> io::Result<String>) -> io::Result<String> {
        let text = read(path)?;
        self.texts.borrow_mut().insert(path.to_owned(), Digest::of_bytes_here(text.as_bytes()));
        Ok(text)
    }

    pub(super) fn variables(&self) -> Vec<(String, Option<String>)> {
        self.env.borrow().iter().map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    pub(super) fn digest(&self, path: &Path) -> Option<Digest> {
        self.texts.borrow().get(path).copied()
    }
}
