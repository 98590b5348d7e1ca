//! [`EvalError`].

use std::fmt;

use crate::Error;
use crate::text::TextError;

/// An error of an evaluation.
#[derive(Debug)]
#[non_exhaustive]
pub enum EvalError {
    /// The text has no tokens.
    EmptyText,
    /// The text is shorter than one window.
    TooShort {
        /// Tokens of the text.
        tokens: usize,
        /// Tokens of a window.
        context: usize,
    },
    /// An option is out of range.
    Option {
        /// Its name.
        name: &'static str,
        /// The value given.
        value: usize,
        /// The values accepted.
        expected: &'static str,
    },
    /// Model and reference have vocabularies of different sizes.
    Vocabulary {
        /// Logits of the model per token.
        model: usize,
        /// Logits of the reference per token.
        reference: usize,
    },
    /// The tokenizers of model and reference split the text into different tokens.
    Tokenizers {
        /// Index of the first token that differs.
        index: usize,
        /// The model's token; `None` past its last one.
        model: Option<u32>,
        /// The reference's token; `None` past its last one.
        reference: Option<u32>,
    },
    /// A logit is NaN or infinite.
    NonFinite {
        /// Which model: `model` or `reference`.
        which: &'static str,
        /// Index of the token that the logits follow.
        index: usize,
    },
    /// The progress callback asked to stop.
    Cancelled,
    /// The engine's error.
    Engine(Error),
    /// The tokenizer's error.
    Text(TextError),
}

impl fmt::Display for EvalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EmptyText => f.write_str("the text is empty"),
            Self::TooShort { tokens, context } => write!(
                f,
                "the text has {tokens} tokens, fewer than one window of {context}: use a longer text or a smaller context"
            ),
            Self::Option { name, value, expected } => {
                write!(f, "{name} can't be {value}: expected {expected}")
            }
            Self::Vocabulary { model, reference } => write!(
                f,
                "the model has {model} logits per token and the reference {reference}, so they can't be compared"
            ),
            Self::Tokenizers { index, model, reference } => {
                let id =
                    |id: &Option<u32>| id.map_or("no token".into(), |id| format!("token {id}"));
                write!(
                    f,
                    "the tokenizers of model and reference differ: token {index} of the text is {} for the model and {} for the reference",
                    id(model),
                    id(reference)
                )
            }
            Self::NonFinite { which, index } => write!(
                f,
                "the {which} produced NaN or infinity after token {index} of the text; are its weights intact?"
            ),
            Self::Cancelled => f.write_str("stopped"),
            Self::Engine(source) => source.fmt(f),
            Self::Text(source) => source.fmt(f),
        }
    }
}

impl std::error::Error for EvalError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Engine(source) => Some(source),
            Self::Text(source) => Some(source),
            _ => None,
        }
    }
}

impl From<Error> for EvalError {
    fn from(source: Error) -> Self {
        Self::Engine(source)
    }
}

impl From<TextError> for EvalError {
    fn from(source: TextError) -> Self {
        Self::Text(source)
    }
}
