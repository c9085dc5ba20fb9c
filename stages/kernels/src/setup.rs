//! How cubecl is set up for a process. Compiled kernels are kept on disk: what a process compiled, the next one loads; they lie
//! by kernel, build and architecture of the device in one database file, which any number of processes may share. And all
//! threads share a device's one stream, and with it its memory: work on a device goes one after the other anyway, and what
//! a thread's own stream has freed no other could use.

use std::path::Path;

use cubecl::config::cache::CacheConfig;
use cubecl::config::streaming::StreamPolicy;
use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};

/// Sets it up, keeping kernels in a file of `folder`; whether they are kept: not for a program without a build id, whose kernels
/// could be taken for those of another build, nor where something has computed before.
pub fn set_up(folder: Option<&Path>) -> bool {
    let folder = folder.filter(|_| buildid::build_id().is_some());
    let mut config = CubeClRuntimeConfig::default();
    config.compilation.cache = folder.is_some();
    config.streaming.policy = StreamPolicy::Single;
    config.autotune.disable_cache = folder.is_none();
    if let Some(folder) = folder {
        config.environment.path = CacheConfig::Directory(folder.to_owned());
    }
    CubeClRuntimeConfig::try_set(config) && folder.is_some()
}
