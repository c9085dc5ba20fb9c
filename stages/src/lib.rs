//! The hands of qpipe: the built-in stages, and the only room that names burn.

pub mod artifact;
pub mod benchmark;
pub mod blobs;
pub mod cuda;
pub mod device;
pub mod embedded;
pub mod evaluate;
pub mod generate;
pub mod hub;
pub mod load;
pub mod machine;
pub mod model;
pub mod parallel;
pub mod quantize;
pub mod registry;
mod residency;
mod tokenizers;
pub mod weights;

pub use registry::{registry, registry_with_hub};
