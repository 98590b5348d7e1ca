//! [`AnswerError`]: why an answer could not start or go on.

use std::fmt;

use crate::Error;
use crate::sampling::SamplingError;
use crate::text::TextError;

/// Why an answer could not start or go on.
#[derive(Debug)]
#[non_exhaustive]
pub enum AnswerError {
    /// An error of the engine. After [`Error::Cancelled`] the answer can go on.
    Engine(Error),
    /// An error of the tokenizer or of another file of the model folder.
    Text(TextError),
    /// `generation_config.json` has sampling options that are out of range.
    Defaults(SamplingError),
    /// The caller's sampling options are out of range.
    Sampling(SamplingError),
    /// The prompt is empty and the session has no logits to continue from.
    EmptyPrompt,
    /// The prompt leaves no room for an answer.
    PromptTooLong {
        /// Tokens the session would hold at the end of the prompt.
        tokens: usize,
        /// Most tokens of prompt and answer together.
        limit: usize,
    },
    /// A request that needs text was made of a model without a tokenizer.
    NoTokenizer {
        /// What needs the tokenizer.
        what: &'static str,
    },
    /// The tokenizer encodes a DRY sequence breaker as no tokens.
    EmptyBreaker {
        /// The breaker.
        text: String,
    },
    /// The session was used for something else after the answer began.
    SessionUsed,
}

impl fmt::Display for AnswerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Engine(error) => error.fmt(f),
            Self::Text(error) => error.fmt(f),
            Self::Defaults(error) => write!(f, "generation_config.json: {error}"),
            Self::Sampling(error) => error.fmt(f),
            Self::EmptyPrompt => write!(f, "the prompt has no tokens"),
            Self::PromptTooLong { tokens, limit } => write!(
                f,
                "the prompt takes the context to {tokens} tokens, which leaves no room for an answer: the limit is {limit}"
            ),
            Self::NoTokenizer { what } => {
                write!(f, "{what} need a tokenizer, but the model has no tokenizer.json")
            }
            Self::EmptyBreaker { text } => {
                write!(f, "the sequence breaker {text:?} has no tokens")
            }
            Self::SessionUsed => {
                write!(f, "the session was used for something else after the answer began")
            }
        }
    }
}

impl std::error::Error for AnswerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            // These display their source's message as their own, so their source is the next one.
            Self::Engine(error) => error.source(),
            Self::Text(error) => error.source(),
            Self::Sampling(error) => error.source(),
            Self::Defaults(error) => error.source(),
            _ => None,
        }
    }
}

impl AnswerError {
    /// Whether the answer was cancelled and can go on.
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Engine(Error::Cancelled))
    }
}

impl From<Error> for AnswerError {
    fn from(error: Error) -> Self {
        Self::Engine(error)
    }
}

impl From<TextError> for AnswerError {
    fn from(error: TextError) -> Self {
        Self::Text(error)
    }
}
