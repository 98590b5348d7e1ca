//! The C ABI of the Kinglet inference engine: `libkinglet` and `kinglet.h`.
//!
//! Nothing is exported yet: use the crate `kinglet` from Rust, or the command line.
