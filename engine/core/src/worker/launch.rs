//! A command as a process group that cannot outlive the engine.
//!
//! The command is started through a few lines of `sh`, which leave a watchdog in the command's own process group and
//! then become the command. The watchdog reads from a pipe whose other end only the engine holds. However the engine
//! ends (also by `kill -9`, also by a power button's worth of panic), the kernel closes that end, the read returns,
//! and the watchdog kills the whole group. There is no window: the watchdog is there before the command is.
//!
//! | who ends first | what follows |
//! |---|---|
//! | the command | the engine kills what is left of the group: background children, the watchdog |
//! | the engine | the watchdog kills the group |
//!
//! The watchdog also keeps the group's number taken until the engine has killed the group, so that the engine never
//! signals a stranger. It is a grandchild, adopted by init at once: the command that waits for all its children does
//! not wait for it. What leaves its group on purpose (`setsid`) is not followed.
//!
//! Standard streams: a child has three slots, and the watchdog's pipe needs one. Slot 0 is that pipe, slot 2 the
//! command's input; the script moves them, and standard error goes to a file.

use std::ffi::{OsStr, OsString};
use std::io::{self, PipeWriter};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::wall::{Wall, WallError};

/// `$1`: file for standard error. Opened before anything else, so that what the shell has to say is kept as well.
const SCRIPT: &str = r#"exec 3<&0 <&2 2>>"$1" || exit 126
shift
(
  trap '' HUP INT QUIT TERM PIPE
  { read -r _; kill -KILL 0; } <&3 >/dev/null 2>&1 &
)
exec 3<&-
exec "$@""#;

/// How long a group is given between SIGTERM and SIGKILL.
pub const GRACE: Duration = Duration::from_secs(5);

/// A command to start.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Found by [`find_program`].
    pub program: PathBuf,
    pub args: Vec<OsString>,
    /// The whole environment.
    pub env: Vec<(OsString, OsString)>,
    pub folder: PathBuf,
    /// Where standard error is appended. Behind a wall it has to be there, as only the file may be open to be written.
    pub stderr: PathBuf,
}

/// Why a program cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error("there is no program `{program}`{}", if *.on_path { " on the search path" } else { "" })]
    NotFound { program: String, on_path: bool },
    #[error("`{}` is not executable", program.display())]
    NotExecutable { program: PathBuf },
    #[error("failed to start `{}`: {source}", program.display())]
    Start { program: PathBuf, source: io::Error },
    #[error("`{}` cannot be walled in: {source}", program.display())]
    Wall { program: PathBuf, source: WallError },
}

/// The program of a command: a path relative to `folder` if it has a `/`, else a name on the search path.
pub fn find_program(name: &str, folder: &Path, search: Option<&OsStr>) -> Result<PathBuf, LaunchError> {
    if name.contains('/') {
        let program = folder.join(name);
        return match is_executable(&program) {
            Some(true) => Ok(program),
            Some(false) => Err(LaunchError::NotExecutable { program }),
            None => Err(LaunchError::NotFound { program: name.to_owned(), on_path: false }),
        };
    }
    let folders = search.map(std::env::split_paths).into_iter().flatten().filter(|f| f.is_absolute());
    let mut candidates = folders.map(|folder| folder.join(name));
    let not_found = || LaunchError::NotFound { program: name.to_owned(), on_path: true };
    candidates.find(|candidate| is_executable(candidate) == Some(true)).ok_or_else(not_found)
}

/// Whether a file may be executed; `None` where there is no file.
pub(super) fn is_executable(path: &Path) -> Option<bool> {
    use std::os::unix::fs::PermissionsExt;
    let meta = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
    Some(meta.permissions().mode() & 0o111 != 0)
}

/// A running process group. Dropping it kills the group.
#[derive(Debug)]
pub struct Group {
    child: Child,
    pid: Pid,
    status: Option<ExitStatus>,
    /// The watchdog's pipe: open while this lives.
    _lifeline: PipeWriter,
}

impl Group {
    /// Starts a command, behind a wall if there is one.
    pub fn start(
        launch: &Launch,
        wall: Option<&Wall>,
        stdin: Stdio,
        stdout: Stdio,
    ) -> Result<Self, LaunchError> {
        let failed = |source| LaunchError::Start { program: launch.program.clone(), source };
        // both ends are closed on exec: no other child can hold the writing end
        let (read, lifeline) = io::pipe().map_err(failed)?;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", SCRIPT, "qpipe"]).arg(&launch.stderr).arg(&launch.program).args(&launch.args);
        command.env_clear().envs(launch.env.iter().map(|(name, value)| (name, value)));
        command.current_dir(&launch.folder).process_group(0);
        command.stdin(Stdio::from(read)).stdout(stdout).stderr(stdin);
        let child = match wall {
            None => command.spawn().map_err(failed)?,
            Some(wall) => {
                let walled = |source| LaunchError::Wall { program: launch.program.clone(), source };
                behind(wall, || command.spawn()).map_err(walled)?.map_err(failed)?
            }
        };
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| failed(io::Error::other("it has no process number")))?;
        Ok(Self { child, pid, status: None, _lifeline: lifeline })
    }

    /// The process number of the command, which is also that of its group.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Answers, from anywhere, whether the command has ended.
    pub(super) fn watch(&self) -> impl FnMut() -> bool + Send + 'static {
        let pid = self.pid;
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        // an error says that its status was taken already
        move || !matches!(waitid(WaitId::Pid(pid), look), Ok(None))
    }

    /// How the command ended, once it has; its group is killed then.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.child.try_wait()?;
            if self.status.is_some() {
                self.signal(Signal::KILL);
            }
        }
        Ok(self.status)
    }

    /// Asks the group to end.
    pub fn terminate(&mut self) {
        if self.status.is_none() {
            self.signal(Signal::TERM);
        }
    }

    /// Ends the group now.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        self.signal(Signal::KILL);
        let status = self.child.wait()?;
        self.status = Some(status);
        Ok(status)
    }

    /// Asks the group to end, and ends it after `grace`, or as soon as `hurry` says so.
    pub fn stop(&mut self, grace: Duration, hurry: impl Fn() -> bool) -> io::Result<ExitStatus> {
        self.terminate();
        let clock = Instant::now();
        while clock.elapsed() < grace && !hurry() {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.kill()
    }

    fn signal(&self, signal: Signal) {
        // a group that is gone is as wished
        let _gone = kill_process_group(self.pid, signal);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ended = self.kill();
    }
}

/// Does something on a thread that is behind a wall, and so is whatever it starts; this thread stays as it is.
fn behind<T: Send>(wall: &Wall, start: impl FnOnce() -> T + Send) -> Result<T, WallError> {
    std::thread::scope(|scope| {
        let walled = || wall.enclose().map(|()| start());
        let thread = std::thread::Builder::new().spawn_scoped(scope, walled).map_err(WallError::Thread)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A command's end in words: `exit status 3`, `killed by signal 9`.
pub fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "ended without a status".into(),
    }
}

#[cfg(test)]
#[path = "launch_tests.rs"]
mod tests;
