//! Paged key/value caches.
//!
//! Snapshots share pages until one of them writes. Pages that a sliding window has passed are
//! dropped, except those that hold sinks.

use std::collections::VecDeque;

use super::kv_page::{PAGE, Page, PageShape};
use crate::Error;
use crate::backend::executable::PortableState;
use crate::error::grow;
use crate::plan::StateFormat;
use crate::plan::op::AttentionSpan;

/// The cache of one attention layer.
#[derive(Clone)]
pub(super) struct KvCache {
    pub heads: Vec<HeadCache>,
    shape: PageShape,
    span: AttentionSpan,
    format: StateFormat,
    /// The first position held, sinks aside.
    first: usize,
}

/// The pages of one head.
#[derive(Clone, Default)]
pub(super) struct HeadCache {
    pages: VecDeque<Page>,
    first_page: usize,
    /// Earlier pages that hold sinks.
    sinks: Vec<Page>,
}

impl KvCache {
    pub(super) fn new(
        kv_heads: usize,
        shape: PageShape,
        span: AttentionSpan,
        format: StateFormat,
    ) -> Self {
        Self { heads: vec![HeadCache::default(); kv_heads], shape, span, format, first: 0 }
    }

    /// How its pages are stored.
    pub(super) fn format(&self) -> StateFormat {
        self.format
    }

    /// What its pages hold.
    pub(super) fn shape(&self) -> PageShape {
        self.shape
    }

    /// Makes room for positions `position..position + len`, and drops pages that no position from
    /// `position` on attends to.
    pub(super) fn reserve(&mut self, position: usize, len: usize) -> Result<(), Error> {
        let first_page = self.span.oldest(position) / PAGE;
        let sinks = self.span.sinks.div_ceil(PAGE);
        let end_page = (position + len).div_ceil(PAGE);
        for head in &mut self.heads {
            while head.first_page < first_page
                && let Some(page) = head.pages.pop_front()
            {
                if head.first_page < sinks {
                    head.sinks.push(page);
                }
                head.first_page += 1;
            }
            while head.first_page + head.pages.len() < end_page {
                head.pages.push_back(Page::new(self.format, self.shape)?);
            }
            // The pages to be written must not be shared with a snapshot.
            for index in position / PAGE..end_page {
                if let Some(page) = head.pages.get_mut(index - head.first_page) {
                    page.unshare()?;
                }
            }
        }
        self.first = self.first.max(first_page * PAGE);
        Ok(())
    }

    /// The lowest position that [`Self::cut`] can go back to: everything its next token attends to
    /// must still be held.
    pub(super) fn floor(&self) -> usize {
        match (self.first, self.span.window) {
            (0, _) => 0,
            (first, Some(window)) => first + window - 1,
            // Nothing is dropped without a window.
            (_, None) => usize::MAX,
        }
    }

    /// Drops the positions from `position` on, which must be at least [`Self::floor`].
    pub(super) fn cut(&mut self, position: usize) {
        for head in &mut self.heads {
            head.pages.truncate(position.div_ceil(PAGE).saturating_sub(head.first_page));
        }
    }

    /// Exports what a token at `position` and later ones attend to.
    pub(super) fn export(&self, position: usize) -> Result<PortableState, Error> {
        let (sinks, first) = self.span.held(position);
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        let PageShape { key, value } = self.shape;
        let rows = self.heads.len() * (sinks + position - first);
        grow(&mut keys, rows * key, "a copy of the key/value cache")?;
        grow(&mut values, rows * value, "a copy of the key/value cache")?;
        let places = self
            .heads
            .iter()
            .flat_map(|head| (0..sinks).chain(first..position).map(move |place| (head, place)));
        for (row, (head, place)) in places.enumerate() {
            head.read(place, &mut keys[row * key..][..key], &mut values[row * value..][..value]);
        }
        Ok(PortableState::KeyValue { first, keys, values })
    }

    /// Whether `keys` and `values` elements are those of positions `first..position` and the sinks before, and are
    /// all that a token at `position` attends to.
    pub(super) fn fits(
        &self,
        (first, position): (usize, usize),
        keys: usize,
        values: usize,
    ) -> bool {
        let own = position.checked_sub(first).map(|n| n + self.span.sinks.min(first));
        let rows = own.and_then(|n| n.checked_mul(self.heads.len()));
        let fit = |width: usize, len| rows.and_then(|n| n.checked_mul(width)) == Some(len);
        first <= self.span.oldest(position)
            && fit(self.shape.key, keys)
            && fit(self.shape.value, values)
    }

    /// Replaces the cache by keys and values of positions `first..position`, each `[kv_heads,
    /// position - first, width]`, preceded by those of the sinks before `first`.
    pub(super) fn import(
        &mut self,
        (first, position): (usize, usize),
        keys: &[f32],
        values: &[f32],
    ) -> Result<(), Error> {
        let mut new = Self::new(self.heads.len(), self.shape, self.span, self.format);
        let sinks = self.span.sinks.min(first);
        new.first = first;
        for head in &mut new.heads {
            head.first_page = first / PAGE;
            for _ in 0..sinks.div_ceil(PAGE).min(head.first_page) {
                head.sinks.push(Page::new(self.format, self.shape)?);
            }
        }
        if position > first {
            new.reserve(first, position - first)?;
        }
        let PageShape { key, value } = self.shape;
        let mut row = 0;
        for head in &mut new.heads {
            for place in (0..sinks).chain(first..position) {
                head.write(place, &keys[row * key..][..key], &values[row * value..][..value]);
                row += 1;
            }
        }
        // `reserve` kept what the first position attends to.
        new.first = first;
        *self = new;
        Ok(())
    }

    fn pages(&self) -> impl Iterator<Item = &Page> {
        self.heads.iter().flat_map(|head| head.pages.iter().chain(&head.sinks))
    }

    /// Calls `visit` with the address and size of each page.
    pub(super) fn blocks(&self, visit: &mut dyn FnMut(usize, usize)) {
        self.pages().for_each(|page| visit(page.address(), page.bytes()));
    }

    pub(super) fn bytes(&self) -> usize {
        self.pages().map(Page::bytes).sum()
    }
}

impl HeadCache {
    /// Writes the key and value of `position`, for which `reserve` made room.
    pub(super) fn write(&mut self, position: usize, key: &[f32], value: &[f32]) {
        let (page, slot) = (position / PAGE, position % PAGE);
        let page = match page.checked_sub(self.first_page) {
            Some(page) => &mut self.pages[page],
            None => &mut self.sinks[page],
        };
        page.write(slot, key, value);
    }

    /// Reads the key and value of `position`, which must be held.
    fn read(&self, position: usize, key: &mut [f32], value: &mut [f32]) {
        self.page(position / PAGE).read(position % PAGE, key, value);
    }

    /// Page `index`, from the beginning of the sequence.
    pub(super) fn page(&self, index: usize) -> &Page {
        match index.checked_sub(self.first_page) {
            Some(index) => &self.pages[index],
            None => &self.sinks[index],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::simd::Isa;

    const SHAPE: PageShape = PageShape { key: 2, value: 2 };

    #[test]
    fn pages_are_shared_until_written_and_dropped_behind_the_window() {
        let mut cache = KvCache::new(1, SHAPE, span(Some(70), 0), StateFormat::F32);
        for position in 0..300 {
            cache.reserve(position, 1).unwrap();
            cache.heads[0].write(position, &[position as f32, 1.0], &[2.0, position as f32]);
        }
        // Position 299 attends to 230..=299: pages 3 and 4.
        assert_eq!(cache.bytes(), 2 * 8 * 2 * PAGE);
        let mut fork = cache.clone();
        fork.reserve(300, 1).unwrap();
        fork.heads[0].write(300, &[-1.0, -1.0], &[-1.0, -1.0]);
        let (keys, values) = cache.heads[0].page(4).unpacked(Isa::detect(), SHAPE, 2, &mut []);
        assert_eq!((keys[299 - 256], values[2 * (299 - 256) + 1]), (299.0, 299.0));
        assert_eq!(keys[300 - 256], 0.0, "the fork wrote to its own copy");
        assert_eq!(cache.heads[0].pages[0].address(), fork.heads[0].pages[0].address());
    }

    fn span(window: Option<usize>, sinks: usize) -> AttentionSpan {
        AttentionSpan { window, sinks }
    }

    /// A cache with key `[position, 1]` and value `[2, position]` for each position.
    fn filled(span: AttentionSpan, positions: usize) -> KvCache {
        let mut cache = KvCache::new(1, SHAPE, span, StateFormat::F32);
        for position in 0..positions {
            cache.reserve(position, 1).unwrap();
            cache.heads[0].write(position, &[position as f32, 1.0], &[2.0, position as f32]);
        }
        cache
    }

    #[test]
    fn a_cut_goes_back_as_far_as_its_next_token_sees() {
        let mut cache = filled(span(Some(70), 0), 300);
        // Pages 3 and 4 are held, from position 192 on, and a token attends to itself and 69 before
        // it.
        assert_eq!(cache.floor(), 192 + 69);
        cache.cut(261);
        cache.reserve(261, 1).unwrap();
        cache.heads[0].write(261, &[-5.0, 0.0], &[0.0, -5.0]);
        let (keys, values) = cache.heads[0].page(4).unpacked(Isa::detect(), SHAPE, 2, &mut []);
        assert_eq!(
            (keys[4], keys[5], values[2 * 4 + 1], values[2 * 5 + 1]),
            (260.0, -5.0, 260.0, -5.0)
        );
        assert_eq!(filled(span(None, 0), 100).floor(), 0);
        let mut cache = filled(span(None, 0), 300);
        cache.cut(64);
        assert_eq!(cache.bytes(), 8 * 2 * PAGE);
        cache.cut(0);
        assert_eq!(cache.bytes(), 0);
    }

    #[test]
    fn what_is_exported_can_be_imported() {
        for (span, positions) in [(None, 0), (None, 1), (None, 130), (Some(70), 300), (Some(7), 5)]
            .into_iter()
            .flat_map(|(window, positions)| [0, 3, 64, 70].map(|s| (span(window, s), positions)))
        {
            let cache = filled(span, positions);
            let PortableState::KeyValue { first, keys, values } = cache.export(positions).unwrap()
            else {
                panic!("a cache");
            };
            assert_eq!(first, span.window.map_or(0, |w| (positions + 1).saturating_sub(w)));
            let all = (0..span.sinks.min(first)).chain(first..positions);
            let expected: Vec<f32> = all.flat_map(|p| [p as f32, 1.0]).collect();
            assert_eq!(keys, expected);
            let mut other = KvCache::new(1, SHAPE, span, StateFormat::F32);
            other.import((first, positions), &keys, &values).unwrap();
            let again = other.export(positions).unwrap();
            assert_eq!(again, PortableState::KeyValue { first, keys, values });
            assert!(other.floor() == 0 || other.floor() == positions, "{}", other.floor());
            other.reserve(positions, 1).unwrap();
        }
    }
}
