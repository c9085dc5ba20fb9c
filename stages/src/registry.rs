//! The built-in stage types. A new one is one module and one line here.

use qpipe_sdk::StageRegistry;

use crate::evaluate::Evaluate;
use crate::hub::Hub;
use crate::load::Load;

/// All built-in stages, without a hub to load from.
pub fn registry() -> StageRegistry {
    with(Load::default(), Evaluate::default())
}

/// All built-in stages; what is on the hub comes from this one.
pub fn registry_with_hub(hub: Hub) -> StageRegistry {
    with(Load::with_hub(hub.clone()), Evaluate::with_hub(hub))
}

fn with(load: Load, evaluate: Evaluate) -> StageRegistry {
    StageRegistry::default()
        .with(Box::new(load))
        .with(Box::new(crate::quantize::Quantize::default()))
        .with(Box::new(evaluate))
        .with(Box::new(crate::generate::Generate::default()))
        .with(Box::new(crate::benchmark::Benchmark::default()))
}
