//! DRY: a penalty on tokens that would continue a repetition.

use super::DryOptions;

/// Buffers that are reused from token to token. All elements are zero between calls.
#[derive(Clone, Debug, Default)]
pub(super) struct Scratch {
    /// Lengths of matches, see [`match_lengths`].
    matches: Vec<usize>,
    /// The longest repetition that each token would continue.
    longest: Vec<usize>,
}

#[cfg(test)]
impl Scratch {
    pub(super) fn capacity(&self) -> usize {
        self.matches.capacity() + self.longest.capacity()
    }
}

/// Penalizes the tokens that would continue a repetition of the end of `history`.
pub(super) fn apply(
    options: &DryOptions,
    history: &[u32],
    scratch: &mut Scratch,
    logits: &mut [f32],
) {
    let allowed = usize::try_from(options.allowed_length).unwrap_or(usize::MAX);
    let reach = since_breaker(history, &options.sequence_breakers);
    if options.multiplier == 0.0 || reach < allowed.max(1) {
        return;
    }
    if scratch.longest.len() < logits.len() {
        scratch.longest.resize(logits.len(), 0);
    }
    match_lengths(history, &mut scratch.matches);
    let place = |token: u32| usize::try_from(token).unwrap_or(usize::MAX);
    // An earlier copy of the end stops `back` tokens before the end; `next` is the token that
    // followed it.
    let continued = || (1..history.len()).zip(history.iter().rev());
    for (back, &next) in continued() {
        let length = scratch.matches.get(back).copied().unwrap_or(0).min(reach);
        if length < allowed.max(1) {
            continue;
        }
        if let Some(longest) = scratch.longest.get_mut(place(next)) {
            *longest = length.max(*longest);
        }
    }
    for (_, &next) in continued() {
        let Some(longest) = scratch.longest.get_mut(place(next)) else { continue };
        let length = std::mem::take(longest);
        let breaker = || options.sequence_breakers.iter().any(|breaker| breaker == &[next]);
        if length == 0 || breaker() {
            continue;
        }
        if let Some(logit) = logits.get_mut(place(next)) {
            // Cap the penalty: infinity would rule out a token that is only unwanted.
            let growth = power(options.base, length - allowed.min(length));
            *logit -= (options.multiplier * growth).min(f32::MAX / 4.0);
        }
    }
}

/// `base ^ exponent`. Unlike `powi`, it gives the same result on every platform.
fn power(mut base: f32, mut exponent: usize) -> f32 {
    let mut power = 1.0;
    while exponent > 0 {
        if exponent % 2 == 1 {
            power *= base;
        }
        base *= base;
        exponent /= 2;
    }
    power
}

/// The number of tokens after the last breaker.
fn since_breaker(history: &[u32], breakers: &[Vec<u32>]) -> usize {
    let ends_in_breaker = |end: usize| {
        let text = history.get(..end).unwrap_or_default();
        breakers.iter().any(|breaker| text.ends_with(breaker))
    };
    (0..=history.len())
        .rev()
        .find(|&end| ends_in_breaker(end))
        .map_or(history.len(), |end| history.len() - end)
}

/// For each `back` from 1: the length of the common suffix of the text and the text without its
/// last `back` tokens. This is the Z function of the reversed text, in linear time (D. Gusfield,
/// "Algorithms on Strings, Trees, and Sequences", 1997, section 1.4).
fn match_lengths(history: &[u32], lengths: &mut Vec<usize>) {
    let n = history.len();
    let at = |index: usize| n.checked_sub(index + 1).and_then(|index| history.get(index));
    lengths.clear();
    lengths.resize(n, 0);
    // The match that reaches furthest, as the range `left..right`.
    let (mut left, mut right) = (0, 0);
    for back in 1..n {
        let mut length = 0;
        if back < right {
            length = lengths.get(back - left).copied().unwrap_or(0).min(right - back);
        }
        while back + length < n && at(length) == at(back + length) {
            length += 1;
        }
        if back + length > right {
            (left, right) = (back, back + length);
        }
        if let Some(entry) = lengths.get_mut(back) {
            *entry = length;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::Rng;

    /// The definition, written naively: for each token, the longest suffix of the text that occurs
    /// earlier followed by that token and contains no breaker.
    fn oracle(options: &DryOptions, history: &[u32], vocabulary: u32) -> Vec<f32> {
        let mut penalties = vec![0.0; vocabulary as usize];
        for token in 0..vocabulary {
            if options.sequence_breakers.contains(&vec![token]) {
                continue;
            }
            let mut longest = 0;
            for length in 1..history.len() {
                let end = &history[history.len() - length..];
                let holds_breaker = options
                    .sequence_breakers
                    .iter()
                    .any(|breaker| end.windows(breaker.len()).any(|window| window == breaker));
                // A breaker also ends a match if only its last tokens are in the suffix.
                let cut = (0..=history.len())
                    .rev()
                    .find(|&e| options.sequence_breakers.iter().any(|b| history[..e].ends_with(b)));
                let cut = cut.is_some_and(|e| history.len() - length < e);
                let mut repeated = end.to_vec();
                repeated.push(token);
                let occurs = history.windows(length + 1).any(|window| window == repeated);
                if occurs && !holds_breaker && !cut {
                    longest = length;
                }
            }
            if longest >= (options.allowed_length as usize).max(1) {
                let exponent = longest as i32 - options.allowed_length as i32;
                penalties[token as usize] = options.multiplier * options.base.powi(exponent);
            }
        }
        penalties
    }

    #[test]
    fn penalties_are_those_of_the_definition() {
        let mut rng = Rng::new(3);
        let mut scratch = Scratch::default();
        let breaker_sets: [&[Vec<u32>]; 4] =
            [&[], &[vec![0]], &[vec![1, 2]], &[vec![3], vec![0, 0]]];
        let mut penalized = 0;
        for round in 0..400 {
            let vocabulary = 2 + round % 4;
            let length = rng.next_u64() % 24;
            let history: Vec<u32> =
                (0..length).map(|_| (rng.next_u64() % u64::from(vocabulary)) as u32).collect();
            let options = DryOptions {
                multiplier: 0.5,
                base: 1.5,
                allowed_length: round % 5,
                last_n: None,
                sequence_breakers: breaker_sets[(round / 5 % 4) as usize].to_vec(),
            };
            let mut logits = vec![0.0; vocabulary as usize];
            apply(&options, &history, &mut scratch, &mut logits);
            let expected = oracle(&options, &history, vocabulary);
            penalized += expected.iter().filter(|&&penalty| penalty > 0.0).count();
            for (token, (logit, penalty)) in logits.iter().zip(expected).enumerate() {
                assert!((logit + penalty).abs() < 1e-4, "{token} after {history:?} {options:?}");
            }
        }
        assert!(penalized > 200, "only {penalized} penalties were tested");
    }

    #[test]
    fn a_long_repetition_does_not_overflow() {
        let history = vec![1; 5000];
        let mut logits = [0.0, 0.0];
        let options = DryOptions { multiplier: 0.8, ..DryOptions::default() };
        apply(&options, &history, &mut Scratch::default(), &mut logits);
        assert!(logits[1] < -1e30 && logits[1].is_finite(), "{logits:?}");
        assert_eq!(logits[0], 0.0);
    }
}
