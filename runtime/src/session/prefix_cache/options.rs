//! What a [`PrefixCache`](super::PrefixCache) is told, and what it tells.

use std::path::PathBuf;

/// How much a [`PrefixCache`](super::PrefixCache) keeps, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PrefixCacheOptions {
    /// Bytes of memory that all snapshots together may take; 1 GiB by default. 0: nothing is kept in memory.
    pub max_bytes: usize,
    /// A snapshot is taken at every multiple of so many tokens; 1024 by default, 0 is never.
    pub every: usize,
    /// A folder where snapshots at message boundaries are kept for later runs; none by default.
    pub folder: Option<PathBuf>,
    /// Bytes that the files in the folder may take, of all models together; 4 GiB by default.
    pub max_disk_bytes: u64,
}

impl Default for PrefixCacheOptions {
    fn default() -> Self {
        Self { max_bytes: 1 << 30, every: 1024, folder: None, max_disk_bytes: 4 << 30 }
    }
}

impl PrefixCacheOptions {
    /// 1 GiB of memory, a snapshot at every 1024 tokens, no folder.
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

/// What it took to bring a session to the end of a prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefixUse {
    /// Tokens whose state was there already.
    pub reused: usize,
    /// Tokens that were computed.
    pub computed: usize,
    /// Whether the session is at the end of the prompt: false when computing was stopped on the way.
    pub complete: bool,
}

/// What a cache has done so far, and holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefixCacheStats {
    /// Tokens of prompts whose state was there already.
    pub reused: u64,
    /// Tokens of prompts that were computed.
    pub computed: u64,
    /// Prompts of which a part was reused.
    pub hits: u64,
    /// Prompts that were computed from the beginning.
    pub misses: u64,
    /// Snapshots that were dropped from memory to make room.
    pub evicted: u64,
    /// Snapshots held, in memory or on disk.
    pub snapshots: usize,
    /// Bytes of memory held, what snapshots share counted once.
    pub bytes: usize,
    /// Bytes of files of this model.
    pub disk_bytes: u64,
}
