//! Options and statistics of a [`PrefixCache`](super::PrefixCache).

use std::path::PathBuf;

/// How much a [`PrefixCache`](super::PrefixCache) keeps, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PrefixCacheOptions {
    /// Most bytes of memory for all snapshots together; 1 GiB by default. 0 keeps nothing in
    /// memory.
    pub max_bytes: usize,
    /// Takes a snapshot at every multiple of this many tokens; 1024 by default, 0 for none.
    pub every: usize,
    /// A folder that keeps snapshots at message boundaries for later runs; none by default.
    pub folder: Option<PathBuf>,
    /// Most bytes of the files in the folder, for all models together; 4 GiB by default.
    pub max_disk_bytes: u64,
}

impl Default for PrefixCacheOptions {
    fn default() -> Self {
        Self { max_bytes: 1 << 30, every: 1024, folder: None, max_disk_bytes: 4 << 30 }
    }
}

impl PrefixCacheOptions {
    /// The defaults: 1 GiB of memory, a snapshot at every 1024 tokens, no folder.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`Self::max_bytes`].
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Sets [`Self::every`].
    pub fn every(mut self, tokens: usize) -> Self {
        self.every = tokens;
        self
    }

    /// Sets [`Self::folder`].
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Sets [`Self::max_disk_bytes`].
    pub fn max_disk_bytes(mut self, bytes: u64) -> Self {
        self.max_disk_bytes = bytes;
        self
    }
}

/// What was reused and computed to bring a session to the end of a prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefixUse {
    /// Tokens whose state was reused.
    pub reused: usize,
    /// Tokens that were computed.
    pub computed: usize,
    /// Whether the session is at the end of the prompt; false if the caller stopped early.
    pub complete: bool,
}

/// What a cache has done so far, and what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefixCacheStats {
    /// Prompt tokens whose state was reused.
    pub reused: u64,
    /// Prompt tokens that were computed.
    pub computed: u64,
    /// Prompts that reused a prefix.
    pub hits: u64,
    /// Prompts that were computed from the beginning.
    pub misses: u64,
    /// Snapshots evicted from memory.
    pub evicted: u64,
    /// Snapshots held, in memory or on disk.
    pub snapshots: usize,
    /// Bytes of memory held. Shared memory counts once.
    pub bytes: usize,
    /// Bytes of this model's files.
    pub disk_bytes: u64,
}
