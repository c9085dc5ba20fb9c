//! One command from start to outputs.

use std::fs::File;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use qpipe_cache::Digest;
use qpipe_sdk::{Context, Outcome, Params, StageError};

use super::job::Job;
use super::metrics;
use super::spec::outputs;
use crate::worker::Machine;
use crate::worker::files::{Files, store_file};
use crate::worker::launch::{Group, Launch, LaunchError, ending, find_program};
use crate::worker::log::tail;

/// How often a running command is looked at: at first, and at most.
const POLL: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(25));

/// Where standard output becomes an output, relative to the scratch folder.
const STDOUT: &str = "stdout";

pub(super) fn run(ctx: &Context<'_>, machine: &Machine, grace: Duration) -> Result<Outcome, StageError> {
    let job = Job::prepare(ctx, machine)?;
    let launch = launch(ctx.params, machine, &job).map_err(StageError::config)?;
    let stdout = File::create(job.stdout())
        .map_err(|e| StageError::Transient(format!("failed to create a log: {e}")))?;
    let group =
        Group::start(&launch, None, Stdio::null(), Stdio::from(stdout)).map_err(|e| start_error(&e))?;
    let ended = wait(ctx, group, grace);
    let logs = store_logs(ctx, &job)?;
    let status = ended?;
    if !status.success() {
        return Err(StageError::Config(failure(status, &job)));
    }
    let files = collect(ctx, &job)?;
    let metrics = match ctx.params.text("metrics") {
        Some(path) => metrics::read(&job.work, path)?,
        None => Vec::new(),
    };
    let mut artifact = files.commit(ctx.store)?;
    // kept as long as the result is, but no part of it: a log that tells the time makes no other result
    artifact.refs.extend(logs);
    Ok(Outcome { artifact, metrics })
}

fn launch(params: &Params, machine: &Machine, job: &Job) -> Result<Launch, LaunchError> {
    let words = params.texts("command");
    let argv: Vec<String> = if params.bool("shell") == Some(true) {
        ["/bin/sh", "-c"].map(str::to_owned).into_iter().chain(words).collect()
    } else {
        words
    };
    let name = argv.first().map_or("", String::as_str);
    // a `PATH` that the manifest sets counts
    let set = job.env.iter().rev().find(|(name, _)| name == "PATH").map(|(_, value)| value.as_os_str());
    let program = find_program(name, &job.work, set.or(machine.search()))?;
    Ok(Launch {
        program,
        args: argv.iter().skip(1).map(Into::into).collect(),
        env: job.env.clone(),
        folder: job.work.clone(),
        stderr: job.stderr(),
    })
}

fn start_error(error: &LaunchError) -> StageError {
    match error {
        LaunchError::Start { .. } => StageError::Transient(error.to_string()),
        _ => StageError::Config(error.to_string()),
    }
}

/// Waits for the command's end, a request to stop, or the timeout. Its group is gone afterwards.
fn wait(ctx: &Context<'_>, mut group: Group, grace: Duration) -> Result<ExitStatus, StageError> {
    let lost = |e: std::io::Error| StageError::Transient(format!("lost the command: {e}"));
    let limit = ctx.params.float("timeout").and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let (clock, mut pause) = (Instant::now(), POLL.0);
    loop {
        if let Some(status) = group.ended().map_err(lost)? {
            return Ok(status);
        }
        if ctx.cancel.requested() {
            group.stop(grace, || ctx.cancel.killed()).map_err(lost)?;
            return Err(StageError::Cancelled);
        }
        if let Some(limit) = limit.filter(|limit| clock.elapsed() >= *limit) {
            group.stop(grace, || ctx.cancel.killed()).map_err(lost)?;
            return Err(StageError::Timeout(limit));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(POLL.1);
    }
}

/// Keeps what the command said, and says where.
fn store_logs(ctx: &Context<'_>, job: &Job) -> Result<Vec<Digest>, StageError> {
    let mut kept = Vec::new();
    for (name, path) in [("stdout", job.stdout()), ("stderr", job.stderr())] {
        let said = std::fs::metadata(&path).map_or(0, |meta| meta.len());
        if said > 0 {
            let (digest, bytes) = store_file(ctx.store, &path)?;
            ctx.log(format!("{name}: {bytes} bytes, kept as blob {digest}"));
            kept.push(digest);
        }
    }
    Ok(kept)
}

fn collect(ctx: &Context<'_>, job: &Job) -> Result<Files, StageError> {
    let mut files = Files::collect(ctx.store, &job.work, outputs(ctx.params))?;
    if let Some(name) = ctx.params.text("stdout") {
        files.outputs.extend(Files::collect(ctx.store, job.scratch(), [(name, STDOUT)])?.outputs);
    }
    Ok(files)
}

/// `exit status 3` with the last lines of what the command said.
fn failure(status: ExitStatus, job: &Job) -> String {
    let said = |path: &Path| File::open(path).ok().map(|log| tail(&log)).filter(|text| !text.is_empty());
    let last = said(&job.stderr()).or_else(|| said(&job.stdout()));
    let ending = ending(status);
    match last {
        Some(lines) => format!("the command failed: {ending}\n{lines}"),
        None => format!("the command failed: {ending}, and said nothing"),
    }
}
