//! Penalties on tokens that are already in the text: repetition, presence, frequency.

use super::SamplingOptions;

/// Counts of tokens, reused to avoid allocations. All zero between calls.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    by_token: Vec<u32>,
}

#[cfg(test)]
impl Counts {
    pub(super) fn capacity(&self) -> usize {
        self.by_token.capacity()
    }
}

impl SamplingOptions {
    pub(super) fn has_penalties(&self) -> bool {
        self.repetition_penalty != 1.0
            || self.presence_penalty != 0.0
            || self.frequency_penalty != 0.0
    }
}

/// Lowers the logits of the tokens in `history`. Ignores tokens without a logit.
pub(super) fn apply(
    options: &SamplingOptions,
    history: &[u32],
    counts: &mut Counts,
    logits: &mut [f32],
) {
    if !options.has_penalties() {
        return;
    }
    if counts.by_token.len() < logits.len() {
        counts.by_token.resize(logits.len(), 0);
    }
    let place = |token: u32| usize::try_from(token).unwrap_or(usize::MAX);
    for &token in history {
        if let Some(count) = counts.by_token.get_mut(place(token)) {
            *count = count.saturating_add(1);
        }
    }
    for &token in history {
        let place = place(token);
        let (Some(count), Some(logit)) = (counts.by_token.get_mut(place), logits.get_mut(place))
        else {
            continue;
        };
        // The token's first occurrence applies the whole count.
        let count = std::mem::take(count);
        if count > 0 {
            if *logit < 0.0 {
                *logit *= options.repetition_penalty;
            } else {
                *logit /= options.repetition_penalty;
            }
            *logit -= options.presence_penalty + options.frequency_penalty * count as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_penalty_does_what_it_says() {
        let mut counts = Counts::default();
        let mut run = |options: &SamplingOptions, history: &[u32]| {
            let mut logits = vec![2.0, -2.0, 1.0, 0.0, f32::NEG_INFINITY];
            apply(options, history, &mut counts, &mut logits);
            logits
        };
        let none = SamplingOptions::default();
        let inf = f32::NEG_INFINITY;
        assert_eq!(run(&none, &[0, 1, 1]), [2.0, -2.0, 1.0, 0.0, inf]);
        let repetition = SamplingOptions { repetition_penalty: 2.0, ..none.clone() };
        assert_eq!(run(&repetition, &[0, 1, 1, 3, 4, 99]), [1.0, -4.0, 1.0, 0.0, inf]);
        let presence = SamplingOptions { presence_penalty: 0.5, ..none.clone() };
        assert_eq!(run(&presence, &[0, 1, 1]), [1.5, -2.5, 1.0, 0.0, inf]);
        let frequency = SamplingOptions { frequency_penalty: -0.5, ..none.clone() };
        assert_eq!(run(&frequency, &[0, 1, 1]), [2.5, -1.0, 1.0, 0.0, inf]);
        let all = SamplingOptions {
            repetition_penalty: 2.0,
            presence_penalty: 0.25,
            frequency_penalty: 0.5,
            ..none
        };
        assert_eq!(run(&all, &[0, 1, 1]), [0.25, -5.25, 1.0, 0.0, inf]);
    }

    #[test]
    fn repetition_is_as_in_transformers() {
        // RepetitionPenaltyLogitsProcessor(1.3) of transformers 5.23 on these, history [1, 3, 3, 0].
        let mut logits = [1.5, -0.5, 2.25, 0.75, -3.0];
        let options = SamplingOptions { repetition_penalty: 1.3, ..Default::default() };
        apply(&options, &[1, 3, 3, 0], &mut Counts::default(), &mut logits);
        let expected = [1.153_846_1, -0.65, 2.25, 0.576_923_1, -3.0];
        for (logit, expected) in logits.iter().zip(expected) {
            assert!((logit - expected).abs() < 1e-6, "{logits:?}");
        }
    }
}
