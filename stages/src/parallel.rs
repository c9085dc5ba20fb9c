//! Units of work side by side. A committed unit waits for the disk a few times; four at once keep both the disk
//! and the cores busy, and hold at most four modules in memory.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use qpipe_sdk::StageError;

/// Units in flight.
const WORKERS: usize = 4;

/// `work` of every item, results in the items' order. After the first error no further item is begun; it is the
/// error returned.
pub fn map<I: Sync, T: Send>(
    items: &[I],
    work: impl Fn(&I) -> Result<T, StageError> + Sync,
) -> Result<Vec<T>, StageError> {
    let (next, done, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()), Mutex::new(None));
    let worker = || {
        while let Some((at, item)) = take(&next, items) {
            match work(item) {
                Ok(result) => done.lock().unwrap_or_else(PoisonError::into_inner).push((at, result)),
                Err(error) => {
                    next.store(items.len(), Ordering::SeqCst);
                    failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..WORKERS.min(items.len()) {
            scope.spawn(worker);
        }
    });
    if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(at, _)| *at);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}

fn take<'a, I>(next: &AtomicUsize, items: &'a [I]) -> Option<(usize, &'a I)> {
    let at = next.fetch_add(1, Ordering::SeqCst);
    items.get(at).map(|item| (at, item))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_the_items_order_and_the_first_error_stops_the_rest() {
        let items: Vec<usize> = (0..100).collect();
        assert_eq!(map(&items, |i| Ok(i * 2)).unwrap(), items.iter().map(|i| i * 2).collect::<Vec<_>>());
        let begun = AtomicUsize::new(0);
        let result = map(&items, |i| {
            begun.fetch_add(1, Ordering::SeqCst);
            if *i == 3 { Err(StageError::config("no")) } else { Ok(()) }
        });
        assert_eq!(result.unwrap_err().to_string(), "no");
        assert!(begun.load(Ordering::SeqCst) < items.len());
    }
}
