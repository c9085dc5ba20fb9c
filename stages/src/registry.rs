//! The built-in stage types. A new one is one module and one line here.

use qpipe_sdk::StageRegistry;

use crate::hub::Hub;
use crate::load::Load;

/// All built-in stages, without a hub to load from.
pub fn registry() -> StageRegistry {
    with_load(Load::default())
}

/// All built-in stages; models of the hub come from this one.
pub fn registry_with_hub(hub: Hub) -> StageRegistry {
    with_load(Load::with_hub(hub))
}

fn with_load(load: Load) -> StageRegistry {
    StageRegistry::default()
        .with(Box::new(load))
        .with(Box::new(crate::quantize::Quantize::default()))
        .with(Box::new(crate::evaluate::Evaluate::default()))
        .with(Box::new(crate::generate::Generate::default()))
        .with(Box::new(crate::benchmark::Benchmark::default()))
}
