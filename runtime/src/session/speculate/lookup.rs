//! [`PromptLookup`]: what followed the last time that the same tokens were there.

use super::Drafter;
use crate::Error;

/// Guesses that what followed the last tokens earlier in the sequence follows them again: costs nothing, and is right where a text
/// quotes, edits or repeats (A. Saxena, "Prompt Lookup Decoding", 2023).
#[derive(Clone, Copy, Debug)]
pub struct PromptLookup {
    /// Tokens that must be the same: first so many are looked for, then fewer.
    longest: usize,
    /// The fewest.
    shortest: usize,
}

impl Default for PromptLookup {
    /// From 4 tokens down to 2.
    fn default() -> Self {
        Self { longest: 4, shortest: 2 }
    }
}

impl PromptLookup {
    /// Looks for the last `longest` tokens, then for fewer, down to `shortest`; each at least 1.
    pub fn new(shortest: usize, longest: usize) -> Self {
        let shortest = shortest.max(1);
        Self { longest: longest.max(shortest), shortest }
    }
}

impl Drafter for PromptLookup {
    fn draft(&mut self, tokens: &[u32], most: usize) -> Result<Vec<u32>, Error> {
        for length in (self.shortest..=self.longest).rev() {
            let Some(start) = tokens.len().checked_sub(length) else { continue };
            let (before, last) = tokens.split_at(start);
            // What is nearest is likeliest; it may overlap with the end.
            let found = (0..before.len())
                .rev()
                .find(|&place| tokens.get(place..place + length) == Some(last));
            if let Some(place) = found {
                // Where the sequence goes round, so do the guesses.
                let period = start - place;
                let end = place + length;
                return Ok((0..most)
                    .filter_map(|i| tokens.get(end + i % period))
                    .copied()
                    .collect());
            }
        }
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(tokens: &[u32], most: usize) -> Vec<u32> {
        PromptLookup::default().draft(tokens, most).unwrap()
    }

    #[test]
    fn the_longest_match_wins_and_of_equals_the_nearest() {
        assert_eq!(draft(&[1, 2, 3, 9, 8, 7, 1, 2], 3), [3, 9, 8]);
        assert_eq!(draft(&[1, 2, 3, 1, 2, 4, 1, 2], 1), [4]);
        // 5, 1, 2 was followed by 6, though 1, 2 alone was followed by 4 later.
        assert_eq!(draft(&[5, 1, 2, 6, 1, 2, 4, 5, 1, 2], 1), [6]);
        assert!(draft(&[1, 2, 3, 4], 5).is_empty());
        assert!(draft(&[], 5).is_empty());
        assert!(draft(&[1], 5).is_empty());
    }

    #[test]
    fn a_sequence_that_goes_round_goes_on() {
        assert_eq!(draft(&[7, 8, 7, 8, 7, 8], 5), [7, 8, 7, 8, 7]);
        assert_eq!(draft(&[4, 4, 4], 3), [4, 4, 4]);
    }
}
