//! [`StreamDecoder`]: text from tokens that arrive one by one, never cut inside a character.

use super::decode::Pipeline;
use super::{TextError, Tokenizer};

/// Decodes a stream of tokens. The pieces, joined, are exactly what [`Tokenizer::decode`] returns
/// for all the tokens at once, and no piece ends inside a character.
///
/// Text is held back while later tokens can still change it: part of a character, or a run of byte
/// tokens (`<0xE5>`), which is valid or not as a whole. The work per token doesn't depend on the
/// length of the text. Invalid UTF-8 becomes U+FFFD, as in the one-shot decode.
///
/// For the few decoders that need the whole text (CTC, a `Replace` after a `Fuse`), the last tokens
/// are decoded again with each new one. The result can then differ from the one-shot decode if such
/// a rule reaches further back.
///
/// ```no_run
/// # fn main() -> Result<(), kinglet::text::TextError> {
/// # let tokenizer = kinglet::text::Tokenizer::from_folder("model".as_ref())?;
/// # let tokens = [1, 2, 3];
/// let mut decoder = tokenizer.stream(true);
/// for id in tokens {
///     if let Some(text) = decoder.push(id)? {
///         print!("{text}");
///     }
/// }
/// print!("{}", decoder.finish()?);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct StreamDecoder {
    tokenizer: Tokenizer,
    pipeline: Pipeline,
    skip_special_tokens: bool,
}

impl StreamDecoder {
    /// Creates a decoder at the beginning of a text.
    pub fn new(tokenizer: Tokenizer, skip_special_tokens: bool) -> Self {
        let pipeline = tokenizer.new_pipeline();
        Self { tokenizer, pipeline, skip_special_tokens }
    }

    /// Creates a decoder for a continuation of `prompt`: it returns what the continuation adds to
    /// the prompt's text. Some tokenizers strip a space from the first token of a text, so the
    /// continuation of a raw prompt needs this. An answer in a chat is a text of its own.
    ///
    /// # Errors
    /// [`TextError::Decode`].
    pub fn continuing(
        tokenizer: Tokenizer,
        skip_special_tokens: bool,
        prompt: &[u32],
    ) -> Result<Self, TextError> {
        let mut decoder = Self::new(tokenizer, skip_special_tokens);
        let mut text = String::new();
        for &id in prompt {
            decoder.push_to(id, &mut text)?;
            text.clear();
        }
        Ok(decoder)
    }

    /// Takes the next token and returns the text that is now certain, or `None` if there is none.
    ///
    /// # Errors
    /// [`TextError::Decode`] if the tokenizer's decoder fails.
    pub fn push(&mut self, id: u32) -> Result<Option<String>, TextError> {
        let mut text = String::new();
        self.push_to(id, &mut text)?;
        Ok((!text.is_empty()).then_some(text))
    }

    /// Like [`Self::push`], appending to a string.
    ///
    /// # Errors
    /// Those of [`Self::push`].
    pub fn push_to(&mut self, id: u32, text: &mut String) -> Result<(), TextError> {
        if self.skip_special_tokens && self.tokenizer.is_special(id) {
            return Ok(());
        }
        // Padding rows of the embedding have no token and no text.
        let Some(token) = self.tokenizer.id_to_token(id) else { return Ok(()) };
        self.pipeline.push(token, text).map_err(|problem| TextError::Decode { problem })
    }

    /// Ends the text: returns what was held back (an incomplete character as U+FFFD) and starts a
    /// new text.
    ///
    /// # Errors
    /// Those of [`Self::push`].
    pub fn finish(&mut self) -> Result<String, TextError> {
        let mut text = String::new();
        self.finish_to(&mut text)?;
        Ok(text)
    }

    /// Like [`Self::finish`], appending to a string.
    ///
    /// # Errors
    /// Those of [`Self::push`].
    pub fn finish_to(&mut self, text: &mut String) -> Result<(), TextError> {
        let mut pipeline = std::mem::replace(&mut self.pipeline, self.tokenizer.new_pipeline());
        pipeline.finish(text).map_err(|problem| TextError::Decode { problem })
    }
}

impl std::fmt::Debug for StreamDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamDecoder")
            .field("skip_special_tokens", &self.skip_special_tokens)
            .finish_non_exhaustive()
    }
}
