//! Compiled kernels on disk: what a process compiled, the next one loads. cubecl keeps them by kernel, build and architecture
//! of the device in one database file, which any number of processes may share.

use std::path::Path;

use cubecl::config::cache::CacheConfig;
use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};

/// Keeps them in a file of `folder`; whether it does: not for a program without a build id, whose kernels could be taken for
/// those of another build, nor where something has computed before.
pub fn keep_compiled(folder: Option<&Path>) -> bool {
    let folder = folder.filter(|_| buildid::build_id().is_some());
    let mut config = CubeClRuntimeConfig::default();
    config.compilation.cache = folder.is_some();
    config.autotune.disable_cache = folder.is_none();
    if let Some(folder) = folder {
        config.environment.path = CacheConfig::Directory(folder.to_owned());
    }
    CubeClRuntimeConfig::try_set(config) && folder.is_some()
}
