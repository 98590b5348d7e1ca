//! The CPU backend.

mod kernel;
pub(crate) mod simd;
mod split;
mod team;
#[cfg(test)]
mod test_util;
mod threads;
