//! The two directions of a conversation, each on a thread of its own: one that waits for a worker keeps nobody from looking
//! at the clock.

use std::io::{BufRead, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use qpipe_sdk::protocol::{LineError, Reply, Request, decode, encode, read_line};

/// How many replies may wait to be read.
const BACKLOG: usize = 256;

/// What is heard of a worker.
pub(super) enum Heard {
    Reply(Reply),
    Bad(LineError),
    End,
}

/// What is read from a stream, until the worker hangs up, says something that is no message, or nobody listens any more.
pub(super) fn listen(input: impl BufRead + Send + 'static) -> Receiver<Heard> {
    let (sender, heard) = sync_channel(BACKLOG);
    std::thread::spawn(move || read(input, &sender));
    heard
}

fn read(mut input: impl BufRead, sender: &SyncSender<Heard>) {
    let mut line = Vec::new();
    loop {
        let heard = match read_line(&mut input, &mut line) {
            Ok(true) => decode(&line).map_or_else(Heard::Bad, Heard::Reply),
            // it ended within a line: what matters is that it ended
            Ok(false) | Err(LineError::Truncated { .. }) => Heard::End,
            Err(error) => Heard::Bad(error),
        };
        let last = !matches!(heard, Heard::Reply(_));
        if sender.send(heard).is_err() || last {
            return;
        }
    }
}

/// Takes lines to be written until nobody has any more to say. With `beat`, the engine says that it lives, and when it ends.
pub(super) fn speak(
    output: impl Write + Send + 'static,
    beat: Option<Duration>,
) -> (Sender<Vec<u8>>, JoinHandle<()>) {
    let (lines, written) = channel();
    (lines, std::thread::spawn(move || write(output, &written, beat)))
}

/// A worker that does not read has gone, or is about to be heard of.
fn write(mut output: impl Write, lines: &Receiver<Vec<u8>>, beat: Option<Duration>) {
    let mut write = |line: &[u8]| output.write_all(line).and_then(|()| output.flush()).is_ok();
    let Some(beat) = beat else {
        let _gone = lines.iter().all(|line| write(&line));
        return;
    };
    loop {
        let line = match lines.recv_timeout(beat) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => encode(&Request::Heartbeat),
            Err(RecvTimeoutError::Disconnected) => break,
        };
        if !line.is_ok_and(|line| write(&line)) {
            return;
        }
    }
    let _gone = encode(&Request::Bye).is_ok_and(|line| write(&line));
}
