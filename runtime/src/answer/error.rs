//! Why there is no answer, or no more of it.

use std::fmt;

use crate::Error;
use crate::sampling::SamplingError;
use crate::text::TextError;

/// Why there is no answer, or no more of it.
#[derive(Debug)]
#[non_exhaustive]
pub enum AnswerError {
    /// The engine's. After [`Error::Cancelled`] the answer can go on.
    Engine(Error),
    /// The tokenizer's, or that of a file of the model folder.
    Text(TextError),
    /// `generation_config.json` asks for a sampling that is none.
    Defaults(SamplingError),
    /// The sampling that was asked for is none.
    Sampling(SamplingError),
    /// There is nothing to go on from.
    EmptyPrompt,
    /// The prompt leaves no place for an answer.
    PromptTooLong {
        /// Tokens that the session would hold at the end of the prompt.
        tokens: usize,
        /// The most tokens of prompt and answer.
        limit: usize,
    },
    /// Something that is text was asked for, of a model without a tokenizer.
    NoTokenizer {
        /// What.
        what: &'static str,
    },
    /// A sequence breaker of DRY that the tokenizer makes nothing of.
    EmptyBreaker {
        /// The breaker.
        text: String,
    },
    /// The session was used otherwise since the answer began.
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
                "the prompt takes the context to {tokens} tokens, which leaves no place for an answer: the limit is {limit}"
            ),
            Self::NoTokenizer { what } => {
                write!(f, "{what} need a tokenizer, and the model has no tokenizer.json")
            }
            Self::EmptyBreaker { text } => {
                write!(f, "the sequence breaker {text:?} has no tokens")
            }
            Self::SessionUsed => {
                write!(f, "the session was used otherwise since the answer began")
            }
        }
    }
}

impl std::error::Error for AnswerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            // Their message is the whole message, so that what follows is their source.
            Self::Engine(error) => error.source(),
            Self::Text(error) => error.source(),
            Self::Sampling(error) => error.source(),
            Self::Defaults(error) => error.source(),
            _ => None,
        }
    }
}

impl AnswerError {
    /// Whether it was cancelled, and can go on.
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
