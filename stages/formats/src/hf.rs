//! The files of a Hugging Face checkpoint folder.
//!
//! [`HfDir::open`] looks at names and at the (small) index only. Which bytes are mapped, hashed or
//! read is the caller's decision; [`HfDir::files`] lists all that belongs to the checkpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::config::LlamaConfig;
use crate::error::FormatError;

const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

const MAX_CONFIG: u64 = 4 << 20;
const MAX_INDEX: u64 = 64 << 20;
const MAX_TOKENIZER: u64 = 256 << 20;

/// A checkpoint folder with a configuration and weights, and mostly with a tokenizer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HfDir {
    root: PathBuf,
    has_tokenizer: bool,
    weights: Vec<PathBuf>,
    has_index: bool,
    shard_of: BTreeMap<String, usize>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl HfDir {
    /// Finds `config.json`, `model.safetensors` or the shards that `model.safetensors.index.json`
    /// names, and `tokenizer.json` if there is one.
    ///
    /// # Errors
    /// [`FormatError::MissingFile`] names what the folder lacks; [`FormatError::Json`] and
    /// [`FormatError::UnsafeShardName`] what is wrong with the index; [`FormatError::Io`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, FormatError> {
        let root = path.as_ref().to_path_buf();
        fs::read_dir(&root).map_err(|source| FormatError::Io { path: root.clone(), source })?;
        require(&root, CONFIG)?;
        let has_tokenizer = root.join(TOKENIZER).is_file();
        if root.join(SINGLE).is_file() {
            let weights = vec![root.join(SINGLE)];
            return Ok(Self { root, has_tokenizer, weights, has_index: false, shard_of: BTreeMap::new() });
        }
        if !root.join(INDEX).is_file() {
            let wanted = format!("`{SINGLE}` or `{INDEX}`");
            return Err(FormatError::MissingFile { dir: root, wanted });
        }
        Self::open_sharded(root, has_tokenizer)
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The weight files, sorted by name.
    pub fn weights(&self) -> &[PathBuf] {
        &self.weights
    }

    /// The weight file that should hold a tensor, by the index; with a single file, that file.
    pub fn weights_of(&self, tensor: &str) -> Option<&Path> {
        let shard = if self.has_index { *self.shard_of.get(tensor)? } else { 0 };
        self.weights.get(shard).map(PathBuf::as_path)
    }

    /// The path of `config.json`.
    pub fn config_path(&self) -> PathBuf {
        self.root.join(CONFIG)
    }

    /// The path of `tokenizer.json`, if there is one.
    pub fn tokenizer_path(&self) -> Option<PathBuf> {
        self.has_tokenizer.then(|| self.root.join(TOKENIZER))
    }

    /// Every file of the checkpoint that bears on results: configuration, tokenizer, index, weights.
    pub fn files(&self) -> Vec<PathBuf> {
        let index = self.has_index.then(|| self.root.join(INDEX));
        let small = [Some(self.config_path()), self.tokenizer_path(), index];
        small.into_iter().flatten().chain(self.weights.iter().cloned()).collect()
    }

    /// Reads the configuration.
    ///
    /// # Errors
    /// Those of [`LlamaConfig::from_hf_json`], [`FormatError::Io`], [`FormatError::FileTooLarge`].
    pub fn read_config(&self) -> Result<LlamaConfig, FormatError> {
        LlamaConfig::from_hf_json(&read_bounded(&self.config_path(), MAX_CONFIG)?)
    }

    /// Reads the bytes of `tokenizer.json`.
    ///
    /// # Errors
    /// [`FormatError::MissingFile`], [`FormatError::Io`], [`FormatError::FileTooLarge`].
    pub fn read_tokenizer(&self) -> Result<Vec<u8>, FormatError> {
        require(&self.root, TOKENIZER)?;
        read_bounded(&self.root.join(TOKENIZER), MAX_TOKENIZER)
    }

    fn open_sharded(root: PathBuf, has_tokenizer: bool) -> Result<Self, FormatError> {
        let json = read_bounded(&root.join(INDEX), MAX_INDEX)?;
        let index: Index = serde_json::from_slice(&json)
            .map_err(|source| FormatError::Json { document: INDEX.to_owned(), source })?;
        let shards: BTreeSet<&str> = index.weight_map.values().map(String::as_str).collect();
        for shard in &shards {
            check_shard_name(shard)?;
            require(&root, shard)?;
        }
        let weights = shards.iter().map(|shard| root.join(shard)).collect();
        let order: BTreeMap<&str, usize> = shards.iter().enumerate().map(|(i, &shard)| (shard, i)).collect();
        let shard_of =
            index.weight_map.iter().map(|(name, shard)| (name.clone(), order[shard.as_str()])).collect();
        Ok(Self { root, has_tokenizer, weights, has_index: true, shard_of })
    }
}

fn require(root: &Path, name: &str) -> Result<(), FormatError> {
    if root.join(name).is_file() {
        return Ok(());
    }
    Err(FormatError::MissingFile { dir: root.to_path_buf(), wanted: format!("`{name}`") })
}

/// A shard is a file beside its index: a path that leads elsewhere would read files that the user
/// never named.
fn check_shard_name(shard: &str) -> Result<(), FormatError> {
    let mut components = Path::new(shard).components();
    match (components.next(), components.next()) {
        (Some(Component::Normal(name)), None) if name == shard => Ok(()),
        _ => Err(FormatError::UnsafeShardName { index: INDEX.to_owned(), shard: shard.to_owned() }),
    }
}

fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, FormatError> {
    let io = |source| FormatError::Io { path: path.to_path_buf(), source };
    let bytes = fs::metadata(path).map_err(io)?.len();
    if bytes > limit {
        return Err(FormatError::FileTooLarge { path: path.to_path_buf(), bytes, limit });
    }
    fs::read(path).map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    #[test]
    fn names_each_missing_file() {
        let base = [(CONFIG, "{}"), (TOKENIZER, "{}"), (SINGLE, "")];
        for missing in 0..base.len() {
            let mut files = base.to_vec();
            let (name, _) = files.remove(missing);
            let dir = folder(&files);
            let opened = HfDir::open(dir.path()).and_then(|dir| dir.read_tokenizer());
            let error = opened.unwrap_err().to_string();
            assert!(error.contains(&format!("`{name}`")), "{error}");
        }
        assert!(matches!(HfDir::open("/nonexistent-folder"), Err(FormatError::Io { .. })));
    }

    #[test]
    fn follows_the_index_to_its_shards() {
        let index = r#"{"metadata":{},"weight_map":{"a":"m-2.safetensors","b":"m-1.safetensors"}}"#;
        let files = [(CONFIG, "{}"), (TOKENIZER, "{}"), (INDEX, index), ("m-1.safetensors", "")];
        let dir = folder(&files);
        let error = HfDir::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("`m-2.safetensors`"), "{error}");

        fs::write(dir.path().join("m-2.safetensors"), "").unwrap();
        let found = HfDir::open(dir.path()).unwrap();
        assert_eq!(found.weights().len(), 2);
        assert_eq!(found.weights_of("a"), Some(dir.path().join("m-2.safetensors").as_path()));
        assert_eq!(found.weights_of("c"), None);
        assert_eq!(found.files().len(), 5);
    }

    #[test]
    fn refuses_shards_outside_the_folder() {
        for shard in ["../secret", "/etc/passwd", "a/b", "", ".", "./x"] {
            let index = serde_json::json!({"weight_map": {"a": shard}}).to_string();
            let dir = folder(&[(CONFIG, "{}"), (TOKENIZER, "{}"), (INDEX, &index)]);
            let error = HfDir::open(dir.path()).unwrap_err();
            assert!(matches!(error, FormatError::UnsafeShardName { .. }), "{shard}: {error}");
        }
    }
}
