//! The plugin: `plugin wordstats` finds it on the search path as `qpipe-stage-wordstats`.

use std::process::ExitCode;

use qpipe_stage_wordstats::WordStats;

fn main() -> ExitCode {
    qpipe_sdk::plugin::main(vec![Box::new(WordStats::new())])
}
