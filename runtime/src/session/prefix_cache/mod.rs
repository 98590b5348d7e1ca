//! [`PrefixCache`]: snapshots by the tokens that led to them, so that a prompt with the same prefix
//! as an earlier one doesn't compute it again.
//!
//! A recurrent tensor is the state after exactly the tokens it has seen; a shorter prompt can use
//! no part of it. So the cache takes snapshots where later prompts are likely to diverge: where
//! messages end, and at every N tokens. They share pages of keys and values, and shared memory is
//! counted once.

#![deny(clippy::wildcard_enum_match_arm)]

mod blocks;
mod disk;
mod options;
mod prefill;
mod radix;

use std::sync::Arc;

use crate::Error;
use crate::model::Model;
use crate::plan::StateKind;
use crate::session::{Session, Snapshot, VECTOR_BYTES, Vector, common_prefix};

use blocks::Blocks;
use disk::Disk;
use prefill::{go_back, reach};
use radix::{NodeId, RadixTree};

pub(crate) use prefill::{Prefill, piece};

pub use options::{PrefixCacheOptions, PrefixCacheStats, PrefixUse};

/// A snapshot in memory, on disk, or both.
struct Entry {
    memory: Option<Snapshot>,
    disk: Option<disk::File>,
    /// The distinct vectors of its sequence. While the snapshot is only on disk nothing else may
    /// hold them, but the tree has their ids.
    vectors: Vec<Arc<Vector>>,
    /// Last use, by the cache's clock.
    used: u64,
    /// Whether it is worth a file: the end of a message or of an answer.
    boundary: bool,
    has_logits: bool,
}

/// Snapshots by the tokens that led to them. A prompt's computation starts at the longest snapshot
/// that is a prefix of it.
///
/// ```no_run
/// # use kinglet::{Model, ModelOptions, PrefixCache, PrefixCacheOptions};
/// # fn main() -> Result<(), kinglet::Error> {
/// # let model = Model::open("model", &ModelOptions::new())?;
/// # let (first_prompt, second_prompt) = (vec![1, 2, 3], vec![1, 2, 3, 4, 5]);
/// let mut cache = PrefixCache::new(&model, PrefixCacheOptions::default())?;
/// let mut session = model.session()?;
/// cache.prefill(&mut session, &first_prompt, &[])?;
/// // Sample from session.last_logits() and feed what was sampled. Then keep the answer's end:
/// cache.insert(&session)?;
/// let used = cache.prefill(&mut session, &second_prompt, &[])?;
/// println!("{} tokens reused, {} computed", used.reused, used.computed);
/// # Ok(()) }
/// ```
pub struct PrefixCache {
    model: Model,
    options: PrefixCacheOptions,
    tree: RadixTree<Entry>,
    blocks: Blocks,
    disk: Option<Disk>,
    clock: u64,
    /// Whether a state can be cut back to any position: no layer is recurrent.
    cuts: bool,
    stats: PrefixCacheStats,
}

impl PrefixCache {
    /// Creates a cache for sessions of `model`, empty or with the files that an earlier run left in
    /// the folder.
    ///
    /// # Errors
    /// If the folder can't be created or read. Damaged files and those of other models are ignored.
    pub fn new(model: &Model, options: PrefixCacheOptions) -> Result<Self, Error> {
        let recurrent = |kind: &StateKind| matches!(kind, StateKind::Tensor { .. });
        let mut cache = Self {
            model: model.clone(),
            tree: RadixTree::new(),
            blocks: Blocks::default(),
            disk: None,
            clock: 0,
            cuts: !model.plan().states.iter().any(|state| recurrent(&state.kind)),
            stats: PrefixCacheStats::default(),
            options,
        };
        if let Some(folder) = &cache.options.folder {
            let (disk, found) = Disk::open(model, folder, cache.options.max_disk_bytes)?;
            cache.disk = Some(disk);
            for disk::Found { tokens, has_logits, file } in found {
                let used = cache.tick();
                let (disk, vectors) = (Some(file), tokens.distinct_vectors());
                let entry = Entry { memory: None, disk, vectors, used, boundary: true, has_logits };
                cache.tree.insert(&tokens, entry);
            }
        }
        Ok(cache)
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// The model whose sessions it serves.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Statistics, and what the cache holds.
    pub fn stats(&self) -> PrefixCacheStats {
        PrefixCacheStats {
            snapshots: self.tree.len(),
            bytes: self.bytes(),
            disk_bytes: self.disk.as_ref().map_or(0, Disk::bytes),
            ..self.stats
        }
    }

    /// Bytes of memory held: blocks of state, the tree, and the identities of its vectors.
    fn bytes(&self) -> usize {
        let vectors: usize = self.tree.iter().map(|(_, entry)| entry.vectors.len()).sum();
        self.blocks.bytes() + 4 * self.tree.tokens() + vectors * VECTOR_BYTES
    }

    /// Drops everything in memory. Files stay.
    pub fn clear(&mut self) {
        let nodes: Vec<NodeId> = self.tree.iter().map(|(node, _)| node).collect();
        for node in nodes {
            self.drop_from_memory(node);
        }
    }

    /// Brings `session` to the end of `prompt`, starting from the longest prefix whose state is in
    /// the session itself, in memory or on disk. The session then has the logits of the last token.
    /// Snapshots are taken at `boundaries` (positions in the prompt where messages end, in any
    /// order; of several close together only the last), at its end, and at every N tokens.
    ///
    /// # Errors
    /// If the prompt is empty or the session is another model's; those of [`Session::feed`].
    pub fn prefill(
        &mut self,
        session: &mut Session,
        prompt: &[u32],
        boundaries: &[usize],
    ) -> Result<PrefixUse, Error> {
        self.prefill_with(session, prompt, boundaries, &mut |_, _| true)
    }

    /// [`PrefixCache::prefill`], but calls `progress` with the number of tokens computed and to
    /// compute: once before the first token, and then after every few hundred. If it returns false,
    /// the session stays where it got to.
    ///
    /// # Errors
    /// Those of [`PrefixCache::prefill`].
    pub fn prefill_with(
        &mut self,
        session: &mut Session,
        prompt: &[u32],
        boundaries: &[usize],
        progress: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<PrefixUse, Error> {
        let progress = async |done, total| progress(done, total);
        pollster::block_on(self.prefill_async(session, prompt, boundaries, progress))
    }

    /// [`PrefixCache::prefill_with`] without blocking: other tasks run while `progress` waits.
    ///
    /// # Errors
    /// Those of [`PrefixCache::prefill`].
    pub async fn prefill_async(
        &mut self,
        session: &mut Session,
        prompt: &[u32],
        boundaries: &[usize],
        mut progress: impl AsyncFnMut(usize, usize) -> bool,
    ) -> Result<PrefixUse, Error> {
        let mut prefill = Prefill::begin(Some(self), session, prompt, boundaries)?;
        while !prefill.done.complete && progress(prefill.done.computed, prefill.total).await {
            prefill.step(Some(self), session, prompt).await?;
        }
        progress(prefill.done.computed, prefill.total).await;
        self.count(prefill.done);
        Ok(prefill.done)
    }

    /// Adds a prompt to the statistics.
    pub(crate) fn count(&mut self, done: PrefixUse) {
        self.stats.reused += done.reused as u64;
        self.stats.computed += done.computed as u64;
        match done.reused {
            0 => self.stats.misses += 1,
            _ => self.stats.hits += 1,
        }
    }

    /// Brings `session` to the longest prefix of `prompt` whose state is known, and returns its
    /// length. If that is all of the prompt, the session has the logits of the last token. 0 means
    /// that it holds no tokens.
    ///
    /// # Errors
    /// If the prompt is empty, the session is another model's, or there is not enough memory.
    pub fn resume(&mut self, session: &mut Session, prompt: &[u32]) -> Result<usize, Error> {
        if prompt.is_empty() {
            return Err(Error::EmptyRun);
        }
        if !self.model.is(session.model()) {
            return Err(Error::ForeignSession);
        }
        let own = reach(session, prompt);
        let mut cuts = self.cuts;
        // A file may be broken, or a cut impossible; then try the next best.
        while let Some((length, node)) = self.best(prompt, own, cuts) {
            let Some(snapshot) = self.fetch(node) else { continue };
            // Another process may have replaced the file with another session.
            if common_prefix(snapshot.tokens(), prompt) < length {
                self.forget(node);
                continue;
            }
            session.restore(&snapshot)?;
            if session.reach().contains(length) {
                session.rewind(length)?;
                self.touch(prompt, node);
                return Ok(length);
            }
            // A window dropped positions that the cut would need.
            cuts = false;
        }
        // A failed attempt above may have changed the session.
        go_back(session, prompt)
    }

    /// The entry that covers more of `prompt` than `least` tokens, and how many it covers.
    fn best(&self, prompt: &[u32], least: usize, cuts: bool) -> Option<(usize, NodeId)> {
        let complete = |(length, node): (usize, NodeId)| {
            let has_logits = self.tree.get(node).is_some_and(|entry| entry.has_logits);
            length < prompt.len() || has_logits
        };
        let prefix = self.tree.prefixes(prompt).into_iter().rev().find(|found| complete(*found));
        let cut = self.tree.nearest(prompt).filter(|_| cuts);
        let cut = cut.map(|(length, node)| (length.min(prompt.len() - 1), node));
        let better = |(length, _): &(usize, NodeId)| *length > least;
        // On a tie, prefer the exact entry, which has logits.
        cut.into_iter().chain(prefix).max_by_key(|(length, _)| *length).filter(better)
    }

    /// The snapshot of an entry. Loads it if it is only on disk, and drops the entry if that fails.
    fn fetch(&mut self, node: NodeId) -> Option<Snapshot> {
        let entry = self.tree.get(node)?;
        if let Some(snapshot) = &entry.memory {
            return Some(snapshot.clone());
        }
        let loaded =
            entry.disk.as_ref().zip(self.disk.as_mut()).map(|(file, disk)| disk.load(file));
        match loaded {
            Some(Ok(snapshot)) => {
                self.hold(node, snapshot.clone());
                Some(snapshot)
            }
            failed => {
                if let Some(Err(error)) = failed {
                    log::warn!("dropping a cached prefix: {error}");
                }
                let entry = self.tree.remove(node)?;
                if let (Some(file), Some(disk)) = (entry.disk, &mut self.disk) {
                    disk.remove(&file);
                }
                None
            }
        }
    }

    /// Marks an entry as used, and the first one on its path too, since conversations often share
    /// it.
    fn touch(&mut self, prompt: &[u32], node: NodeId) {
        let used = self.tick();
        let first = self.tree.prefixes(prompt).first().map(|(_, node)| *node);
        for node in first.into_iter().chain([node]) {
            if let Some(entry) = self.tree.get_mut(node) {
                entry.used = used;
            }
        }
    }

    /// Keeps the session's current state as the end of a message or an answer. This is cheap;
    /// memory is copied only when the session goes on.
    ///
    /// # Errors
    /// If the session is another model's or poisoned, or there is not enough memory.
    pub fn insert(&mut self, session: &Session) -> Result<(), Error> {
        if !self.model.is(session.model()) {
            return Err(Error::ForeignSession);
        }
        self.keep(session, true)
    }

    fn keep(&mut self, session: &Session, boundary: bool) -> Result<(), Error> {
        if session.position() == 0 || (self.options.max_bytes == 0 && self.disk.is_none()) {
            return Ok(());
        }
        let has_logits = session.last_logits().is_some();
        let used = self.tick();
        let found = self.tree.find(session.tokens());
        let known = found.and_then(|node| self.tree.get_mut(node));
        if let Some(entry) = known
            && (entry.memory.is_some() || entry.disk.is_some())
            && (entry.has_logits || !has_logits)
        {
            entry.used = used;
            entry.boundary |= boundary;
            return Ok(());
        }
        // The existing entry lacks the logits.
        if let Some(node) = found {
            self.forget(node);
        }
        let snapshot = session.snapshot()?;
        let vectors = snapshot.token_list().distinct_vectors();
        let entry = Entry { memory: None, disk: None, vectors, used, boundary, has_logits };
        self.tree.insert(session.tokens(), entry);
        if let Some(node) = self.tree.find(session.tokens()) {
            self.hold(node, snapshot);
        }
        Ok(())
    }

    /// Keeps a snapshot in memory, evicting others to make room.
    fn hold(&mut self, node: NodeId, snapshot: Snapshot) {
        self.blocks.add(&snapshot);
        let used = self.tick();
        if let Some(entry) = self.tree.get_mut(node) {
            entry.memory = Some(snapshot);
            entry.used = used;
        }
        while self.bytes() > self.options.max_bytes {
            let held = self.tree.iter().filter(|(_, entry)| entry.memory.is_some());
            let Some((oldest, _)) = held.min_by_key(|(_, entry)| entry.used) else { break };
            self.stats.evicted += 1;
            self.drop_from_memory(oldest);
        }
    }

    /// Evicts a snapshot from memory, to disk if there is a folder and it is worth a file.
    fn drop_from_memory(&mut self, node: NodeId) {
        self.write(node);
        let Some(entry) = self.tree.get_mut(node) else { return };
        if let Some(snapshot) = entry.memory.take() {
            self.blocks.remove(&snapshot);
        }
        if entry.disk.is_none() {
            self.tree.remove(node);
        }
    }

    fn forget(&mut self, node: NodeId) {
        let Some(entry) = self.tree.remove(node) else { return };
        if let Some(snapshot) = entry.memory {
            self.blocks.remove(&snapshot);
        }
        if let (Some(file), Some(disk)) = (entry.disk, &mut self.disk) {
            disk.remove(&file);
        }
    }

    /// Writes an entry to disk, if it is worth a file and not there yet. Failing to write must not
    /// stop a conversation.
    fn write(&mut self, node: NodeId) -> bool {
        let (Some(entry), Some(disk)) = (self.tree.get(node), &mut self.disk) else { return false };
        let Some(snapshot) =
            entry.memory.as_ref().filter(|_| entry.boundary && entry.disk.is_none())
        else {
            return false;
        };
        let (file, removed) = match disk.save(snapshot) {
            Ok(saved) => saved,
            Err(error) => {
                log::warn!("can't save a cached prefix: {error}");
                return false;
            }
        };
        let written = file.is_some();
        if let Some(entry) = self.tree.get_mut(node) {
            entry.disk = file;
        }
        self.forget_files(&removed);
        written
    }

    /// Forgets deleted files, and the entries that were only there.
    fn forget_files(&mut self, removed: &[disk::File]) {
        if removed.is_empty() {
            return;
        }
        let lost: Vec<NodeId> = self
            .tree
            .iter()
            .filter(|(_, entry)| entry.disk.as_ref().is_some_and(|file| removed.contains(file)))
            .map(|(node, _)| node)
            .collect();
        for node in lost {
            let Some(entry) = self.tree.get_mut(node) else { continue };
            entry.disk = None;
            if entry.memory.is_none() {
                self.tree.remove(node);
            }
        }
    }

    /// Writes the entries in memory that end a message or an answer to the folder, most recently
    /// used first, as far as there is room. Returns the number of files written. Does nothing
    /// without a folder.
    ///
    /// Logs and skips what can't be written.
    pub fn persist(&mut self) -> usize {
        let mut nodes: Vec<(u64, NodeId)> = self
            .tree
            .iter()
            .filter(|(_, entry)| entry.memory.is_some() && entry.boundary)
            .map(|(node, entry)| (entry.used, node))
            .collect();
        nodes.sort_unstable_by_key(|(used, _)| std::cmp::Reverse(*used));
        let mut room = self.disk.as_ref().map_or(0, Disk::max_bytes);
        let mut written = 0;
        for (_, node) in nodes {
            let bytes = self.tree.get(node).and_then(|entry| entry.memory.as_ref());
            let bytes = bytes.map_or(0, disk::estimate);
            // Stop before a file would push out one that was just written.
            let Some(left) = room.checked_sub(bytes) else { break };
            room = left;
            written += usize::from(self.write(node));
        }
        written
    }
}
