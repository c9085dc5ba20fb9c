//! Whether a failed node is tried again. Only reasons that pass by themselves count: a value that is out of range is so
//! the second time as well, and trying it again on a rented GPU costs money.
//!
//! | class | tried again |
//! |---|---|
//! | transient (a network fault, a lost worker) | as often as the policy says, each pause twice the last |
//! | out of memory, host or device | once, with nothing else running, unless the policy has no further tries at all |
//! | everything else, timeouts too | never |

use std::time::Duration;

use qpipe_sdk::ErrorClass;

use crate::limits::Retry;

/// The longest pause.
const LONGEST: Duration = Duration::from_mins(1);

/// What was tried of one node.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tries {
    pub(super) again: u32,
    /// It ran out of memory, so that from now on it runs alone.
    pub(super) alone: bool,
}

impl Tries {
    /// Notes a failure of this class; the pause before the next try, if there is to be one.
    pub(super) fn after(&mut self, class: ErrorClass, policy: Retry) -> Option<Duration> {
        let out_of_memory = matches!(class, ErrorClass::OomHost | ErrorClass::OomDevice);
        let again = match class {
            ErrorClass::Transient => self.again < policy.times,
            _ => out_of_memory && !self.alone && policy.times > 0,
        };
        if !again {
            return None;
        }
        self.alone |= out_of_memory;
        self.again += u32::from(!out_of_memory);
        Some(policy.wait.saturating_mul(1 << self.again.saturating_sub(1).min(16)).min(LONGEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Retry = Retry { times: 3, wait: Duration::from_secs(1) };

    #[test]
    fn pauses_double_and_tries_end() {
        let mut tries = Tries::default();
        let pauses: Vec<_> = (0..4).map(|_| tries.after(ErrorClass::Transient, POLICY)).collect();
        assert_eq!(pauses, [Some(1), Some(2), Some(4), None].map(|s| s.map(Duration::from_secs)));
        assert!(!tries.alone);
    }

    #[test]
    fn a_pause_is_never_longer_than_a_minute() {
        let mut tries = Tries { again: 40, alone: false };
        let policy = Retry { times: 100, ..POLICY };
        assert_eq!(tries.after(ErrorClass::Transient, policy), Some(LONGEST));
    }

    #[test]
    fn out_of_memory_is_tried_once_more_and_alone() {
        let mut tries = Tries::default();
        for _ in 0..4 {
            tries.after(ErrorClass::Transient, POLICY);
        }
        assert!(tries.after(ErrorClass::OomDevice, POLICY).is_some(), "whatever else happened before");
        assert!(tries.alone);
        assert_eq!(tries.after(ErrorClass::OomHost, POLICY), None);
    }

    #[test]
    fn what_will_fail_again_is_not_tried_again() {
        use ErrorClass::{Bug, Cancelled, Config, Device, Store, Timeout};
        for class in [Bug, Cancelled, Config, Device, Store, Timeout] {
            assert_eq!(Tries::default().after(class, POLICY), None, "{class:?}");
        }
        let never = Retry { times: 0, ..POLICY };
        assert_eq!(Tries::default().after(ErrorClass::Transient, never), None);
        assert_eq!(Tries::default().after(ErrorClass::OomHost, never), None);
    }
}
