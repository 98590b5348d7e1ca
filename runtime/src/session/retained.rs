//! States that a session retains, so that it can go back to them.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use super::SharedState;
use crate::backend::SessionState;

/// Which states a session retains: see [`Session::retain`](super::Session::retain).
///
/// A retained state takes the memory of the recurrent tensors, and one page of keys and values per
/// attention layer and head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retain {
    /// Retains the state at every multiple of this many tokens; 0, the default, for none. Steps are
    /// split there.
    pub every: usize,
    /// Most retained states, marks included; the oldest is dropped to make room. 16 by default.
    pub points: usize,
}

impl Default for Retain {
    fn default() -> Self {
        Self { every: 0, points: 16 }
    }
}

/// How far back a session can go: see [`Session::reach`](super::Session::reach).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// The lowest position that keys and values can be cut back to; all later ones work too. `None`
    /// if no layer has a cache, or a step failed midway.
    pub attention: Option<usize>,
    /// The positions that recurrent tensors can be brought back to, ascending; `None` if no layer
    /// has any.
    pub recurrent: Option<Vec<usize>>,
    /// Positions where the whole state is known.
    pub(super) points: Vec<usize>,
    /// Tokens that the session holds.
    pub(super) held: usize,
}

impl Reach {
    /// Whether the session can go back to its first `position` tokens without computing.
    pub fn contains(&self, position: usize) -> bool {
        self.points.binary_search(&position).is_ok()
            || self.cut_from().is_some_and(|first| (first..=self.held).contains(&position))
    }

    /// The nearest positions below and above `position` that the session can go back to.
    pub fn nearest(&self, position: usize) -> (Option<usize>, Option<usize>) {
        let above = self.points.iter().copied().filter(|&point| point > position).min();
        // A cut that reaches `position` or below makes it reachable itself, unless it is past the
        // end.
        let cut = self.cut_from().filter(|&first| first > position && first <= self.held);
        let below = position.checked_sub(1).map(|position| self.at_most(position));
        (below, above.into_iter().chain(cut).min())
    }

    /// The last position up to `position` that the session can go back to; at least 0.
    pub(crate) fn at_most(&self, position: usize) -> usize {
        let position = position.min(self.held);
        if self.contains(position) {
            return position;
        }
        self.points.iter().copied().filter(|&point| point <= position).max().unwrap_or(0)
    }

    /// The lowest position that cutting alone can reach, if no layer is recurrent.
    fn cut_from(&self) -> Option<usize> {
        if self.recurrent.is_some() { None } else { self.attention }
    }
}

/// A retained state with its position.
#[derive(Clone)]
pub(crate) struct Point {
    pub(crate) position: usize,
    pub(crate) state: SharedState,
    pub(crate) logits: Option<Arc<[f32]>>,
}

/// The retained states of one session, by ascending position.
#[derive(Clone, Default)]
pub(crate) struct Retained {
    options: Retain,
    points: VecDeque<Point>,
}

impl Retained {
    pub(crate) fn set(&mut self, options: Retain) {
        self.options = options;
        self.shrink();
    }

    fn shrink(&mut self) {
        while self.points.len() > self.options.points {
            self.points.pop_front();
        }
    }

    /// Tokens from `position` to the next one where the state is to be retained; `None` if there is
    /// none.
    pub(crate) fn until_next(&self, position: usize) -> Option<usize> {
        let every = self.options.every;
        (every > 0 && self.options.points > 0).then(|| every - position % every)
    }

    pub(crate) fn push(&mut self, position: usize, state: SharedState, logits: Option<&[f32]>) {
        // The last point may have this position already, if a mark and the interval coincide.
        while self.points.back().is_some_and(|point| point.position >= position) {
            self.points.pop_back();
        }
        self.points.push_back(Point { position, state, logits: logits.map(Arc::from) });
        self.shrink();
    }

    pub(crate) fn forget_after(&mut self, position: usize) {
        while self.points.back().is_some_and(|point| point.position > position) {
            self.points.pop_back();
        }
    }

    pub(crate) fn at(&self, position: usize) -> Option<&Point> {
        self.points.iter().find(|point| point.position == position)
    }

    pub(crate) fn positions(&self) -> impl Iterator<Item = usize> {
        self.points.iter().map(|point| point.position)
    }

    /// Bytes held here but not by `live`.
    pub(crate) fn bytes(&self, live: &dyn SessionState) -> usize {
        let mut seen = HashSet::new();
        live.blocks(&mut |id, _| {
            seen.insert(id);
        });
        let mut total = 0;
        for point in &self.points {
            total += 4 * point.logits.as_ref().map_or(0, |logits| logits.len());
            point.state.with(|state| {
                state.blocks(&mut |id, bytes| {
                    if seen.insert(id) {
                        total += bytes;
                    }
                });
            });
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(attention: Option<usize>, recurrent: bool, points: &[usize], held: usize) -> Reach {
        let points = points.to_vec();
        Reach { attention, recurrent: recurrent.then(|| points.clone()), points, held }
    }

    #[test]
    fn recurrent_layers_reach_points_only() {
        for attention in [None, Some(0)] {
            let reach = reach(attention, true, &[0, 10, 20, 37], 37);
            let reached: Vec<usize> = (0..=40).filter(|&p| reach.contains(p)).collect();
            assert_eq!(reached, [0, 10, 20, 37]);
            assert_eq!(reach.nearest(15), (Some(10), Some(20)));
            assert_eq!(reach.nearest(99), (Some(37), None));
            assert_eq!((reach.at_most(19), reach.at_most(20), reach.at_most(9)), (10, 20, 0));
        }
    }

    #[test]
    fn attention_alone_reaches_all_that_its_caches_hold() {
        let reach = reach(Some(25), false, &[0, 10, 37], 37);
        let reached: Vec<usize> = (0..=40).filter(|&p| reach.contains(p)).collect();
        let expected: Vec<usize> = [0, 10].into_iter().chain(25..=37).collect();
        assert_eq!(reached, expected);
        assert_eq!(reach.nearest(12), (Some(10), Some(25)));
        assert_eq!((reach.at_most(30), reach.at_most(24)), (30, 10));
    }
}
