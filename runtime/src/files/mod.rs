//! Files: small ones read whole, files of an embedding program in place of folders, files that are written whole or not at all, and hashes.

pub(crate) mod atomic_file;
pub(crate) mod blake2s;
#[cfg(feature = "wgpu")]
pub(crate) mod cache_dir;
pub(crate) mod fnv1a;
pub(crate) mod mounted;
pub(crate) mod small_file;
