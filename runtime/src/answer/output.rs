//! What tokens mean for an answer: text, and whether they end it.

use super::{AnswerDefaults, AnswerError, AnswerOptions, AnswerPrompt, EndReason};
use crate::text::{
    FinishReason, Output, OutputStream, StopMatcher, StopTokens, StreamDecoder, TextError,
};

/// The tokens of an answer on their way to text.
pub(super) struct AnswerOutput {
    stop_tokens: StopTokens,
    /// Of the options, then of the model.
    stop_strings: Vec<String>,
    /// `None` without a tokenizer.
    stream: Option<OutputStream>,
}

impl AnswerOutput {
    /// For an answer to `prompt` after the tokens `held`.
    pub(super) fn new(
        defaults: &AnswerDefaults,
        prompt: &AnswerPrompt,
        options: &AnswerOptions,
        held: &[u32],
    ) -> Result<Self, AnswerError> {
        let own = !options.ignore_eos;
        let mut stop_tokens =
            if own { defaults.stop_tokens.clone() } else { StopTokens::default() };
        options.stop_tokens.iter().for_each(|&id| stop_tokens.insert(id));
        let model = defaults.config.stop_strings.iter().filter(|_| own);
        let stop_strings: Vec<String> = options.stop_strings.iter().chain(model).cloned().collect();
        let stream = match &defaults.tokenizer {
            Some(tokenizer) => {
                let (tokenizer, skip) = (tokenizer.clone(), !options.show_special);
                let decoder = match (prompt.continues, prompt.whole) {
                    (false, _) => StreamDecoder::new(tokenizer, skip),
                    (true, true) => StreamDecoder::continuing(tokenizer, skip, &prompt.tokens)?,
                    (true, false) => {
                        let all = [held, &prompt.tokens].concat();
                        StreamDecoder::continuing(tokenizer, skip, &all)?
                    }
                };
                let strings = StopMatcher::new(&stop_strings)?;
                Some(OutputStream::new(decoder, stop_tokens.clone(), strings))
            }
            // The model's own can't appear without text.
            None if options.stop_strings.is_empty() => None,
            None => return Err(AnswerError::NoTokenizer { what: "stop strings" }),
        };
        Ok(Self { stop_tokens, stop_strings, stream })
    }

    pub(super) fn is_stop_token(&self, id: u32) -> bool {
        self.stop_tokens.contains(id)
    }

    /// The text that a token brings, and whether it ends the answer.
    pub(super) fn push(&mut self, id: u32) -> Result<(String, Option<EndReason>), TextError> {
        match &mut self.stream {
            Some(stream) => {
                let output = stream.push(id)?;
                Ok(self.told(output))
            }
            None => Ok((String::new(), self.is_stop_token(id).then_some(EndReason::StopToken(id)))),
        }
    }

    /// The text that was held back; a stop string may appear in it.
    pub(super) fn finish(&mut self) -> Result<(String, Option<EndReason>), TextError> {
        match &mut self.stream {
            Some(stream) => {
                let output = stream.finish()?;
                Ok(self.told(output))
            }
            None => Ok((String::new(), None)),
        }
    }

    fn told(&self, output: Output) -> (String, Option<EndReason>) {
        let reason = output.finish.map(|finish| match finish {
            FinishReason::StopToken(id) => EndReason::StopToken(id),
            FinishReason::StopString(index) => {
                EndReason::StopString(self.stop_strings.get(index).cloned().unwrap_or_default())
            }
        });
        (output.text, reason)
    }
}
