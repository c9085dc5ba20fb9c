//! The engine's folder for temporary files, in one that others may write to as well: of its user alone, whatever others have put
//! in its place.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use qpipe_cache::StoreError;
use rustix::fs::OFlags;
use rustix::process::geteuid;

/// Why there is no folder for temporary files.
#[derive(Debug, thiserror::Error)]
pub enum TempError {
    #[error("cannot use `{}` for temporary files: {source}; `TMPDIR` can name another folder", path.display())]
    Unusable { path: PathBuf, source: io::Error },
    #[error(
        "cannot use `{}` for temporary files: it is {what}; remove it, or name another folder by `TMPDIR`",
        path.display()
    )]
    Foreign { path: PathBuf, what: &'static str },
}

impl TempError {
    pub(crate) fn unusable(path: &Path, source: io::Error) -> Self {
        Self::Unusable { path: path.to_owned(), source }
    }

    /// What is wrong in the folder, which is no store.
    pub(crate) fn of(path: &Path, error: StoreError) -> Self {
        match error {
            StoreError::Io { path, source, .. } => Self::Unusable { path, source },
            other => Self::unusable(path, io::Error::other(other)),
        }
    }
}

/// Makes the folder, if it is not there, and makes sure that it is this user's alone.
pub(super) fn make(path: &Path) -> Result<(), TempError> {
    let unusable = |source| TempError::unusable(path, source);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(unusable)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(unusable(error)),
        _ => {}
    }
    let foreign = |what| TempError::Foreign { path: path.to_owned(), what };
    let meta = fs::symlink_metadata(path).map_err(unusable)?;
    if meta.is_symlink() {
        return Err(foreign("a link"));
    }
    if !meta.is_dir() {
        return Err(foreign("no folder"));
    }
    if meta.uid() != geteuid().as_raw() {
        return Err(foreign("another user's"));
    }
    // what is held is looked at once more: another may have taken its place by now
    let flags = (OFlags::DIRECTORY | OFlags::NOFOLLOW).bits().cast_signed();
    let held = File::options().read(true).custom_flags(flags).open(path).map_err(unusable)?;
    let meta = held.metadata().map_err(unusable)?;
    if meta.uid() != geteuid().as_raw() {
        return Err(foreign("another user's"));
    }
    if meta.mode() & 0o077 != 0 {
        held.set_permissions(Permissions::from_mode(0o700)).map_err(unusable)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};

    use super::*;

    #[test]
    fn it_is_made_for_this_user_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("temp/qpipe");
        let mode = || fs::metadata(&path).unwrap().mode() & 0o777;
        make(&path).unwrap();
        assert_eq!(mode(), 0o700);
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        make(&path).unwrap();
        assert_eq!(mode(), 0o700, "an earlier version left it open");
    }

    #[test]
    fn what_others_put_in_its_place_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let [folder, link, file, below] =
            ["folder", "link", "file", "file/below"].map(|name| dir.path().join(name));
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
        symlink(&folder, &link).unwrap();
        fs::write(&file, "").unwrap();
        let told = |path: &Path| make(path).unwrap_err().to_string();
        for (path, what) in [(&link, "it is a link"), (&file, "it is no folder")] {
            let text = told(path);
            let says = [what, "`TMPDIR`", path.to_str().unwrap()];
            assert!(says.iter().all(|part| text.contains(part)), "{text}");
        }
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o755, "through a link");
        assert!(matches!(make(&below).unwrap_err(), TempError::Unusable { .. }));
        // only root gives things away
        if geteuid().is_root() {
            chown(&folder, Some(12345), None).unwrap();
            assert!(told(&folder).contains("it is another user's"));
        }
    }
}
