//! What this machine has for a run.

use std::ffi::OsString;
use std::path::PathBuf;

use qpipe_engine::limits::Gpus;
use qpipe_engine::record::Environment;
use qpipe_engine::worker::Machine;

/// What commands, plugins and workers may see of this process.
pub(crate) fn machine() -> Machine {
    Machine::new(std::env::vars_os(), &std::env::temp_dir()).with_plugins(plugins(&variable))
}

fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// The user's folder of plugins: `$QPIPE_PLUGINS`, or that of the user's data.
fn plugins(variable: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let path = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let data = || {
        let said = path("XDG_DATA_HOME").filter(|folder| folder.is_absolute());
        said.or_else(|| Some(path("HOME")?.join(".local/share")))
    };
    let folder = path("QPIPE_PLUGINS").or_else(|| Some(data()?.join("qpipe/plugins")))?;
    Some(std::path::absolute(&folder).unwrap_or(folder))
}

/// Host memory that this process may use, bytes: the machine's, or less in a container.
pub(crate) fn memory() -> Option<u64> {
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let container = limit.and_then(|text| text.trim().parse().ok());
    [Environment::probe().memory_bytes, container].into_iter().flatten().min()
}

/// The ordinals of the GPUs to use, where none is asked for all. One that there is not is the stage's to refuse: it knows
/// what exists.
pub(crate) fn gpus(asked: Option<&Gpus>) -> Vec<usize> {
    match asked {
        Some(Gpus::These(ordinals)) => ordinals.clone(),
        Some(Gpus::All) | None => (0..qpipe_stages::cuda::count().unwrap_or(0)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_folder_of_plugins_is_where_the_environment_says() {
        let told = |set: &[(&str, &str)]| {
            plugins(&|name| {
                set.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
            })
        };
        let home = ("HOME", "/home/u");
        assert_eq!(told(&[]), None);
        assert_eq!(told(&[home]).as_deref(), Some(Path::new("/home/u/.local/share/qpipe/plugins")));
        assert_eq!(told(&[home, ("XDG_DATA_HOME", "/d")]).as_deref(), Some(Path::new("/d/qpipe/plugins")));
        assert_eq!(
            told(&[home, ("XDG_DATA_HOME", "d")]).as_deref(),
            Some(Path::new("/home/u/.local/share/qpipe/plugins"))
        );
        let named = [home, ("XDG_DATA_HOME", "/d"), ("QPIPE_PLUGINS", "/mine")];
        assert_eq!(told(&named).as_deref(), Some(Path::new("/mine")));
    }
}
