//! Where `auto` is the CPU and a GPU could be expected, a run says so once.

use qpipe_engine::run::RunOptions;
use qpipe_stages::{cuda, machine};

use super::ahead::Ahead;
use crate::printer::Printer;

/// Tells why there is no GPU, if something is to run that would take any one.
pub(super) fn tell(ahead: &Ahead<'_>, options: &RunOptions, printer: &mut Printer) {
    if options.gpus_are_named {
        return;
    }
    let has_gpus = machine::has_nvidia_gpus();
    // nodes are asked last: to answer, a plugin is started
    if let Err(why) = cuda::count()
        && why.is_notable(has_gpus)
        && ahead.takes_any_gpu()
    {
        let although = if has_gpus { " although the machine has NVIDIA GPUs" } else { "" };
        printer.human(&format!("note: `device auto` is the CPU{although}: {why}"));
    }
}
