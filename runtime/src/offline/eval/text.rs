//! [`TextTokens`]: the tokens of a text to evaluate on.

use super::EvalError;
use crate::text::{EncodeOptions, Tokenizer};

/// The tokens of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextTokens {
    /// The tokens of the text alone, without those that the tokenizer adds.
    pub tokens: Vec<u32>,
    /// The token that the tokenizer adds at the start of every text, if any.
    pub begin: Option<u32>,
}

impl TextTokens {
    /// Encodes `text`. Special tokens written in it (`<|endoftext|>`) are parsed.
    ///
    /// # Errors
    /// [`EvalError::EmptyText`], and errors of the tokenizer.
    pub fn new(tokenizer: &Tokenizer, text: &str) -> Result<Self, EvalError> {
        let encode = |text: &str, add_special_tokens| {
            let options = EncodeOptions { add_special_tokens, parse_special_tokens: true };
            tokenizer.encode(text, options)
        };
        let tokens = encode(text, false)?;
        if tokens.is_empty() {
            return Err(EvalError::EmptyText);
        }
        // A text of one token shows what the post-processor adds.
        let word = encode("a", false)?;
        let around = encode("a", true)?;
        let begin = around.windows(word.len().max(1)).position(|part| part == word);
        let begin = begin.and_then(|at| around.get(at.checked_sub(1)?).copied());
        Ok(Self { tokens, begin })
    }

    fn all(&self) -> impl Iterator<Item = u32> {
        self.begin.into_iter().chain(self.tokens.iter().copied())
    }

    /// Checks that a reference's tokenizer gives the same tokens.
    ///
    /// # Errors
    /// [`EvalError::Tokenizers`] with the first difference.
    pub fn check_same(&self, reference: &Self) -> Result<(), EvalError> {
        let (mut model, mut other) = (self.all(), reference.all());
        let mut index = 0;
        loop {
            match (model.next(), other.next()) {
                (None, None) => return Ok(()),
                (a, b) if a == b => index += 1,
                (model, reference) => {
                    return Err(EvalError::Tokenizers { index, model, reference });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_named() {
        let text = |begin, tokens: &[u32]| TextTokens { begin, tokens: tokens.to_vec() };
        assert!(text(Some(1), &[5, 6]).check_same(&text(Some(1), &[5, 6])).is_ok());
        let differs = |a: TextTokens, b: TextTokens| match a.check_same(&b) {
            Err(EvalError::Tokenizers { index, model, reference }) => (index, model, reference),
            other => panic!("{other:?}"),
        };
        assert_eq!(differs(text(None, &[5, 6]), text(None, &[5, 7])), (1, Some(6), Some(7)));
        assert_eq!(differs(text(None, &[5, 6]), text(None, &[5])), (1, Some(6), None));
        assert_eq!(differs(text(None, &[5]), text(Some(1), &[5])), (0, Some(5), Some(1)));
    }
}
