//! Which calls of the kernel who is walled in does not have: what a [wall](super::wall) does not hold.
//!
//! | calls | are refused where | because |
//! |---|---|---|
//! | `socket`, `socketpair` | it is not of this machine (`AF_UNIX`), and there is to be no network | Landlock holds TCP alone, and not all of that |
//! | limits, priorities, scheduling | of another process than the one that calls | a limit is enough to end the engine |
//! | `chmod` and what makes files | the file would run with its owner's rights | somebody else starts it, outside |
//! | `keyctl` and its like | always | keys of the user lie in the kernel |
//! | `io_uring_setup`, `openat2` | always: as if the kernel were older | their arguments cannot be seen |
//!
//! A number other than 0 is another process: whose it is, a filter cannot know.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use libc::c_long;
use rustix::process::geteuid;
use seccompiler::SeccompCmpOp::{Eq, MaskedEq, Ne};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

/// What is not held where there are no filters.
pub(super) const MISSING: [&str; 2] = ["networks other than TCP", "limits of other processes"];

/// The bits of a mode with which a program runs with the rights of its file's owner, or of its group.
const SET_USER: u32 = 0o4000;
const SET_GROUP: u32 = 0o2000;
/// `fchmodat2`, the same on all machines; not every C library's headers have it.
const FCHMODAT2: c_long = 452;
/// Everything that a user runs; C libraries have the first in different types, and not the second.
const PRIO_USER: u32 = 2;
const IOPRIO_WHO_USER: u32 = 3;
/// What the second set of numbers of the kernel for x86-64 has besides.
const X32: c_long = 0x4000_0000;

/// Why a filter cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CallsError {
    #[error("a filter of calls cannot be made: {0}")]
    Filter(#[from] BackendError),
    #[error("the kernel does not take a filter of calls: {0}")]
    Kernel(#[from] seccompiler::Error),
}

/// Calls that are refused in the same way.
#[derive(Default)]
struct Refused(BTreeMap<i64, Vec<SeccompRule>>);

impl Refused {
    /// A call, whatever its arguments are.
    fn always(&mut self, call: c_long) {
        for number in numbers(call) {
            self.0.insert(number, Vec::new());
        }
    }

    /// A call where all of this is true of its arguments; several such sets of conditions are alternatives.
    fn when(&mut self, call: c_long, conditions: &[Condition]) -> Result<(), BackendError> {
        let made = conditions.iter().map(|(argument, operator, value)| {
            // arguments of all these calls are 32 bits to the kernel
            SeccompCondition::new(*argument, SeccompCmpArgLen::Dword, operator.clone(), u64::from(*value))
        });
        let rule = SeccompRule::new(made.collect::<Result<_, _>>()?)?;
        for number in numbers(call) {
            self.0.entry(number).or_default().push(rule.clone());
        }
        Ok(())
    }

    /// The filter. What calls by the numbers of another kind of processor ends.
    fn filter(self, error: i32, machine: TargetArch) -> Result<BpfProgram, BackendError> {
        let refused = SeccompAction::Errno(error.unsigned_abs());
        SeccompFilter::new(self.0, SeccompAction::Allow, refused, machine)?.try_into()
    }
}

/// An argument of a call, by its place, and what it is compared with.
type Condition = (u8, SeccompCmpOp, u32);

/// The numbers that a call goes by.
fn numbers(call: c_long) -> impl Iterator<Item = i64> {
    let second = cfg!(target_arch = "x86_64").then_some(call | X32);
    [call].into_iter().chain(second)
}

/// Refuses these calls to this thread and whatever it starts, for good.
pub(super) fn refuse(network: bool) -> Result<(), CallsError> {
    let Some(machine) = machine() else { return Ok(()) };
    let mut filters =
        vec![unseen().filter(libc::ENOSYS, machine)?, of_others()?.filter(libc::EPERM, machine)?];
    if !network {
        filters.push(sockets()?.filter(libc::EACCES, machine)?);
    }
    filters.iter().try_for_each(|filter| Ok(apply_filter(filter)?))
}

/// Whether there are such filters here.
pub(super) fn are_held() -> bool {
    static HELD: OnceLock<bool> = OnceLock::new();
    *HELD.get_or_init(|| {
        // only who tries it is told, and it stays with the thread
        let tried = std::thread::Builder::new().spawn(|| machine().is_some() && refuse(true).is_ok());
        tried.is_ok_and(|thread| thread.join().unwrap_or(false))
    })
}

/// `None`: of this kind of processor the calls are not known here.
fn machine() -> Option<TargetArch> {
    let is_known = cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));
    TargetArch::try_from(std::env::consts::ARCH).ok().filter(|_| is_known)
}

fn unseen() -> Refused {
    let mut refused = Refused::default();
    for call in [libc::SYS_io_uring_setup, libc::SYS_openat2] {
        refused.always(call);
    }
    refused
}

fn sockets() -> Result<Refused, BackendError> {
    let mut refused = Refused::default();
    for call in [libc::SYS_socket, libc::SYS_socketpair] {
        refused.when(call, &[(0, Ne, libc::AF_UNIX.unsigned_abs())])?;
    }
    Ok(refused)
}

/// What reaches other processes, and what is left for others to start.
fn of_others() -> Result<Refused, BackendError> {
    let mut refused = Refused::default();
    for call in [libc::SYS_add_key, libc::SYS_keyctl, libc::SYS_request_key] {
        refused.always(call);
    }
    for call in [
        libc::SYS_prlimit64,
        libc::SYS_sched_setaffinity,
        libc::SYS_sched_setattr,
        libc::SYS_sched_setparam,
        libc::SYS_sched_setscheduler,
    ] {
        refused.when(call, &[(0, Ne, 0)])?;
    }
    // of one's user, 0 is everything that the user runs
    for (call, user) in [(libc::SYS_setpriority, PRIO_USER), (libc::SYS_ioprio_set, IOPRIO_WHO_USER)] {
        refused.when(call, &[(1, Ne, 0)])?;
        refused.when(call, &[(0, Eq, user)])?;
    }
    // folders pass on the bit of a group, and copies of such a folder set it; to root's files it is worth more than that
    let bits = if geteuid().is_root() { vec![SET_USER, SET_GROUP] } else { vec![SET_USER] };
    for bit in bits {
        modes(&mut refused, bit)?;
    }
    Ok(refused)
}

/// Whatever gives a file a mode with this bit.
fn modes(refused: &mut Refused, bit: u32) -> Result<(), BackendError> {
    let set = |argument| (argument, MaskedEq(u64::from(bit)), bit);
    refused.when(libc::SYS_fchmod, &[set(1)])?;
    for call in [libc::SYS_fchmodat, FCHMODAT2, libc::SYS_mknodat] {
        refused.when(call, &[set(2)])?;
    }
    // the mode counts only where a file is made
    let makes = [libc::O_CREAT, libc::O_TMPFILE & !libc::O_DIRECTORY].map(i32::unsigned_abs);
    for flag in makes {
        let made = |argument| (argument, MaskedEq(u64::from(flag)), flag);
        refused.when(libc::SYS_openat, &[made(2), set(3)])?;
        #[cfg(target_arch = "x86_64")]
        refused.when(libc::SYS_open, &[made(1), set(2)])?;
    }
    #[cfg(target_arch = "x86_64")]
    for call in [libc::SYS_chmod, libc::SYS_creat, libc::SYS_mknod] {
        refused.when(call, &[set(1)])?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "calls_tests.rs"]
mod tests;
