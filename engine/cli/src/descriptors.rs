//! What this process was handed besides its three streams is nobody else's: commands and plugins do not inherit it.
#![allow(unsafe_code, reason = "descriptors that nobody here opened have only a number")]

use std::fs;
use std::os::fd::{BorrowedFd, RawFd};

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

const LAST_STREAM: RawFd = 2;

/// Marks every descriptor but the streams to be closed where another program is started.
pub(crate) fn keep_from_children() {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return };
    let numbers: Vec<RawFd> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|number| *number > LAST_STREAM) {
        // SAFETY: it is only asked about and marked; one that was closed meanwhile is an error
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        if let Ok(flags) = fcntl_getfd(descriptor) {
            let _closed = fcntl_setfd(descriptor, flags | FdFlags::CLOEXEC);
        }
    }
}
