//! Keys and values of the positions so far, in pages.
//!
//! A head's page holds [`PAGE`] positions: keys as `[head_dim, PAGE]`, so that the scores of a page are one product with
//! positions along the vector, then values as `[PAGE, head_dim]`. Pages are shared between snapshots until
//! one writes to them; pages that a sliding window has left behind are dropped.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::Error;
use crate::error::grow;

/// Positions in a page.
pub(super) const PAGE: usize = 64;

/// The cache of one attention layer.
#[derive(Clone)]
pub(super) struct KvCache {
    pub heads: Vec<HeadCache>,
    head_dim: usize,
    window: Option<usize>,
    /// Pages dropped at the front.
    first_page: usize,
}

/// The pages of one head.
#[derive(Clone, Default)]
pub(super) struct HeadCache {
    pages: VecDeque<Arc<Vec<f32>>>,
    first_page: usize,
}

impl KvCache {
    pub(super) fn new(kv_heads: usize, head_dim: usize, window: Option<usize>) -> Self {
        Self { heads: vec![HeadCache::default(); kv_heads], head_dim, window, first_page: 0 }
    }

    /// Makes room for positions `position .. position + len` and drops what no position from `position` on sees.
    pub(super) fn reserve(&mut self, position: usize, len: usize) -> Result<(), Error> {
        let oldest = self.window.map_or(0, |window| (position + 1).saturating_sub(window));
        let first_page = (oldest / PAGE).max(self.first_page);
        let end_page = (position + len).div_ceil(PAGE);
        for head in &mut self.heads {
            while head.first_page < first_page && head.pages.pop_front().is_some() {
                head.first_page += 1;
            }
            while head.first_page + head.pages.len() < end_page {
                let mut page = Vec::new();
                grow(&mut page, 2 * self.head_dim * PAGE, "the key/value cache")?;
                head.pages.push_back(Arc::new(page));
            }
            // The pages that will be written must not be shared with a snapshot.
            for index in position / PAGE..end_page {
                if let Some(page) = head.pages.get_mut(index - head.first_page) {
                    Arc::make_mut(page);
                }
            }
        }
        self.first_page = first_page;
        Ok(())
    }

    pub(super) fn bytes(&self) -> usize {
        let pages: usize = self.heads.iter().map(|head| head.pages.len()).sum();
        pages * 8 * self.head_dim * PAGE
    }
}

impl HeadCache {
    /// Writes key and value of `position`, for which room was made.
    pub(super) fn write(&mut self, position: usize, key: &[f32], value: &[f32]) {
        let (page, slot) = (position / PAGE - self.first_page, position % PAGE);
        let memory = Arc::make_mut(&mut self.pages[page]);
        let (keys, values) = memory.split_at_mut(key.len() * PAGE);
        for (keys, k) in keys.chunks_exact_mut(PAGE).zip(key) {
            keys[slot] = *k;
        }
        values[slot * value.len()..][..value.len()].copy_from_slice(value);
    }

    /// Keys `[head_dim, PAGE]` and values `[PAGE, head_dim]` of page `index`, counted from the sequence's beginning.
    pub(super) fn page(&self, index: usize) -> (&[f32], &[f32]) {
        let memory = &self.pages[index - self.first_page];
        memory.split_at(memory.len() / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_shared_until_written_and_dropped_behind_the_window() {
        let mut cache = KvCache::new(1, 2, Some(70));
        for position in 0..300 {
            cache.reserve(position, 1).unwrap();
            cache.heads[0].write(position, &[position as f32, 1.0], &[2.0, position as f32]);
        }
        // Position 299 sees 230 ..= 299: pages 3 and 4.
        assert_eq!(cache.bytes(), 2 * 8 * 2 * PAGE);
        let mut fork = cache.clone();
        fork.reserve(300, 1).unwrap();
        fork.heads[0].write(300, &[-1.0, -1.0], &[-1.0, -1.0]);
        let (keys, values) = cache.heads[0].page(4);
        assert_eq!((keys[299 - 256], values[2 * (299 - 256) + 1]), (299.0, 299.0));
        assert_eq!(keys[300 - 256], 0.0, "the fork wrote to its own copy");
        assert!(Arc::ptr_eq(&cache.heads[0].pages[0], &fork.heads[0].pages[0]));
    }
}
