//! What can go wrong in an evaluation.

use std::fmt;

use crate::Error;
use crate::text::TextError;

/// An error of an evaluation.
#[derive(Debug)]
#[non_exhaustive]
pub enum EvalError {
    /// The text has no tokens.
    EmptyText,
    /// The text does not fill one window.
    TooShort {
        /// Tokens of the text.
        tokens: usize,
        /// Tokens of a window.
        context: usize,
    },
    /// An option is out of its range.
    Option {
        /// Its name.
        name: &'static str,
        /// What was given.
        value: usize,
        /// What is possible.
        expected: &'static str,
    },
    /// Model and reference have vocabularies of different sizes.
    Vocabulary {
        /// Logits of the model.
        model: usize,
        /// Logits of the reference.
        reference: usize,
    },
    /// Model and reference read the text as different tokens.
    Tokenizers {
        /// Number of the first token that differs.
        index: usize,
        /// It, or nothing after the last, as the model's tokenizer has it.
        model: Option<u32>,
        /// The same of the reference's.
        reference: Option<u32>,
    },
    /// A logit is NaN or infinite.
    NonFinite {
        /// Which model: `model` or `reference`.
        which: &'static str,
        /// Number of the token whose logits they are.
        index: usize,
    },
    /// The caller asked to stop.
    Cancelled,
    /// The engine's error.
    Engine(Error),
    /// The tokenizer's error.
    Text(TextError),
}

impl fmt::Display for EvalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EmptyText => f.write_str("the text is empty: there is nothing to evaluate on"),
            Self::TooShort { tokens, context } => write!(
                f,
                "the text has {tokens} tokens, fewer than one window of {context}: give a longer text or a smaller context"
            ),
            Self::Option { name, value, expected } => {
                write!(f, "{name} can't be {value}: {expected}")
            }
            Self::Vocabulary { model, reference } => write!(
                f,
                "the model has {model} logits, the reference {reference}: they can't be compared token by token"
            ),
            Self::Tokenizers { index, model, reference } => {
                let id =
                    |id: &Option<u32>| id.map_or("no token".into(), |id| format!("token {id}"));
                write!(
                    f,
                    "the tokenizers of model and reference differ: number {index} of the text is {} to the model, {} to the reference",
                    id(model),
                    id(reference)
                )
            }
            Self::NonFinite { which, index } => write!(
                f,
                "the {which} gives NaN or infinity after token {index} of the text: are its weights sound?"
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
