//! Files: bounded reads of small files, in-memory files in place of folders, atomic writes, and
//! hashes.

pub(crate) mod atomic_file;
pub(crate) mod blake2s;
#[cfg(feature = "wgpu")]
pub(crate) mod cache_dir;
pub(crate) mod fnv1a;
pub(crate) mod mounted;
pub(crate) mod small_file;
