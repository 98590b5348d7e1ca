//! Turns an answer's tokens into text and detects the end.

use super::{AnswerDefaults, AnswerError, AnswerOptions, AnswerPrompt, EndReason};
use crate::text::{
    FinishReason, Output, OutputStream, StopMatcher, StopTokens, StreamDecoder, TextError,
};

/// Converts the tokens of an answer to text.
pub(super) struct AnswerOutput {
    stop_tokens: StopTokens,
    /// Those of the options, followed by those of the model.
    stop_strings: Vec<String>,
    /// `None` without a tokenizer.
    stream: Option<OutputStream>,
}

impl AnswerOutput {
    /// Creates the converter for an answer to `prompt`, in a session that holds the tokens `held`.
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
            // Without a tokenizer the model's own stop strings can't appear.
            None if options.stop_strings.is_empty() => None,
            None => return Err(AnswerError::NoTokenizer { what: "stop strings" }),
        };
        Ok(Self { stop_tokens, stop_strings, stream })
    }

    pub(super) fn is_stop_token(&self, id: u32) -> bool {
        self.stop_tokens.contains(id)
    }

    /// The text that becomes final with token `id`, and the reason if it ends the answer.
    pub(super) fn push(&mut self, id: u32) -> Result<(String, Option<EndReason>), TextError> {
        match &mut self.stream {
            Some(stream) => {
                let output = stream.push(id)?;
                Ok(self.told(output))
            }
            None => Ok((String::new(), self.is_stop_token(id).then_some(EndReason::StopToken(id)))),
        }
    }

    /// The text that was held back. It may contain a stop string.
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
