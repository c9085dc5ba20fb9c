//! The built-in stage types. A new one is one module and one line here.

use qpipe_sdk::StageRegistry;

/// All built-in stages.
pub fn registry() -> StageRegistry {
    StageRegistry::default()
        .with(Box::new(crate::load::Load::default()))
        .with(Box::new(crate::quantize::Quantize::default()))
        .with(Box::new(crate::evaluate::Evaluate::default()))
        .with(Box::new(crate::generate::Generate::default()))
        .with(Box::new(crate::benchmark::Benchmark::default()))
}
