//! [`PrefixCache`]: snapshots by the tokens that led to them, so that a prompt which begins like an earlier one is not
//! computed from its beginning.
//!
//! A recurrent tensor is the state of exactly the tokens that it has seen: there is no part of it that a shorter prompt could
//! use. So snapshots are taken where later prompts are likely to leave the path: where messages end, and at every so
//! many tokens. They share pages of keys and values, and are counted by what they really take.

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

/// A snapshot, wherever it is.
struct Entry {
    memory: Option<Snapshot>,
    disk: Option<disk::File>,
    /// The vectors of its sequence, each once: while it is on disk only, nothing else may hold them, and their ids stand in the tree.
    vectors: Vec<Arc<Vector>>,
    /// When it was last used, by the cache's clock.
    used: u64,
    /// Whether it is worth a file: the end of a message or of an answer.
    boundary: bool,
    has_logits: bool,
}

/// Snapshots by the tokens that led to them: the longest that a prompt begins with is where its computation begins.
///
/// ```no_run
/// # use kinglet::{Model, ModelOptions, PrefixCache, PrefixCacheOptions};
/// # fn main() -> Result<(), kinglet::Error> {
/// # let model = Model::open("model", &ModelOptions::new())?;
/// # let (first_prompt, second_prompt) = (vec![1, 2, 3], vec![1, 2, 3, 4, 5]);
/// let mut cache = PrefixCache::new(&model, PrefixCacheOptions::default())?;
/// let mut session = model.session()?;
/// cache.prefill(&mut session, &first_prompt, &[])?;
/// // Sample from session.last_logits(), feed what was sampled; then keep the answer's end too.
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
    /// A cache for sessions of `model`: empty, or with what an earlier run left in the folder.
    ///
    /// # Errors
    /// When the folder can't be made or read. Files in it that are damaged or other models' are passed over.
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

    /// What it has done and what it holds.
    pub fn stats(&self) -> PrefixCacheStats {
        PrefixCacheStats {
            snapshots: self.tree.len(),
            bytes: self.bytes(),
            disk_bytes: self.disk.as_ref().map_or(0, Disk::bytes),
            ..self.stats
        }
    }

    /// Bytes of memory held: blocks of state, and the tree with what identifies its vectors.
    fn bytes(&self) -> usize {
        let vectors: usize = self.tree.iter().map(|(_, entry)| entry.vectors.len()).sum();
        self.blocks.bytes() + 4 * self.tree.tokens() + vectors * VECTOR_BYTES
    }

    /// Forgets what is in memory. Files stay.
    pub fn clear(&mut self) {
        let nodes: Vec<NodeId> = self.tree.iter().map(|(node, _)| node).collect();
        for node in nodes {
            self.drop_from_memory(node);
        }
    }

    /// Brings `session` to the end of `prompt`, from the longest beginning of it whose state is there: in the session itself, in
    /// memory or on disk. The session has the logits of the last token afterwards. Snapshots are taken at `boundaries` (positions
    /// in the prompt, in any order: where messages end; of several close together the last), at its end, and at every so many tokens.
    ///
    /// # Errors
    /// When the prompt is empty; when the session is another model's; those of [`Session::feed`].
    pub fn prefill(
        &mut self,
        session: &mut Session,
        prompt: &[u32],
        boundaries: &[usize],
    ) -> Result<PrefixUse, Error> {
        self.prefill_with(session, prompt, boundaries, &mut |_, _| true)
    }

    /// [`PrefixCache::prefill`] that calls `progress` with the number of tokens computed and to compute, before the
    /// first of them and then after every few hundred; where it returns false, the session is left at what it has
    /// got to.
    ///
    /// # Errors
    /// As [`PrefixCache::prefill`].
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

    /// [`PrefixCache::prefill_with`] without blocking: where `progress` waits, others have their turn.
    ///
    /// # Errors
    /// As [`PrefixCache::prefill`].
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

    /// Adds what a prompt has taken to the statistics.
    pub(crate) fn count(&mut self, done: PrefixUse) {
        self.stats.reused += done.reused as u64;
        self.stats.computed += done.computed as u64;
        match done.reused {
            0 => self.stats.misses += 1,
            _ => self.stats.hits += 1,
        }
    }

    /// Brings `session` to the longest beginning of `prompt` whose state is there, and returns its length. The session
    /// has the last token's logits if that is all of the prompt; 0 means that it holds no tokens.
    ///
    /// # Errors
    /// When the prompt is empty; when the session is another model's; when there is no memory.
    pub fn resume(&mut self, session: &mut Session, prompt: &[u32]) -> Result<usize, Error> {
        if prompt.is_empty() {
            return Err(Error::EmptyRun);
        }
        if !self.model.is(session.model()) {
            return Err(Error::ForeignSession);
        }
        let own = reach(session, prompt);
        let mut cuts = self.cuts;
        // A file may turn out to be broken, or a cut impossible: then the next best is tried.
        while let Some((length, node)) = self.best(prompt, own, cuts) {
            let Some(snapshot) = self.fetch(node) else { continue };
            // Another process may have put another session under the file's name.
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
            // A window has left behind what a cut would need.
            cuts = false;
        }
        // Not what it was, if one was tried in vain.
        go_back(session, prompt)
    }

    /// The entry that gets further along `prompt` than `least`, and how far.
    fn best(&self, prompt: &[u32], least: usize, cuts: bool) -> Option<(usize, NodeId)> {
        let complete = |(length, node): (usize, NodeId)| {
            let has_logits = self.tree.get(node).is_some_and(|entry| entry.has_logits);
            length < prompt.len() || has_logits
        };
        let prefix = self.tree.prefixes(prompt).into_iter().rev().find(|found| complete(*found));
        let cut = self.tree.nearest(prompt).filter(|_| cuts);
        let cut = cut.map(|(length, node)| (length.min(prompt.len() - 1), node));
        let better = |(length, _): &(usize, NodeId)| *length > least;
        // Of equals the exact one, which has its logits.
        cut.into_iter().chain(prefix).max_by_key(|(length, _)| *length).filter(better)
    }

    /// The snapshot of an entry. One that is on disk only is loaded; one that can't be is forgotten.
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
                    log::warn!("a cached prefix is lost: {error}");
                }
                let entry = self.tree.remove(node)?;
                if let (Some(file), Some(disk)) = (entry.disk, &mut self.disk) {
                    disk.remove(&file);
                }
                None
            }
        }
    }

    /// Marks an entry as used, and the first on the way to it: that is what conversations begin with.
    fn touch(&mut self, prompt: &[u32], node: NodeId) {
        let used = self.tick();
        let first = self.tree.prefixes(prompt).first().map(|(_, node)| *node);
        for node in first.into_iter().chain([node]) {
            if let Some(entry) = self.tree.get_mut(node) {
                entry.used = used;
            }
        }
    }

    /// Keeps what the session is now, as the end of a message or an answer. Cheap; the memory that it takes comes when the
    /// session goes on.
    ///
    /// # Errors
    /// When the session is another model's or poisoned, or there is no memory.
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
        // What was there lacks the logits.
        if let Some(node) = found {
            self.forget(node);
        }
        let snapshot = session.snapshot()?;
        let vectors = snapshot.taken().distinct_vectors();
        let entry = Entry { memory: None, disk: None, vectors, used, boundary, has_logits };
        self.tree.insert(session.tokens(), entry);
        if let Some(node) = self.tree.find(session.tokens()) {
            self.hold(node, snapshot);
        }
        Ok(())
    }

    /// Keeps a snapshot in memory, where others make room for it.
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

    /// Takes a snapshot out of memory: to disk, if it is worth it and there is one.
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

    /// Writes an entry to disk, if it is worth it and not there yet. That a disk is full is no reason to stop a conversation.
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
                log::warn!("a cached prefix is not saved: {error}");
                return false;
            }
        };
        let written = file.is_some();
        if let Some(entry) = self.tree.get_mut(node) {
            entry.disk = file;
        }
        self.lose_files(&removed);
        written
    }

    /// Files that made room are gone, and with them the entries that were nowhere else.
    fn lose_files(&mut self, removed: &[disk::File]) {
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

    /// Writes what is in memory and at the end of a message or an answer to the folder, what was used last first, as far as it
    /// has room; returns how many files were written. Without a folder it does nothing.
    ///
    /// What can't be written is told in the log, and lost.
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
            // What would only push out what was written a moment ago stays unwritten.
            let Some(left) = room.checked_sub(bytes) else { break };
            room = left;
            written += usize::from(self.write(node));
        }
        written
    }
}
