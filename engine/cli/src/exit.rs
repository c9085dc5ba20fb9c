//! Exit codes: the whole contract with scripts, in one enum.

use std::process::ExitCode;

use qpipe_sdk::ErrorClass;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: everything asked for was done.
    Ok,
    /// 1: a stage failed, or a plugin that was tested. Finished work is kept.
    StageFailed,
    /// 2: the command line was not understood, or names a code, stage, cell or run that there is not.
    Usage,
    /// 3: the manifest is missing, wrong or (`fmt --check`) not formatted, or names files that are missing.
    Manifest,
    /// 5: the options select nothing.
    Nothing,
    /// 6: the store cannot be used, or is damaged.
    Store,
    /// 7: no such device, or not enough memory.
    Resources,
    /// 128+n: stopped by signal n (130: Ctrl-C).
    Signal(u8),
}

impl Exit {
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::StageFailed => 1,
            Self::Usage => 2,
            Self::Manifest => 3,
            Self::Nothing => 5,
            Self::Store => 6,
            Self::Resources => 7,
            Self::Signal(number) => 128_u8.saturating_add(number),
        }
    }

    /// The exit for failed stages of these classes: a broken store says more than a failed stage, and a missing
    /// device more than any other.
    pub fn of_failures(classes: &[ErrorClass]) -> Self {
        let any = |class| classes.contains(&class);
        if any(ErrorClass::Store) {
            Self::Store
        } else if [ErrorClass::Device, ErrorClass::OomDevice, ErrorClass::OomHost].into_iter().any(any) {
            Self::Resources
        } else {
            Self::StageFailed
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_counted_from_128() {
        assert_eq!((Exit::Signal(2).code(), Exit::Signal(15).code()), (130, 143));
    }

    #[test]
    fn the_failure_that_says_most_decides() {
        assert_eq!(Exit::of_failures(&[ErrorClass::Bug, ErrorClass::Store]), Exit::Store);
        assert_eq!(Exit::of_failures(&[ErrorClass::Config, ErrorClass::OomHost]), Exit::Resources);
        assert_eq!(Exit::of_failures(&[ErrorClass::OomDevice]), Exit::Resources);
        assert_eq!(Exit::of_failures(&[ErrorClass::Config, ErrorClass::Timeout]), Exit::StageFailed);
    }

    #[test]
    fn every_exit_has_the_code_that_the_page_of_exit_codes_says() {
        // not `env!`: two checkouts may share a target folder
        let program = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests");
        let path = std::path::Path::new(&program).join("../../docs/exit-codes.md");
        let page = std::fs::read_to_string(path).unwrap();
        let (stage, signal) = (Exit::StageFailed, Exit::Signal(2));
        for exit in [
            Exit::Ok,
            stage,
            Exit::Usage,
            Exit::Manifest,
            Exit::Nothing,
            Exit::Store,
            Exit::Resources,
            signal,
        ] {
            assert!(page.contains(&format!("\n| {} |", exit.code())), "{exit:?} is not on the page");
        }
    }
}
