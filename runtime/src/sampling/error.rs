//! What can go wrong with sampling.

use std::error::Error;
use std::fmt;

/// An error of the sampler: an option out of its range, or logits that cannot be sampled from.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum SamplingError {
    /// An option has a value that it cannot have.
    Option {
        /// The option, as it is called in [`SamplingOptions`](super::SamplingOptions).
        name: &'static str,
        /// Its value.
        value: String,
        /// The values that it can have.
        range: &'static str,
    },
    /// An option names a token that the model does not have.
    Token {
        /// The option.
        name: &'static str,
        /// The token.
        id: u32,
        /// How many tokens the model has.
        vocabulary: usize,
    },
    /// A logit is NaN or positive infinity: the model's computation went wrong.
    NotFinite {
        /// The token whose logit it is.
        id: usize,
        /// The logit.
        value: f32,
    },
    /// No token can be chosen: there are no logits, or all are negative infinity.
    NoCandidates {
        /// How many logits there are.
        logits: usize,
    },
}

impl fmt::Display for SamplingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Option { name, value, range } => {
                write!(f, "sampling option `{name}` is {value}, but must be {range}")
            }
            Self::Token { name, id, vocabulary } => write!(
                f,
                "sampling option `{name}` names token {id}, but the model has only {vocabulary} \
                 tokens"
            ),
            Self::NotFinite { id, value } => write!(
                f,
                "the logit of token {id} is {value}: the model's weights or computation are broken"
            ),
            Self::NoCandidates { logits } => {
                write!(f, "none of {logits} tokens can be chosen: all are ruled out")
            }
        }
    }
}

impl Error for SamplingError {}
