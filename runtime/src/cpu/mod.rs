//! The CPU backend.

pub(crate) mod simd;
mod split;
mod team;
mod threads;
