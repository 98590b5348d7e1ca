//! [`PromptLookup`]: drafts by looking up what followed the same tokens earlier.

use super::Drafter;
use crate::Error;

/// Drafts what followed the last tokens when they occurred earlier in the sequence. It costs
/// nothing, and is often right where a text quotes, edits or repeats (A. Saxena, "Prompt Lookup
/// Decoding", 2023).
#[derive(Clone, Copy, Debug)]
pub struct PromptLookup {
    /// The length of the longest match to try first.
    longest: usize,
    /// The length of the shortest match to accept.
    shortest: usize,
}

impl Default for PromptLookup {
    /// Matches of 4 down to 2 tokens.
    fn default() -> Self {
        Self { longest: 4, shortest: 2 }
    }
}

impl PromptLookup {
    /// Looks for the last `longest` tokens, then for fewer, down to `shortest`. Both are at least
    /// 1.
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
            // The nearest match is the most likely one; it may overlap the end.
            let found = (0..before.len())
                .rev()
                .find(|&place| tokens.get(place..place + length) == Some(last));
            if let Some(place) = found {
                // If the match overlaps the end, the text is periodic, and so is the draft.
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
        // 5, 1, 2 was followed by 6, though 1, 2 alone was later followed by 4.
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
