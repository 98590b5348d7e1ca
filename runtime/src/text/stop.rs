//! [`StopTokens`] and [`StopMatcher`]: when an answer ends, with stop strings found across token
//! boundaries.

use std::path::Path;

use super::files::{read_optional_object, token_ids};
use super::{GenerationConfig, TextError, Tokenizer};

/// The tokens that end an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopTokens {
    ids: Vec<u32>,
}

impl StopTokens {
    /// Creates a set of these tokens.
    pub fn new(ids: impl IntoIterator<Item = u32>) -> Self {
        let mut tokens = Self::default();
        ids.into_iter().for_each(|id| tokens.insert(id));
        tokens
    }

    /// The stop tokens of a model folder: `eos_token_id` of `generation_config.json`, or else of
    /// `config.json` (or its `text_config`), or else the tokenizer's `eos_token`. A chat may want
    /// [`Tokenizer::eos_id`] in addition.
    ///
    /// # Errors
    /// If a file is not JSON, or an `eos_token_id` is neither an id nor a list of ids.
    pub fn from_folder(folder: &Path, tokenizer: Option<&Tokenizer>) -> Result<Self, TextError> {
        let generation = GenerationConfig::from_folder(folder)?;
        if !generation.eos_token_ids.is_empty() {
            return Ok(Self::new(generation.eos_token_ids));
        }
        let path = folder.join("config.json");
        if let Some(config) = read_optional_object(&path)? {
            const FIELD: &str = "eos_token_id";
            let inner = config.get("text_config").and_then(|inner| inner.get(FIELD));
            for value in [config.get(FIELD), inner].into_iter().flatten() {
                let ids = token_ids(&path, FIELD, value)?;
                if !ids.is_empty() {
                    return Ok(Self::new(ids));
                }
            }
        }
        Ok(Self::new(tokenizer.and_then(Tokenizer::eos_id)))
    }

    /// Adds a token.
    pub fn insert(&mut self, id: u32) {
        if !self.contains(id) {
            self.ids.push(id);
        }
    }

    /// Whether a token ends the answer.
    pub fn contains(&self, id: u32) -> bool {
        self.ids.contains(&id)
    }

    /// The tokens, in the order in which they were added.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }
}

/// The result of a piece of text for a [`StopMatcher`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matched {
    /// Text that is certainly not part of a stop string, to be shown now.
    pub text: String,
    /// The stop string that appeared, as an index into the list passed to [`StopMatcher::new`]. The
    /// text before it is in `text`; the string itself is not.
    pub stop: Option<usize>,
}

/// Finds stop strings in text that comes in pieces, and holds back only text that may still become
/// one. The result doesn't depend on where the pieces are cut.
///
/// If several stop strings match, the one that completes first wins; of those that complete at the
/// same place, the longest. Each string is followed by a Knuth-Morris-Pratt automaton, so the work
/// per byte is constant on average.
#[derive(Clone, Debug, Default)]
pub struct StopMatcher {
    patterns: Vec<Pattern>,
    held: String,
    stopped: bool,
}

#[derive(Clone, Debug)]
struct Pattern {
    bytes: Vec<u8>,
    /// `failure[i]`: the longest proper prefix of `bytes` that is a suffix of `bytes[..=i]`.
    failure: Vec<usize>,
    /// Length of the pattern's longest prefix that the text so far ends with.
    matched: usize,
}

impl Pattern {
    fn new(text: &str) -> Self {
        let mut pattern = Self { bytes: text.as_bytes().to_vec(), failure: Vec::new(), matched: 0 };
        for (index, &byte) in text.as_bytes().iter().enumerate() {
            let length = if index == 0 { 0 } else { pattern.step(pattern.matched, byte) };
            pattern.matched = length;
            pattern.failure.push(length);
        }
        pattern.matched = 0;
        pattern
    }

    /// The number of bytes matched after one more byte, given the number before.
    fn step(&self, mut matched: usize, byte: u8) -> usize {
        loop {
            if self.bytes.get(matched) == Some(&byte) {
                return matched + 1;
            }
            match matched.checked_sub(1).and_then(|last| self.failure.get(last)) {
                Some(&shorter) => matched = shorter,
                None => return 0,
            }
        }
    }
}

impl StopMatcher {
    /// Creates a matcher for these strings.
    ///
    /// # Errors
    /// [`TextError::Stop`] for an empty string.
    pub fn new<S: AsRef<str>>(strings: &[S]) -> Result<Self, TextError> {
        let mut patterns = Vec::with_capacity(strings.len());
        for (index, string) in strings.iter().enumerate() {
            if string.as_ref().is_empty() {
                let problem = format!("stop string {index} is empty and would match everywhere");
                return Err(TextError::Stop { problem });
            }
            patterns.push(Pattern::new(string.as_ref()));
        }
        Ok(Self { patterns, held: String::new(), stopped: false })
    }

    /// Takes the next piece of text. After a stop string, all further text is dropped.
    pub fn push(&mut self, piece: &str) -> Matched {
        if self.stopped {
            return Matched::default();
        }
        let before = self.held.len();
        self.held.push_str(piece);
        for (index, &byte) in piece.as_bytes().iter().enumerate() {
            let mut complete: Option<(usize, usize)> = None;
            for (stop, pattern) in self.patterns.iter_mut().enumerate() {
                pattern.matched = pattern.step(pattern.matched, byte);
                let length = pattern.bytes.len();
                if pattern.matched == length && complete.is_none_or(|(_, best)| length > best) {
                    complete = Some((stop, length));
                }
            }
            if let Some((stop, length)) = complete {
                self.stopped = true;
                self.held.truncate((before + index + 1).saturating_sub(length));
                return Matched { text: std::mem::take(&mut self.held), stop: Some(stop) };
            }
        }
        // The text held back starts like a stop string, so it starts on a character boundary.
        let kept = self.patterns.iter().map(|pattern| pattern.matched).max().unwrap_or(0);
        let tail = self.held.split_off(self.held.len().saturating_sub(kept));
        Matched { text: std::mem::replace(&mut self.held, tail), stop: None }
    }

    /// Ends the text: returns what was held back, since it can no longer become a stop string.
    pub fn finish(&mut self) -> String {
        self.patterns.iter_mut().for_each(|pattern| pattern.matched = 0);
        self.stopped = false;
        std::mem::take(&mut self.held)
    }

    /// Whether a stop string has appeared.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, written naively: the first position where the text so far ends in a stop
    /// string.
    fn oracle(text: &str, stops: &[&str]) -> (String, Option<usize>) {
        for end in (0..=text.len()).filter(|&end| text.is_char_boundary(end)) {
            let ending = |stop: &&str| text[..end].ends_with(*stop);
            let found = (0..stops.len()).filter(|&i| ending(&stops[i]));
            // `max_by_key` returns the last maximum, so iterate in reverse to get the first.
            if let Some(best) = found.rev().max_by_key(|&i| stops[i].len()) {
                return (text[..end - stops[best].len()].to_string(), Some(best));
            }
        }
        (text.to_string(), None)
    }

    /// Feeds the text in pieces, cut where `cuts` has a set bit, and checks each piece.
    fn run(text: &str, stops: &[&str], cuts: u32) -> (String, Option<usize>) {
        let mut matcher = StopMatcher::new(stops).expect("no empty stop string");
        let (mut out, mut piece, mut fed) = (String::new(), String::new(), String::new());
        let count = text.chars().count();
        for (index, c) in text.chars().enumerate() {
            piece.push(c);
            if index + 1 < count && cuts >> (index % 32) & 1 == 0 {
                continue;
            }
            let matched = matcher.push(&piece);
            fed.push_str(&std::mem::take(&mut piece));
            out.push_str(&matched.text);
            if matched.stop.is_some() {
                assert_eq!(matcher.push("more"), Matched::default(), "text after the stop");
                return (out, matched.stop);
            }
            // Only text that may become a stop string is held back.
            let held = &fed[out.len()..];
            assert!(
                held.is_empty() || stops.iter().any(|stop| stop.starts_with(held)),
                "{held:?} is held back for {stops:?}"
            );
        }
        out.push_str(&matcher.finish());
        (out, None)
    }

    #[test]
    fn finds_stops_wherever_the_text_is_cut() {
        let texts = [
            "abcabdabcabcd",
            "aaaaab",
            "User: hi\n\nUser:",
            "x</s>y",
            "日本語日本人日",
            "",
            "aXbXc",
            "ééêé",
            "the end",
            "ab",
        ];
        let stop_sets: [&[&str]; 8] = [
            &["abcabcd"],
            &["aab", "ab"],
            &["\n\nUser:", "\nAssistant"],
            &["</s>"],
            &["日本人", "本"],
            &["Xb", "aXbX"],
            &["éê", "êé"],
            &["nowhere"],
        ];
        for text in texts {
            for stops in stop_sets {
                let expected = oracle(text, stops);
                for cuts in [0, u32::MAX, 0b0101_0101, 0b1101_0010, 0b0010_0100_1001, 0b1000] {
                    assert_eq!(run(text, stops, cuts), expected, "{text:?} {stops:?} {cuts:b}");
                }
            }
        }
    }

    #[test]
    fn text_is_given_out_as_soon_as_it_can_be() {
        let mut matcher = StopMatcher::new(&["STOP"]).expect("a stop string");
        assert_eq!(matcher.push("go S").text, "go ");
        assert_eq!(matcher.push("TO").text, "");
        assert_eq!(matcher.push("W ").text, "STOW ");
        assert_eq!(matcher.push("STO").text, "");
        assert_eq!(matcher.finish(), "STO");
        assert_eq!(matcher.push("P").text, "P", "the end of the text ends the match");
    }

    #[test]
    fn empty_stop_strings_are_refused() {
        assert!(matches!(StopMatcher::new(&["a", ""]), Err(TextError::Stop { .. })));
        let mut none = StopMatcher::new::<&str>(&[]).expect("no stop strings");
        assert_eq!(none.push("all").text, "all");
    }
}
