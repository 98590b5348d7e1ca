//! Counts the memory of snapshots, including shared memory only once.

use std::collections::HashMap;

use crate::session::Snapshot;

/// Blocks of memory by how many snapshots hold them.
#[derive(Default)]
pub(super) struct Blocks {
    /// Number of holders and bytes, by the block's id. Ids are unique while the block is held.
    held: HashMap<usize, (usize, usize)>,
    bytes: usize,
}

impl Blocks {
    pub(super) fn add(&mut self, snapshot: &Snapshot) {
        self.bytes += snapshot.own_bytes();
        snapshot.state().with(|state| {
            state.blocks(&mut |id, bytes| {
                let (holders, _) = self.held.entry(id).or_insert((0, bytes));
                if *holders == 0 {
                    self.bytes += bytes;
                }
                *holders += 1;
            });
        });
    }

    /// Removes what `add` counted. Call it before the snapshot is dropped.
    pub(super) fn remove(&mut self, snapshot: &Snapshot) {
        self.bytes = self.bytes.saturating_sub(snapshot.own_bytes());
        snapshot.state().with(|state| {
            state.blocks(&mut |id, _| {
                let Some((holders, bytes)) = self.held.get_mut(&id) else { return };
                *holders -= 1;
                if *holders == 0 {
                    self.bytes = self.bytes.saturating_sub(*bytes);
                    self.held.remove(&id);
                }
            });
        });
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
