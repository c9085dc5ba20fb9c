//! A panicking stage is caught and told as one typed failure; the standard message of its thread would be noise in
//! the middle of the progress.

use std::panic;
use std::thread;

/// Mutes panics of every thread but the main one.
pub(crate) fn mute_workers() {
    let loud = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if thread::current().name() == Some("main") {
            loud(info);
        }
    }));
}
