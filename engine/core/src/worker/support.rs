//! How far the kernel can wall a process in, as `wall` and `calls` do.

use std::sync::OnceLock;

use landlock::{
    Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, Ruleset,
    RulesetAttr, Scope,
};

use super::calls;
use super::wall::KNOWN;

/// What the kernel can hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Support {
    Whole,
    /// All but these.
    Part {
        missing: Vec<&'static str>,
    },
    None {
        why: &'static str,
    },
}

impl Support {
    /// What is to be said to whoever runs plugins here; `None` where the wall is whole.
    pub fn note(&self) -> Option<String> {
        match self {
            Self::Whole => None,
            Self::Part { missing } => Some(format!(
                "plugins are walled in but in part: this kernel cannot hold {}",
                listed(missing)
            )),
            Self::None { why } => Some(format!("plugins are not walled in: {why}")),
        }
    }
}

fn listed(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// What this kernel can hold. It is asked once: every command asks.
pub fn support() -> Support {
    static SUPPORT: OnceLock<Support> = OnceLock::new();
    SUPPORT.get_or_init(asked).clone()
}

fn asked() -> Support {
    if !handles(AccessFs::from_all(landlock::ABI::V1)) {
        return Support::None { why: why_none() };
    }
    let features = [
        (handles(AccessFs::Truncate.into()), "that files are emptied"),
        (Ruleset::default().set_compatibility(HARD).handle_access(AccessNet::from_all(KNOWN)).is_ok(), "TCP"),
        (handles(AccessFs::IoctlDev.into()), "that devices are controlled"),
        (Ruleset::default().set_compatibility(HARD).scope(Scope::from_all(KNOWN)).is_ok(), "signals"),
    ];
    let mut missing: Vec<&str> = features.iter().filter(|(has, _)| !has).map(|(_, what)| *what).collect();
    if !calls::are_held() {
        missing.extend(calls::MISSING);
    }
    if missing.is_empty() { Support::Whole } else { Support::Part { missing } }
}

/// An error where something is not to be had, in place of less than was asked for.
const HARD: CompatLevel = CompatLevel::HardRequirement;

fn handles(rights: BitFlags<AccessFs>) -> bool {
    let rules = Ruleset::default().set_compatibility(HARD).handle_access(rights);
    rules.and_then(Ruleset::create).is_ok()
}

/// Why there is nothing: only who puts a wall around itself is told.
fn why_none() -> &'static str {
    const UNTOLD: &str = "this kernel does not let a program have a Landlock wall";
    let tried = || Ruleset::default().handle_access(AccessFs::Execute)?.create()?.restrict_self();
    let status = std::thread::Builder::new().spawn(tried).map(std::thread::JoinHandle::join);
    match status {
        Ok(Ok(Ok(status))) => match status.landlock {
            LandlockStatus::NotEnabled => "Landlock is switched off in this kernel (its parameter `lsm`)",
            LandlockStatus::NotImplemented => "this kernel has no Landlock: Linux has it since 5.13",
            LandlockStatus::Available { .. } => UNTOLD,
        },
        _ => UNTOLD,
    }
}
