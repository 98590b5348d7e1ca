//! Made by `shaders/generate.sh`; not to be edited.

mod kernels;
mod metadata;

pub use kernels::Kernel;
pub(crate) use kernels::{FILES, KERNELS, SOURCES};
pub(crate) use metadata::METADATA;
