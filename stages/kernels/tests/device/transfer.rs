//! What is uploaded is what was given, whatever the sizes; and how fast.

use std::io::Write;
use std::time::Instant;

use qpipe_kernels::upload;

use super::{client, opened};

/// Bytes that differ from place to place.
fn bytes(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed * 97) >> 13) as u8).collect()
}

#[test]
fn uploads_are_the_bytes_given() {
    let Some(client) = client("upload") else { return };
    let half = 32 << 20;
    // nothing, a byte, many small ones, and more than both halves of the pinned memory, at odd sizes
    let cases: [&[usize]; 7] =
        [&[0], &[1], &[3, 0, 5, 16, 1], &[257; 900], &[half], &[half - 7, half + 9, 3], &[5 * half + 12_345]];
    // all on their way before one is read, so that what is overwritten too early shows
    let sent: Vec<_> = cases
        .iter()
        .map(|sizes| {
            let parts: Vec<Vec<u8>> = sizes.iter().enumerate().map(|(i, len)| bytes(*len, i + len)).collect();
            let len = sizes.iter().sum::<usize>().next_multiple_of(16);
            let handle = upload(&client, &parts.iter().map(Vec::as_slice).collect::<Vec<_>>(), len).unwrap();
            (parts.concat(), handle)
        })
        .collect();
    for ((given, handle), sizes) in sent.into_iter().zip(cases) {
        let got = client.read_one(handle).unwrap();
        assert!(got[..given.len()] == given[..], "{} parts of {} bytes", sizes.len(), given.len());
    }
}

#[test]
fn threads_do_not_share_what_is_on_its_way() {
    let Some(_device) = client("upload") else { return };
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                let client = opened("upload").unwrap();
                for round in 0..6 {
                    let given = bytes((11 << 20) + thread * 4097 + round, thread * 10 + round);
                    let handle = upload(&client, &[&given], given.len().next_multiple_of(16)).unwrap();
                    let got = client.read_one(handle).unwrap();
                    assert!(got[..given.len()] == given[..], "thread {thread}, round {round}");
                }
            });
        }
    });
}

#[test]
#[ignore = "measures"]
fn transfer_figures() {
    let Some(client) = client("upload") else { return };
    let given = bytes(1 << 30, 1);
    for round in 0..5 {
        let clock = Instant::now();
        let handle = upload(&client, &[&given], given.len()).unwrap();
        let enqueued = clock.elapsed().as_secs_f64();
        let _ = cubecl::future::block_on(client.sync());
        let seconds = clock.elapsed().as_secs_f64();
        drop(handle);
        let _ = writeln!(
            std::io::stderr(),
            "upload of 1 GiB, round {round}: {:.1} GB/s ({enqueued:.3} s of {seconds:.3} s on the host)",
            given.len() as f64 / seconds / 1e9
        );
    }
}
