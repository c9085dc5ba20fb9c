//! How much memory a process group takes, as the kernel tells it.

use std::fs;
use std::path::Path;

/// Resident bytes of a group's processes. A page that several share is counted once each, which is quick; only where
/// that exceeds `enough` it is counted once in all.
pub(super) fn resident(group: u32, enough: u64) -> u64 {
    let page = rustix::param::page_size() as u64;
    let mut members = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let is_process = entry.file_name().to_str().is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()));
        if !is_process {
            continue;
        }
        let Some((of, pages)) = fs::read_to_string(entry.path().join("stat")).ok().and_then(|s| parse(&s))
        else {
            continue; // it has ended meanwhile
        };
        if of == group {
            members.push((entry.path(), pages * page));
        }
    }
    let quick = members.iter().map(|(_, bytes)| bytes).sum();
    if quick <= enough {
        return quick;
    }
    let exact = || members.iter().map(|(process, bytes)| shared_once(process).unwrap_or(*bytes)).sum();
    // one that forks between two looks is counted twice, but hardly two times in a row
    u64::min(exact(), exact())
}

/// Group and resident pages of a line of `stat`. The program's name, in parentheses, may hold anything.
fn parse(stat: &str) -> Option<(u32, u64)> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let group = fields.nth(2)?.parse().ok()?;
    Some((group, fields.nth(18)?.parse().ok()?))
}

/// Resident bytes of a process, each page divided among those that share it.
fn shared_once(process: &Path) -> Option<u64> {
    let text = fs::read_to_string(process.join("smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_stat_is_read_behind_the_name() {
        let stat =
            "17 (a) b (c)) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 99 8000 1234 18446744073709551615";
        assert_eq!(parse(stat), Some((42, 1234)));
        assert_eq!(parse("17 (a"), None);
    }

    #[test]
    fn this_group_takes_something_and_no_group_nothing() {
        let own = rustix::process::getpgrp().as_raw_nonzero().get().cast_unsigned();
        let (quick, exact) = (resident(own, u64::MAX), resident(own, 0));
        assert!(exact > 1 << 20 && exact <= quick + (8 << 20), "{exact} of {quick}");
        assert_eq!(resident(u32::MAX, 0), 0);
    }
}
