//! [`OutputStream`]: tokens of an answer in, text and the end of the answer out.

use super::{StopMatcher, StopTokens, StreamDecoder, TextError};

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// This stop token appeared.
    StopToken(u32),
    /// This stop string appeared, by its index in the list.
    StopString(usize),
}

/// The effect of one token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Text to show now; may be empty.
    pub text: String,
    /// Why the answer ends with this token, if it does. No more tokens must be pushed then.
    pub finish: Option<FinishReason>,
}

/// Combines a [`StreamDecoder`] with stop tokens and stop strings.
#[derive(Clone, Debug)]
pub struct OutputStream {
    decoder: StreamDecoder,
    tokens: StopTokens,
    strings: StopMatcher,
}

impl OutputStream {
    /// Creates a stream for one answer.
    pub fn new(decoder: StreamDecoder, tokens: StopTokens, strings: StopMatcher) -> Self {
        Self { decoder, tokens, strings }
    }

    /// Takes a token. A stop token has no text of its own, but releases the text held back.
    ///
    /// # Errors
    /// [`TextError::Decode`].
    pub fn push(&mut self, id: u32) -> Result<Output, TextError> {
        if self.tokens.contains(id) {
            let mut output = self.finish()?;
            // A stop string completed by the held text came before the stop token.
            output.finish = output.finish.or(Some(FinishReason::StopToken(id)));
            return Ok(output);
        }
        let mut piece = String::new();
        self.decoder.push_to(id, &mut piece)?;
        Ok(self.match_strings(&piece))
    }

    /// Ends the answer from outside (a limit, the user) and returns the text held back.
    ///
    /// # Errors
    /// [`TextError::Decode`].
    pub fn finish(&mut self) -> Result<Output, TextError> {
        let mut piece = String::new();
        self.decoder.finish_to(&mut piece)?;
        let mut output = self.match_strings(&piece);
        if output.finish.is_none() {
            output.text.push_str(&self.strings.finish());
        }
        Ok(output)
    }

    fn match_strings(&mut self, piece: &str) -> Output {
        let matched = self.strings.push(piece);
        Output { text: matched.text, finish: matched.stop.map(FinishReason::StopString) }
    }
}
