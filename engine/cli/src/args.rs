//! The command line.

mod run;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use qpipe_cache::ActionKey;

pub use run::{AskedArgs, Failure, Format, RunArgs, SelectArgs, SlotArgs};

/// Declarative pipelines for model-quantization studies.
#[derive(Debug, Parser)]
#[command(name = "qpipe", version, propagate_version = true)]
pub struct Args {
    /// The store of results and run records.
    #[arg(long, global = true, env = "QPIPE_STORE", default_value = ".qpipe", value_name = "DIR")]
    pub store: PathBuf,
    #[command(subcommand)]
    pub command: Command,
    /// The whole line as a shell takes it, to say how a run is continued.
    #[arg(skip)]
    pub line: String,
}

impl Args {
    /// Parses a line, the program's name first.
    pub fn parse_line(line: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let words: Vec<OsString> = line.into_iter().collect();
        let quoted: Vec<String> = words.iter().map(|word| quoted(&word.to_string_lossy())).collect();
        Ok(Self { line: quoted.join(" "), ..Self::try_parse_from(words)? })
    }
}

/// A word of a shell's command line.
fn quoted(word: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "_-./=:@%+,".contains(letter);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a study; whatever is unchanged is taken from the store.
    Run(RunArgs),
    /// Show what a run would do, and why.
    Plan(PlanArgs),
    /// Check a manifest without running or hashing anything.
    Check(StudyArgs),
    /// Lay manifests out in one way; comments and spellings stay.
    Fmt(FmtArgs),
    /// Write a study to begin with.
    Init(InitArgs),
    /// Stage types of your own.
    #[command(subcommand)]
    Plugin(PluginCommand),
    /// Explain a diagnostic code, or list all of them.
    Explain {
        /// Such as `qpipe::manifest::varies_many`, or its last part.
        code: Option<String>,
    },
    /// Show what the stage types take.
    Schema(SchemaArgs),
    /// Draw a study's stages and how they are connected.
    Graph(GraphArgs),
    /// List what stages can compute on, and why there is no CUDA device.
    Devices {
        /// The list as JSON.
        #[arg(long)]
        json: bool,
    },
    /// The records of earlier runs.
    #[command(subcommand)]
    Runs(RunsCommand),
    /// Serve this program's stages to an engine, over qstage/1 on standard input and output.
    #[command(hide = true)]
    Worker {
        /// The device that it will compute on, opened meanwhile.
        #[arg(long, value_name = "NAME")]
        device: Option<String>,
    },
    /// The store itself.
    #[command(subcommand)]
    Cache(CacheCommand),
}

/// What a plugin is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Language {
    Python,
    Rust,
}

#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// Write a plugin that works, with its test and a study that uses it; in Python with the kit.
    New {
        /// The stage type's name, and the program's.
        #[arg(value_parser = stage_name)]
        name: String,
        /// Where its files go.
        #[arg(default_value = ".")]
        dir: PathBuf,
        /// The language.
        #[arg(long, value_enum, default_value_t = Language::Python)]
        lang: Language,
        /// For Rust: the folder of the crate `qpipe-sdk`. [default: `engine/sdk` of the checkout around the current folder]
        #[arg(long, value_name = "DIR")]
        sdk: Option<PathBuf>,
    },
    /// List the plugins of a study, of the folders of plugins and of the search path.
    Ls {
        /// A manifest.
        study: Option<PathBuf>,
        /// The list as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Test whether a program keeps to the protocol of plugins, rule by rule.
    Test(PluginTestArgs),
}

#[derive(Debug, ClapArgs)]
pub struct PluginTestArgs {
    /// A parameter of the jobs that are tried: `top=3`, or `tally.top=3` with its stage type; repeatable.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = name_and_value)]
    pub sets: Vec<(String, String)>,
    /// A file for a parameter of theirs; repeatable.
    #[arg(long = "file", value_name = "NAME=PATH", value_parser = name_and_path)]
    pub files: Vec<(String, PathBuf)>,
    /// A folder for an input of theirs that takes `files`, a document for one that takes `metrics`; repeatable.
    #[arg(long = "input", value_name = "PORT=PATH", value_parser = name_and_path)]
    pub inputs: Vec<(String, PathBuf)>,
    /// How long each job may take.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "10m")]
    pub timeout: Duration,
    /// What they compute on: `auto`, `cpu` or `cuda:N`.
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: String,
    /// A file or folder that it may read besides, as `reads` of a `plugin` node; repeatable.
    #[arg(long = "read", value_name = "PATH")]
    pub reads: Vec<PathBuf>,
    /// Let it connect to others, as `network #true` does.
    #[arg(long)]
    pub network: bool,
    /// Let it reach whatever you do, as `sandbox #false` does.
    #[arg(long)]
    pub no_sandbox: bool,
    /// The report as JSON.
    #[arg(long)]
    pub json: bool,
    /// The program, on the search path or by its path, and its arguments; a `.py` file is run by `python3`.
    #[arg(required = true, trailing_var_arg = true, value_names = ["PROGRAM", "ARG"])]
    pub line: Vec<String>,
}

/// A name that a manifest takes for a stage type.
fn stage_name(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    if text.starts_with(|c: char| c.is_ascii_lowercase()) && text.chars().all(allowed) {
        return Ok(text.to_owned());
    }
    Err("a name has lowercase letters, digits, `-` and `_`, a letter first".into())
}

/// A manifest, and what overrides it.
#[derive(Debug, ClapArgs)]
pub struct StudyArgs {
    /// The manifest.
    pub manifest: PathBuf,
    /// Override a variable (`samples=50`) or a parameter (`weights.scheme=fp4`); repeatable.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = name_and_value)]
    pub sets: Vec<(String, String)>,
}

#[derive(Debug, ClapArgs)]
pub struct PlanArgs {
    #[command(flatten)]
    pub study: StudyArgs,
    #[command(flatten)]
    pub asked: AskedArgs,
    /// The plan as JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, ClapArgs)]
pub struct InitArgs {
    /// Where its files go.
    #[arg(default_value = ".")]
    pub dir: PathBuf,
    /// Which study.
    #[arg(long, value_name = "NAME", default_value = "ablation")]
    pub template: String,
    /// List the studies there are.
    #[arg(long)]
    pub list: bool,
}

#[derive(Debug, ClapArgs)]
pub struct FmtArgs {
    /// The manifests; `-` formats standard input to standard output.
    #[arg(required = true)]
    pub manifests: Vec<PathBuf>,
    /// Change nothing; fail if anything would change.
    #[arg(long)]
    pub check: bool,
}

#[derive(Debug, ClapArgs)]
pub struct SchemaArgs {
    /// One stage type, also of a plugin that `qpipe plugin ls` lists; all of them without it.
    pub stage: Option<String>,
    /// A manifest whose plugins count as well.
    #[arg(long, value_name = "FILE")]
    pub study: Option<PathBuf>,
    #[arg(long, value_enum, default_value_t = SchemaFormat::Text)]
    pub format: SchemaFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SchemaFormat {
    Text,
    /// For programs and editors, with a schema version.
    Json,
    Md,
}

#[derive(Debug, ClapArgs)]
pub struct GraphArgs {
    #[command(flatten)]
    pub study: StudyArgs,
    #[arg(long, value_enum, default_value_t = GraphFormat::Text)]
    pub format: GraphFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GraphFormat {
    Text,
    /// Graphviz.
    Dot,
    Mermaid,
    /// A self-contained picture.
    Svg,
}

#[derive(Debug, Subcommand)]
pub enum RunsCommand {
    /// Show one run: what it was given, how it ended, every node.
    Show {
        /// The run's id, a beginning of it, or `latest`.
        run: String,
        /// The record's `run.json`.
        #[arg(long)]
        json: bool,
    },
    /// Show what differs between two runs, in inputs and in results.
    Diff {
        /// The earlier run: an id, a beginning of it, or `latest`.
        a: String,
        b: String,
        /// The differences as JSON.
        #[arg(long)]
        json: bool,
    },
    /// List runs, oldest first.
    Ls {
        /// The list as JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// List what is cached, the last used first.
    Ls {
        /// At most so many.
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
        /// The list as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Remove what nothing needs; with a limit, also the least valuable results.
    Gc(GcArgs),
    /// Keep results under a name, whatever gc is told.
    Pin {
        /// The name; what it held before is replaced.
        name: String,
        /// Pins every result of a run.
        #[arg(long, value_name = "RUN", required_unless_present = "keys")]
        run: Option<String>,
        /// Pins single results, by key.
        #[arg(value_name = "KEY", conflicts_with = "run")]
        keys: Vec<ActionKey>,
    },
    /// Forget a pin.
    Unpin {
        /// Its name.
        name: String,
    },
    /// List pins.
    Pins {
        /// The list as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Re-hash every blob and check every record.
    Verify {
        /// Set aside what is damaged, so that the next run makes it anew.
        #[arg(long)]
        repair: bool,
    },
    /// Show what takes how much space.
    Du {
        /// The sizes as JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, ClapArgs)]
pub struct GcArgs {
    /// Remove results until the store takes no more than this: `20GiB`, `500MB`. The cheapest to make again per byte go
    /// first.
    #[arg(long, value_name = "SIZE")]
    pub max_size: Option<ByteSize>,
    /// Remove results not used for so long: `30d`, `12h`.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub max_age: Option<Duration>,
    /// Keep the results of so many of the latest runs.
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub keep_runs: usize,
    /// Remove nothing younger.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "10m")]
    pub grace: Duration,
    /// Only say what would be removed.
    #[arg(long)]
    pub dry_run: bool,
    /// The report as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `30d`, `1h 30m`, `PT5M`; a day has 24 hours.
fn time(text: &str) -> Result<Duration, String> {
    let span: jiff::Span = text.parse().map_err(|error: jiff::Error| error.to_string())?;
    let days = jiff::SpanRelativeTo::days_are_24_hours();
    let time = span.to_duration(days).map_err(|error| error.to_string())?;
    Duration::try_from(time).map_err(|_| "expected a time that is not negative".into())
}

fn name_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".into()),
    }
}

fn name_and_path(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => Ok((name.to_owned(), path.into())),
        _ => Err("expected NAME=PATH".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_declaration_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn times_and_sizes_have_units() {
        assert_eq!(time("30d"), Ok(Duration::from_hours(720)));
        assert_eq!(time("1h 30m"), Ok(Duration::from_mins(90)));
        assert!(time("-1h").is_err() && time("7").is_err());
        let parse = |size: &str| Args::try_parse_from(["qpipe", "cache", "gc", "--max-size", size]);
        let Command::Cache(CacheCommand::Gc(gc)) = parse("2GiB").unwrap().command else { panic!("it is gc") };
        assert_eq!(gc.max_size, Some(ByteSize::gib(2)));
        assert!(parse("much").is_err());
    }

    #[test]
    fn a_line_can_be_given_to_a_shell_again() {
        let line = ["qpipe", "run", "my study.kdl", "--set", "a.b=it's"].map(OsString::from);
        let args = Args::parse_line(line).unwrap();
        assert_eq!(args.line, r"qpipe run 'my study.kdl' --set 'a.b=it'\''s'");
    }

    #[test]
    fn what_follows_a_plugin_s_program_is_its_own() {
        let line = ["qpipe", "plugin", "test", "--set", "top=3", "tally.py", "--set", "--json"];
        let parsed = Args::try_parse_from(line).unwrap().command;
        let Command::Plugin(PluginCommand::Test(args)) = parsed else { panic!("it is a test") };
        assert_eq!((args.sets.len(), args.json), (1, false));
        assert_eq!(args.line, ["tally.py", "--set", "--json"]);
        assert!(Args::try_parse_from(["qpipe", "plugin", "test"]).is_err());
    }

    #[test]
    fn a_value_may_hold_equals_signs() {
        assert_eq!(name_and_value("a.b=c=d"), Ok(("a.b".into(), "c=d".into())));
        assert!(name_and_value("a").is_err() && name_and_value("=a").is_err());
    }
}
