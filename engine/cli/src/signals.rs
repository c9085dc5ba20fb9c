//! Ctrl-C and its like: once asks the run to stop after the current unit of work, twice ends at once. Either way
//! nothing is lost, since an unfinished commit is no commit.

use std::io::Write;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, OnceLock};

use qpipe_sdk::Cancel;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator;

use crate::exit::Exit;

/// What was received so far.
#[derive(Default)]
pub(crate) struct Signals {
    cancel: OnceLock<Cancel>,
    first: Arc<AtomicI32>,
}

impl Signals {
    /// What the first signal cancels; watching starts at the first call. Before it, and where signals cannot be had, they
    /// keep their usual effect.
    pub(crate) fn watch(&self) -> Cancel {
        self.cancel.get_or_init(|| self.start()).clone()
    }

    fn start(&self) -> Cancel {
        let cancel = Cancel::default();
        if let Ok(mut signals) = iterator::Signals::new([SIGINT, SIGTERM]) {
            let (cancel, first) = (cancel.clone(), Arc::clone(&self.first));
            std::thread::spawn(move || signals.forever().for_each(|signal| take(signal, &cancel, &first)));
        }
        cancel
    }

    /// The exit that a received signal asks for.
    pub(crate) fn received(&self) -> Option<Exit> {
        match self.first.load(Ordering::SeqCst) {
            0 => None,
            signal => Some(exit_of(signal)),
        }
    }
}

/// From now on they do nothing: somebody else acts on them.
pub(crate) fn ignore() {
    if let Ok(signals) = iterator::Signals::new([SIGINT, SIGTERM]) {
        std::mem::forget(signals);
    }
}

fn take(signal: i32, cancel: &Cancel, first: &AtomicI32) {
    if first.swap(signal, Ordering::SeqCst) != 0 {
        #[expect(clippy::exit, reason = "the second signal means: at once")]
        std::process::exit(exit_of(signal).code().into());
    }
    let _ = writeln!(std::io::stderr(), "stopping after the current unit of work; once more stops at once");
    cancel.request();
}

fn exit_of(signal: i32) -> Exit {
    Exit::Signal(u8::try_from(signal).unwrap_or(u8::MAX))
}
