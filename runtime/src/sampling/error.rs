//! [`SamplingError`].

use std::error::Error;
use std::fmt;

/// An error of the sampler: an option out of range, or logits that can't be sampled from.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum SamplingError {
    /// An option is out of range.
    Option {
        /// The option's name in [`SamplingOptions`](super::SamplingOptions).
        name: &'static str,
        /// Its value.
        value: String,
        /// The values accepted.
        range: &'static str,
    },
    /// An option names a token that is not in the vocabulary.
    Token {
        /// The option.
        name: &'static str,
        /// The token.
        id: u32,
        /// Size of the model's vocabulary.
        vocabulary: usize,
    },
    /// A logit is NaN or positive infinity: the model's computation failed.
    NotFinite {
        /// The token of that logit.
        id: usize,
        /// The logit.
        value: f32,
    },
    /// No token can be chosen: there are no logits, or all are negative infinity.
    NoCandidates {
        /// Number of logits.
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
                write!(f, "no token can be chosen: all {logits} are ruled out")
            }
        }
    }
}

impl Error for SamplingError {}
