//! The tokens that can still be chosen, and the stages that reduce them.
//!
//! Nothing here sorts the whole vocabulary. The most probable tokens are selected in linear time,
//! and only as many of them are sorted as a stage needs.

use std::cmp::Ordering;

use super::math;

/// A token with its logit minus the largest logit, which is at most 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    pub(super) id: u32,
    pub(super) logit: f32,
}

impl Candidate {
    fn weight(&self) -> f64 {
        f64::from(math::exp(self.logit))
    }
}

/// Orders by falling probability, then by rising id.
fn by_logit(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
}

/// The candidates, with buffers that are reused from token to token. There is at least one, unless
/// [`Candidates::fill`] found none.
#[derive(Clone, Debug, Default)]
pub(super) struct Candidates {
    items: Vec<Candidate>,
    /// The first `sorted` of `items` are sorted and come before all others.
    sorted: usize,
    /// For the typical stage: distances from the entropy, with the candidates.
    distances: Vec<(f64, Candidate)>,
}

impl Candidates {
    /// Takes the tokens whose logit is not negative infinity. `max` is the largest logit.
    pub(super) fn fill(&mut self, logits: &[f32], max: f32, temperature: f32) {
        self.fill_above(logits, max, temperature, f32::NEG_INFINITY);
    }

    /// Takes the tokens whose logit, minus `max` and divided by the temperature, is above `least`.
    fn fill_above(&mut self, logits: &[f32], max: f32, temperature: f32, least: f32) {
        self.items.clear();
        self.sorted = 0;
        for (id, logit) in (0u32..).zip(logits) {
            let logit = (logit - max) / temperature;
            if logit > least {
                self.items.push(Candidate { id, logit });
            }
        }
    }

    /// Takes the `k` most probable tokens, sorted. Equal to [`Self::fill`] and [`Self::top_k`], but
    /// most logits cost one comparison.
    pub(super) fn fill_top_k(&mut self, logits: &[f32], max: f32, temperature: f32, k: usize) {
        if k >= logits.len() {
            return self.fill(logits, max, temperature);
        }
        self.items.clear();
        self.sorted = 0;
        // Once there are k better tokens, drop logits up to the lowest of theirs: ties go to the
        // earlier token.
        let room = k.saturating_mul(4).max(256);
        let mut least = f32::NEG_INFINITY;
        for (id, logit) in (0u32..).zip(logits) {
            if *logit > least {
                self.items.push(Candidate { id, logit: *logit });
                if self.items.len() == room {
                    self.items.select_nth_unstable_by(k - 1, by_logit);
                    self.items.truncate(k);
                    least = self.items.last().map_or(least, |item| item.logit);
                }
            }
        }
        self.top_k(k);
        self.items.iter_mut().for_each(|item| item.logit = (item.logit - max) / temperature);
    }

    /// Takes the most probable tokens that together reach probability `p`. Equal to [`Self::fill`]
    /// and [`Self::top_p`], but skips tokens that are far below.
    pub(super) fn fill_top_p(&mut self, logits: &[f32], max: f32, temperature: f32, p: f32) {
        let wanted = f64::from(p) * math::exp_sum(logits, max, temperature);
        for k in [256, 4096] {
            if k < logits.len() {
                self.fill_top_k(logits, max, temperature, k);
                if self.keep_mass(wanted) {
                    return;
                }
            }
        }
        self.fill(logits, max, temperature);
        self.keep_mass(wanted);
    }

    /// Takes the tokens with at least `min_p` times the largest probability. Equal to
    /// [`Self::fill`] and [`Self::min_p`], but most logits cost one comparison.
    pub(super) fn fill_min_p(&mut self, logits: &[f32], max: f32, temperature: f32, min_p: f32) {
        // The first bound is slightly too low; `min_p` then applies the exact one.
        self.fill_above(logits, max, temperature, min_p.ln() - 1e-3);
        self.min_p(min_p);
    }

    #[cfg(test)]
    pub(super) fn capacities(&self) -> [usize; 2] {
        [self.items.capacity(), self.distances.capacity()]
    }

    /// Sorts at least the `count` most probable candidates to the front.
    fn sort_front(&mut self, count: usize) {
        let count = count.min(self.items.len());
        let Some(rest) = self.items.get_mut(self.sorted..) else { return };
        let wanted = count.saturating_sub(self.sorted);
        if wanted == 0 {
            return;
        }
        if wanted < rest.len() {
            rest.select_nth_unstable_by(wanted - 1, by_logit);
        }
        if let Some(front) = rest.get_mut(..wanted) {
            front.sort_unstable_by(by_logit);
        }
        self.sorted = count;
    }

    fn truncate(&mut self, count: usize) {
        self.items.truncate(count.max(1));
        self.sorted = self.sorted.min(self.items.len());
    }

    /// The sum of the weights of all candidates.
    fn total(&self) -> f64 {
        self.items.iter().map(Candidate::weight).sum()
    }

    /// Keeps the `k` most probable tokens.
    pub(super) fn top_k(&mut self, k: usize) {
        if k > 0 && k < self.items.len() {
            self.sort_front(k);
            self.truncate(k);
        }
    }

    /// Keeps the most probable tokens that together reach probability `p`.
    pub(super) fn top_p(&mut self, p: f32) {
        if p >= 1.0 {
            return;
        }
        let wanted = f64::from(p) * self.total();
        self.keep_mass(wanted);
    }

    /// Keeps the most probable tokens whose weights together reach `wanted`. Returns false if the
    /// total is less.
    fn keep_mass(&mut self, wanted: f64) -> bool {
        let mut sum = 0.0;
        let mut count = 0;
        while count < self.items.len() {
            if count == self.sorted {
                // Each pass scans all unsorted items, so grow fast to need few passes.
                self.sort_front((self.sorted * 4).max(64).max(self.items.len() / 16));
            }
            sum += self.items.get(count).map_or(0.0, Candidate::weight);
            count += 1;
            if sum >= wanted {
                self.truncate(count);
                return true;
            }
        }
        false
    }

    /// Keeps tokens with at least `min_p` times the largest probability.
    pub(super) fn min_p(&mut self, min_p: f32) {
        if min_p <= 0.0 {
            return;
        }
        let max = self.max();
        // Compares probabilities, not logits, so that `min_p` 1 keeps all tokens as probable as the
        // first.
        self.items.retain(|item| math::exp(item.logit - max) >= min_p);
        self.sorted = self.sorted.min(self.items.len());
    }

    fn max(&self) -> f32 {
        self.items.iter().map(|item| item.logit).fold(f32::NEG_INFINITY, f32::max)
    }

    /// Keeps the tokens whose information is closest to the entropy and that together reach
    /// probability `mass`.
    pub(super) fn typical(&mut self, mass: f32) {
        if mass >= 1.0 {
            return;
        }
        let total = self.total();
        let log_total = total.ln();
        // The entropy: the mean of -ln(probability).
        let entropy: f64 = self
            .items
            .iter()
            .map(|item| item.weight() / total * (log_total - f64::from(item.logit)))
            .sum();
        self.distances.clear();
        self.distances.extend(self.items.iter().map(|item| {
            let information = log_total - f64::from(item.logit);
            ((information - entropy).abs(), *item)
        }));
        let wanted = f64::from(mass) * total;
        let order = |a: &(f64, Candidate), b: &(f64, Candidate)| {
            a.0.total_cmp(&b.0).then_with(|| by_logit(&a.1, &b.1))
        };
        let (mut sum, mut count, mut sorted) = (0.0, 0, 0);
        while count < self.distances.len() {
            if count == sorted {
                let step = (sorted * 4).max(64).max(self.distances.len() / 16);
                let step = step.min(self.distances.len()) - sorted;
                let Some(rest) = self.distances.get_mut(sorted..) else { break };
                if step < rest.len() {
                    rest.select_nth_unstable_by(step - 1, order);
                }
                if let Some(front) = rest.get_mut(..step) {
                    front.sort_unstable_by(order);
                }
                sorted += step;
            }
            sum += self.distances.get(count).map_or(0.0, |(_, item)| item.weight());
            count += 1;
            if sum >= wanted {
                break;
            }
        }
        self.items.clear();
        self.items.extend(self.distances.iter().take(count).map(|(_, item)| *item));
        self.items.sort_unstable_by(by_logit);
        self.sorted = self.items.len();
    }

    /// Of the tokens with at least probability `threshold`, keeps only the least probable.
    pub(super) fn exclude_top(&mut self, threshold: f32) {
        let least = f64::from(threshold) * self.total();
        let is_top = |item: &Candidate| item.weight() >= least;
        let Some(kept) = self.items.iter().filter(|item| is_top(item)).copied().max_by(by_logit)
        else {
            return;
        };
        let mut removed = 0;
        self.items.retain(|item| {
            let keep = !is_top(item) || item.id == kept.id;
            removed += usize::from(!keep);
            keep
        });
        self.sorted = self.sorted.saturating_sub(removed);
    }

    /// Chooses a token by a number in `[0, 1)`: the place in the cumulative probabilities at this
    /// temperature.
    pub(super) fn draw(&self, temperature: f32, number: f64) -> Option<u32> {
        let max = self.max();
        let weight = |item: &Candidate| f64::from(math::exp((item.logit - max) / temperature));
        let total: f64 = self.items.iter().map(weight).sum();
        let place = number * total;
        let mut sum = 0.0;
        let mut last = None;
        for item in &self.items {
            let weight = weight(item);
            if weight > 0.0 {
                sum += weight;
                last = Some(item.id);
                if sum > place {
                    break;
                }
            }
        }
        last
    }

    /// The probabilities at this temperature, in falling order.
    pub(super) fn probabilities(&mut self, temperature: f32) -> Vec<(u32, f32)> {
        self.sort_front(self.items.len());
        let max = self.max();
        let weight = |item: &Candidate| f64::from(math::exp((item.logit - max) / temperature));
        let total: f64 = self.items.iter().map(weight).sum();
        self.items.iter().map(|item| (item.id, (weight(item) / total) as f32)).collect()
    }
}
