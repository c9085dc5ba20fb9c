//! Memory maps of blobs: the one place with `unsafe`.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::sync::Arc;

use memmap2::Mmap;

/// A blob's bytes, mapped read-only. Cloning shares the map.
#[derive(Clone, Debug)]
pub struct Mapped {
    map: Arc<Mmap>,
}

impl Mapped {
    #[expect(unsafe_code, reason = "a memory map is the only way to hand out gigabytes without copying them")]
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        // SAFETY: the map is sound while nobody changes the file under it. A blob the store owns has mode 0444, is
        // never written after it got its name, and is only ever replaced or removed by name, which leaves this
        // file as it is. A linked file belongs to its owner: it was just checked to be the one that was hashed,
        // and changing it in place during a run is outside the contract of linking (README.md, "Linked files"):
        // readers may then see other bytes, or SIGBUS when it is truncated; they never write through the map.
        let map = unsafe { Mmap::map(file)? };
        Ok(Self { map: Arc::new(map) })
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}
